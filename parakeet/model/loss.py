"""Cross entropy between hidden states and target ids."""

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS_PER_CHUNK = 1024


def cross_entropy_sum(hidden: Tensor, embedding: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """Sum of −log p(target) in nats over targets other than `ignore`, differentiable, fp32.

    hidden (…, width); embedding (vocabulary rows, width), also the output projection; targets (…).
    Rows to ignore are dropped before the product with the vocabulary.
    """
    kept = targets.reshape(-1) != ignore
    rows = hidden.reshape(-1, hidden.shape[-1])[kept]
    logits = F.linear(rows, embedding).float()
    return F.cross_entropy(logits, targets.reshape(-1)[kept], reduction="sum")


@torch.no_grad()
def token_losses(hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    """−log p(target) in nats of every row, in chunks: hidden (n, width), targets (n,) to (n,) fp32."""
    chunks = zip(hidden.split(ROWS_PER_CHUNK), targets.split(ROWS_PER_CHUNK), strict=True)
    losses = [F.cross_entropy(F.linear(h, embedding).float(), t, reduction="none") for h, t in chunks]
    return torch.cat(losses)
