"""The trainer as a real process: it is interrupted, killed and started again, and must not be seen to have been."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from parakeet.errors import INTERRUPTED
from parakeet.training.job import FAILURE_FILE, METRICS_FILE, TrainingJob

from ..conftest import Prepared

MakeJob = Callable[..., Path]


@pytest.fixture
def make_job(prepared: Prepared, tmp_path: Path) -> MakeJob:
    def make(name: str, **training: object) -> Path:
        run, output = tmp_path / name, tmp_path / f"{name}-output"
        run.mkdir(exist_ok=True)
        output.mkdir(exist_ok=True)
        job = TrainingJob(
            model=prepared.recipe.model,
            training=prepared.recipe.training.model_copy(update=training),
            row_tokens=prepared.recipe.packing.row_tokens,
            order_seed=1,
            tokenizer=prepared.tokenizer_folder,
            shards=prepared.shards,
            shards_content="shards",
            plan=prepared.plan,
            plan_content="plan",
            run=run,
            output=output,
        )
        return job.save()

    return make


def start(job: Path, *prefix: str, parent: int | None = None) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_PIPES")}
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "parakeet.training", str(job), *([str(parent)] if parent else [])],
        env=environment,
        stderr=subprocess.PIPE,
    )


def finish(job: Path) -> None:
    process = start(job)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def result(job: Path) -> tuple[dict[str, bytes], list[tuple[int, float]], dict[str, bytes]]:
    """Weights, loss history and optimizer state of a finished run, as bytes."""
    told = TrainingJob.load(job)
    weights = {name: tensor.tobytes() for name, tensor in load_file(told.output / "model.safetensors").items()}
    lines = (told.run / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    losses = [(values["step"], values["loss"]) for values in map(json.loads, lines)]
    last = max(told.run.glob("step-*"))
    state = {name: tensor.tobytes() for name, tensor in load_file(last / "optimizer.safetensors").items()}
    return weights, losses, state


def wait_for_checkpoint(run: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 100
    while not list(run.glob("step-*")):
        assert process.poll() is None, "the trainer ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def undisturbed(make_job: MakeJob) -> tuple[dict[str, bytes], list[tuple[int, float]], dict[str, bytes]]:
    job = make_job("undisturbed")
    finish(job)
    return result(job)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_bits(
    make_job: MakeJob,
    undisturbed: tuple[dict[str, bytes], list[tuple[int, float]], dict[str, bytes]],
    number: signal.Signals,
) -> None:
    job = make_job("disturbed")
    process = start(job)
    wait_for_checkpoint(job.parent, process)
    process.send_signal(number)
    if number is not signal.SIGKILL:
        process.send_signal(number)
    status = process.wait(timeout=60)
    assert status == (-signal.SIGKILL if number is signal.SIGKILL else INTERRUPTED)
    if number is not signal.SIGKILL:
        assert "Run the same command again" in (job.parent / FAILURE_FILE).read_text(encoding="utf-8")
    finish(job)
    assert result(job) == undisturbed


def test_losses_fall_and_every_step_is_recorded_once(
    undisturbed: tuple[dict[str, bytes], list[tuple[int, float]], dict[str, bytes]],
) -> None:
    _, losses, _ = undisturbed
    assert [step for step, _ in losses] == list(range(1, 21))
    assert losses[-1][1] < losses[0][1]


def test_a_torn_checkpoint_is_passed_over_and_said(
    make_job: MakeJob, undisturbed: tuple[dict[str, bytes], list[tuple[int, float]], dict[str, bytes]]
) -> None:
    job = make_job("torn")
    finish(job)
    newest = max(job.parent.glob("step-*"))
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    process = start(job)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert b"was changed after it was written" in errors
    assert b"Going on from step 18" in errors
    assert result(job) == undisturbed


def test_a_longer_run_goes_on_from_before_the_decay(make_job: MakeJob) -> None:
    finish(make_job("raised"))
    longer = make_job("raised", tokens=256 * 30)
    process = start(longer)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert b"Going on from step 14 of 30" in errors
    _, losses, _ = result(longer)
    assert [step for step, _ in losses] == list(range(1, 31))


def test_micro_batches_only_change_the_rounding(make_job: MakeJob) -> None:
    losses = []
    for rows in (1, 8):
        job = make_job(f"rows-{rows}", micro_batch_rows=rows)
        told = TrainingJob.load(job)
        replace(told, model=told.model.model_copy(update={"dropout": 0.0})).save()
        finish(job)
        losses.append([loss for _, loss in result(job)[1]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_missing_or_broken_job_is_one_line(tmp_path: Path) -> None:
    for content in (None, "{}"):
        path = tmp_path / "job.json"
        if content is not None:
            path.write_text(content, encoding="utf-8")
        process = start(path)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert b"is not a training job" in errors
        assert b"Traceback" not in errors


def test_a_shorter_run_in_the_same_folder_keeps_its_own_checkpoints(make_job: MakeJob) -> None:
    """The longer run's are newer by their step, and must not push out the one just written."""
    finish(make_job("lowered", tokens=256 * 30))
    shorter = make_job("lowered", tokens=256 * 12)
    process = start(shorter)
    deadline = time.monotonic() + 100
    while not (shorter.parent / "step-00000003").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    again = start(shorter)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0
    assert b"Going on from step" in errors
    finish(make_job("lowered", tokens=256 * 30))


def test_a_trainer_whose_parent_is_gone_saves_and_stops(make_job: MakeJob) -> None:
    job = make_job("orphan")
    gone = subprocess.Popen(["true"])
    gone.wait()
    process = start(job, parent=gone.pid)
    assert process.wait(timeout=60) == INTERRUPTED
    alive = start(job, parent=os.getpid())
    assert alive.wait(timeout=120) == 0


def test_a_disk_that_fills_while_saving_is_one_message_and_the_run_can_go_on(make_job: MakeJob) -> None:
    job = make_job("full")
    process = start(job, "bash", "-c", 'trap "" XFSZ; ulimit -f 20; exec "$@"', "limited")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert "saving the checkpoint of step 3" in (job.parent / FAILURE_FILE).read_text(encoding="utf-8")
    assert not list(job.parent.glob(".partial-*"))
    finish(job)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_documents(make_job: MakeJob) -> None:
    job = make_job("named", learning_rate=1.0, gradient_clip=1e30, warmup_steps=0, weight_decay=1e6)
    start(job).communicate(timeout=120)
    failure = (job.parent / FAILURE_FILE).read_text(encoding="utf-8")
    assert len(re.findall(r"\b[0-9a-f]{32}\b", failure)) == 5
    assert "Lower training.learning_rate" in failure
    assert not (TrainingJob.load(job).output / "model.safetensors").exists()
