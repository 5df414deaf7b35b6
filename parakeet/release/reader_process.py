"""Runs `parakeet.model.original_reader`: the process that reads a checkpoint from strangers."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import parakeet
from parakeet.errors import ParakeetError
from parakeet.model.original_reader import RefusedCheckpoint
from parakeet.progress import Progress

KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "SYSTEMROOT")
"""What a Python with torch may need. Tokens and passwords that others keep in variables do not go along."""


def read_checkpoint(
    path: Path,
    output: Path,
    heads: int | None,
    context: int | None,
    progress: Progress,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """model.safetensors and config.json of the checkpoint at `path`, in the folder `output`.

    `advance` hears of bytes read. Returns what the reader says of the file; RefusedCheckpoint or ParakeetError with
    its message, or ParakeetError with how it ended where it could leave none.
    """
    job = {"path": str(path), "output": str(output.absolute()), "heads": heads, "context": context}
    # -P: a folder that a person stands in may hold a file called torch.py.
    command = [sys.executable, "-P", "-m", "parakeet.model.original_reader", json.dumps(job)]
    with tempfile.TemporaryFile() as errors:
        reader = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(),
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            assert reader.stdout is not None
            result = _listen(reader.stdout, progress, advance)
            status = reader.wait()
        finally:
            # Ctrl-C reaches this process alone: the reader has a session of its own.
            reader.kill()
            reader.wait()
        if result is None:
            raise ParakeetError(f"{path} cannot be read: the process that reads it {_ending(status, errors)}.")
        return result


def _listen(lines: IO[str], progress: Progress, advance: Callable[[int], None]) -> dict[str, Any] | None:
    """What the reader reports until its end; None where it ended without a result."""
    for line in lines:
        try:
            words = json.loads(line)
        except ValueError:
            continue
        if "read" in words:
            advance(words["read"])
        elif "note" in words:
            progress.say(words["note"])
        elif "refused" in words:
            raise RefusedCheckpoint(words["refused"])
        elif "error" in words:
            raise ParakeetError(words["error"])
        elif "result" in words:
            return dict(words["result"])
    return None


def _ending(status: int, errors: IO[bytes]) -> str:
    if status < 0:
        return f"was stopped by signal {-status} (9 may mean that the machine's memory was full)"
    errors.seek(0)
    said = errors.read().decode("utf-8", "replace").strip().splitlines()
    return f"ended with status {status}" + (f" ({said[-1][:300]})" if said else "")


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    root = str(Path(parakeet.__file__).parents[1])
    # One thread: the work is bound by memory. No CUDA: a driver's context would take gigabytes.
    return {**kept, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
