"""How commands print tables and JSON, ask before they remove something, and show examples in their help."""

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from parakeet.errors import ParakeetError


def terminal_width() -> int | None:
    """Columns of the terminal; None if standard output is none, where a row of a table is one line of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say_json(document: dict[str, Any]) -> None:
    """Print one JSON document. It is ASCII, so nothing in it can steer a terminal. Numbers that JSON lacks are null."""
    click.echo(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def confirm(question: str, yes: bool, done: str = "removed") -> None:
    """Ask before something is `done`, unless `yes`. Raises ParakeetError if the answer is no, or nobody can answer."""
    check_answerable(yes, done)
    if not yes and not click.confirm(question, default=False):
        raise ParakeetError(f"Nothing was {done}.")


def check_answerable(yes: bool, done: str) -> None:
    """Raise ParakeetError if `confirm` would, because there is no terminal."""
    if not yes and not sys.stdin.isatty():
        raise ParakeetError(f"Nothing was {done}: there is no terminal to ask on. Confirm with --yes.")


def check_new_file(file: Path) -> None:
    """Raise ParakeetError, before the work for it is done, if a file is there already or has no folder."""
    if os.path.lexists(file):
        raise ParakeetError(f"{file} already exists: choose another name.")
    if not file.absolute().parent.is_dir():
        raise ParakeetError(f"{file}: there is no folder {file.absolute().parent}.")


def list_by_default(context: click.Context, listing: click.Command, as_json: bool) -> None:
    """Run the command `listing` of a group if the group is called alone."""
    if context.invoked_subcommand is None:
        context.invoke(listing, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"Give --json after {context.invoked_subcommand}.")


def examples(*lines: str) -> str:
    """The end of a command's help: a command on each line, with a comment after two spaces."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
yes_option = click.option("--yes", is_flag=True, help="Remove without asking.")
