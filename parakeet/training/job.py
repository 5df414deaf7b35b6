"""The input of a trainer process: one JSON file in its run's folder. Imports no torch."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.earlier import with_new_keys
from parakeet.errors import ParakeetError
from parakeet.recipe import ModelSettings, Packing, Recipe, Training

JOB_FILE = "job.json"
LOCK_FILE = "run.lock"
LAUNCH_LOCK_FILE = "launch.lock"
"""Held by the launcher of several processes. Rank 0 holds the run's own lock, since it may outlive the launcher while
it saves."""
TRAINED = "this run is being trained"
"""Shown to whoever waits for one of these locks."""
FAILURE_FILE = "failure.txt"
"""Why the training process ended: in the run's folder, written and removed only while a lock of the run is held. A
process that never had the lock writes it to the job's output folder."""
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "training.json"
CURVE_FILE = "loss_curve.png"
STATE_FILE = "state.json"
BEST_FILE = "best.json"
CHECKPOINT_PATTERN = "step-*"
SECTIONS = ("model", "training", "packing")
"""The parts of the recipe that a trainer reads."""


@dataclass(frozen=True)
class TrainingJob:
    """The recipe, folders and digests of the inputs, the run's own folder, and the finished model's folder.

    `plan_digests` has the sha256 of each plan file by its sequence length in digits. `try_anyway` trains even if the
    forecast does not fit the device. `start` is the lineage of the weights to begin with (`Start.lineage`). `command`
    is what the user started; `lineage` and `source_files` are what the inputs were made from
    (`parakeet.training.record`).
    """

    recipe: Recipe
    tokenizer: Path
    shards: Path
    shards_content: str
    plan: Path
    plan_digests: dict[str, str]
    run: Path
    output: Path
    try_anyway: bool = False
    command: tuple[str, ...] = ()
    lineage: dict[str, dict[str, str]] = field(default_factory=dict)
    source_files: dict[str, str] = field(default_factory=dict)
    start: dict[str, Any] | None = None

    def tokenizer_in(self, run: Path) -> Path:
        """Where the tokenizer was when the run began or, if the store of the run's folder has moved, where it is."""
        store = self.run.parent.parent
        if not self.tokenizer.is_dir() and self.tokenizer.is_relative_to(store):
            return run.parent.parent / self.tokenizer.relative_to(store)
        return self.tokenizer

    def save(self) -> Path:
        path = self.run / JOB_FILE
        values = asdict(self) | {"recipe": self.recipe.model_dump(mode="json")}
        # Replaced atomically: ranks read it as they start, and another build of the same run may write it just then.
        replace_file(path, json.dumps(values, indent=2, default=str) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> "TrainingJob":
        try:
            values = read_job(path)
            folders = {name: Path(values[name]) for name in ("tokenizer", "shards", "plan", "run", "output")}
            return cls(**(values | folders | {"recipe": _recipe(values["recipe"])}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ParakeetError(f"{path} is not a training job: {error}") from None


def read_job(path: Path) -> dict[str, Any]:
    """The values of a job file. 0.1 wrote three sections instead of the recipe: they become a recipe without a name."""
    values = with_new_keys(json.loads(path.read_text(encoding="utf-8")))
    if "recipe" not in values:
        values["recipe"] = {name: values.pop(name) for name in SECTIONS}
    return dict(values)


def _recipe(values: dict[str, Any]) -> Recipe:
    if "name" in values:
        return Recipe(**values)
    model, training, packing = (values[name] for name in SECTIONS)
    return Recipe.model_construct(
        name="unknown", model=ModelSettings(**model), training=Training(**training), packing=Packing(**packing)
    )
