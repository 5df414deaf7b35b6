"""Causal attention with ALiBi."""

import torch
from torch import Tensor


def alibi_slopes(heads: int) -> Tensor:
    """(heads,) slopes 2^(−8(h+1)/heads): the plain geometric rule for any number of heads (DESIGN §3).

    Press et al. 2021 (arXiv 2108.12409) use it for powers of two and interleave two such series
    otherwise; the original Parakeet does not interleave.
    """
    exponents = -8.0 * torch.arange(1, heads + 1, dtype=torch.float64) / heads
    return torch.pow(2.0, exponents).float()


def training_bias(slopes: Tensor, documents: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask for packed rows: ALiBi within a document, −inf to the future and to other documents.

    slopes (heads,); documents (batch, length), one number per packed document;
    result (batch, heads, length, length).
    """
    length = documents.shape[1]
    position = torch.arange(length, device=documents.device)
    distance = position[None, :] - position[:, None]
    visible = (documents[:, :, None] == documents[:, None, :]) & (distance <= 0)
    bias = slopes[:, None, None] * distance
    return bias.to(dtype).masked_fill(~visible[:, None], float("-inf"))
