"""The command line of this process, for records and messages that others read."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

_NOTIFY = re.compile(r"((?:^|=)\s*notify\b[^=]*=).*", re.DOTALL)


def command_line() -> tuple[str, ...]:
    """The program's name and its arguments, without the value of a `notify` setting, which is often a password."""
    return (Path(sys.argv[0]).name, *without_secrets(sys.argv[1:]))


def without_secrets(arguments: Iterable[str]) -> tuple[str, ...]:
    """Arguments with `…` for the value of `--set notify.url=…` and its like."""
    return tuple(_NOTIFY.sub(r"\1…", argument) for argument in arguments)
