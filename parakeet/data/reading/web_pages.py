"""The text of web pages, by trafilatura (`pip install 'parakeet-lm[html]'`).

Some pages keep its parser busy for minutes, and nothing can interrupt it there. It works in a process of its own, which
is killed then: `python -m parakeet.data.reading.web_pages`.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from threading import Timer
from typing import IO, Any

from parakeet.data.reading.records import Problem, Record, bad_bytes
from parakeet.formatting import format_bytes

MAX_PAGE_BYTES = 8 << 20
MOST_SECONDS = 20.0
MOST_MEMORY = 1 << 30
LENGTH_BYTES = 8


def read_page(stream: Any) -> Iterator[Record]:
    """The main text of a page, as one record; an empty text if it has none."""
    page = stream.read(MAX_PAGE_BYTES + 1)
    if len(page) > MAX_PAGE_BYTES:
        yield bad_bytes(1, Problem("page too long", f"more than {format_bytes(MAX_PAGE_BYTES, 0)}"), page)
    elif (text := _extractor().text_of(page)) is None:
        yield bad_bytes(1, Problem("page cannot be parsed", f"in {MOST_SECONDS:.0f} seconds"), page)
    else:
        yield Record(1, text)


class Extractor:
    """The process that extracts, begun with the first page and again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def text_of(self, page: bytes) -> str | None:
        """None if the page takes too long or too much memory."""
        if self._process is None:
            # -P: the working directory may hold a file called json.py.
            command = [sys.executable, "-P", "-m", "parakeet.data.reading.web_pages"]
            # A traceback, of Ctrl-C too, and the parser's complaints about a page are nothing to the user.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = Timer(MOST_SECONDS, process.kill)
        timer.start()
        text = None
        with suppress(OSError):
            _send(process.stdin, page)
            text = _received(process.stdout)
        timer.cancel()
        if text is None:
            process.kill()
            process.wait()
            self._process = None
        return text.decode() if text is not None else None


@cache
def _extractor() -> Extractor:
    return Extractor()


def _send(stream: IO[bytes], content: bytes) -> None:
    stream.write(len(content).to_bytes(LENGTH_BYTES) + content)
    stream.flush()


def _received(stream: IO[bytes]) -> bytes | None:
    """The next message; None at the end, also in its middle."""
    head = stream.read(LENGTH_BYTES)
    length = int.from_bytes(head)
    content = stream.read(length) if len(head) == LENGTH_BYTES else b""
    return content if len(head) == LENGTH_BYTES and len(content) == length else None


def main() -> None:
    """Answer each page with its text until the input ends."""
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    from trafilatura import extract

    while (page := _received(sys.stdin.buffer)) is not None:
        text = extract(page, include_comments=False) or ""
        _send(sys.stdout.buffer, text.encode(errors="replace"))


if __name__ == "__main__":
    main()
