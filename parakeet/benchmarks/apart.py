"""A measurement in a process of its own: its memory is its own, and where that does not suffice, it ends alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import parakeet
from parakeet.benchmarks.loading import ending
from parakeet.errors import ParakeetError
from parakeet.training.device import is_out_of_memory

OUT_OF_MEMORY = "out of memory"
KILLED = -9
"""Status of a process that the system ended because the machine's memory was full."""

Answer = dict[str, Any]
"""What was measured, or `{"refused": why}`."""


def run_apart(module: str, request: dict[str, Any], threads: int, seconds: float | None = None) -> Answer:
    """Have `module`, which calls `answer`, answer a request by a process of its own with so many threads (0: torch's).

    What goes wrong over there is an answer too: a benchmark does not lose its other rows for it. After `seconds` the
    process is ended.
    """
    # -P: a folder that a person stands in may hold a file called torch.py.
    command = [sys.executable, "-P", "-m", module]
    places = [str(Path(parakeet.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The allocator as the trainer has it.
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(places)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    try:
        finished = subprocess.run(
            command, input=json.dumps(request), env=environment, timeout=seconds,
            capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"refused": f"given up after {seconds:.0f} seconds"}
    if finished.returncode == KILLED:
        return {"refused": f"{OUT_OF_MEMORY} (stopped by signal 9)"}
    if finished.returncode:
        return {"refused": f"the process {ending(finished.returncode, finished.stderr)}"}
    found: Answer = json.loads(finished.stdout.splitlines()[-1])
    return found


def answer(measure: Callable[[dict[str, Any]], Answer]) -> None:
    """Measure what standard input asks for; one JSON line."""
    request = json.load(sys.stdin)
    try:
        found = measure(request)
    except ParakeetError as error:
        found = {"refused": str(error)}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        found = {"refused": OUT_OF_MEMORY}
    print(json.dumps(found | {"threads": torch.get_num_threads()}))
