"""One optimizer step: its gradients, computed in micro-batches on all ranks, are applied or discarded."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parakeet.data.tokens.loader import Batch
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.distributed import FlatGradients, Ranks


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

    def __init__(
        self, model: Parakeet, optimizer: torch.optim.Optimizer, ranks: Ranks, settings: Training, padding: int
    ) -> None:
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
        torch.manual_seed(_step_seed(self._settings.seed, step, self._ranks.rank))
        targets = int((batch.targets != self._padding).sum())
        total = self._accumulate(batch, max(targets, 1), micro_batch_sequences)
        if self._flat is not None:
            self._ranks.sum_in_place(self._flat.buffer)
        norm = float(self._norm())
        # All ranks use rank 0's norm: if they differed in one bit, one rank might skip a step that another applies.
        loss, norm, asked = self._ranks.sum([float(total), norm if self._ranks.leads else 0.0, float(stopping)])
        return Measured(loss / max(targets, 1), norm, targets, asked > 0)

    def apply(self, learning_rate: float, gradient_norm: float) -> None:
        """Clip the gradients and update the weights."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
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
        # Each array is (sequences in the step, sequence length); this rank takes every world-th sequence.
        arrays = [
            array[self._ranks.rank :: self._ranks.world] for array in (batch.inputs, batch.targets, batch.documents)
        ]
        total = torch.zeros((), dtype=torch.float64, device=device)
        for begin in range(0, len(arrays[0]), micro_batch_sequences):
            ids, targets, documents = (
                torch.from_numpy(array[begin : begin + micro_batch_sequences]).to(device) for array in arrays
            )
            total += backward_from_loss(
                self._model(ids, documents),
                self._embedding,
                targets,
                ignore=self._padding,
                normaliser=normaliser,
                z_loss=self._settings.z_loss,
                rows=self._model.execution.loss_rows,
            )
        return total

    def _norm(self) -> Tensor:
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed, different for every step and rank."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "big") >> 1
