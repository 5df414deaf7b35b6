"""Seconds of an optimizer step of each shape that a study trains, measured on this machine's processor.

studies/<study>/<scale>/rates.json keeps them, so that each shape is measured once.
"""

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.errors import ParakeetError
from parakeet.formatting import counted
from parakeet.machine import usable_cores
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.training.forecast import choose, machine_budget

RATES_FILE = "rates.json"
SECONDS, LEAST_STEPS = 0.5, 2
"""For one shape."""
MOST_TOKENS = 4096
"""Of a measured step. Larger ones count as several."""


@dataclass(frozen=True)
class Shape:
    """What decides how long a step takes."""

    recipe: Recipe

    @property
    def key(self) -> str:
        """JSON that a person can read in the file."""
        training = self.recipe.training.model_dump(mode="json", exclude_defaults=True)
        without = ("tokens", "seed", "learning_rate", "embedding_rate", "norm_rate", "checkpoint_steps")
        values = {
            **self.recipe.model.model_dump(mode="json", exclude_defaults=True),
            "vocabulary_rows": vocabulary_rows(self.recipe),
            "sequence_length": self.recipe.packing.sequence_length,
            **{name: value for name, value in training.items() if name not in without},
        }
        return json.dumps(values, sort_keys=True)

    @property
    def config(self) -> ModelConfig:
        return ModelConfig.from_recipe(self.recipe.model, vocabulary_rows(self.recipe))

    @property
    def measured_tokens(self) -> int:
        """Tokens of the step that is measured."""
        length = self.recipe.packing.sequence_length
        return max(length, min(self.recipe.training.batch_tokens, MOST_TOKENS) // length * length)

    def as_values(self) -> dict[str, Any]:
        from parakeet.benchmarks.steps import Measurement

        length = self.recipe.packing.sequence_length
        training = self.recipe.training.model_copy(update={"batch_tokens": self.measured_tokens})
        choice = choose(self.config, training, length, machine_budget(), cuda=False)
        rows = self.measured_tokens // length
        return Measurement(
            self.config, training, rows, length, max(1, min(rows, choice.micro_batch_tokens // length)),
            choice.execution,
        ).as_values()  # fmt: skip


def flops_per_second(
    folder: Path, recipes: Sequence[Recipe], progress: Progress, again: bool = False
) -> dict[str, float]:
    """FLOPs a second of a run on the processor, by the key of its shape. `again` measures what is known once more.

    Of several measurements the fastest counts: other programs only make steps slower. Raises ParakeetError if a shape
    cannot be measured.
    """
    shapes = {shape.key: shape for shape in map(Shape, recipes)}
    known = _read(folder / RATES_FILE)
    missing = [shape for key, shape in shapes.items() if again or key not in known]
    if missing:
        progress.say(f"Measuring steps of {counted(len(missing), 'model')} on this machine.")
        for key, rate in _measured(missing):
            known[key] = max(rate, known.get(key, 0.0))
        folder.mkdir(parents=True, exist_ok=True)
        values = {"machine": _machine(), "flops_per_second": known}
        replace_file(folder / RATES_FILE, json.dumps(values, indent=1) + "\n")
    return {key: known[key] for key in shapes}


def _machine() -> str:
    return f"{platform.node()}, {platform.machine()}, {counted(usable_cores(), 'core')}"


def _read(path: Path) -> dict[str, float]:
    """What was measured on this machine; nothing if the file is another machine's or cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["machine"] == _machine():
            return {str(key): float(rate) for key, rate in values["flops_per_second"].items() if rate > 0}
    return {}


def _measured(shapes: Sequence[Shape]) -> Iterator[tuple[str, float]]:
    """Keys and FLOPs a second. One process for all shapes of the same threads: to start one takes seconds."""
    from parakeet.benchmarks.process import MeasuringProcess

    for threads in sorted({shape.recipe.training.threads for shape in shapes}):
        alike = [shape for shape in shapes if shape.recipe.training.threads == threads]
        request = {"measurements": [shape.as_values() for shape in alike]}
        with MeasuringProcess(f"{__name__}:measure", request, threads) as process:
            for shape in alike:
                answer = process.ask()
                if "refused" in answer:
                    raise ParakeetError(f"Steps of {shape.recipe.name} cannot be measured: {answer['refused']}.")
                per_token = shape.config.flops_per_token(shape.recipe.packing.sequence_length)
                yield shape.key, per_token * shape.measured_tokens / answer["seconds"]


def measure(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """In the process: seconds of the fastest step of each shape in turn.

    They are CPU seconds of each thread: those that other programs take are not the study's.
    """
    import torch

    from parakeet.benchmarks import steps

    for measurement in values["measurements"]:
        answers = steps.measure(measurement)
        next(answers)  # warm
        began = time.process_time()
        found: list[float] = []
        while len(found) < LEAST_STEPS or time.process_time() - began < SECONDS:
            before = time.process_time()
            next(answers)
            found.append((time.process_time() - before) / torch.get_num_threads())
        del answers
        yield {"seconds": min(found)}
