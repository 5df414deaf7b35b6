"""One optimizer step: the gradients of its rows, whatever they are split into, and what is done with them."""

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
    """What all ranks know of a step before it is taken: `loss` in nats a token, `gradient_norm` before clipping.

    `targets` counts the tokens that were predicted. `stopping`: somebody asked one of the ranks to stop.
    """

    loss: float
    gradient_norm: float
    targets: int
    stopping: bool


class Stepper:
    """Measures a step, then takes it or leaves it; nothing is changed before `take`."""

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

    def measure(self, batch: Batch, step: int, micro_batch_rows: int, stopping: bool) -> Measured:
        """Leave the gradient of the mean loss over all targets of the step, of all ranks, in every `.grad`.

        Each rank computes every world-th row. Dropout depends on (seed, step, rank) alone, so no random state has to
        be saved for a run that goes on.
        """
        torch.manual_seed(_seed_of(self._settings.seed, step, self._ranks.rank))
        targets = int((batch.targets != self._padding).sum())
        total = self._accumulate(batch, max(targets, 1), micro_batch_rows)
        if self._flat is not None:
            self._ranks.add_up_in_place(self._flat.buffer)
        norm = float(self._norm())
        # Rank 0's norm for all of them: were they to differ in a bit, one might leave out a step that another takes.
        loss, norm, asked = self._ranks.add_up([float(total), norm if self._ranks.leads else 0.0, float(stopping)])
        return Measured(loss / max(targets, 1), norm, targets, asked > 0)

    def take(self, learning_rate: float, gradient_norm: float) -> None:
        """Clip the gradients, change the weights."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        nn.utils.clip_grads_with_norm_(self._parameters, self._settings.gradient_clip, torch.tensor(gradient_norm))
        self._optimizer.step()
        self.leave()

    def leave(self) -> None:
        """Forget the gradients."""
        if self._flat is not None:
            self._flat.clear()
        else:
            self._optimizer.zero_grad()

    def _accumulate(self, batch: Batch, normaliser: int, micro_batch_rows: int) -> Tensor:
        """The sum of this rank's −log p, 0-dim float64 on the device, so that micro-batches need not wait for it."""
        device = self._ranks.device
        arrays = [
            array[self._ranks.rank :: self._ranks.world] for array in (batch.inputs, batch.targets, batch.documents)
        ]
        total = torch.zeros((), dtype=torch.float64, device=device)
        for begin in range(0, len(arrays[0]), micro_batch_rows):
            parts = (torch.from_numpy(array[begin : begin + micro_batch_rows]).to(device) for array in arrays)
            ids, targets, documents = parts
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


def _seed_of(seed: int, step: int, rank: int) -> int:
    """63 bits that are different for every step and rank."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "big") >> 1
