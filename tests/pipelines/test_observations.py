"""The trainer's figures in Dagster while it trains, and not only when it has ended."""

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from benchmarks.observation import SHORTEST_STEP, STEPS, measure
from parakeet.recipe_file import load_recipe
from parakeet.training import logging
from parakeet.training.logging import MOST_OBSERVATIONS, DagsterReporter, StepRecord
from pipelines.definitions import make_definitions

COMMON: dict[str, Any] = {
    "tokens": 256,
    "gradient_norm": 1.5,
    "learning_rate": 1e-3,
    "sequence_length": 32,
    "seconds": 0.5,
    "data_seconds": 0.0,
    "mfu": None,
    "mfu_palm": None,
    "tokens_per_second": 512.0,
    "memory_bytes": 1 << 20,
}
CHECKPOINT = dg.AssetKey("checkpoint")

TRAINER = """
import sys, time
from pathlib import Path
from parakeet.training.logging import open_reporter
from parakeet.training.logging import StepRecord

seen = Path(sys.argv[1])
common = {"gradient_norm": 1.5, "learning_rate": 1e-3, "sequence_length": 32, "seconds": 0.5, "data_seconds": 0.0,
          "mfu_palm": None, "tokens_per_second": 512.0, "memory_bytes": 1 << 20}
with open_reporter() as reporter:
    reporter.recipe = "demo"
    reporter.event("Resuming from step 1.")
    reporter.metrics(StepRecord(step=2, tokens=512, loss=6.0, mfu=None, **common), 5)
    while not seen.exists():
        time.sleep(0.01)
    reporter.event("Checkpoint of step 2 saved.")
    reporter.metrics(StepRecord(step=3, tokens=768, loss=5.0, mfu=0.25, validation_loss=5.5, **common), 5)
    reporter.metrics(StepRecord(step=4, tokens=1024, loss=float("nan"), mfu=0.25, skipped="not finite", **common), 5)
    reporter.metrics(StepRecord(step=5, tokens=1280, loss=4.0, mfu=0.25, **common), 5)
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        yield instance


def observations(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """Metadata of each, oldest first."""
    found = instance.fetch_observations(CHECKPOINT, limit=100).records
    metadata = [record.asset_observation.metadata for record in found if record.asset_observation is not None]
    return [{name.removesuffix(" (demo)"): value.value for name, value in one.items()} for one in reversed(metadata)]


def run_trainer(instance: dg.DagsterInstance, script: str, *arguments: str) -> dg.ExecuteInProcessResult:
    """What the asset does: launch a command through the definitions' own resource."""

    @dg.asset(name="checkpoint")
    def checkpoint(context: dg.AssetExecutionContext, trainer: dg.PipesSubprocessClient) -> dg.MaterializeResult:
        return trainer.run(context=context, command=[sys.executable, "-c", script, *arguments]).get_materialize_result()

    resources = make_definitions(load_recipe("demo")).resources
    assert resources is not None
    return dg.materialize([checkpoint], instance=instance, resources={"trainer": resources["trainer"]})


def test_metrics_are_observed_while_the_trainer_runs(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """The trainer ends only when its first figures have been seen in Dagster's history."""
    seen = tmp_path / "seen"
    while_running: list[dict[str, Any]] = []

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not while_running and time.monotonic() < deadline:
            time.sleep(0.05)
            while_running.extend(observations(instance))
        seen.touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = run_trainer(instance, TRAINER, str(seen))
    watcher.join()
    assert result.success
    first = {
        "step": 2,
        "tokens": 512,
        "loss": 6.0,
        "tokens_per_second": 512.0,
        "mfu": "unknown",
        "learning_rate": 1e-3,
    }
    assert while_running == [first | {"gradient_norm": 1.5}]
    assert observations(instance)[1:] == [
        {
            "step": 5,
            "tokens": 1280,
            "loss": 4.5,
            "validation_loss": 5.5,
            "tokens_per_second": 512.0,
            "mfu": 0.25,
            "learning_rate": 1e-3,
            "gradient_norm": 1.5,
        }
    ]
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "Resuming from step 1." in logged
    assert "Checkpoint of step 2 saved." in logged


def test_an_observation_that_cannot_be_made_loses_nothing_else(instance: dg.DagsterInstance) -> None:
    script = """
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    pipes.report_custom_message({"kind": "metrics"})
    pipes.report_custom_message("of another kind")
    pipes.report_custom_message({"kind": "metrics", "values": {"step": 7}})
    pipes.log.info("still here")
"""
    result = run_trainer(instance, script)
    assert result.success
    assert observations(instance) == [{"step": 7, "mfu": "unknown"}]
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "still here" in logged
    assert any("observation of checkpoint was lost" in line for line in logged)


def test_a_training_of_any_length_is_observed_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "SECONDS_BETWEEN_OBSERVATIONS", 0.0)
    for total in (3, 499, 500, 501, 40_000):
        sent: list[dict[str, Any]] = []
        reporter = DagsterReporter(SimpleNamespace(report_custom_message=sent.append))  # type: ignore[arg-type]
        for step in range(1, total + 1):
            reporter.metrics(StepRecord(step=step, loss=1.0, **COMMON), total)
        reporter.send()
        assert min(total, 400) <= len(sent) <= MOST_OBSERVATIONS + 1
        steps = [one["values"]["step"] for one in sent]
        assert steps[-1] == total
        assert max(later - earlier for earlier, later in itertools.pairwise([0, *steps])) <= total / 500 + 1


def test_observations_cost_the_trainer_less_than_two_percent() -> None:
    per_step, per_observation = measure()
    assert 0 < per_step < per_observation  # it was sent
    assert (per_step + per_observation * MOST_OBSERVATIONS / STEPS) / SHORTEST_STEP < 0.02
