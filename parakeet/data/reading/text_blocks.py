"""Plain text in blocks of whole paragraphs: each block of a text file is a document."""

from collections.abc import Iterator

BLOCK_BYTES = 4096
"""A block takes paragraphs until it has this many bytes."""
MAX_BLOCK_BYTES = 64 << 10
"""A longer paragraph is cut at its last newline, else at its last space, else inside a word."""


class TextBlocks:
    """Packs paragraphs (separated by blank lines) into blocks. Holds at most `MAX_BLOCK_BYTES` and one piece.

    `add` and `flush` give (row, text): the 1-based line on which the block begins, and the block without the blank
    lines around it. Only blank lines, spaces on them, and white space at a cut are lost.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._row = 0

    def add(self, piece: str, row: int) -> Iterator[tuple[int, str]]:
        """Take the next line, or the next piece of a long one, and give the blocks that it completes."""
        blank = not piece.strip()
        full = len(self._data) >= BLOCK_BYTES and self._data.endswith(b"\n")
        if blank and (full or not self._data):
            yield from self.flush()
            return
        if not self._data:
            self._row = row
        line = "\n" if blank and piece.endswith("\n") else piece.replace("\r\n", "\n")
        self._data += line.encode()
        while len(self._data) > MAX_BLOCK_BYTES:
            yield from self._cut()

    def flush(self) -> Iterator[tuple[int, str]]:
        """Give the rest. The next piece begins a new block."""
        text = self._data.decode().strip("\n").rstrip()
        self._data.clear()
        if text:
            yield self._row, text

    def _cut(self) -> Iterator[tuple[int, str]]:
        at_separators = (self._data.rfind(separator, 1, MAX_BLOCK_BYTES) for separator in (b"\n\n", b"\n", b" "))
        cut = next((position for position in at_separators if position > 0), MAX_BLOCK_BYTES)
        while self._data[cut] & 0xC0 == 0x80:  # never inside a character
            cut -= 1
        rest = bytes(self._data[cut:])
        del self._data[cut:]
        kept = rest.lstrip(b"\n").removeprefix(b" " if rest.startswith(b" ") else b"")
        next_row = self._row + self._data.count(b"\n") + rest.count(b"\n") - kept.count(b"\n")
        yield from self.flush()
        self._data += kept
        self._row = next_row
