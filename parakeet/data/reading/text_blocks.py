"""Plain text in blocks of whole paragraphs, the documents that a text file is made into."""

from collections.abc import Iterator

BLOCK_BYTES = 4096
"""Paragraphs are packed until a block has this many bytes."""
MAX_BLOCK_BYTES = 64 << 10
"""A longer paragraph is cut: at its last newline or else space, within a word only where there is neither."""


class TextBlocks:
    """Packs paragraphs, which blank lines part, into blocks. Holds at most `MAX_BLOCK_BYTES` and one piece.

    `add` and `flush` give (row, text): the 1-based line on which the block begins, and the block without the
    blank lines around it. Nothing but blank lines, spaces on them, and white space at a cut is lost.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._row = 0

    def add(self, piece: str, row: int) -> Iterator[tuple[int, str]]:
        """Take the next line, or the next piece of a long line, and give the blocks that are complete with it."""
        blank = not piece.strip()
        if blank and (not self._data or self._is_full_paragraphs()):
            yield from self.flush()
            return
        if not self._data:
            self._row = row
        line = "\n" if blank and piece.endswith("\n") else piece.replace("\r\n", "\n")
        self._data += line.encode()
        while len(self._data) > MAX_BLOCK_BYTES:
            yield from self._cut()

    def flush(self) -> Iterator[tuple[int, str]]:
        """Give what is left; the next piece begins a new block."""
        text = self._data.decode().strip("\n").rstrip()
        self._data.clear()
        if text:
            yield self._row, text

    def _is_full_paragraphs(self) -> bool:
        return len(self._data) >= BLOCK_BYTES and self._data.endswith(b"\n")

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
