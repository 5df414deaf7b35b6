"""The heartbeat and TensorBoard. Dagster's observations are tested in tests/pipelines/test_observations.py."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.training.job import TrainingJob
from parakeet.training.logging import DagsterReporter, Heartbeat, TrainingLogger, last_heartbeat

from .run_folders import Folder, record


def heartbeats(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(run.glob("heartbeat-*"))]


def test_the_heartbeat_is_written_at_most_every_ten_seconds(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, "5f0c-1")
    heartbeat.beat(1, 100, 512.25, 6.0)
    heartbeat.beat(2, 100, 512.25, 5.0)
    (beat,) = heartbeats(tmp_path)
    assert (beat["id"], beat["step"], beat["total"], beat["loss"]) == ("5f0c-1", 1, 100, 6.0)
    assert last_heartbeat(tmp_path) == beat["time"]
    heartbeat.remove()
    assert not list(tmp_path.iterdir())
    assert last_heartbeat(tmp_path) is None
    heartbeat.remove()


def test_a_heartbeat_belongs_to_one_process_and_what_a_dead_one_left_is_deleted(tmp_path: Path) -> None:
    Heartbeat(tmp_path, "dead").beat(1, 100, 1.0, math.nan)
    (beat,) = heartbeats(tmp_path)
    assert beat["loss"] is None
    (tmp_path / "heartbeat-damaged.json").write_text("{", encoding="utf-8")
    assert last_heartbeat(tmp_path) == beat["time"]
    Heartbeat(tmp_path, "../alive").beat(2, 100, 1.0, 6.0)
    assert [(beat["id"], beat["step"]) for beat in heartbeats(tmp_path)] == [("-alive", 2)]
    assert len(list(tmp_path.iterdir())) == 1


def test_tensorboard_that_is_missing_is_one_message_before_training(tmp_path: Path) -> None:
    code = "import sys; sys.modules['tensorboard'] = None; from pathlib import Path\n"
    code += "from parakeet.training.logging import TensorBoardWriter; TensorBoardWriter(Path(sys.argv[1]), print)"
    finished = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=600)
    last = finished.stderr.splitlines()[-1]
    assert last.startswith(f"{ParakeetError.__module__}.ParakeetError: ")
    assert "pip install 'parakeet-lm[tensorboard]'" in last
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Folder(tmp_path, "aaaa", tensorboard=True)

    def logger() -> TrainingLogger:
        job = TrainingJob.load(folder.path / "job.json")
        return TrainingLogger(job, True, Progress(io.StringIO()), DagsterReporter(), "1")

    with logger() as log:
        log.resume(0, folder.schedule, None)
        for step in range(1, 6):
            log.step(record(step, loss=9.0), 7)
    with logger() as log:
        log.resume(3, folder.schedule, folder.schedule)
        for step in range(4, 8):
            log.step(record(step, loss=1.0, validation_loss=2.0, mfu=0.5), 7)
        log.truncate(6)
        log.step(record(7, loss=0.5), 7)
    shown = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in shown.Scalars("loss")]
    assert losses == [(1, 9.0), (2, 9.0), (3, 9.0), (4, 1.0), (5, 1.0), (6, 1.0), (7, 0.5)]
    assert {"validation_loss", "mfu", "learning_rate"} <= set(shown.Tags()["scalars"])


def test_ranks_that_do_not_lead_write_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "aaaa", tensorboard=True)
    before = sorted(folder.path.iterdir())
    job = TrainingJob.load(folder.path / "job.json")
    with TrainingLogger(job, False, Progress(io.StringIO()), DagsterReporter(), "") as log:
        log.resume(0, folder.schedule, None)
        log.step(record(1), 7)
        log.event("stopped", 1, "Stopped.")
        log.truncate(0)
    assert sorted(folder.path.iterdir()) == before
