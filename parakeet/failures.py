"""What the user is told of an exception that Parakeet did not raise itself."""

import re
import traceback
from pathlib import Path

from parakeet.artifact import explain_os_error, replace_file
from parakeet.errors import ParakeetError

DETAILS_FILE = ".last_error.txt"
"""Under the home folder: the traceback of the last error that nobody foresaw."""

_TORCH_MEMORY = re.compile("out of memory|allocate memory")
"""torch raises a RuntimeError."""

CODE = Path(__file__).resolve().parent.parent


def explain(error: Exception, doing: str, root: Path) -> ParakeetError:
    """A message for any exception that stopped `doing`.

    The traceback of an unforeseen one goes to a file under `root`, and the message names it.
    """
    if isinstance(error, ParakeetError):
        return error
    if isinstance(error, OSError):
        return explain_os_error(error, doing)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _TORCH_MEMORY.search(str(error))):
        return ParakeetError(
            f"Not enough memory while {doing}{_reason(error)}. What was finished is kept. End other programs, or use "
            "less at once (--limit, executor.workers: 1), then run the same command again."
        )
    written = "".join(traceback.format_exception(error))
    return explain_unforeseen(f"{type(error).__name__}{_reason(error)}", _place(error), written, doing, root)


def explain_unforeseen(what: str, place: str, details: str, doing: str, root: Path) -> ParakeetError:
    """A message for a bug: `what` was raised at `place`. `details`, a traceback, goes to a file under `root`."""
    file = root / DETAILS_FILE
    try:
        replace_file(file, details)
        kept = f" The details are in {file}: please report them."
    except OSError:
        kept = ""
    where = f" ({place})" if place else ""
    return ParakeetError(
        f"An unexpected error while {doing}: {what}{where}. This is a bug in Parakeet. What was finished is kept.{kept}"
    )


def _reason(error: BaseException) -> str:
    """`: first line of the message`, or nothing if there is none."""
    lines = str(error).strip().splitlines()
    return f": {lines[0].rstrip('.')}" if lines else ""


def _place(error: BaseException) -> str:
    """The last line of our own code that the exception passed: `parakeet/stages.py, line 12`."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(CODE) and "site-packages" not in path.relative_to(CODE).parts:
            return f"{path.relative_to(CODE)}, line {frame.lineno}"
    return ""
