"""Several processes share a step: each computes its sequences, then the gradients are summed once (no DDP wrapper).

One flat all-reduce after accumulation moves 1.5 GB a step at 378 M parameters, under 2 % of the step's time even over
PCIe, and works with gradients that are written straight into `.grad`.
"""

import datetime
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from parakeet.errors import ParakeetError

PATIENCE = datetime.timedelta(minutes=30)
"""How long a process waits for the others: rank 0 may be saving to a slow disk. A dead process is noticed at once."""
ALIGNMENT = 4
"""Gradients begin at multiples of so many values in the flat buffer: 16 bytes, for vectorised kernels."""
LONGEST_REASON = 600
"""Characters of torch's error that are shown: NCCL's own reason comes last, after some 300 of them."""


class PeerLost(ParakeetError):
    """Another process of the run is gone. If that one left a message of its own, it says more."""


class Ranks:
    """This process among those that share the run: number `rank` of `world`, with a device of its own."""

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        self.rank = rank
        self.world = world
        self.device = device

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files and reports."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over all processes, in float64. Every process gets the same bits."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        self.sum_in_place(sums)
        return [float(value) for value in sums.tolist()]

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over all processes."""
        if self.world > 1:
            with _lost_peers_reported(self.world):
                distributed.all_reduce(tensor)

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.sum([0.0])


class FlatGradients:
    """One buffer that every parameter's `.grad` is a view of, so that one call sums them over all processes."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + -(-parameter.numel() // ALIGNMENT) * ALIGNMENT)
        self.buffer = torch.zeros(starts[-1], dtype=parameters[0].dtype, device=parameters[0].device)
        for parameter, start in zip(parameters, starts, strict=False):
            parameter.grad = self.buffer[start : start + parameter.numel()].view_as(parameter)

    def clear(self) -> None:
        """Zero the buffer. Setting a `.grad` to None would detach it from the buffer."""
        self.buffer.zero_()


def world_size() -> int:
    """Number of processes that share the run, from torchrun's environment; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started; without torchrun this is the only one.

    Uses gloo on a CPU and NCCL on CUDA. Raises PeerLost if the others do not join.
    """
    world = world_size()
    if world == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cpu" and sys.platform == "linux":
        # Without a network, looking up the machine's own name would hang or fail.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with _lost_peers_reported(world):
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )
    yield Ranks(int(os.environ["RANK"]), world, device)
    # Not after an error: the others may be gone, and NCCL would wait for them.
    distributed.destroy_process_group()


@contextmanager
def _lost_peers_reported(world: int) -> Iterator[None]:
    """Turn torch's RuntimeError, raised when another process is gone or NCCL fails, into PeerLost with its reason."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), LONGEST_REASON)
        raise PeerLost(
            f"One of the {world} training processes ended early. Run the same command again: training continues from "
            f"its last checkpoint. torch reported: {reason}"
        ) from error
