"""What Dagster's observations cost the trainer: python -m benchmarks.observation

Runs the reporter of a training for many steps inside a real Pipes session, in CPU seconds, and prints the share of a
step that it takes. A comparison of two trainings could not show 2 %: their speeds differ by more than that.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_pipes import PipesDefaultMessageWriter, encode_param

from parakeet.training.logging import MOST_OBSERVATIONS, StepRecord, open_reporter

STEPS = 20_000
SHORTEST_STEP = 0.01
"""Seconds: shorter steps are of toys. The demo's take 0.2 s on a CPU, those of 378M parameters 1.5 s on a GPU."""


def main() -> None:
    per_step, per_observation = measure()
    share = (per_step + per_observation * MOST_OBSERVATIONS / STEPS) / SHORTEST_STEP
    print(f"{1e6 * per_step:.1f} us a step, {1e3 * per_observation:.2f} ms an observation (CPU time).")
    print(f"Of {STEPS:,} steps of {1e3 * SHORTEST_STEP:.0f} ms with {MOST_OBSERVATIONS} observations: {share:.3%}.")


def measure() -> tuple[float, float]:
    """CPU seconds of the trainer for one step without an observation, and for one observation."""
    record = StepRecord(1, 4096, 3.0, 0.5, 1e-3, 1024, 0.2, 2e4, 0.0, 0.4, 0.41, 1 << 30)
    with tempfile.TemporaryDirectory() as folder, pipes_session(Path(folder)), open_reporter() as reporter:
        reporter.recipe = "demo"
        reporter.metrics(record, STEPS)  # the first is sent at once, and the next after half a minute
        began = time.process_time()
        for _ in range(STEPS):
            reporter.metrics(record, STEPS)
        per_step = (time.process_time() - began) / STEPS
        reporter.send()
        began = time.process_time()
        for _ in range(MOST_OBSERVATIONS):
            reporter.metrics(record, STEPS)
            reporter.send()
        return per_step, (time.process_time() - began) / MOST_OBSERVATIONS


@contextmanager
def pipes_session(folder: Path) -> Iterator[None]:
    """The environment in which Dagster starts the trainer."""
    context = folder / "context"
    values: dict[str, None] = dict.fromkeys(("asset_keys", "code_version_by_asset_key", "provenance_by_asset_key"))
    values |= dict.fromkeys(("partition_key", "partition_key_range", "partition_time_window", "job_name"))
    context.write_text(json.dumps({**values, "run_id": "1", "retry_number": 0, "extras": {}}), encoding="utf-8")
    params = {
        "DAGSTER_PIPES_CONTEXT": {"path": str(context)},
        "DAGSTER_PIPES_MESSAGES": {PipesDefaultMessageWriter.FILE_PATH_KEY: str(folder / "messages")},
    }
    before = dict(os.environ)
    os.environ |= {name: encode_param(value) for name, value in params.items()}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


if __name__ == "__main__":
    main()
