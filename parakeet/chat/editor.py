"""A text in the user's own editor."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from parakeet.errors import ParakeetError


def edit_text(text: str) -> str:
    """What the user makes of the text in $VISUAL or $EDITOR, without the newline that editors end with.

    The file that they edit is theirs alone (0600) and goes afterwards. Raises ParakeetError where no editor
    is named, it cannot be started, or it ends with an error.
    """
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not named or not named.strip():
        raise ParakeetError("There is no editor: name one in the variable EDITOR, or give the text after /edit.")
    descriptor, path = tempfile.mkstemp(suffix=".md", prefix="parakeet-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        _run(named, path)
        return Path(path).read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    finally:
        Path(path).unlink(missing_ok=True)


def _run(named: str, path: str) -> None:
    try:
        command = shlex.split(named)
        finished = subprocess.run([*command, path])
    except (OSError, ValueError) as error:
        raise ParakeetError(f"The editor {named!r} cannot be started: {error}. Change the variable EDITOR.") from None
    if finished.returncode != 0:
        raise ParakeetError(f"The editor {named!r} ended with status {finished.returncode}: nothing was changed.")
