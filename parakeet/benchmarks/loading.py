"""`python -m parakeet.benchmarks.loading DIRECTORY DTYPE`: what loading a model takes, as one JSON line.

A process of its own for each dtype, so that the memory it held at most is its own.
"""

import json
import sys
import threading
import time
from pathlib import Path

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
    """Seconds, and bytes: the peak, and the most that it may be."""
    began = time.perf_counter()
    with PeakMemory() as memory:
        decoder = Decoder(load_model(directory, "cpu"), dtype)
    weights = decoder.config.parameter_count * BYTES_PER_WEIGHT[dtype]
    limit = ALLOWED_SHARE * weights + ALLOWED_BYTES
    return {"seconds": time.perf_counter() - began, "peak_bytes": memory.peak, "limit_bytes": limit}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
