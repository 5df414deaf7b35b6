"""A decoding step as CUDA graphs: one launch instead of some three hundred."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class StepGraphs:
    """The steps of one cache, a graph for each number of visible keys.

    They share a memory pool: only one runs at a time, and its result is copied out of the pool.
    """

    def __init__(self, batch: int, device: torch.device) -> None:
        self._device = device
        self._inputs = torch.zeros(2, batch, dtype=torch.int64, device=device)
        """The ids and the positions, where the graphs read them."""
        # Capture and replay use the current device's streams, and the current device is cuda:0 even if the model is
        # on cuda:1: a graph would be empty, or the capture fail.
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def run(
        self, step: Callable[[Tensor, Tensor], Tensor], ids: Sequence[int], positions: Sequence[int], visible: int
    ) -> Tensor:
        """`step(ids, positions)` with tensors (batch,), captured at the first call for this number of visible keys.

        Does not wait for the device.
        """
        with torch.cuda.device(self._device):
            # Memory that is not pinned is staged before the call returns. A blocking copy would wait for the device.
            self._inputs.copy_(torch.tensor([ids, positions]), non_blocking=True)
            if visible not in self._captured:
                self._captured[visible] = self._capture(step)
            graph, result = self._captured[visible]
            graph.replay()
            return result.clone()

    def _capture(self, step: Callable[[Tensor, Tensor], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Not with `torch.cuda.graph`, which waits for the device and empties the allocator's cache each time."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            # Libraries and kernels are loaded in a run before the capture. Only the slots of this step are written,
            # which the replay writes again.
            step(*self._inputs)
            # Other threads may use CUDA meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = step(*self._inputs)
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        return graph, result
