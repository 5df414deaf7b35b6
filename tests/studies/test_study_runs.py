"""`parakeet study run` in real processes: interrupted, killed, in two shells at once, and with a run that fails."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
import pytest

from assets_defs.resources import release_run_lock
from assets_defs.studies import study_job
from parakeet.clean import leftovers
from parakeet.errors import INTERRUPTED
from parakeet.home import runs_folder
from parakeet.locking import is_held
from parakeet.progress import Progress
from parakeet.studies.records import find_record, make_run, noted_study
from parakeet.studies.state import LOCKS
from parakeet.studies.status import studies_document
from parakeet.training.job import LOCK_FILE

STUDY = """
title: Does it work?
question: Two widths, and one run that fails.
recipe: own-text
measures: [bits_per_byte]
seeds: [1]
settings:
  tokenizer.vocabulary: 400
  packing.sequence_length: 32
  model.layers: 1
  model.heads: 1
  training.tokens: 3_200
  training.batch_tokens: 64
  training.micro_batch_tokens: 64
  training.checkpoint_steps: 10
  training.threads: 1
  training.device: cpu
  training.precision: fp32
  executor.workers: 1
  deduplication.held_out_fraction: 0.2
  shards.min_held_out_bytes: 0
axes:
  size:
    small: {model.width: 16}
    broken: {training.start: nowhere}
    large: {model.width: 32}
arms: {sizes: {axes: [size]}}
scales: {smoke: {}}
"""
SECONDS = 600
"""Of patience, on a machine that is busy with other things."""


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_training(home: Path) -> bool:
    return any(is_held(lock) for lock in runs_folder(home).glob(f"*/{LOCK_FILE}"))


def launch(command: Sequence[str]) -> str | None:
    return None if subprocess.run(command, check=False).returncode == 0 else "it failed"


@pytest.mark.slow
def test_a_study_goes_on_after_ctrl_c_and_kill_9_to_the_numbers_of_one_that_was_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("PARAKEET_HOME", str(home))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    words = (" ".join(f"word{(n * 7919 + i * i) % 997}" for i in range(100)) for n in range(30))
    (tmp_path / "notes.txt").write_text("\n\n".join(words), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "parakeet.cli", "study", "run", str(tmp_path / "tiny.yaml")]
        return subprocess.Popen(
            [*command, "--scale", "smoke", "--data", str(tmp_path / "notes.txt"), "--workers", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def begins_to_train(shell: "subprocess.Popen[str]") -> bool:
        assert shell.poll() is None, shell.communicate()[0]
        return is_training(home)

    first = start()
    wait_for(lambda: begins_to_train(first))
    first.send_signal(signal.SIGINT)
    told = first.communicate(timeout=SECONDS)[0]
    assert first.returncode == INTERRUPTED, told
    assert "Run the same command to go on." in told
    assert not is_training(home)

    killed = start()
    wait_for(lambda: begins_to_train(killed))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=SECONDS)
    # Nobody told the workers: they notice, save and end.
    wait_for(lambda: not is_training(home) and not any(map(is_held, (home / LOCKS).glob("*.lock"))))
    (status,) = studies_document(home, "tiny", None)["studies"]
    assert (status["running"], status["failed"]) == (0, 0)

    shells = [start(), start()]
    for shell in shells:
        told = shell.communicate(timeout=SECONDS)[0]
        assert shell.returncode == 1, told
        assert "sizes.broken.s1 failed: " in told
        assert "1 run of 3 failed: sizes.broken.s1." in told
        assert "bits per byte" in told
        assert "Traceback" not in told
    (status,) = studies_document(home, "tiny", None)["studies"]
    assert (status["finished"], status["failed"], status["missing"]) == (2, 1, 0)
    assert "nowhere" in status["failures"]["sizes.broken.s1"]

    study = noted_study(home, "tiny", "smoke")
    assert study is not None
    run = study.run_named("sizes.small.s1")
    found = find_record(home, study, run)
    assert found is not None
    alone = tmp_path / "alone"
    shutil.copytree(
        home,
        alone,
        symlinks=True,
        ignore=shutil.ignore_patterns("training_runs", "checkpoint", "measurements", "studies"),
    )
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        record, made = make_run(alone, study, run, Progress(nowhere), launch)
    assert made
    assert record.measured == found.measured
    assert record.values["checkpoint"] == found.values["checkpoint"]

    # In Dagster the same run is found, whatever the shipped recipe says.
    with dg.DagsterInstance.ephemeral() as instance:
        job = study_job("tiny", [f"smoke.{one}" for one in study.names()], home)
        result = job.execute_in_process(partition_key="smoke.sizes.small.s1", instance=instance)
        release_run_lock(home, result.run_id)
        (event,) = (one for one in result.all_events if one.is_step_materialization)
        materialization = event.step_materialization_data.materialization
        assert materialization.partition == "smoke.sizes.small.s1"
        assert materialization.metadata["made"].value is False
        assert materialization.metadata["tokens"].value == found.training["tokens"]

    measurements = [path for path in (home / "measurements").iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(measurements) == 2
    entries = leftovers(home, with_unfinished=True)
    names = {entry.path.parent.name for entry in (*entries.unreferenced, *entries.unfinished)}
    assert not names & {"measurements", "checkpoint", "token_shards", "training_runs"}
    shutil.rmtree(home / "studies")
    entries = leftovers(home, with_unfinished=True)
    names = {entry.path.parent.name for entry in (*entries.unreferenced, *entries.unfinished)}
    assert {"measurements", "checkpoint", "training_runs"} <= names


@pytest.mark.slow
def test_a_shipped_study_is_run_at_the_smoke_scale_and_answered(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2_000)]
    sentences = (" ".join(rng.choices(words, k=12)).capitalize() for _ in range(5_000))
    (tmp_path / "text.txt").write_text("\n\n".join(f"{sentence}." for sentence in sentences), encoding="utf-8")
    command = [sys.executable, "-m", "parakeet.cli", "study"]
    options = {"cwd": tmp_path, "env": {**os.environ, "PARAKEET_HOME": str(tmp_path / "home")}, "text": True}
    run = [*command, "run", "attention", "--scale", "smoke", "--data", "text.txt"]
    subprocess.run(run, check=True, **options)  # type: ignore[call-overload]
    report = [*command, "report", "attention", "--scale", "smoke"]
    told = subprocess.run(report, check=True, capture_output=True, **options).stdout  # type: ignore[call-overload]
    assert "Against 16 heads, bits per byte change with 18 heads" in told
    assert "3 runs at the scale smoke, with 1 seed" in told
    assert "missing" not in told
