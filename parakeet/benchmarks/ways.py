"""`python -m parakeet.benchmarks.ways`: optimizer steps of a model, computed in some way, one whenever it is asked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from parakeet.benchmarks.apart import Answer, Apart, answer_each
from parakeet.benchmarks.decoding import seconds_of
from parakeet.benchmarks.original_way import IGNORED, OriginalWay
from parakeet.benchmarks.rounds import PeakMeter
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.device import device_name
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


@dataclass(frozen=True)
class Measurement:
    """Steps of one way. The same model and tokens in every way, by their seeds.

    `memory` caps the card's allocator, in bytes; 0 does not.
    """

    config: ModelConfig
    training: Training
    rows: int
    row_tokens: int
    way: Way
    device: str = "cpu"
    memory: int = 0

    def as_values(self) -> dict[str, Any]:
        return asdict(self) | {"training": self.training.model_dump()}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Measurement":
        way = values["way"]
        execution = None if way["execution"] is None else Execution(**way["execution"])
        parts = {
            "config": ModelConfig(**values["config"]),
            "training": Training.model_validate(values["training"]),
            "way": Way(**{**way, "execution": execution}),
        }
        return cls(**{**values, **parts})


@dataclass(frozen=True)
class Taken:
    """Seconds of each step; bytes held at most, in all and above what was there before a step: weights, optimizer
    state, buffers of the kernels. None where the system does not say. `refused`: why there is nothing."""

    seconds: list[float]
    peak: int | None = None
    above: int | None = None
    device: str = ""
    refused: str = ""


def take(measurements: Sequence[Measurement], rounds: int, threads: int, seconds: float | None = None) -> list[Taken]:
    """Each by a process of its own, a step of each in turn: what else the machine is doing slows all of them alike."""
    name = "parakeet.benchmarks.ways"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Apart(name, measurement.as_values(), threads, seconds)) for measurement in measurements
        ]
        for process in processes:
            process.ask()  # all are ready before the first is timed
        answers: list[list[Answer]] = [[] for _ in processes]
        for _ in range(rounds):
            for process, found in zip(processes, answers, strict=True):
                found.append(process.ask())
    return [_taken(found) for found in answers]


def _taken(answers: Sequence[Answer]) -> Taken:
    last = answers[-1]
    if "refused" in last:
        return Taken([], refused=last["refused"])
    seconds = [answer["seconds"] for answer in answers]
    return Taken(seconds, last["peak_bytes"], last["above_bytes"], last["device"])


class _Steps:
    """A model, its optimizer, and the tokens of every step."""

    def __init__(self, wanted: Measurement) -> None:
        self._wanted = wanted
        device = torch.device(wanted.device)
        with device:
            self._model = Parakeet(wanted.config)
        self._model.initialise(torch.Generator(device).manual_seed(1))
        self._model.train()
        self._parameters = list(self._model.parameters())
        self._embedding = self._model.get_parameter("embedding.weight")
        self._optimizer = make_optimizer(self._model, wanted.training)
        shape = (wanted.rows, wanted.row_tokens + 1)
        ids = torch.randint(wanted.config.vocabulary_rows, shape, generator=torch.Generator().manual_seed(2)).to(device)
        self._ids, self._targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        # One document a row: all that the original could, and the most that there is to attend to.
        self._documents = torch.zeros_like(self._ids)

    def new_step(self) -> Callable[[], None]:
        """A function that makes one step, with buffers of its own."""
        way = self._wanted.way
        gradients = self._ours(way.execution) if way.execution else self._original()

        def step() -> None:
            for begin in range(0, self._wanted.rows, way.pass_rows):
                gradients(slice(begin, begin + way.pass_rows))
            nn.utils.clip_grad_norm_(self._parameters, self._wanted.training.gradient_clip)
            self._optimizer.step()
            self._optimizer.zero_grad()

        return step

    def _ours(self, execution: Execution) -> Callable[[slice], object]:
        self._model.execution = execution

        def gradients(rows: slice) -> object:
            hidden = self._model(self._ids[rows], self._documents[rows])
            return backward_from_loss(
                hidden,
                self._embedding,
                self._targets[rows],
                ignore=IGNORED,
                normaliser=self._targets.numel(),
                rows=execution.loss_rows,
            )

        return gradients

    def _original(self) -> Callable[[slice], object]:
        way = OriginalWay(self._model, self._wanted.row_tokens, autocast=self._wanted.device != "cpu")
        return lambda rows: way.backward(self._ids[rows], self._targets[rows])


def measure(values: dict[str, Any]) -> Iterator[Answer]:
    """Of a Measurement as JSON has it: nothing when all is ready, then one step after the other."""
    wanted = Measurement.from_values(values)
    if wanted.memory and wanted.device != "cpu":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, wanted.memory / total))
    name = device_name(torch.device(wanted.device))
    steps = _Steps(wanted)
    for _ in range(WARM_UP[wanted.device]):
        steps.new_step()()
    meter = PeakMeter(wanted.device)
    yield {}
    step = steps.new_step()
    while True:
        seconds = seconds_of(wanted.device, step)
        yield {"seconds": seconds, "peak_bytes": meter.peak, "above_bytes": meter.above, "device": name}


if __name__ == "__main__":
    answer_each(measure)
