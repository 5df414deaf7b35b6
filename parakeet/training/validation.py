"""The loss on held-out text during training: the same sequences each time, at the present sequence length."""

import numpy as np
import torch

from parakeet.data.tokens.loader import read_batch
from parakeet.data.tokens.packing import PackedSequences, pack
from parakeet.data.tokens.shards import TokenShards
from parakeet.model.loss import token_losses
from parakeet.model.transformer import Parakeet
from parakeet.training.distributed import Ranks

DRAW_SEED = 1
"""Documents are drawn at random: at the beginning, those of one source stand together."""


class Validation:
    """About `tokens` tokens of held-out documents; none if there is no held-out text or `tokens` is 0."""

    def __init__(self, shards: TokenShards, tokens: int, padding: int) -> None:
        self._shards = shards
        self._tokens = tokens
        self._padding = padding
        self._rows: dict[int, PackedSequences] = {}

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
        if sequence_length not in self._rows:
            lengths = self._shards.lengths()
            order = np.random.Generator(np.random.Philox(DRAW_SEED)).permutation(len(lengths))
            drawn = order[: int(np.searchsorted(np.cumsum(lengths[order]), self._tokens)) + 1]
            chosen = np.zeros_like(lengths)
            chosen[drawn] = lengths[drawn]
            packed = pack(chosen, sequence_length)
            # The last document may be a very long one, so the number of sequences is limited too.
            self._rows[sequence_length] = packed.take(np.arange(min(len(packed), -(-self._tokens // sequence_length))))
        return self._rows[sequence_length]
