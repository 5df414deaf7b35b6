"""`parakeet push`: a release in a repository of the Hugging Face hub.

huggingface_hub uploads. It knows HF_ENDPOINT, HF_TOKEN and the token of `hf auth login`, sends large files in blocks of
up to 64 MB, and commits at the end. An upload that broke off goes on when the same command is run again: the export is
kept until then, and blocks that arrived are not sent again.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parakeet import __version__
from parakeet.artifact import explain_os_error
from parakeet.download.http import fault_of_connection, fault_of_status
from parakeet.download.transfer import TransientError, plain
from parakeet.errors import ParakeetError
from parakeet.export.formats import export_release
from parakeet.formatting import format_bytes, render_table
from parakeet.locking import exclusive
from parakeet.model.config import WEIGHTS_FILE
from parakeet.new_files import new_folder
from parakeet.progress import Progress
from parakeet.release.listing import ListedModel
from parakeet.release.verify import SUMS_FILE, write_sums

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

FILES = "files"
_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})\b")
AGAIN = "Run the same command again: what has arrived is not sent again."

NOTED_BLOCKS = ("HF_XET_DATA_SESSION_XORB_METADATA_FLUSH_MAX_COUNT", "1")
"""Each block that arrived is noted on this disk at once. By default this is done every 20 s: after a `kill -9`,
hf_xet 1.8 sent all blocks of the last 20 s again."""


class UploadError(ParakeetError):
    """An upload broke off, and can be resumed."""


@dataclass(frozen=True)
class Repository:
    """A repository as it is on the hub; `files` are those that it has, `commit` the newest one."""

    name: str
    exists: bool
    private: bool
    files: frozenset[str] = frozenset()
    commit: str | None = None


class Hub:
    """The hub, as the account whose token is at hand. Every method raises ParakeetError with the hub's reason."""

    def __init__(self) -> None:
        """Raises ParakeetError also if there is no token, or it may not write."""
        os.environ.setdefault(*NOTED_BLOCKS)
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # it reports retries and unchanged files, each as a warning
        # The variable is read when the library is imported, which may have been long ago.
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="parakeet")
        self.address = self._api.endpoint
        if get_token() is None:
            raise ParakeetError(
                "You are not logged in to the Hugging Face hub. Log in with `hf auth login`, or set HF_TOKEN to a "
                f"token that may write. Tokens: {self.address}/settings/tokens"
            )
        with _explained("asking who you are", self.address):
            found = self._api.whoami()
            self.account = str(found["name"])
            self.owners = {self.account, *(str(each["name"]) for each in found.get("orgs") or ())}
            role = ((found.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise ParakeetError(
                f"The token of {self.account} may only read. Create one that may write at "
                f"{self.address}/settings/tokens, and give it to `hf auth login`."
            )

    def repository(self, name: str, private: bool) -> Repository:
        """The repository, or what it will be: `private` if it is made. Refuses a public one that is to be private."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with _explained(f"asking for {name}", self.address):
            try:
                info = self._api.model_info(name)
            except RepositoryNotFoundError:
                return Repository(name, False, private)
            files = frozenset(file.rfilename for file in info.siblings or ())
        if private and not info.private:
            raise ParakeetError(
                f"{name} is public already, and --private does not change that: change it at "
                f"{self.address}/{name}/settings, or push to another repository."
            )
        return Repository(info.id, True, bool(info.private), files, info.sha)

    def upload(self, repository: Repository, folder: Path, message: str) -> str | None:
        """Upload the files of a folder in one commit. Its ID, or None if the repository had them all already.

        Raises UploadError.
        """
        try:
            with _explained(f"uploading to {repository.name}", self.address):
                if not repository.exists:
                    self._api.create_repo(repository.name, private=repository.private)
                done = self._api.upload_folder(repo_id=repository.name, folder_path=folder, commit_message=message)
        except ParakeetError as error:
            raise UploadError(f"{error} Until then, the export is kept in {folder.parent.parent}.") from None
        return None if done.oid == repository.commit else done.oid


def check_repository_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        complete = name.count("/") == 1
    except HFValidationError:
        complete = False
    if not complete:
        raise ParakeetError(
            f"{name!r} is not the name of a repository: give OWNER/NAME, such as my-account/my-model. Names have "
            "letters, digits, '-', '_' and '.'."
        )


def check_one_format(repository: Repository, layout: str) -> None:
    """Refuse a repository that holds a model in another format: card and sums would only know the new files."""
    others = {
        "hf": sorted(name for name in repository.files if name.endswith(".gguf")),
        "gguf": sorted(repository.files & {WEIGHTS_FILE}),
    }[layout]
    if others:
        raise ParakeetError(
            f"{repository.name} holds {others[0]}: a model in another format, which the new README.md and {SUMS_FILE} "
            "would no longer describe. Push to a repository of its own."
        )


@contextmanager
def exported(root: Path, release: Path, repo: str, layout: str, dtype: str, progress: Progress) -> Iterator[Path]:
    """The folder to upload, under `root`; what an interrupted push left is used again.

    It is kept for that if the `with` block ends with an UploadError or is interrupted, and removed at every other end.
    Another process that pushes to the same repository waits.
    """
    if not (release / SUMS_FILE).is_file():
        raise ParakeetError(f"{release} is not a release: it has no {SUMS_FILE}.")
    pushes = root / "pushes"
    place = pushes / repo.replace("/", "--")
    lock = pushes / f".{place.name}.lock"
    try:
        pushes.mkdir(parents=True, exist_ok=True)
        made_from = [(release / SUMS_FILE).read_bytes(), layout.encode(), dtype.encode(), __version__.encode()]
    except OSError as error:
        raise explain_os_error(error, f"preparing {place}") from error
    with exclusive(lock, f"{repo} is being pushed", progress):
        folder = place / hashlib.sha256(b"\0".join(made_from)).hexdigest()[:16]
        for other in place.glob("*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        keep = False
        try:
            if not folder.is_dir():
                _export(release, folder, repo, layout, dtype, progress)
            yield folder / FILES
        except (UploadError, KeyboardInterrupt):
            keep = folder.is_dir()
            raise
        finally:
            if not keep:
                shutil.rmtree(place, ignore_errors=True)
                # While the lock is held, as in `new_files`.
                for file in (lock.with_suffix(".holder"), lock):
                    file.unlink(missing_ok=True)


def _export(release: Path, folder: Path, repo: str, layout: str, dtype: str, progress: Progress) -> None:
    """Make `folder` with the folder of files to upload in it."""
    # With torch. A push that goes on does not need it.
    from parakeet.export.gguf_card import gguf_card
    from parakeet.export.hugging_face import model_card
    from parakeet.export.source import ExportSource
    from parakeet.release.card import CARD_FILE

    source = ExportSource.open(release)
    name = re.sub(r"[^\w.-]", "-", source.release.name)
    with new_folder(folder, f"exporting {name}", progress) as partial:
        files = partial / FILES
        if layout == "hf":
            export_release(release, files, layout, dtype, progress)
            # The card shows how to open the model: from the hub.
            card = model_card(source, repo, dtype)
        else:
            export_release(release, files / f"{name}-{dtype}.gguf", layout, dtype, progress)
            card = gguf_card(source, repo, dtype)
        (files / CARD_FILE).write_text(card, encoding="utf-8")
        write_sums(files)


def render_plan(
    hub: Hub, repository: Repository, model: ListedModel | None, release: Path, layout: str, dtype: str, folder: Path
) -> str:
    """What a push would do: account, repository, visibility, what the gates said, and files with sizes."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    visibility = "private" if repository.private else "public: everyone can read and download it"
    facts = [
        ("model", f"{model.name} ({release})" if model else str(release)),
        ("gates", gates_said(model)),
        ("format", f"{layout}, {dtype}"),
        ("repository", f"{hub.address}/{repository.name} ({'exists' if repository.exists else 'new'})"),
        ("visibility", visibility),
        ("account", hub.account),
    ]
    if repository.name.split("/")[0] not in hub.owners:
        facts.append(("note", f"{repository.name.split('/')[0]} is neither {hub.account} nor one of its organisations"))
    rows = [
        (name, format_bytes(size), "replaced" if name in repository.files else "")
        for name, size in sorted(sizes.items())
    ]
    rows.append((f"{len(sizes)} files", format_bytes(sum(sizes.values())), ""))
    lines = [f"{name:<13}{value}" for name, value in facts]
    kept = sorted(repository.files - sizes.keys() - {".gitattributes"})
    if kept:
        lines.append(f"{'stays there':<13}{', '.join(kept)}")
    return "\n".join(lines) + "\n\n" + render_table(("FILE", "SIZE", ""), rows, {1})


def gates_said(model: ListedModel | None) -> str:
    """What the gates said of a model, as a warning unless they promoted it."""
    state = model.state if model else ""
    reasons = f": {' '.join(model.reasons)}" if model and model.reasons else ""
    return {
        "promoted": "promoted",
        "earlier": "promoted earlier",
        "refused": f"REFUSED{reasons}",
        "rolled back": f"ROLLED BACK{reasons}",
    }.get(state, "never judged: no gate compared this model with another")


@contextmanager
def _explained(action: str, address: str) -> Iterator[None]:
    """Turn what huggingface_hub and its store raise into one ParakeetError."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    failed = f"The hub {address} failed while {action}"
    try:
        yield
    except ParakeetError:
        raise
    except OfflineModeIsEnabled:
        raise ParakeetError("HF_HUB_OFFLINE is set, which forbids asking the hub: unset it to push.") from None
    except HfHubHTTPError as error:
        raise ParakeetError(f"{failed}: {_refusal_of(error)}") from None
    except HTTPError as error:
        raise ParakeetError(f"{failed}: {fault_of_connection(error)}. {AGAIN}") from None
    except (RuntimeError, ConnectionError, TimeoutError) as error:
        # What the stores of large files raise: xet one text for all, LFS the failure of a thread as the cause.
        cause, status = error.__cause__, _STATUS.search(str(error))
        if isinstance(cause, HfHubHTTPError):
            reason = _refusal_of(cause)
        elif status:
            reason = _refusal(int(status[1]), {}, "")
        else:
            reason = f"{plain(cause or error)}. {AGAIN}"
        raise ParakeetError(f"{failed}: {reason}") from None
    except OSError as error:
        raise explain_os_error(error, action) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ParakeetError(f"{failed}: its answer cannot be understood ({plain(error)}).") from None


def _refusal_of(error: "HfHubHTTPError") -> str:
    headers = error.response.headers
    return _refusal(error.response.status_code, headers, plain(headers.get("X-Error-Message") or ""))


def _refusal(status: int, headers: Mapping[str, str], message: str) -> str:
    """What a refusal means, and what to do."""
    reason = f" ({message})" if message else ""
    if status == 401:
        return (
            f"it does not accept your token{reason}. Create one that may write, log in with it (hf auth login), or set "
            "HF_TOKEN to it, which comes first."
        )
    if status == 403:
        return f"your token may not write there{reason}. Use a token that may, or push to a repository of your own."
    if status == 404:
        return f"it has no such repository for you{reason}: it was removed or renamed, or your token may not see it."
    if status == 409:
        return f"something else changed the repository at the same time{reason}. {AGAIN}"
    if status == 413:
        return f"it takes no files of this size, or your account's storage is full{reason}."
    fault = fault_of_status(status, headers)
    wait = f" Wait {fault.wait:.0f} s." if isinstance(fault, TransientError) and fault.wait else ""
    return f"{fault}{reason}.{wait}" + (f" {AGAIN}" if isinstance(fault, TransientError) else "")
