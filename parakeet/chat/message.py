"""The one message of `parakeet chat -m`: text, files that it names, and standard input."""

import os
import select
import stat
import sys
from collections.abc import Callable

from parakeet.chat.files import MAX_FILE_BYTES, decoded, with_files
from parakeet.chat.output import note
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes

SECONDS_OF_SILENCE = 2.0
"""A pipe that says nothing for so long may be one that nobody writes to. The user is told what is waited for."""


def one_message(typed: str, tell: Callable[[str], None], join: bool = True) -> str:
    """The message that was typed after -m: with the text of the files that it names, then (`join`) what is piped in.

    "-" is standard input alone. `tell` receives notes for the user. Raises ParakeetError if a file or standard input
    is not text.
    """
    if typed == "-":
        if sys.stdin is None:
            raise ParakeetError("Standard input is closed: there is no message to read.")
        if sys.stdin.isatty():
            note("Type the message. Ctrl-D on an empty line sends it.")
        return piped_text()
    text = with_files(typed, tell)
    piped = piped_text() if join and _is_piped() else ""
    return "\n\n".join(part for part in (text, piped) if part.strip())


def _is_piped() -> bool:
    """Whether standard input belongs to the message: a pipe, or a file from its beginning."""
    if sys.stdin is None or sys.stdin.isatty():
        return False
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            # A shell's loop has read lines of it: `while read -r line; do parakeet chat -m "$line"; done < FILE`.
            return os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        is_stream = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        if is_stream and not select.select([descriptor], [], [], SECONDS_OF_SILENCE)[0]:
            note("Waiting for the end of standard input, which joins the message. Add </dev/null if there is none.")
    except (OSError, ValueError):
        pass  # no descriptor of the system: only reading tells
    return True


def piped_text() -> str:
    """All of standard input as text, without the newline at its end. Raises ParakeetError if it is not text."""
    data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ParakeetError(f"Standard input is over {format_bytes(MAX_FILE_BYTES)}: no message can hold it.")
    return decoded(data, "Standard input").removesuffix("\n")
