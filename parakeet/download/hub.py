"""Datasets of the Hugging Face hub: what a revision means, which files it has, and reading them as they are streamed.

Through huggingface_hub, which knows HF_ENDPOINT, HF_TOKEN and the token of `hf auth login`. The files themselves come
by plain HTTP from the addresses that it gives: its own downloads go through a cache that would hold them twice.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from parakeet.download.streams import Remote, http_reader
from parakeet.download.transfer import (
    Broken,
    Patience,
    Unfit,
    explained,
    fault_of_connection,
    fault_of_status,
    plain,
)
from parakeet.recipe_sources import HubSource

SHOWN_FILES = 5
LONGEST_LIST = 50_000
"""The hub's answer may leave out files of a dataset that has more."""

_RESET = re.compile(r"r=0;\s*t=(\d+)")


def pin(source: HubSource, patience: Patience) -> dict[str, str]:
    """What dataset and commit the source means now: a renamed dataset's new name, a branch's newest commit.

    Raises Unfit or Broken.
    """
    info = _info(source, source.dataset, source.revision, patience, with_files=False)
    return {"dataset": info.id, "revision": info.sha}


def hub_files(source: HubSource, pinned: Mapping[str, str], patience: Patience) -> list[Remote]:
    """The files of a pinned dataset that match the source's globs, sorted. Raises Unfit or Broken."""
    from fsspec.utils import glob_translate
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    dataset, commit = pinned["dataset"], pinned["revision"]
    siblings = _info(source, dataset, commit, patience, with_files=True).siblings or []
    if len(siblings) >= LONGEST_LIST:
        raise Unfit(f"it has {len(siblings):,} files or more, too many for the hub to list")
    patterns = [re.compile(glob_translate(glob)) for glob in source.files]
    chosen = [file for file in siblings if any(pattern.match(file.rfilename) for pattern in patterns)]
    if not chosen:
        names = sorted(file.rfilename for file in siblings)
        shown = ", ".join(names[:SHOWN_FILES]) + (", …" if len(names) > SHOWN_FILES else "")
        raise Unfit(f"none of its files matches {', '.join(source.files)}; it has: {plain(shown) or 'no files'}")
    remotes = []
    for file in sorted(chosen, key=lambda file: file.rfilename):
        if file.size is None:
            raise Unfit(f"the hub does not say how long {plain(file.rfilename)} is")
        address = hf_hub_url(dataset, file.rfilename, repo_type="dataset", revision=commit, endpoint=_endpoint())
        remotes.append(
            Remote(
                name=file.rfilename,
                origin=f"hf://datasets/{dataset}@{commit[:12]}/{file.rfilename}",
                n_bytes=file.size,
                validator=file.lfs.sha256 if file.lfs else file.blob_id,
                sha256=file.lfs.sha256 if file.lfs else None,
                git_blob=None if file.lfs else file.blob_id,
                read=http_reader(
                    address,
                    patience,
                    headers=build_hf_headers(),
                    refuse=lambda status, headers: _fault(source, status, headers, patience),
                ),
            )
        )
    return remotes


def _info(source: HubSource, dataset: str, revision: str, patience: Patience, with_files: bool) -> Any:
    from huggingface_hub import HfApi

    with _explained_hub(source, patience):
        info = HfApi(endpoint=_endpoint()).dataset_info(
            dataset, revision=revision, files_metadata=with_files, timeout=patience.silence
        )
        if not info.sha:
            raise Unfit("the hub does not say which commit its files are of")
        return info


def _endpoint() -> str | None:
    """huggingface_hub reads the variable when it is imported, which may have been long ago."""
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _explained_hub(source: HubSource, patience: Patience) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        # What is no error of the hub's (a page in place of JSON, say) is explained as any other server's.
        with explained(patience):
            yield
    except OfflineModeIsEnabled:
        raise Unfit("HF_HUB_OFFLINE is set, so that the hub may not be asked") from None
    except HfHubHTTPError as error:
        raise _fault(source, error.response.status_code, error.response.headers, patience) from None
    except HTTPError as error:
        raise Broken(fault_of_connection(error)) from None
    except (TypeError, AttributeError) as error:
        raise Unfit(f"the hub's answer cannot be understood ({plain(error)})") from None


def _fault(source: HubSource, status: int, headers: Mapping[str, str], patience: Patience) -> Unfit | Broken:
    """What a refusal of the hub means; its pages on errors say so in two headers."""
    code, message = headers.get("X-Error-Code"), headers.get("X-Error-Message", "")
    page = f"{_endpoint() or 'https://huggingface.co'}/datasets/{source.dataset}"
    if code == "GatedRepo":
        return Unfit(
            f"it is gated: accept its terms on {page}, and set HF_TOKEN to a token of the account that did "
            "(or run: hf auth login)"
        )
    if code == "RevisionNotFound":
        return Unfit(f"it has no revision {source.revision}: give a commit, tag or branch that {page}/commits shows")
    if code == "EntryNotFound":
        return Unfit("the hub lists this file, and does not have it")
    if status == 401 and "credentials" in message:
        return Unfit("the hub does not know the token in HF_TOKEN: make a new one, or take it away")
    if code == "RepoNotFound" or status in (401, 404):
        return Unfit(
            "the hub has no dataset of this name for you: it was renamed or removed, its name is misspelt, or it is "
            f"private (then set HF_TOKEN). Look for it on {page.rpartition('/')[0].rpartition('/')[0]}"
        )
    if status == 403:
        return Unfit(f"the hub refuses access: {plain(message) or 'it does not say why'}")
    fault = fault_of_status(status, headers, patience)
    reset = _RESET.search(headers.get("RateLimit", ""))
    if isinstance(fault, Broken) and fault.wait is None and reset:
        fault.wait = float(reset[1])
    return fault
