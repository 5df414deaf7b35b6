"""Datasets of the Hugging Face hub.

huggingface_hub resolves names and revisions and lists files. It knows HF_ENDPOINT, HF_TOKEN and the token of
`hf auth login`. The files themselves come by plain HTTP: its own downloads would keep a second copy in a cache.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from parakeet.artifact import WORK_FOLDER, replace_file
from parakeet.download.http import explained, fault_of_connection, fault_of_status, http_reader
from parakeet.download.source_folder import SourceFiles
from parakeet.download.transfer import (
    Checks,
    PermanentError,
    Reading,
    Remote,
    TransientError,
    naming,
    plain,
    read_json,
    retrying,
)
from parakeet.recipe_sources import HubSource

SHOWN_FILES = 5
LONGEST_LIST = 50_000
"""The hub's answer may leave out files of a dataset that has more."""
PINNED_FILE = "pinned.json"

_RESET = re.compile(r"r=0;\s*t=(\d+)")


class HubFiles(SourceFiles[HubSource]):
    """The files of a dataset that match the source's globs."""

    def files(self) -> list[Remote]:
        with naming(f"dataset {self.source.dataset}"):
            self.pinned = self._pin()
            siblings = self._info(**self.pinned, with_files=True).siblings or []
            return [self._remote(file) for file in self._chosen(siblings)]

    def _pin(self) -> dict[str, str]:
        """The dataset's present name and the commit that the revision means.

        They are looked up once: a branch may move between two tries, and the files would be of two commits.
        """
        path = self.folder / WORK_FOLDER / PINNED_FILE
        if (pinned := read_json(path)) is not None:
            return dict(pinned)
        info = self._info(self.source.dataset, self.source.revision, with_files=False)
        if info.id != self.source.dataset:
            self.say(f"{self.source.dataset} is called {info.id} now: correct the recipe")
        pinned = {"dataset": info.id, "revision": info.sha}
        replace_file(path, json.dumps(pinned))
        return pinned

    def _chosen(self, siblings: list[Any]) -> list[Any]:
        """The files that match, sorted by name."""
        from fsspec.utils import glob_translate

        if len(siblings) >= LONGEST_LIST:
            raise PermanentError(f"it has {len(siblings):,} files or more, too many for the hub to list")
        patterns = [re.compile(glob_translate(glob)) for glob in self.source.files]
        siblings = sorted(siblings, key=lambda file: str(file.rfilename))
        chosen = [file for file in siblings if any(pattern.match(file.rfilename) for pattern in patterns)]
        if chosen:
            return chosen
        shown = ", ".join(file.rfilename for file in siblings[:SHOWN_FILES])
        shown += ", …" if len(siblings) > SHOWN_FILES else ""
        globs = ", ".join(self.source.files)
        raise PermanentError(f"none of its files matches {globs}; it has: {plain(shown) or 'no files'}")

    def _remote(self, file: Any) -> Remote:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        name, dataset, commit = file.rfilename, self.pinned["dataset"], self.pinned["revision"]
        if file.size is None:
            raise PermanentError(f"the hub does not give the size of {plain(name)}")
        sha256 = file.lfs.sha256 if file.lfs else None
        git_blob = None if file.lfs else file.blob_id
        address = hf_hub_url(dataset, name, repo_type="dataset", revision=commit, endpoint=_endpoint())
        read_http = http_reader(address, self.policy, build_hf_headers(), self._refusal)

        def read(start: int, stop: int | None, validator: str | None) -> Reading:
            # The commit is part of the address: the file behind it never changes, whichever host sends it.
            reading = read_http(start, stop, None)
            return replace(reading, version=reading.version._replace(validator=validator))

        origin = f"hf://datasets/{dataset}@{commit[:12]}/{name}"
        return Remote(name, origin, read, file.size, sha256 or git_blob, Checks(file.size, sha256, git_blob))

    def _info(self, dataset: str, revision: str, with_files: bool) -> Any:
        from huggingface_hub import HfApi

        def ask() -> Any:
            with self._explained_hub():
                info = HfApi(endpoint=_endpoint()).dataset_info(
                    dataset, revision=revision, files_metadata=with_files, timeout=self.policy.read_timeout
                )
                if not info.sha:
                    raise PermanentError("the hub does not say which commit its files are of")
                return info

        return retrying(ask, self.policy, self.say)

    @contextmanager
    def _explained_hub(self) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

        try:
            # Errors that are not the hub's own (a web page instead of JSON, say) are explained as any server's.
            with explained():
                yield
        except OfflineModeIsEnabled:
            raise PermanentError("HF_HUB_OFFLINE is set, which forbids asking the hub") from None
        except HfHubHTTPError as error:
            raise self._refusal(error.response.status_code, error.response.headers) from None
        except HTTPError as error:
            raise TransientError(fault_of_connection(error)) from None
        except (TypeError, AttributeError) as error:
            raise PermanentError(f"the hub's answer cannot be understood ({plain(error)})") from None

    def _refusal(self, status: int, headers: Mapping[str, str]) -> PermanentError | TransientError:
        """What a refusal of the hub means; its error pages say so in two headers."""
        code, message = headers.get("X-Error-Code"), headers.get("X-Error-Message", "")
        hub = _endpoint() or "https://huggingface.co"
        page = f"{hub}/datasets/{self.source.dataset}"
        if code == "GatedRepo":
            return PermanentError(
                f"it is gated: accept its terms on {page}, and set HF_TOKEN to a token of the account that did "
                "(or run: hf auth login)"
            )
        if code == "RevisionNotFound":
            return PermanentError(
                f"it has no revision {self.source.revision}: give a commit, tag or branch from {page}/commits"
            )
        if code == "EntryNotFound":
            return PermanentError("the hub lists this file but does not have it")
        if status == 401 and "credentials" in message:
            return PermanentError("the hub does not know the token in HF_TOKEN: create a new one, or unset it")
        if code == "RepoNotFound" or status in (401, 404):
            return PermanentError(
                "the hub has no dataset of this name for you: it was renamed or removed, its name is misspelt, or it "
                f"is private (then set HF_TOKEN). Look for it on {hub}/datasets"
            )
        if status == 403:
            return PermanentError(f"the hub refuses access: {plain(message) or 'it gives no reason'}")
        fault = fault_of_status(status, headers)
        reset = _RESET.search(headers.get("RateLimit", ""))
        if isinstance(fault, TransientError) and fault.wait is None and reset:
            fault.wait = float(reset[1])
        return fault


def _endpoint() -> str | None:
    """huggingface_hub reads the variable when it is imported, which may have been long ago."""
    return os.environ.get("HF_ENDPOINT") or None
