"""`python -m parakeet.benchmarks.loading DIRECTORY DTYPE THREADS`: what loading a model takes, as one JSON line.

A process of its own for each dtype, so that the memory it held at most is its own.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

import parakeet
from parakeet.errors import ParakeetError
from parakeet.generation.decoder import Decoder
from parakeet.model.transformer import load_model

BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.625}
"""int4: half a byte, and a bf16 scale and zero point for every 32."""
ALLOWED_SHARE, ALLOWED_BYTES = 1.15, 1 << 29
"""Loading may hold this much of the weights' bytes, and so many bytes besides: never two copies."""


class PeakMemory:
    """The most anonymous memory that this process held meanwhile, in bytes; 0 where /proc does not say."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakMemory":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()
        self.peak = max(self.peak, _anonymous_bytes())

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.peak = max(self.peak, _anonymous_bytes())


def _anonymous_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(found[0]) if found else 0


def measure(directory: Path, dtype: str) -> dict[str, float]:
    """Seconds; bytes, the peak and the most that it may be; and whether it is over that.

    ParakeetError where the model's matrices do not go into `dtype`.
    """
    began = time.perf_counter()
    with PeakMemory() as memory:
        decoder = Decoder(load_model(directory, "cpu"), dtype)
    weights = decoder.config.parameter_count * BYTES_PER_WEIGHT[dtype]
    limit = ALLOWED_SHARE * weights + ALLOWED_BYTES
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_bytes": memory.peak, "limit_bytes": limit, "over": memory.peak > limit}


def measure_apart(directory: Path, dtype: str, threads: int) -> dict[str, Any]:
    """The same by a process of its own; for a dtype that the model does not go into `{"refused": why}`.

    ParakeetError that says how the process ended, where it did not end well.
    """
    # -P: a folder that a person stands in may hold a file called torch.py.
    command = [sys.executable, "-P", "-m", "parakeet.benchmarks.loading", str(directory), dtype, str(threads)]
    places = [str(Path(parakeet.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    finished = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    if finished.returncode != 0:
        raise ParakeetError(f"Loading in {dtype} failed: the process {ending(finished.returncode, finished.stderr)}.")
    loaded: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return loaded


def ending(status: int, said: str) -> str:
    """How a process ended, for a message: by which signal, or with which status and last words."""
    if status < 0:
        return f"was stopped by signal {-status} (9 may mean that the machine's memory was full)"
    words = said.strip().splitlines()
    return f"ended with status {status}" + (f" ({words[-1][:300]})" if words else "")


def main(directory: str, dtype: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    try:
        found: dict[str, Any] = measure(Path(directory), dtype)
    except ParakeetError as error:
        found = {"refused": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
