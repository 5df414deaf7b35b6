"""Finding one of several things by the beginning of its name, as people type it."""

import difflib
from collections.abc import Sequence

from parakeet.errors import ParakeetError

MOST_SHOWN = 10


def find_name(prefix: str, names: Sequence[str], what: str, all_with: str) -> str:
    """The one of `names` that is `prefix`, or the only one that begins with it.

    `what` is the kind of thing in the singular, `all_with` the command that lists them all. Raises ParakeetError with
    the candidates if none or several begin so.
    """
    if prefix in names:
        return prefix
    found = [name for name in names if name.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ParakeetError(f"Several {what}s begin with {prefix!r}: {_shown(found)}. Type more of it.")
    if not names:
        raise ParakeetError(f"There is no {what} yet.")
    close = difflib.get_close_matches(prefix, names, n=5, cutoff=0.3) or names
    raise ParakeetError(f"No {what} begins with {prefix!r}. There are: {_shown(close)}. All: {all_with}")


def _shown(names: Sequence[str]) -> str:
    more = len(names) - MOST_SHOWN
    return ", ".join(names[:MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
