"""The device that a process trains on: its name, the memory that it has, and what was taken of it."""

import sys
from pathlib import Path

import torch

from parakeet.errors import ParakeetError
from parakeet.model.transformer import best_device
from parakeet.training.memory import UNKNOWN_BUDGET, card_budget, machine_budget


def choose_device(name: str, local_rank: int, processes: int) -> torch.device:
    """The device of training.device for one of several processes on this machine; ParakeetError if it is not there.

    Arithmetic in fp32 stays fp32: torch's own default, which multiplies without TF32, is not touched.
    """
    kind = best_device() if name == "auto" else name.partition(":")[0]
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ParakeetError(f"training.device is {name}, but torch finds no CUDA device; use auto or cpu.")
    count = torch.cuda.device_count()
    if ":" in name and processes > 1:
        raise ParakeetError(
            f"training.device {name} is one device, and training.processes asks for {processes} processes with one "
            "each: set training.device to cuda, or training.processes to 1."
        )
    index = int(name.partition(":")[2]) if ":" in name else local_rank
    if index >= count:
        raise ParakeetError(
            f"CUDA device {index} is asked for, but torch finds {count}: lower training.processes (0 takes all), or "
            "name another training.device."
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def memory_budget(device: torch.device, processes: int) -> int:
    """Bytes that this process may take, of its card or of its share of the machine."""
    if device.type == "cuda":
        return card_budget(torch.cuda.get_device_properties(device).total_memory)
    budget = machine_budget()
    return budget if budget == UNKNOWN_BUDGET else budget // processes


def unknown_memory(name: str) -> str | None:
    """What to say where training.device is one whose memory nobody knows; None where it is known."""
    kind = best_device() if name == "auto" else name.partition(":")[0]
    if kind != "cpu" or machine_budget() != UNKNOWN_BUDGET:
        return None
    return (
        "This system does not say how much memory it has: training is not refused if it does not fit. If it runs out "
        "of memory, set training.micro_batch_tokens."
    )


def peak_memory(device: torch.device) -> int:
    """Most bytes taken so far: allocated on a CUDA device, resident of the whole process on a CPU.

    0 where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident(Path("/proc/self/status"))


def peak_resident(status: Path) -> int:
    """Most bytes of this process that were in memory, by its /proc/…/status where there is one; 0 if nobody knows."""
    if status.exists():
        # ru_maxrss would do, were it not handed on by the process that started this one.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii", errors="replace").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_name(device: torch.device) -> str:
    """`cpu`, or the card's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: by CUDA, by torch's CPU allocator (a RuntimeError of its own words), or by Python."""
    refused_by_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return refused_by_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)
