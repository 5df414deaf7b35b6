"""`precision: auto`: measured when a run begins, said, and kept on every machine; the slow one is warned about."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

from parakeet.errors import INTERRUPTED
from parakeet.model.config import ModelConfig
from parakeet.recipe import Training
from parakeet.training.checkpoint import checkpoints, read_state
from parakeet.training.forecast import assumed_precision, choose
from parakeet.training.job import SUMMARY_FILE, TrainingJob
from parakeet.training.precision import Asked, Comparison, compare_precisions, compare_seconds, decide

from .conftest import ForkServer, MakeJob

CONFIG = ModelConfig(layers=2, heads=2, width=64, context=64, vocabulary_rows=512)


@pytest.mark.parametrize(
    ("fp32", "bf16", "fast", "clear"),
    [
        (1.0, 17.0, "fp32", True),
        (1.0, 1.25, "fp32", True),
        (1.0, 1.1, "fp32", False),
        (1.0, 1.0, "fp32", False),
        (1.1, 1.0, "fp32", False),
        (1.25, 1.0, "bf16", True),
        (2.0, 1.0, "bf16", True),
    ],
)
def test_bf16_is_taken_if_it_is_clearly_faster(fp32: float, bf16: float, fast: str, clear: bool) -> None:
    here = compare_seconds(fp32, bf16)
    assert (here.fast, here.clear) == (fast, clear)


SLOW_BF16, FAST_BF16, EQUAL = (
    compare_seconds(0.003, 0.051),
    compare_seconds(0.003, 0.0015),
    compare_seconds(0.001, 0.001),
)


@pytest.mark.parametrize(
    ("asked", "begun", "here", "precision", "said"),
    [
        ("auto", None, SLOW_BF16, "fp32", "Precision auto: fp32. On this machine a product of this model takes 3 ms"),
        ("auto", None, FAST_BF16, "bf16", "1.5 ms in bf16, a factor of 2"),
        ("auto", "bf16", FAST_BF16, "bf16", "Precision auto: bf16, as the run began."),
        ("auto", "bf16", SLOW_BF16, "bf16", "as the run began, although fp32 is the choice on this machine"),
        ("auto", "fp32", FAST_BF16, "fp32", "as the run began, although bf16 is the choice on this machine"),
        ("bf16", None, SLOW_BF16, "bf16", "training.precision is bf16, but fp32 is faster on this machine"),
        ("bf16", "fp32", SLOW_BF16, "bf16", "a factor of 17"),
        ("fp32", None, FAST_BF16, "fp32", "A new run with training.precision: auto takes the faster one"),
        ("bf16", None, EQUAL, "bf16", ""),
        ("fp32", "bf16", SLOW_BF16, "fp32", ""),
    ],
)
def test_what_a_run_takes_and_says(asked: Asked, begun: str, here: Comparison, precision: str, said: str) -> None:
    chosen, text = decide(asked, begun, here)  # type: ignore[arg-type]
    assert chosen == precision
    assert said in text
    assert bool(said) == bool(text)


def test_the_comparison_draws_no_random_number() -> None:
    before = torch.random.get_rng_state()
    compare_precisions(CONFIG, torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("cuda", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_forecast_assumes_the_usual_one(cuda: bool, precision: str) -> None:
    training = Training(tokens=1 << 20, batch_tokens=1024, learning_rate=1e-3, precision="auto")
    assert assumed_precision(training, cuda) == precision
    assert choose(CONFIG, training, 64, 1 << 40, cuda).execution.precision == precision


def test_a_run_keeps_what_it_began_with(make_job: MakeJob, trainers: ForkServer) -> None:
    """The checkpoint is that of a machine on which the other precision is faster."""
    job = make_job("run", precision="auto", validation_tokens=0)
    gone = subprocess.Popen(["true"])
    gone.wait()
    running = trainers.start(job, parent=gone.pid)
    assert running.wait() == INTERRUPTED
    (begun,) = checkpoints(job.parent)
    taken = read_state(begun).precision
    assert f"Precision auto: {taken}. On this machine a product of this model takes" in running.printed()
    other = "fp32" if taken == "bf16" else "bf16"
    write_precision(begun / "state.json", other)
    printed = trainers.finish(job)
    assert f"Precision auto: {other}, as the run began" in printed
    assert {read_state(path).precision for path in checkpoints(job.parent)} == {other}
    summary = json.loads((TrainingJob.load(job).output / SUMMARY_FILE).read_text())
    assert {execution["precision"] for execution in summary["execution"].values()} == {other}


def write_precision(state: Path, precision: str) -> None:
    values = json.loads(state.read_text()) | {"precision": precision}
    del values["sha256"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    state.write_text(json.dumps(values | {"sha256": digest}))
