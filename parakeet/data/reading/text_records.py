"""Records of text files: blocks between blank lines, or documents between separator lines."""

import codecs
from collections.abc import Iterator
from typing import Any

from parakeet.data.reading.records import MAX_LINE_BYTES, TEXT_PIECE_BYTES, Problem, Record, bad_bytes, skip_line
from parakeet.data.reading.text_blocks import TextBlocks
from parakeet.formatting import format_bytes


def read_text(stream: Any) -> Iterator[Record]:
    blocks = TextBlocks()
    decoder = codecs.getincrementaldecoder("utf-8")()
    row = 1
    for piece in _pieces(stream):
        try:
            text = decoder.decode(piece, final=piece.endswith(b"\n") or not piece)
            problem = Problem("NUL byte", "not text") if "\0" in text else None
        except UnicodeDecodeError:
            problem = Problem("invalid UTF-8")
        if problem is None:
            yield from (Record(start, block) for start, block in blocks.add(text, row))
            row += piece.endswith(b"\n")
            continue
        decoder.reset()
        yield from (Record(start, block) for start, block in blocks.flush())
        yield bad_bytes(row, problem, piece)
        if not piece.endswith(b"\n"):
            skip_line(stream)
        row += 1
    yield from (Record(start, block) for start, block in blocks.flush())


def read_separated(stream: Any, separator: str) -> Iterator[Record]:
    """Documents between lines that hold nothing but the separator."""
    mark = separator.strip().encode()
    held = bytearray()  # a list of lines would take twenty times the size of short ones
    size, begin, row, at_line_start = 0, 1, 1, True
    for piece in _pieces(stream):
        if not piece or (at_line_start and piece.strip() == mark):
            yield from _separated(bytes(held), begin, size)
            held, size = bytearray(), 0
        elif held or piece.strip():
            begin = begin if held else row
            size += len(piece)
            if size <= MAX_LINE_BYTES or not held:
                held += piece
        at_line_start = piece.endswith(b"\n")
        row += at_line_start


def _separated(content: bytes, row: int, size: int) -> Iterator[Record]:
    if size > MAX_LINE_BYTES:
        detail = f"more than {format_bytes(MAX_LINE_BYTES, 0)} without a line that is the separator"
        yield bad_bytes(row, Problem("document too long", detail), content)
        return
    try:
        whole = content.decode()
    except UnicodeDecodeError as error:
        before = content.count(b"\n", 0, error.start)
        yield bad_bytes(row + before, Problem("invalid UTF-8"), content.split(b"\n")[before])
        return
    if text := whole.strip():
        yield Record(row + whole[: whole.index(text[0])].count("\n"), text)


def _pieces(stream: Any) -> Iterator[bytes]:
    """Lines, in several pieces if longer than `TEXT_PIECE_BYTES`. The last piece is empty."""
    while piece := stream.readline(TEXT_PIECE_BYTES):
        yield piece
    yield b""
