"""Optimizer steps of a model, measured in a process of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from parakeet.benchmarks.process import Answer, MeasuringProcess
from parakeet.benchmarks.timing import PeakMemory, seconds_of
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.device import device_name
from parakeet.training.optimizer import make_optimizer

IGNORED = -100
WARM_UP = {"cpu": 1, "cuda": 3}
"""Steps before the first measured one: they allocate the optimizer's state and the kernels' buffers, and compile."""


@dataclass(frozen=True)
class Measurement:
    """Steps over `rows` sequences of `sequence_length`, `pass_rows` of them in one pass, computed as `execution` says.

    `backward` names another implementation ("module:Class") in place of `execution`. The model and the tokens are the
    same in every measurement. `memory` caps the GPU's allocator, in bytes; 0 does not.
    """

    config: ModelConfig
    training: Training
    rows: int
    sequence_length: int
    pass_rows: int
    execution: Execution | None = None
    backward: str = ""
    device: str = "cpu"
    memory: int = 0

    def as_values(self) -> dict[str, Any]:
        return asdict(self) | {"training": self.training.model_dump()}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Measurement":
        execution = values["execution"]
        parts = {
            "config": ModelConfig(**values["config"]),
            "training": Training.model_validate(values["training"]),
            "execution": None if execution is None else Execution(**execution),
        }
        return cls(**{**values, **parts})


@dataclass(frozen=True)
class Steps:
    """Seconds of each step; the most bytes held, in all (`peak`) and above weights and optimizer state (`above`).

    Where nothing was measured, `refused` says why.
    """

    seconds: list[float]
    peak: int = 0
    above: int = 0
    device: str = ""
    refused: str = ""


def measure_steps(
    measurements: Sequence[Measurement], rounds: int, threads: int, seconds: float | None = None
) -> list[Steps]:
    """Measure each in its own process, one step of each in turn, so that other load slows all of them alike."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(MeasuringProcess(f"{__name__}:measure", one.as_values(), threads, seconds))
            for one in measurements
        ]
        for process in processes:
            process.ask()  # all are ready before the first is timed
        answers: list[list[Answer]] = [[] for _ in processes]
        for _ in range(rounds):
            for process, found in zip(processes, answers, strict=True):
                found.append(process.ask())
    return [_steps(found) for found in answers]


def _steps(answers: Sequence[Answer]) -> Steps:
    last = answers[-1]
    if "refused" in last:
        return Steps([], refused=last["refused"])
    return Steps([answer["seconds"] for answer in answers], last["peak_bytes"], last["above_bytes"], last["device"])


def measure(values: dict[str, Any]) -> Iterator[Answer]:
    """In the process: an empty answer once everything is ready, then one step per answer."""
    wanted = Measurement.from_values(values)
    if wanted.memory and wanted.device != "cpu":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, wanted.memory / total))
    name = device_name(torch.device(wanted.device))
    trainer = _Trainer(wanted)
    for _ in range(WARM_UP[wanted.device]):
        trainer.new_step()()
    with PeakMemory(wanted.device) as memory:
        yield {}
        step = trainer.new_step()
        while True:
            seconds = seconds_of(wanted.device, step)
            yield {"seconds": seconds, "peak_bytes": memory.peak, "above_bytes": memory.above, "device": name}


class _Trainer:
    """A model, its optimizer, and the tokens of every step."""

    def __init__(self, wanted: Measurement) -> None:
        self._wanted = wanted
        device = torch.device(wanted.device)
        with device:
            self._model = Parakeet(wanted.config)
        self._model.initialise(torch.Generator(device).manual_seed(1))
        self._model.train()
        self._parameters = list(self._model.parameters())
        self._optimizer = make_optimizer(self._model, wanted.training)
        shape = (wanted.rows, wanted.sequence_length + 1)
        ids = torch.randint(wanted.config.vocabulary_rows, shape, generator=torch.Generator().manual_seed(2)).to(device)
        self._ids, self._targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        # One document per sequence: the most that there is to attend to, and all that the original could do.
        self._documents = torch.zeros_like(self._ids)

    def new_step(self) -> Callable[[], None]:
        """A function that takes one optimizer step, with buffers of its own."""
        wanted = self._wanted
        backward = self._backward(wanted.execution) if wanted.execution else self._other_backward()

        def step() -> None:
            for begin in range(0, wanted.rows, wanted.pass_rows):
                backward(slice(begin, begin + wanted.pass_rows))
            nn.utils.clip_grad_norm_(self._parameters, wanted.training.gradient_clip)
            self._optimizer.step()
            self._optimizer.zero_grad()

        return step

    def _backward(self, execution: Execution) -> Callable[[slice], object]:
        self._model.execution = execution
        embedding = self._model.get_parameter("embedding.weight")

        def backward(rows: slice) -> object:
            hidden = self._model(self._ids[rows], self._documents[rows])
            return backward_from_loss(
                hidden, embedding, self._targets[rows], ignore=IGNORED, normaliser=self._targets.numel(),
                rows=execution.loss_rows,
            )  # fmt: skip

        return backward

    def _other_backward(self) -> Callable[[slice], object]:
        module, _, name = self._wanted.backward.partition(":")
        make = getattr(import_module(module), name)
        other = make(self._model, self._wanted.sequence_length, autocast=self._wanted.device != "cpu")
        return lambda rows: other.backward(self._ids[rows], self._targets[rows])
