"""The trainer as a real process: interrupted, killed and restarted, it must come to the same result."""

import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from parakeet.data.tokens.packing import make_packing_plan
from parakeet.errors import INTERRUPTED
from parakeet.model.transformer import load_model
from parakeet.progress import Progress
from parakeet.recipe import LaterBatches, LaterSequences, Packing
from parakeet.training.checkpoint import checkpoints
from parakeet.training.job import FAILURE_FILE, METRICS_FILE, SUMMARY_FILE, TrainingJob
from parakeet.training.logging import SCHEDULE_FILE, read_metrics

from ..conftest import Prepared
from .conftest import ForkServer, MakeJob, Result, events, failure, history, result, until

STEPS, LAST_STABLE = 20, 12


@pytest.fixture(scope="session")
def phased(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, object]:
    """A run that ends with longer sequences: 12 steps with 32 tokens, then 8 with 64."""
    packing = Packing(sequence_length=32, then=[LaterSequences(sequence_length=64, share=0.4)])
    plan = tmp_path_factory.mktemp("plan")
    recipe = prepared.recipe.model_copy(update={"packing": packing})
    make_packing_plan(recipe, {"token_shards": prepared.shards}, plan, Progress())
    return {"packing": packing, "plan": plan}


@pytest.fixture(scope="session")
def finished(
    write_job: MakeJob, phased: Mapping[str, object], trainers: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The job of a run that nobody disturbed."""
    job = write_job(tmp_path_factory.mktemp("runs") / "undisturbed", **phased)
    trainers.finish(job)
    return job


@pytest.fixture
def undisturbed(finished: Path) -> Result:
    return result(finished)


def copied(finished: Path, job: Path) -> Path:
    """The run of `finished` in the folder of `job`."""
    shutil.copytree(finished.parent, job.parent, dirs_exist_ok=True, ignore=shutil.ignore_patterns("job.json"))
    return job


def saved_steps(job: Path) -> list[str]:
    return [path.name for path in checkpoints(job.parent)]


def trained(job: Path) -> list[tuple[object, ...]]:
    """The history without the held-out loss, which each run in a folder measures at its own steps."""
    return [line[:-1] for line in history(job)]


def test_losses_fall_and_every_step_is_recorded_once(finished: Path) -> None:
    lines = history(finished)
    assert [step for step, *_ in lines] == list(range(1, STEPS + 1))
    assert lines[-1][1] < lines[0][1]
    assert [line[5] for line in lines] == [32] * LAST_STABLE + [64] * (STEPS - LAST_STABLE)
    measured = {line[0] for line in lines if line[-1] is not None}
    assert measured == {3, 6, 9, 12, 15, 18, 20}
    summary = json.loads((TrainingJob.load(finished).output / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert summary["steps"] == STEPS
    assert summary["mfu"] is None
    # Both are of the whole process, most of which is Python and torch.
    assert 0.7 < summary["memory_bytes"] / summary["forecast_bytes"] < 1.5


def test_a_run_killed_again_and_again_comes_to_the_same_bits(
    make_job: MakeJob, phased: Mapping[str, object], undisturbed: Result, trainers: ForkServer
) -> None:
    moments = random.Random(4)
    job = make_job("killed", **phased)
    for _ in range(6):
        running = trainers.start(job)
        begun = len(events(job, "started")) + len(events(job, "resumed"))
        until(lambda b=begun: len(events(job, "started")) + len(events(job, "resumed")) > b, running)  # type: ignore[misc]
        time.sleep(moments.uniform(0.0, 0.4))
        running.send(signal.SIGKILL)
        if running.wait() == 0:
            break
    trainers.finish(job)
    assert result(job) == undisturbed


def test_a_run_killed_while_it_saves_comes_to_the_same_bits(
    make_job: MakeJob, phased: Mapping[str, object], undisturbed: Result, trainers: ForkServer
) -> None:
    job = make_job("saving", **phased)
    for step in (6, 15):
        running = trainers.start(job)
        until((job.parent / f".partial-step-{step:08d}").exists, running)
        running.send(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    trainers.finish(job)
    assert result(job) == undisturbed


def test_signals_only_stop_a_run_with_a_checkpoint_and_it_resumes_to_the_same_bits(
    make_job: MakeJob, phased: Mapping[str, object], undisturbed: Result, trainers: ForkServer
) -> None:
    job = make_job("stopped", **phased)
    for number, step in ((signal.SIGTERM, 4), (signal.SIGINT, 13)):
        running = trainers.start(job)
        until(lambda s=step: len(history(job)) >= s, running)  # type: ignore[misc]
        for _ in range(3):
            running.send(number)
        assert running.wait() == INTERRUPTED
        assert saved_steps(job)[-1] == f"step-{len(history(job)):08d}"
        assert "Run the same command again" in failure(job)
    assert trainers.finish(job).count("Resuming from step") == 1
    assert result(job) == undisturbed


EARLIER_KEYS = {"sequence_length": "row" + "_tokens", "activation_checkpointing": "recom" + "pute"}
"""Keys in the files of a run, by names that the code may give them, as Parakeet has written them up to commit 1eac929.
(In two parts, so that renaming the code does not rename them here.)"""


def with_earlier_keys(values: Any) -> Any:
    if isinstance(values, dict):
        return {EARLIER_KEYS.get(key, key): with_earlier_keys(value) for key, value in values.items()}
    return [with_earlier_keys(value) for value in values] if isinstance(values, list) else values


def digest_of(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def test_a_run_folder_of_an_earlier_version_resumes_to_the_same_bits(
    make_job: MakeJob, phased: Mapping[str, object], undisturbed: Result, trainers: ForkServer
) -> None:
    job = make_job("earlier", **phased)
    running = trainers.start(job)
    until(lambda: len(history(job)) >= 4, running)
    running.send(signal.SIGTERM)
    assert running.wait() == INTERRUPTED
    states = sorted(job.parent.glob("step-*/state.json"))
    for path in states:
        values = with_earlier_keys(json.loads(path.read_text(encoding="utf-8")))
        del values["sha256"]
        for key in ("decay", "growth", "batch_tokens"):
            del values["schedule"][key]
        assert set(values["schedule"]["phases"][0]) == {"row" + "_tokens", "last_step"}
        path.write_text(json.dumps(values | {"sha256": digest_of(values)}), encoding="utf-8")
    path = job.parent / METRICS_FILE
    lines = [json.dumps(with_earlier_keys(json.loads(line))) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    values_of_job = json.loads(job.read_text(encoding="utf-8"))
    sections = {name: values_of_job["recipe"][name] for name in ("model", "training", "packing")}
    del values_of_job["recipe"]
    job.write_text(json.dumps(with_earlier_keys(values_of_job | sections)), encoding="utf-8")
    # The schedule that the history belongs to is named by its digest.
    name = f"{STEPS:08d}-{digest_of(values['schedule'])[:8]}"
    (job.parent / SCHEDULE_FILE).write_text(json.dumps({"schedule": name}), encoding="utf-8")
    assert "Resuming from step" in trainers.finish(job)
    assert not list(job.parent.glob("metrics-of-*")), "the history was mistaken for another schedule's"
    assert result(job) == undisturbed


def test_muon_with_growing_batches_resumes_to_the_same_bits(make_job: MakeJob, trainers: ForkServer) -> None:
    settings = {"optimizer": "muon", "momentum_precision": "bf16", "embedding_rate": 1.6, "norm_rate": 2.0}
    growing = [LaterBatches(batch_tokens=512, share=0.5)]
    results = []
    for name in ("whole", "killed"):
        job = make_job(name, then=growing, **settings)
        if name == "killed":
            running = trainers.start(job)
            until(lambda j=job: bool(saved_steps(j)), running)  # type: ignore[misc]
            running.send(signal.SIGKILL)
            assert running.wait() == -signal.SIGKILL
        trainers.finish(job)
        results.append(result(job))
    assert results[0] == results[1]


def test_a_projection_for_each_layer_is_trained_with_goldfish_and_loaded(
    make_job: MakeJob, trainers: ForkServer
) -> None:
    job = make_job("run", model={"layers": 3, "share_keys_values": False}, goldfish=3)
    trainers.finish(job)
    losses = [
        record["validation_loss"] for record in read_metrics(job.parent / METRICS_FILE) if record.get("validation_loss")
    ]
    assert losses[-1] < losses[0]
    model = load_model(TrainingJob.load(job).output, "cpu")
    assert not model.config.share_keys_values
    assert len(model.key_values) == 3


def test_a_longer_run_and_a_decay_branch_in_one_folder_are_as_if_alone(
    make_job: MakeJob, phased: Mapping[str, object], finished: Path, trainers: ForkServer
) -> None:
    """Sequence length and learning rate are constant up to step 12 of 20, 16 of 26, and 18 of 30."""
    long, branch = {**phased, "tokens": 256 * 30}, {**phased, "tokens": 256 * 26}
    alone = make_job("alone", **long)
    trainers.finish(alone)
    raised = copied(finished, make_job("raised", **long))
    assert "Resuming from step 12 of 30" in trainers.finish(raised)
    assert result(raised) == result(alone)
    branch_alone = make_job("branch-alone", **branch)
    trainers.finish(branch_alone)

    job = make_job("shared", **long)
    running = trainers.start(job)
    until(lambda: "step-00000015" in saved_steps(job), running)
    running.send(signal.SIGTERM)
    assert running.wait() == INTERRUPTED
    assert "Resuming from step 1" in trainers.finish(make_job("shared", **branch))
    assert result(job).weights == result(branch_alone).weights
    assert trained(job) == trained(branch_alone)
    assert "Resuming from step 1" in trainers.finish(make_job("shared", **long))
    assert result(job).weights == result(alone).weights
    assert trained(job) == trained(alone)
    trainers.finish(make_job("shared", **branch))
    assert trained(job) == trained(branch_alone)


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(
    make_job: MakeJob, phased: Mapping[str, object], finished: Path, undisturbed: Result, trainers: ForkServer
) -> None:
    job = copied(finished, make_job("torn", **phased))
    weights = job.parent / saved_steps(job)[-1] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    printed = trainers.finish(job)
    assert "was changed after it was written" in printed
    assert "Resuming from step 18" in printed
    assert result(job) == undisturbed


def test_a_checkpoint_of_another_shape_is_refused(
    make_job: MakeJob, phased: Mapping[str, object], finished: Path, trainers: ForkServer
) -> None:
    job = copied(finished, make_job("other", **phased, model={"width": 48}))
    assert trainers.start(job).wait() == 1
    assert "was saved from another model" in failure(job)


def test_a_disk_that_is_full_while_saving_does_not_end_the_training(make_job: MakeJob, trainers: ForkServer) -> None:
    job = make_job("full", tokens=256 * 80)
    running = trainers.start(job, file_size=40_000)
    until(lambda: bool(events(job, "save_failed")), running)
    assert not saved_steps(job)
    resource.prlimit(running.process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert running.wait() == 0
    assert "Training continues" in running.printed()
    assert [line[0] for line in history(job)] == list(range(1, 81))
    assert saved_steps(job)[-1] == "step-00000080"
    assert not list(job.parent.glob(".partial-*"))


def test_a_disk_that_stays_full_is_one_message_at_the_end(make_job: MakeJob, trainers: ForkServer) -> None:
    job = make_job("full")
    running = trainers.start(job, file_size=40_000)
    assert running.wait() == 1
    assert "Traceback" not in running.printed()
    assert "saving the checkpoint of step 20" in failure(job)
    trainers.finish(job)


def test_a_second_trainer_of_a_run_waits_and_says_so(
    make_job: MakeJob, phased: Mapping[str, object], undisturbed: Result, trainers: ForkServer
) -> None:
    job = make_job("two", **phased)
    first = trainers.start(job)
    until(lambda: bool(events(job, "started")), first)
    second = trainers.start(job)
    until(lambda: "Waiting: this run is being trained by process" in second.printed(), second)
    assert (first.wait(), second.wait()) == (0, 0)
    assert result(job) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_run_and_leaves_the_one_that_trains_alone(
    make_job: MakeJob, trainers: ForkServer, number: signal.Signals
) -> None:
    job = make_job("two", tokens=256 * 4000)
    first = trainers.start(job)
    until(lambda: bool(events(job, "started")), first)
    second = trainers.start(job)
    until(lambda: "Waiting: this run is being trained by process" in second.printed(), second)
    second.send(number)
    assert second.wait() == INTERRUPTED
    assert "Traceback" not in second.printed()
    assert "had not begun" in (TrainingJob.load(job).output / FAILURE_FILE).read_text(encoding="utf-8")
    assert first.poll() is None, "it left soon, not when the first had ended"
    assert not (job.parent / FAILURE_FILE).exists()
    first.send(number)
    assert first.wait() == INTERRUPTED
    assert "Training stopped at step" in failure(job)


def test_a_trainer_whose_parent_is_gone_saves_and_stops(make_job: MakeJob, trainers: ForkServer) -> None:
    job = make_job("orphan")
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert trainers.start(job, parent=gone.pid).wait() == INTERRUPTED
    assert saved_steps(job) == ["step-00000001"]


def test_a_missing_or_broken_job_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    for content in (None, "{}"):
        if content is not None:
            path.write_text(content, encoding="utf-8")
        ended = subprocess.run([sys.executable, "-m", "parakeet.training", str(path)], capture_output=True, text=True)
        assert ended.returncode == 1
        assert "is not a training job" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_what_cannot_fit_is_refused_before_any_memory_is_taken(make_job: MakeJob, trainers: ForkServer) -> None:
    job = make_job("huge", model={"layers": 256, "heads": 64, "width": 4_096})
    assert trainers.start(job).wait() == 1
    text = failure(job)
    assert "try-anyway" in text
    assert "GiB" in text
    assert not events(job, "started")


@pytest.mark.skipif(sys.platform != "linux", reason="bounds a process's memory by /proc and RLIMIT_AS")
def test_running_out_of_memory_is_one_message_with_a_change_that_would_fit(
    make_job: MakeJob, trainers: ForkServer
) -> None:
    job = make_job("large", batch_tokens=1 << 18, micro_batch_tokens=1 << 18, tokens=1 << 20)
    running = trainers.start(job, memory=300 << 20)
    assert running.wait() == 1
    text = failure(job)
    assert text.startswith("Step 1: the memory of this machine is not enough")
    assert "Set training.micro_batch_tokens to 0" in text
    assert "Traceback" not in running.printed()
