"""The work of a step: its batch is read ahead, its gradients are applied or discarded, held-out text is scored."""

import hashlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from parakeet.data.tokens.goldfish import without_goldfish_targets
from parakeet.data.tokens.loader import Batch, Loader, LoaderState, read_batch
from parakeet.data.tokens.packing import PackedSequences, PackingPlan, pack
from parakeet.data.tokens.shards import TokenShards
from parakeet.model.loss import backward_from_loss, token_losses
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.distributed import FlatGradients, Ranks
from parakeet.training.job import TrainingJob
from parakeet.training.optimizer import Optimizer
from parakeet.training.schedule import Schedule


class _Read(NamedTuple):
    """A batch, and the state of its phase's loader after it."""

    batch: Batch
    phase: int
    state: dict[str, Any]


class Prefetcher:
    """One loader for each phase of the schedule that has begun. Use it in a `with`, which stops the reading."""

    def __init__(self, job: TrainingJob, shards: TokenShards, padding: int, schedule: Schedule) -> None:
        self._job = job
        self._shards = shards
        self._padding = padding
        self._schedule = schedule
        self._state: dict[str, dict[str, Any]] = {}
        self._loaders: dict[int, Loader] = {}
        self._ahead: tuple[int, Future[_Read]] | None = None
        self._executor = ThreadPoolExecutor(1, "prefetch")

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """Each phase's loader state after the batches that `take` returned. Batches read ahead do not count."""
        return dict(self._state)

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Continue from `state`. ParakeetError, here or from `take`, if it belongs to other data."""
        self._discard_ahead()
        self._state = dict(state)

    def take(self, step: int) -> tuple[Batch, float]:
        """The batch of `step`, and the seconds spent waiting for it.

        A step that does not follow the last one (after a rollback) still gets the next sequences of its phase.
        """
        began = time.monotonic()
        if self._ahead is None or self._ahead[0] != step:
            self._discard_ahead()
            self._read_ahead(step)
        assert self._ahead is not None
        read = self._ahead[1].result()
        self._state[str(read.phase)] = read.state
        self._ahead = None
        if step < self._schedule.total_steps:
            self._read_ahead(step + 1)
        return read.batch, time.monotonic() - began

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _read_ahead(self, step: int) -> None:
        self._ahead = (step, self._executor.submit(self._read, step))

    def _discard_ahead(self) -> None:
        """The loaders are already past the batch that was read ahead, so they are rebuilt from `_state`."""
        if self._ahead is not None:
            self._ahead[1].exception()
            self._ahead = None
        self._loaders.clear()

    def _read(self, step: int) -> _Read:
        phase = self._schedule.phase(step)
        loader = self._loader(phase)
        batch = loader.next_batch(self._schedule.tokens_in(step) // self._schedule.sequence_length(step))
        if k := self._job.recipe.training.goldfish:
            batch = without_goldfish_targets(batch, k, self._padding)
        return _Read(batch, phase, loader.state)

    def _loader(self, phase: int) -> Loader:
        if phase not in self._loaders:
            sequence_length = self._schedule.phases[phase].sequence_length
            # A seed of its own for each phase; otherwise two phases of one length would begin with the same sequences.
            start = LoaderState(
                self._job.shards_content,
                self._job.plan_digests[str(sequence_length)],
                self._job.recipe.packing.seed + phase,
            )
            loader = Loader(
                self._shards, PackingPlan(self._job.plan, sequence_length), sequence_length, self._padding, start
            )
            if str(phase) in self._state:
                loader.restore(self._state[str(phase)])
            self._loaders[phase] = loader
        return self._loaders[phase]


@dataclass(frozen=True)
class Measured:
    """What all ranks know of a step before it is applied: `loss` in nats a token, `gradient_norm` before clipping.

    `targets` counts the predicted tokens. `stopping`: somebody asked one of the ranks to stop.
    """

    loss: float
    gradient_norm: float
    targets: int
    stopping: bool


class Stepper:
    """Measures a step, then applies or discards it. The model is unchanged until `apply`."""

    def __init__(self, model: Parakeet, optimizer: Optimizer, ranks: Ranks, settings: Training, padding: int) -> None:
        self._model = model
        self._optimizer = optimizer
        self._ranks = ranks
        self._settings = settings
        self._padding = padding
        self._embedding = model.get_parameter("embedding.weight")
        self._parameters = list(model.parameters())
        self._flat = FlatGradients(self._parameters) if ranks.world > 1 else None

    def measure(self, batch: Batch, step: int, micro_batch_sequences: int, stopping: bool) -> Measured:
        """Compute the gradient of the mean loss over all targets of the step, on all ranks, into every `.grad`.

        Each rank computes every world-th sequence. Dropout depends only on (seed, step, rank), so a run resumes
        without a saved random state.
        """
        digest = hashlib.sha256(f"{self._settings.seed} {step} {self._ranks.rank}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        targets = int((batch.targets != self._padding).sum())
        total = self._accumulate(batch, max(targets, 1), micro_batch_sequences)
        if self._flat is not None:
            self._ranks.sum_in_place(self._flat.buffer)
        norm = float(nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None]))
        # All ranks use rank 0's norm: if they differed in one bit, one rank might skip a step that another applies.
        loss, norm, asked = self._ranks.sum([float(total), norm if self._ranks.leads else 0.0, float(stopping)])
        return Measured(loss / max(targets, 1), norm, targets, asked > 0)

    def apply(self, learning_rate: float, gradient_norm: float) -> None:
        """Clip the gradients and update the weights."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        nn.utils.clip_grads_with_norm_(self._parameters, self._settings.gradient_clip, torch.tensor(gradient_norm))
        self._optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Clear the gradients."""
        if self._flat is not None:
            self._flat.clear()
        else:
            self._optimizer.zero_grad()

    def _accumulate(self, batch: Batch, normaliser: int, micro_batch_sequences: int) -> Tensor:
        """Backward passes over this rank's sequences, each adding to `.grad`. Returns the sum of −log p.

        The sum is a 0-dim float64 tensor on the device: reading it here would make the host wait for each pass.
        """
        device = self._ranks.device
        # arrays (3, sequences of this rank, sequence length): this rank takes every world-th sequence.
        arrays = np.stack([batch.inputs, batch.targets, batch.documents])[:, self._ranks.rank :: self._ranks.world]
        total = torch.zeros((), dtype=torch.float64, device=device)
        for begin in range(0, arrays.shape[1], micro_batch_sequences):
            some = arrays[:, begin : begin + micro_batch_sequences]
            # What depends on values is found here, on the host, so that the host never waits for the device.
            ids, targets, documents = on_device(some, device)
            kept = on_device(np.flatnonzero(some[1] != self._padding), device)
            total += backward_from_loss(
                self._model(ids, documents, int(some[2].max())),
                self._embedding,
                targets,
                ignore=self._padding,
                normaliser=normaliser,
                z_loss=self._settings.z_loss,
                rows=self._model.execution.loss_rows,
                kept=kept,
            )
        return total


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on the device. A GPU copies it while the host goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


DRAW_SEED = 1
"""Documents are drawn at random: at the beginning, those of one source are adjacent."""


class Validation:
    """About `tokens` tokens of held-out documents; none if there is no held-out text or `tokens` is 0."""

    def __init__(self, shards: TokenShards, tokens: int, padding: int) -> None:
        self._shards = shards
        self._tokens = tokens
        self._padding = padding
        self._sequences: dict[int, PackedSequences] = {}

    def loss(self, model: Parakeet, ranks: Ranks, sequence_length: int, micro_batch_sequences: int) -> float | None:
        """Mean −log p in nats a token, without dropout, over all ranks. Leaves the model in training mode."""
        sequences = self._packed(sequence_length)
        total = counted = 0.0
        model.eval()
        for begin in range(ranks.rank * micro_batch_sequences, len(sequences), ranks.world * micro_batch_sequences):
            some = sequences.take(np.arange(begin, min(begin + micro_batch_sequences, len(sequences))))
            part, count = self._sum(model, some, sequence_length)
            total, counted = total + part, counted + count
        model.train()
        total, counted = ranks.sum([total, counted])
        return total / counted if counted else None

    @torch.no_grad()
    def _sum(self, model: Parakeet, sequences: PackedSequences, sequence_length: int) -> tuple[float, int]:
        """The sum of −log p over the targets of these sequences, and the number of targets."""
        batch = read_batch(self._shards, sequences, sequence_length, self._padding)
        device = model.embedding.weight.device
        # (sequences, sequence length, width); `kept` selects the positions that have a target.
        hidden = model(torch.from_numpy(batch.inputs).to(device), torch.from_numpy(batch.documents).to(device))
        targets = torch.from_numpy(batch.targets).to(device)
        kept = targets != self._padding
        if not kept.any():
            return 0.0, 0
        losses = token_losses(hidden[kept], model.embedding.weight, targets[kept], model.execution.loss_rows)
        return float(losses.double().sum()), len(losses)

    def _packed(self, sequence_length: int) -> PackedSequences:
        if sequence_length not in self._sequences:
            lengths = self._shards.lengths()
            order = np.random.Generator(np.random.Philox(DRAW_SEED)).permutation(len(lengths))
            drawn = order[: int(np.searchsorted(np.cumsum(lengths[order]), self._tokens)) + 1]
            chosen = np.zeros_like(lengths)
            chosen[drawn] = lengths[drawn]
            packed = pack(chosen, sequence_length)
            # The last document may be a very long one, so the number of sequences is limited too.
            self._sequences[sequence_length] = packed.take(
                np.arange(min(len(packed), -(-self._tokens // sequence_length)))
            )
        return self._sequences[sequence_length]
