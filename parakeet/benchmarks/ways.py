"""`python -m parakeet.benchmarks.ways`: optimizer steps of one model on the same tokens, in several ways, in rounds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from parakeet.benchmarks.apart import Answer, answer, run_apart
from parakeet.benchmarks.original_way import IGNORED, OriginalWay
from parakeet.benchmarks.rounds import PeakMeter, in_rounds
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.optimizer import make_optimizer

WARM_UP = {"cpu": 1, "cuda": 3}
"""Steps before anything is measured: they make the optimizer's state, the kernels' own buffers and compiled graphs."""


@dataclass(frozen=True)
class Way:
    """How a step is computed. `execution` None is the original's way, on CUDA with its autocast to bf16."""

    name: str
    execution: Execution | None
    pass_rows: int
    """Rows in one pass; gradients accumulate over the passes of a step."""

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Way":
        execution = values["execution"]
        return cls(**{**values, "execution": None if execution is None else Execution(**execution)})


@dataclass(frozen=True)
class Measurement:
    """Steps to be measured. `memory` caps the card's allocator, in bytes; 0 does not."""

    config: ModelConfig
    training: Training
    rows: int
    row_tokens: int
    ways: Sequence[Way]
    rounds: int
    device: str = "cpu"
    memory: int = 0

    def take(self, threads: int, seconds: float | None = None) -> Answer:
        """By a process of its own: seconds by way, `peak_bytes` and `above_bytes` (what was there before the first
        step left out; true of a single way only), `device` and its `device_bytes`."""
        values = asdict(self) | {"training": self.training.model_dump()}
        return run_apart("parakeet.benchmarks.ways", values, threads, seconds)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Measurement":
        parts = {
            "config": ModelConfig(**values["config"]),
            "training": Training.model_validate(values["training"]),
            "ways": [Way.from_values(way) for way in values["ways"]],
        }
        return cls(**{**values, **parts})


class _Steps:
    """One model, its optimizer, and the tokens of every step."""

    def __init__(self, wanted: Measurement) -> None:
        self._wanted = wanted
        device = torch.device(wanted.device)
        with device:
            self.model = Parakeet(wanted.config)
        self.model.initialise(torch.Generator(device).manual_seed(1))
        self.model.train()
        self._parameters = list(self.model.parameters())
        self._embedding = self.model.get_parameter("embedding.weight")
        self._optimizer = make_optimizer(self.model, wanted.training)
        shape = (wanted.rows, wanted.row_tokens + 1)
        ids = torch.randint(wanted.config.vocabulary_rows, shape, generator=torch.Generator().manual_seed(2)).to(device)
        self._ids, self._targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        # One document a row: all that the original could, and the most that there is to attend to.
        self._documents = torch.zeros_like(self._ids)

    def of(self, way: Way) -> Callable[[], None]:
        """A function that makes one step in this way."""
        gradients = self._ours(way.execution) if way.execution else self._original()

        def step() -> None:
            for begin in range(0, self._wanted.rows, way.pass_rows):
                gradients(slice(begin, begin + way.pass_rows))
            nn.utils.clip_grad_norm_(self._parameters, self._wanted.training.gradient_clip)
            self._optimizer.step()
            self._optimizer.zero_grad()

        return step

    def _ours(self, execution: Execution) -> Callable[[slice], object]:
        def gradients(rows: slice) -> object:
            self.model.execution = execution
            hidden = self.model(self._ids[rows], self._documents[rows])
            return backward_from_loss(
                hidden, self._embedding, self._targets[rows],
                ignore=IGNORED, normaliser=self._targets.numel(), rows=execution.loss_rows,
            )  # fmt: skip

        return gradients

    def _original(self) -> Callable[[slice], object]:
        way = OriginalWay(self.model, self._wanted.row_tokens, autocast=self._wanted.device != "cpu")
        return lambda rows: way.backward(self._ids[rows], self._targets[rows])


def measure(values: dict[str, Any]) -> Answer:
    """Of a Measurement as JSON has it."""
    wanted = Measurement.from_values(values)
    name, total = "cpu", 0
    if wanted.device != "cpu":
        name, total = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        if wanted.memory:
            torch.cuda.set_per_process_memory_fraction(min(1.0, wanted.memory / total))
    steps = _Steps(wanted)
    for way in wanted.ways:
        for _ in range(WARM_UP[wanted.device]):
            steps.of(way)()
    meter = PeakMeter(wanted.device)
    seconds = in_rounds({way.name: steps.of(way) for way in wanted.ways}, wanted.device, wanted.rounds)
    peaks = {"peak_bytes": meter.peak, "above_bytes": meter.above}
    return {"seconds": seconds, "device": name, "device_bytes": total, **peaks}


if __name__ == "__main__":
    answer(measure)
