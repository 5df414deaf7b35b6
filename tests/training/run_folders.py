"""Folders of training runs as a trainer leaves them, and the command line over them."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from safetensors.numpy import save_file

from parakeet.cli import main
from parakeet.recipe_file import load_recipe
from parakeet.training.job import TrainingJob
from parakeet.training.logging import Kind, RunLog, StepRecord
from parakeet.training.schedule import Schedule

BATCH = 512
STEPS = 100
PNG = b"\x89PNG\r\n\x1a\n"
DEMO = load_recipe("demo")
SETTINGS = {
    "optimizer": "adamw",
    "micro_batch_tokens": BATCH,
    "learning_rate": 1e-3,
    "warmup_steps": 100,
    "decay_fraction": 0.4,
}
RECIPE = DEMO.model_copy(update={"training": DEMO.training.model_copy(update=SETTINGS)})


def record(step: int, loss: float = 5.0, **others: Any) -> StepRecord:
    made = StepRecord(step, BATCH * step, loss, 0.5, 1e-3, 256, 0.25, 2048.0, 0.01, None, None, 3 << 30)
    return replace(made, **others)


def schedule_of(steps: int, **training: Any) -> Schedule:
    settings = {"tokens": BATCH * steps, "batch_tokens": BATCH, **training}
    return Schedule.from_recipe(RECIPE.training.model_copy(update=settings), RECIPE.packing)


class Folder:
    """Builds a run's folder."""

    def __init__(self, home: Path, key: str, **training: Any) -> None:
        self.path = home / "training_runs" / key
        self.path.mkdir(parents=True)
        settings = RECIPE.training.model_copy(update={"tokens": BATCH * STEPS, "batch_tokens": BATCH, **training})
        where = dict.fromkeys(("tokenizer", "shards", "plan", "output"), home / "somewhere" / key)
        digests = {"shards_content": "d" * 64, "plan_digests": {"256": "e" * 64}}
        recipe = RECIPE.model_copy(update={"training": settings})
        TrainingJob(recipe=recipe, run=self.path, **where, **digests).save()
        self.log = RunLog(self.path)
        self.schedule = Schedule.from_recipe(settings, RECIPE.packing)

    def train(self, *steps: StepRecord) -> "Folder":
        for step in steps:
            self.log.step(step)
        return self

    def event(self, kind: Kind, step: int = 0, text: str = "As it should.", **more: Any) -> "Folder":
        self.log.event(kind, step, text, **more)
        return self

    def save(self, step: int, validation_loss: float | None = None, schedule: Schedule | None = None) -> "Folder":
        """The parts of a checkpoint that are read without torch; `schedule` is another run's, if given."""
        path = self.path / f"step-{step:08d}"
        path.mkdir()
        state = {"step": step, "validation_loss": validation_loss, "schedule": asdict(schedule or self.schedule)}
        (path / "state.json").write_text(json.dumps(state), encoding="utf-8")
        save_file({"embedding": np.zeros((1000, 1234), np.float32)}, path / "model.safetensors")
        return self


def parakeet(home: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, env={"PARAKEET_HOME": str(home)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def row(output: str, key: str) -> list[str]:
    """The cells of a run's line."""
    (line,) = [line for line in output.splitlines() if line.startswith(key)]
    return re.split(r"  +", line.strip())
