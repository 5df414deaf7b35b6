"""What a process computes with: the code's commit, versions of packages, the processor. Imports no torch."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from parakeet import __version__
from parakeet.home import checkout

PACKAGES = ("torch", "tiktoken", "tokenizers", "safetensors", "datatrove", "pyarrow", "numpy", "dagster")
COMPUTING_PACKAGES = ("triton", "bitsandbytes")
"""Further packages that a trainer computes with."""
MOST_PATCH_BYTES = 1 << 20
"""Of uncommitted changes that are kept. A larger patch is data that somebody added by mistake."""
MOST_UNTRACKED = 100
SECONDS = 30
ARITHMETIC_VARIABLES = re.compile(
    "(ATEN|CUBLAS|CUDA|CUDNN|DNNL|GOMP|KMP|MKL|NVIDIA|OMP|ONEDNN|OPENBLAS|PYTORCH|TORCH|TORCHINDUCTOR)_.*"
)
"""Environment variables that libraries of arithmetic read."""


def git_state(root: Path | None = None) -> dict[str, Any] | None:
    """Commit of the checkout that this code runs from (or of `root`), and whether files differ from it.

    None outside a checkout or without git.
    """
    commit, status = git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain")
    if commit is None or status is None:
        return None
    return {"commit": commit.decode().strip(), "changed": bool(status.strip())}


def git_patch(root: Path | None = None) -> tuple[bytes, list[str]]:
    """What `git apply` needs to make today's tracked files from the commit, and the names of untracked files."""
    patch = git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color") or b""
    untracked = git(root, "ls-files", "--others", "--exclude-standard", "-z") or b""
    return patch, [name.decode(errors="backslashreplace") for name in untracked.split(b"\0") if name]


def git(root: Path | None, *arguments: str) -> bytes | None:
    """What git prints in the checkout (or in `root`); None outside of one, without git, or if git fails."""
    root = root or checkout()
    if root is None:
        return None
    # A hook of git sets GIT_DIR and others, for another repository perhaps.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        ended = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None


def package_versions(*more: str) -> dict[str, str | None]:
    """Installed versions of the packages that results depend on; None for one that is missing."""
    return {name: _version(name) for name in (*PACKAGES, *more)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def software() -> dict[str, str | None]:
    """Versions of Parakeet, Python and the packages that a trainer computes with, by name."""
    return {"parakeet": __version__, "python": platform.python_version(), **package_versions(*COMPUTING_PACKAGES)}


def processor(file: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """`name` and sorted `flags` of the processor. Where the system has no /proc, the flags are empty."""
    values: dict[str, str] = {}
    try:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            values.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = values.get("model name") or platform.processor() or platform.machine()
    return {"name": name, "flags": sorted((values.get("flags") or values.get("Features") or "").split())}


def arithmetic_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables that may change how something is computed."""
    return {name: value for name, value in sorted(environment.items()) if ARITHMETIC_VARIABLES.fullmatch(name)}
