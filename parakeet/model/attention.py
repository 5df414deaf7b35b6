"""Causal attention with ALiBi, and the cache of keys and values that decoding appends to."""

import torch
from torch import Tensor

from parakeet.errors import ParakeetError


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


def decoding_bias(slopes: Tensor, past: int, new: int, dtype: torch.dtype) -> Tensor:
    """Additive mask (1, heads, new, past + new) for `new` positions that follow `past` cached ones."""
    key = torch.arange(past + new, device=slopes.device)
    query = torch.arange(past, past + new, device=slopes.device)
    distance = key[None, :] - query[:, None]
    bias = slopes[:, None, None] * distance
    return bias.to(dtype).masked_fill(distance > 0, float("-inf"))[None]


class Cache:
    """Keys and values of every layer, preallocated: (layers, batch, heads, capacity, head width) each."""

    def __init__(
        self,
        layers: int,
        batch_size: int,
        heads: int,
        capacity: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, batch_size, heads, capacity, head_width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, heads, new, head width) behind the past of a layer; returns past and new together.

        `length` moves only when the model has been through all its layers.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ParakeetError(f"{end} tokens do not fit into a context of {self.capacity}.")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
