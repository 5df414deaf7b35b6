"""Where artefacts live: PARAKEET_HOME, else the checkout's `assets/`, else the platform's user data folder."""

import os
from pathlib import Path

import platformdirs

from parakeet.errors import ParakeetError

MOST_BYTES_OF_A_NAME = 255
"""Linux's file systems allow no longer name of a file or folder."""


def checkout() -> Path | None:
    """The root of the checkout that this code runs from, or None if it is installed."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "workspace.yaml").is_file() and (root / "pyproject.toml").is_file() else None


def home() -> Path:
    """The root folder of all artefacts; it need not exist yet. ParakeetError if PARAKEET_HOME names no folder."""
    named = os.environ.get("PARAKEET_HOME")
    if named:
        return folder_of_variable("PARAKEET_HOME", named)
    root = checkout()
    return root / "assets" if root else Path(platformdirs.user_data_dir("parakeet"))


def folder_of_variable(variable: str, named: str) -> Path:
    """The folder that an environment variable names, as an absolute path without links.

    A relative one is seen from the current folder, `~` is the user's home folder. Raises ParakeetError if there can be
    no such folder.
    """
    expanded = os.path.expanduser(named)
    path = Path(os.path.realpath(expanded))
    fault = ""
    if expanded.startswith("~"):
        fault = f"there is no user {expanded[1:].partition('/')[0]!r}. For a folder of that name, write ./{expanded}"
    elif str(path).encode("utf-8", "replace") != os.fsencode(path):
        fault = "its name is not UTF-8, and manifests and recipes name it in UTF-8. Rename it"
    elif any(len(os.fsencode(name)) > MOST_BYTES_OF_A_NAME for name in path.parts):
        fault = f"a name in it is longer than {MOST_BYTES_OF_A_NAME} bytes. Choose a shorter one"
    elif os.path.islink(path):
        fault = "this is a symbolic link that leads to itself"
    elif os.path.exists(path) and not os.path.isdir(path):
        fault = "this is a file. Name a folder"
    if fault:
        raise ParakeetError(f"{variable} is {named}: {fault}.")
    return path


def release_folder(root: Path) -> Path:
    return root / "releases"


def latest_release(root: Path) -> Path:
    """The link to the release that `parakeet chat` opens."""
    return release_folder(root) / "latest"


def models_folder(root: Path) -> Path:
    """Files that a user or a download put there: input, never made or removed by a stage."""
    return root / "models"


def runs_folder(root: Path) -> Path:
    """Training runs, finished or not, each under its key."""
    return root / "training_runs"


def hashes_file(root: Path) -> Path:
    """The cache of `HashCache`: sha256 of files outside the store."""
    return root / ".hashes.json"
