"""The device that a process trains on, its memory, and how training is computed on it."""

import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution, Precision
from parakeet.model.transformer import best_device
from parakeet.training.distributed import Ranks
from parakeet.training.forecast import (
    ExecutionChoice,
    choose,
    fitting_change,
    gpu_budget,
    machine_budget,
    weights_bytes,
)
from parakeet.training.gpus import find_gpu
from parakeet.training.job import TrainingJob
from parakeet.training.schedule import Schedule

CHECKPOINTED = {
    "none": "no activation checkpointing",
    "mlp": "activation checkpointing of MLPs",
    "block": "activation checkpointing of blocks",
}
FLEX_CAPABILITY = (8, 0)
"""Oldest CUDA compute capability that Triton compiles FlexAttention's bf16 kernels for."""


def choose_device(name: str, local_rank: int, processes: int) -> torch.device:
    """The device of training.device, for one of several processes on this machine. ParakeetError if it is missing.

    torch's default precision is kept: fp32 products do not use TF32.
    """
    kind = best_device() if name == "auto" else name.partition(":")[0]
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ParakeetError(f"training.device is {name}, but torch finds no CUDA device; use auto or cpu.")
    count = torch.cuda.device_count()
    if ":" in name and processes > 1:
        raise ParakeetError(
            f"training.device {name} is one device, but training.processes asks for {processes} processes with a "
            "device each: set training.device to cuda, or training.processes to 1."
        )
    index = int(name.partition(":")[2]) if ":" in name else local_rank
    if index >= count:
        raise ParakeetError(
            f"CUDA device {index} is needed, but torch finds {count}: lower training.processes (0 uses every device), "
            "or choose another training.device."
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def memory_budget(device: torch.device, processes: int) -> int:
    """Bytes that this process may take: of its GPU, or of its share of the machine."""
    if device.type == "cuda":
        return gpu_budget(torch.cuda.get_device_properties(device).total_memory)
    return machine_budget() // processes


def peak_memory(device: torch.device) -> int:
    """Most bytes used so far: allocated on a CUDA device, or resident in the whole process on a CPU.

    0 if the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident(Path("/proc/self/status"))


def peak_resident(status: Path) -> int:
    """Most bytes of this process that were in memory, from its /proc/…/status if that exists; 0 if unknown."""
    if status.exists():
        # Not ru_maxrss: a process inherits it from the one that started it.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii", errors="replace").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory(status: Path) -> int:
    """Bytes of this process that are in memory now, from its /proc/…/status; the peak where there is none."""
    if not status.exists():
        return peak_resident(status)
    lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii", errors="replace").splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Floating point operations a second of the device at best; None if unknown. The table knows GPUs in bf16 only."""
    gpu = find_gpu(device_name(device)) if precision == "bf16" else None
    return None if gpu is None else gpu.tflops_bf16 * 1e12


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: by CUDA, by torch's CPU allocator (a plain RuntimeError), or by Python."""
    refused_by_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return refused_by_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


class ExecutionPlan:
    """How the run is computed on its device: one choice for each sequence length. Allocates nothing on the device.

    Raises ParakeetError, with a change that would fit, if the forecast exceeds the device's memory, unless the job
    says to try anyway. The same job on the same machine gives the same choices: a resumed run needs that.
    """

    def __init__(self, job: TrainingJob, config: ModelConfig, schedule: Schedule, ranks: Ranks) -> None:
        self._job = job
        self._config = config
        self._device = ranks.device
        self._processes = ranks.world
        self._before = 0
        self._budget = memory_budget(ranks.device, ranks.world)
        self._flex = _can_compile_flex(ranks.device)
        lengths = sorted({phase.sequence_length for phase in schedule.phases})
        cuda, training = ranks.device.type == "cuda", job.recipe.training
        self._choices = {
            length: choose(config, training, length, self._budget, cuda, processes=self._processes, flex=self._flex)
            for length in lengths
        }
        for sequence_length, choice in self._choices.items():
            if not choice.fits and not job.try_anyway:
                raise ParakeetError(
                    f"Training on sequences of {sequence_length:,} tokens would take {choice.forecast}, but "
                    f"{self._where()} has {format_bytes(self._budget, 2)} for it. "
                    f"{self._change(sequence_length, self._budget)} To start anyway: parakeet build --try-anyway"
                )

    def lines(self) -> list[str]:
        """The choices for people: a line for each sequence length."""
        return [self._line(sequence_length, choice) for sequence_length, choice in self._choices.items()]

    def execution(self, sequence_length: int) -> Execution:
        return self._choices[sequence_length].execution

    def micro_batch_sequences(self, sequence_length: int) -> int:
        """Sequences that one process computes at once."""
        return max(1, self._choices[sequence_length].micro_batch_tokens // sequence_length)

    def begin(self) -> None:
        """Note what the process holds besides training: call it when the model and its optimizer exist.

        On a CPU the memory of the whole process is measured, and Python and torch take some 0.3 GiB of it. On CUDA
        only what is allocated for tensors is.
        """
        if self._device.type != "cuda":
            self._before = max(0, resident_memory(Path("/proc/self/status")) - weights_bytes(self._config))

    @property
    def forecast_bytes(self) -> int:
        """Forecast of what `peak_memory` measures of the whole run, for one process; call `begin` before."""
        return self._before + max(choice.forecast.total for choice in self._choices.values())

    def summary(self) -> dict[str, Any]:
        """The choices as JSON values, by the sequence length in digits."""
        return {
            str(sequence_length): {**asdict(choice.execution), "micro_batch_tokens": choice.micro_batch_tokens}
            for sequence_length, choice in self._choices.items()
        }

    def peak_line(self) -> str:
        """The peak of memory so far beside the forecast, for people."""
        peak, forecast = format_bytes(peak_memory(self._device), 2), format_bytes(self.forecast_bytes, 2)
        if self._device.type == "cuda":
            return f"Peak memory {peak} allocated on the GPU; forecast {forecast}."
        before = format_bytes(self._before, 2)
        return f"Peak memory {peak} resident; forecast {forecast}, {before} of it held before training began."

    def out_of_memory(self, step: int, sequence_length: int) -> ParakeetError:
        """The error to raise if memory was refused despite the forecast."""
        forecast = self._choices[sequence_length].forecast
        less = int(0.9 * min(self._budget, forecast.total))
        peak = format_bytes(peak_memory(self._device), 2)
        return ParakeetError(
            f"Step {step:,}: the memory of {self._where()} is not enough for sequences of {sequence_length:,} tokens. "
            f"Forecast {forecast} of {format_bytes(self._budget, 2)}; at most {peak} were in use "
            f"before it was refused. {self._change(sequence_length, less)} Then run the same build again."
        )

    def _change(self, sequence_length: int, budget: int) -> str:
        cuda = self._device.type == "cuda"
        training = self._job.recipe.training
        return fitting_change(
            self._config, training, sequence_length, budget, cuda, processes=self._processes, flex=self._flex
        )  # fmt: skip

    def _where(self) -> str:
        if self._device.type == "cuda":
            return "the GPU"
        return "this machine" if self._processes == 1 else f"each of {self._processes} processes on this machine"

    def _line(self, sequence_length: int, choice: ExecutionChoice) -> str:
        execution = choice.execution
        how = [
            f"{execution.attention} attention",
            execution.precision,
            *(["residual stream in bf16"] if execution.residual == "bf16" else []),
            CHECKPOINTED[execution.activation_checkpointing],
            *(["compiled"] if execution.compile else []),
            f"{choice.micro_batch_tokens:,} tokens in a pass",
        ]
        fits = "" if choice.fits else ", which is more than there is; trying it anyway"
        return (
            f"Sequences of {sequence_length:,} tokens: {', '.join(how)}. "
            f"Forecast {choice.forecast} of {format_bytes(self._budget, 2)}{fits}."
        )


def _can_compile_flex(device: torch.device) -> bool:
    """Whether FlexAttention can be compiled: Triton is installed, and the GPU is new enough for its kernels."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= FLEX_CAPABILITY
