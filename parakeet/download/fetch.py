"""A file from an address or a path, whole and checked, or not there at all.

What has arrived waits in `.download/<name>/<key>/` beside the destination, where the key is a hash of the source and
of what is expected of the file: a part of another file, or from another source, is never continued. `kill -9` at any
instant leaves that folder, and the next call goes on from it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from parakeet.artifact import SPARE_BYTES, explain_os_error, sha256_of, sync_directory, sync_file, write_synced
from parakeet.download.pages import fault_of_page
from parakeet.download.transfer import (
    PATIENCE,
    Attempts,
    Broken,
    Offer,
    Patience,
    Unfit,
    is_drive,
    look,
    transfer,
    validator_of,
)
from parakeet.errors import ParakeetError
from parakeet.progress import Progress

MB = 1_000_000
COPY_BYTES = 1 << 20
HEAD_BYTES = 512 << 10
PARTS_FOLDER = ".download"
_FILE = "file"
_PART = f"{_FILE}????????.part"  # gdown's own way to name it
_OFFER = "offer.json"


class SourceError(ParakeetError):
    """One source could not give the file; `reason` says why without naming the source."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{name_of(place)}: {reason}.")
        self.reason = reason


def _nothing_more(path: Path, advance: Callable[[int], None]) -> str | None:
    return None


@dataclass(frozen=True)
class Checks:
    """What a file must be like. Both functions return what is wrong, or None.

    `of_head` sees the first bytes (up to 512 KiB) before anything else is transferred, and again those that arrived: a
    server may send a page the second time. `of_file` sees the whole file; it tells the bytes it has read to its second
    argument.
    """

    n_bytes: int | None = None
    sha256: str | None = None
    max_bytes: int = 1 << 40
    of_head: Callable[[bytes], str | None] = fault_of_page
    of_file: Callable[[Path, Callable[[int], None]], str | None] = _nothing_more

    def fault_of(self, path: Path, progress: Progress, name: str = "") -> str | None:
        """What is wrong with a finished file, or None; `name` is what the progress calls it."""
        found = path.stat().st_size
        if fault := self.fault_of_size(found) or self.of_head(_head(path)):
            return fault
        with progress.task(f"Checking {name or path.name}", found / MB, "MB") as task:
            if fault := self.of_file(path, lambda n: task.advance(n / MB)):
                return fault
        digest = sha256_of(path) if self.sha256 else None
        return f"its sha256 is {digest}, expected {self.sha256}" if digest != self.sha256 else None

    def fault_of_size(self, n_bytes: int) -> str | None:
        if self.n_bytes is not None and n_bytes != self.n_bytes:
            return f"it has {n_bytes:,} bytes, expected {self.n_bytes:,}"
        return f"it has more than {self.max_bytes:,} bytes" if n_bytes > self.max_bytes else None


def name_of(place: str) -> str:
    """A source's name for people, without the passwords that an address can hold."""
    if not is_address(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return place
    return "Google Drive" if is_drive(place) else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_address(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def fetch(place: str, destination: Path, checks: Checks, progress: Progress, patience: Patience = PATIENCE) -> None:
    """Put the file of `place`, an http(s) address (Google Drive's included) or a path, at `destination`.

    Nothing may stand at `destination`, and the caller sees to it that only one process at a time is fetching it.
    SourceError if this source cannot give the file, ParakeetError for a fault of this machine, such as a full disk.
    What has been transferred is kept for the next call: a source that refuses today may go on tomorrow.
    """
    key = hashlib.sha256(json.dumps([place, checks.n_bytes, checks.sha256]).encode()).hexdigest()[:16]
    folder = destination.parent / PARTS_FOLDER / destination.name / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_address(place):
            file = _Download(place, folder, destination.name, checks, progress, patience).fetch()
        else:
            file = _copy(place, folder, destination.name, checks, progress)
        _install(file, destination)
    except (Unfit, Broken) as error:
        raise SourceError(place, str(error)) from None
    except OSError as error:
        raise explain_os_error(error, f"fetching {destination.name}") from None
    finally:
        if not is_address(place) or not list(folder.glob(f"{_FILE}*")):
            shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, folder.parent.parent):
            with suppress(OSError):  # something else waits there, or it is gone already
                parent.rmdir()


def _install(file: Path, destination: Path) -> None:
    sync_file(file)
    if os.path.lexists(destination):
        shutil.rmtree(destination.parent / PARTS_FOLDER / destination.name, ignore_errors=True)
        raise ParakeetError(f"{destination} was put there while it was being fetched: run the same command again.")
    file.chmod(0o644)  # gdown makes it as a temporary file, for its owner only
    file.rename(destination)
    sync_directory(destination.parent)
    shutil.rmtree(destination.parent / PARTS_FOLDER / destination.name, ignore_errors=True)


def _copy(place: str, folder: Path, name: str, checks: Checks, progress: Progress) -> Path:
    source, copy = _local(place), folder / _FILE
    blocks = _blocks(source)
    n_bytes = source.stat().st_size
    fault = checks.fault_of_size(n_bytes) or checks.of_head(next(blocks, b""))
    if fault:
        raise Unfit(fault)
    require_space(folder, n_bytes)
    with copy.open("wb") as writing, progress.task(f"Copying {name}", n_bytes / MB, "MB") as task:
        for block in _blocks(source):
            writing.write(block)
            task.advance(len(block) / MB)
    if fault := checks.fault_of(copy, progress, name):
        raise Unfit(fault)
    return copy


def _local(place: str) -> Path:
    if "://" in place:
        raise Unfit("it is neither an http(s) address nor a path")
    try:
        source = Path(place).expanduser()
        if source.is_file():
            return source
        raise Unfit("it is no file" if source.exists() else "there is no such file")
    except (OSError, RuntimeError) as error:
        raise Unfit(f"it cannot be read ({error})") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _blocks(source: Path) -> Iterator[bytes]:
    """The file's bytes. A fault of reading is this source's; one of writing them elsewhere is not raised in here."""
    try:
        with source.open("rb") as file:
            while block := file.read(COPY_BYTES):
                yield block
    except OSError as error:
        raise Unfit(f"it cannot be read ({error.strerror})") from None


class _Download:
    """One file from one address into one folder of its own."""

    def __init__(
        self, address: str, folder: Path, name: str, checks: Checks, progress: Progress, patience: Patience
    ) -> None:
        self._address = address
        self._folder = folder
        self._name = name
        self._checks = checks
        self._progress = progress
        self._patience = patience
        self._file = folder / _FILE
        self._continued = False

    def fetch(self) -> Path:
        """The whole, checked file. Where a continued one turns out bad, it is fetched once more from the beginning."""
        self._persist()
        fault = self._checks.fault_of(self._file, self._progress, self._name)
        if fault and self._continued:
            self._drop(f"{fault}. It was put together from several transfers")
            self._persist()
            fault = self._checks.fault_of(self._file, self._progress, self._name)
        if fault:
            self._file.unlink()
            raise Unfit(fault)
        return self._file

    def _persist(self) -> None:
        """Try until the file is whole, or trying is hopeless."""
        attempts, refusals = Attempts(self._patience, self._say, self._part_bytes()), 0
        while True:
            try:
                return self._try_once()
            except Broken as error:
                have = self._part_bytes()
                refusals = refusals + 1 if isinstance(error, _NotContinued) else 0
                if refusals == 2:
                    self._drop(str(error))
                attempts.failed(error, have)

    def _try_once(self) -> None:
        if self._file.exists():  # an earlier run ended between the transfer and the checks
            self._continued = True
            return
        offer = look(self._address, self._patience)
        fault = self._checks.of_head(offer.head)
        if fault is None and offer.total is not None:
            fault = self._checks.fault_of_size(offer.total)
        if fault:
            raise Unfit(fault)
        start = self._continue_from(offer, validator_of(self._address, self._patience))
        require_space(self._folder, (offer.total or self._checks.n_bytes or 0) - start)
        if start and start == offer.total:
            self._part().rename(self._file)
        else:
            self._transfer(start, offer.total)

    def _transfer(self, start: int, total: int | None) -> None:
        if start:
            self._continued = True
            self._progress.say(f"{self._name}: going on after {start / MB:,.0f} MB.")
        with self._progress.task(f"Fetching {self._name}", total / MB if total else None, "MB") as task:
            task.skip(start / MB)
            seen = start

            def watch(done: int, total: int | None) -> None:
                nonlocal seen
                if done > self._checks.max_bytes:
                    self._part().unlink()
                    raise Unfit(f"it sends more than {self._checks.max_bytes:,} bytes")
                task.advance((done - seen) / MB)
                seen = done

            try:
                transfer(self._address, self._file, watch, self._patience)
            except Broken as error:
                if start and self._part_bytes() <= start:
                    raise _NotContinued("it does not go on where it had stopped", error.wait) from None
                raise

    def _continue_from(self, offer: Offer, validator: str | None) -> int:
        """How many bytes of the part that an earlier transfer left can be gone on with; what cannot is dropped."""
        described = {"total": offer.total, "validator": validator}
        have = self._part_bytes()
        if have and (self._recorded() != described or not self._begins_like(offer.head)):
            self._drop("it is another file now than the one that was begun")
        elif have and offer.total is not None and have > offer.total:
            self._drop("more has been written than the file is long")
        write_synced(self._folder / _OFFER, json.dumps(described))
        return self._part_bytes()

    def _recorded(self) -> object:
        try:
            return json.loads((self._folder / _OFFER).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def _begins_like(self, head: bytes) -> bool:
        with self._part().open("rb") as file:
            beginning = file.read(len(head))
        return head.startswith(beginning)

    def _part(self) -> Path:
        return next(iter(self._folder.glob(_PART)))

    def _part_bytes(self) -> int:
        """0 also where there are several parts, of which gdown would continue none."""
        parts = list(self._folder.glob(_PART))
        if len(parts) > 1:
            for part in parts:
                part.unlink()
        return parts[0].stat().st_size if len(parts) == 1 else 0

    def _drop(self, why: str) -> None:
        self._say(f"{why}. Starting again from the beginning")
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def _say(self, text: str) -> None:
        self._progress.say(f"{name_of(self._address)}: {text}.")


class _NotContinued(Broken):
    pass


def require_space(folder: Path, n_bytes: int) -> None:
    """ParakeetError unless so many more bytes find room in the folder."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes + SPARE_BYTES:
        raise ParakeetError(
            f"Too little disk space: {(n_bytes + SPARE_BYTES) / 1e9:,.1f} GB are needed and {folder} has "
            f"{free / 1e9:,.1f} GB free. Free some, or set PARAKEET_HOME to a folder on a larger disk."
        )
