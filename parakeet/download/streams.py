"""Files elsewhere of which any range can be read: by HTTP here, in a hub or a store in `hub` and `bucket`."""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from parakeet.download.transfer import (
    Broken,
    Patience,
    Unfit,
    explained,
    fault_of_status,
    persistently,
    refuse_downgrade,
    validator_in,
)
from parakeet.progress import Progress

READ_BYTES = 256 << 10
LEAST_BYTES = 512 << 10
"""What has to arrive within `Patience.chunk`: gdown's own measure."""

CHANGED = "it was changed while it was being fetched"

Read = Callable[[int, int], Iterator[bytes]]
"""The file's bytes from one offset up to another, in pieces. Raises Unfit or Broken, and Restart where it cannot begin
in the middle."""

Refusal = Callable[[int, Mapping[str, str]], Unfit | Broken]
"""What a status that is no success means, by its headers."""


class Restart(Exception):
    """The file can only be read from its beginning."""


@dataclass(frozen=True)
class Remote:
    """One file elsewhere. Two with the same `validator` and size are the same file.

    `name` is its place in the source's folder, `origin` names it for people. `sha256` and `git_blob` (git's name for
    the content) are what it must have, where they are known. `read` gets a range of it; `fetch` puts the whole file at
    a path, where that is not done by `read`.
    """

    name: str
    origin: str
    n_bytes: int | None
    validator: str | None = None
    sha256: str | None = None
    git_blob: str | None = None
    read: Read | None = None
    fetch: Callable[[Path, Progress], None] | None = None


@dataclass(frozen=True)
class HttpOffer:
    """What is known of a file at an address before it is transferred. `ranges` says whether parts of it are given."""

    n_bytes: int | None
    validator: str | None
    ranges: bool


def http_offer(address: str, patience: Patience) -> HttpOffer:
    """Ask for the file and hang up after the headers. Raises Unfit or Broken."""
    import requests

    timeout = (patience.connect, patience.silence)
    headers = {"Accept-Encoding": "identity"}
    with explained(patience), requests.get(address, stream=True, timeout=timeout, headers=headers) as response:
        response.raise_for_status()
        refuse_downgrade(address, [hop.url for hop in (*response.history, response)])
        length = response.headers.get("Content-Length", "")
        plain = "Content-Encoding" not in response.headers
        return HttpOffer(
            n_bytes=int(length) if plain and length.isdecimal() else None,
            validator=validator_in(response.headers),
            ranges=plain and response.headers.get("Accept-Ranges", "").lower() == "bytes",
        )


def http_reader(
    address: str,
    patience: Patience,
    headers: Mapping[str, str] | None = None,
    validator: str | None = None,
    refuse: Refusal | None = None,
) -> Read:
    """Read ranges of the file at an address. `headers` (a token, say) are not sent on to other hosts."""
    import requests

    def read(start: int, stop: int) -> Iterator[bytes]:
        wanted = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}", **(headers or {})}
        if validator is not None:
            wanted["If-Range"] = validator
        timeout = (patience.connect, patience.silence)
        with explained(patience):
            response = requests.get(address, stream=True, timeout=timeout, headers=wanted)
        with response:
            _check(response, start)
            yield from _body(response, stop - start)

    def _check(response: requests.Response, start: int) -> None:
        if response.status_code >= 400:
            judge = refuse or (lambda status, headers: fault_of_status(status, headers, patience))
            raise judge(response.status_code, response.headers)
        refuse_downgrade(address, [hop.url for hop in (*response.history, response)])
        if "Content-Encoding" in response.headers:
            raise Unfit("it sent a compressed body, of which no part can be used")
        if validator is not None and validator_in(response.headers) != validator:
            raise Unfit(CHANGED)
        begins = response.headers.get("Content-Range", "bytes 0-").removeprefix("bytes ").partition("-")[0]
        if begins != str(start):
            raise Restart("it does not go on where it had stopped")

    def _body(response: requests.Response, n_bytes: int) -> Iterator[bytes]:
        since, arrived = time.monotonic(), 0
        while n_bytes > 0:
            with explained(patience):
                piece = response.raw.read1(min(READ_BYTES, n_bytes))
            if not piece:
                return
            yield piece
            n_bytes -= len(piece)
            arrived += len(piece)
            if arrived >= LEAST_BYTES:
                since, arrived = time.monotonic(), 0
            elif time.monotonic() - since > patience.chunk:
                raise Broken(f"it sent less than 512 KiB in {patience.chunk:.0f} s")

    return read


class RangeFile(io.RawIOBase):
    """A remote file as a seekable one, for readers that need only some of its bytes. To be buffered."""

    def __init__(self, remote: Remote, patience: Patience, say: Callable[[str], None]) -> None:
        assert remote.read is not None
        assert remote.n_bytes is not None
        self._read = remote.read
        self._n_bytes = remote.n_bytes
        self._patience = patience
        self._say = say
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._n_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        stop = min(self._position + len(buffer), self._n_bytes)
        if stop <= self._position:
            return 0
        content = persistently(lambda: self._range(self._position, stop), self._patience, self._say)
        buffer[: len(content)] = content
        self._position = stop
        return len(content)

    def _range(self, start: int, stop: int) -> bytes:
        try:
            content = b"".join(self._read(start, stop))
        except Restart as error:
            raise Unfit(str(error)) from None
        if len(content) != stop - start:
            raise Broken("it did not send all that it had announced")
        return content
