"""Where artefacts live: PARAKEET_HOME, else the checkout's `assets/`, else the platform's user data folder."""

import os
from pathlib import Path

import platformdirs


def checkout() -> Path | None:
    """The root of the checkout that this code runs from, or None if it is installed."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "workspace.yaml").is_file() and (root / "pyproject.toml").is_file() else None


def home() -> Path:
    """The root folder of all artefacts; it need not exist yet."""
    named = os.environ.get("PARAKEET_HOME")
    if named:
        return Path(os.path.expanduser(named)).resolve()
    root = checkout()
    return root / "assets" if root else Path(platformdirs.user_data_dir("parakeet"))


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
