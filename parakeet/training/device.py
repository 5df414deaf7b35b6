"""The device that a process trains on, its memory, and how training is computed on it."""

import re
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
from parakeet.training.flex import CAPABILITY, flex_failure
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
        return gpu_budget(torch.cuda.get_device_properties(device).total_memory, processes)
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


def describe_device(device: torch.device) -> dict[str, Any]:
    """What decides the last bits on a device: its kind and name, threads, and of a GPU the driver and libraries."""
    values: dict[str, Any] = {
        "device": device.type,
        "name": device_name(device),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        values |= {
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return values


def _driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """NVIDIA's kernel module: `580.65.06`; None if the system does not say."""
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", file.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return found[0] if found else None


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Floating point operations a second of the device at best; None if unknown. The table knows GPUs in bf16 only."""
    gpu = find_gpu(device_name(device)) if precision == "bf16" else None
    return None if gpu is None else gpu.tflops_bf16 * 1e12


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: by CUDA, by torch's CPU allocator (a plain RuntimeError), or by Python."""
    refused_by_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return refused_by_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


class ExecutionPlan:
    """How the run is computed on its device: one choice for each sequence length.

    FlexAttention is compiled here, before any step: where that fails, the run takes `fused`, and `lines` say so at
    every start. Nothing stays allocated on the device.

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
        self._lengths = sorted({phase.sequence_length for phase in schedule.phases})
        self._flex = ranks.device.type == "cuda"
        self._warnings: list[str] = []
        self._choices = self._choose()
        reason = self._flex_failure(ranks)
        if reason is not None:
            self._take_fused(reason)

    def _choose(self) -> dict[int, ExecutionChoice]:
        """The choice for each sequence length, each of which fits."""
        cuda, training = self._device.type == "cuda", self._job.recipe.training
        choices = {
            length: choose(
                self._config, training, length, self._budget, cuda, processes=self._processes, flex=self._flex
            )
            for length in self._lengths
        }
        for sequence_length, choice in choices.items():
            if not choice.fits and not self._job.try_anyway:
                raise ParakeetError(
                    f"Training on sequences of {sequence_length:,} tokens would take {choice.forecast}, but "
                    f"{self._where()} has {format_bytes(self._budget, 2)} for it. "
                    f"{self._change(sequence_length, self._budget)} To start anyway, run the same command with: "
                    "--try-anyway"
                )
            self._check_bf16(sequence_length, choice.execution)
        return choices

    def _check_bf16(self, sequence_length: int, execution: Execution) -> None:
        """Refuse what a GPU older than Ampere would compute with every score in memory."""
        if self._device.type != "cuda" or (execution.attention, execution.precision) != ("fused", "bf16"):
            return
        if torch.cuda.get_device_capability(self._device) < CAPABILITY and not self._job.try_anyway:
            raise ParakeetError(
                f"This GPU has no units for bf16, and torch's attention in bf16 would keep every score of sequences of "
                f"{sequence_length:,} tokens. Set training.precision to fp32. To start anyway, "
                "run the same command with: --try-anyway"
            )

    def _flex_failure(self, ranks: Ranks) -> str | None:
        """Why FlexAttention, if it was chosen, does not run on the devices of all processes."""
        chosen = [length for length in self._lengths if self._choices[length].execution.attention == "flex"]
        if not chosen:
            return None
        precision = self._choices[chosen[0]].execution.precision
        tried = (
            flex_failure(self._device, self._config, precision, self.micro_batch_sequences(length), length)
            for length in chosen
        )
        reason = next((failure for failure in tried if failure is not None), None)
        (failures,) = ranks.sum([float(reason is not None)])
        return "it fails in another process of this run." if failures and reason is None else reason

    def _take_fused(self, reason: str) -> None:
        """Choose without FlexAttention, unless the recipe asks for it: then ParakeetError."""
        if self._job.recipe.training.attention == "flex":
            raise ParakeetError(
                f"training.attention is flex, but FlexAttention does not run here: {reason} "
                "Set training.attention to auto or fused."
            )
        self._flex = False
        self._choices = self._choose()
        self._warnings.append(
            f"FlexAttention does not run here: {reason} This run takes fused attention, which is slower on long "
            "sequences."
        )

    def lines(self) -> list[str]:
        """The choices for people: a line for each sequence length, after a warning if FlexAttention failed."""
        return [*self._warnings, *(self._line(length, choice) for length, choice in self._choices.items())]

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
