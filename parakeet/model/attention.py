"""Causal attention with ALiBi over packed rows, in three backends that compute the same.

`reference` holds every score and is the oracle. `fused` carries ALiBi and the document mask in extra features of
queries and keys, so that `scaled_dot_product_attention(is_causal=True)` does the rest in memory linear in the
length, on any device. `flex` is FlexAttention, for CUDA only.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.errors import ParakeetError
from parakeet.model.execution import AttentionBackend

LARGEST_EXACT = 256
"""bf16 is exact for whole numbers up to this one. A position is n · a + b, with n large enough for the row."""
CODE_LENGTHS = (16, 32)
"""Extended Hamming codes of these lengths have 2^11 and 2^26 words, any two of which differ in four places or more."""
LOGIT_PER_DISAGREEMENT = 64.0
"""At the least. e^−256, for the four places in which two documents differ at the least, is 0 in fp32."""
CODE_KEY = 8.0
"""Size of a code word's features in the keys, which is as good as any power of two."""
KERNEL_WIDTH = 8
"""Widths that are multiples of this take the fast kernels."""

GRAPHS = 64
FLEX_KERNEL_OPTIONS = {"BLOCK_M": 64, "BLOCK_N": 64, "num_stages": 2}
"""Tiles that fit the 99 KiB of shared memory of an Ampere consumer card: the defaults are tuned on A100 and H100,
which have 163 and 227 KiB, and fail to launch on a 3090 (pytorch issue 133254)."""


class ReferenceMask(NamedTuple):
    """bias (batch, heads, length, length): ALiBi, −inf to the future and to other documents."""

    bias: Tensor


class FusedMask(NamedTuple):
    """Features around those of the heads: queries' (batch, heads, length, f), keys' (batch, 1, length, f)."""

    code_queries: Tensor
    code_keys: Tensor
    alibi_queries: Tensor
    alibi_keys: Tensor


class FlexMask(NamedTuple):
    """A BlockMask and the ALiBi that FlexAttention adds to each score."""

    blocks: Any
    alibi: Callable[..., Tensor]


Mask = ReferenceMask | FusedMask | FlexMask


def alibi_slopes(heads: int) -> Tensor:
    """(heads,) slopes 2^(−8(h+1)/heads): the plain geometric rule for any number of heads (DESIGN §3).

    Press et al. 2021 (arXiv 2108.12409) use it for powers of two and interleave two such series
    otherwise; the original Parakeet does not interleave.
    """
    exponents = -8.0 * torch.arange(1, heads + 1, dtype=torch.float64) / heads
    return torch.pow(2.0, exponents).float()


def prepare_mask(
    backend: AttentionBackend, slopes: Tensor, documents: Tensor, head_width: int, dtype: torch.dtype
) -> Mask:
    """What a batch's attention needs beside queries, keys and values; the same for every layer.

    slopes (heads,); documents (batch, length), one number per packed document and −1 where a row is unused.
    """
    if backend == "reference":
        return ReferenceMask(_bias(slopes, documents, dtype))
    if backend == "fused":
        return _fused_mask(slopes, documents, head_width, dtype)
    if documents.device.type != "cuda":
        raise ParakeetError("training.attention is flex, which needs a CUDA device; use auto, fused or reference.")
    return _flex_mask(slopes, documents)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    """softmax(queries · keysᵀ / sqrt(head width) + ALiBi, masked) · values; all (batch, heads, length, head width)."""
    if isinstance(mask, ReferenceMask):
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1]) + mask.bias
        # At least fp32: a softmax in bf16 loses what small probabilities add up to.
        wide = torch.promote_types(scores.dtype, torch.float32)
        return torch.softmax(scores, dim=-1, dtype=wide).to(values.dtype) @ values
    if isinstance(mask, FusedMask):
        return _attend_fused(queries, keys, values, mask)
    return _flex()(
        queries, keys, values, score_mod=mask.alibi, block_mask=mask.blocks, kernel_options=FLEX_KERNEL_OPTIONS
    )


def _bias(slopes: Tensor, documents: Tensor, dtype: torch.dtype) -> Tensor:
    length = documents.shape[1]
    position = torch.arange(length, device=documents.device)
    distance = position[None, :] - position[:, None]
    visible = (documents[:, :, None] == documents[:, None, :]) & (distance <= 0)
    bias = slopes[:, None, None].to(dtype) * distance
    return bias.masked_fill(~visible[:, None], float("-inf"))


def _attend_fused(queries: Tensor, keys: Tensor, values: Tensor, mask: FusedMask) -> Tensor:
    heads, head_width = queries.shape[1], queries.shape[-1]
    code_keys, alibi_keys = (part.expand(-1, heads, -1, -1) for part in (mask.code_keys, mask.alibi_keys))
    queries = torch.cat([mask.code_queries, queries, mask.alibi_queries], dim=-1)
    mixed = F.scaled_dot_product_attention(
        queries,
        torch.cat([code_keys, keys, alibi_keys], dim=-1),
        # The kernels ask for values as wide as queries.
        F.pad(values, (0, queries.shape[-1] - head_width)),
        is_causal=True,
        scale=1.0 / math.sqrt(head_width),
    )
    return mixed[..., :head_width]


def _fused_mask(slopes: Tensor, documents: Tensor, head_width: int, dtype: torch.dtype) -> FusedMask:
    """Features whose product, divided by sqrt(head width), is slope · j − at least 64 · disagreements.

    ALiBi's slope · (j − i) has one term that is constant along a row of scores and drops out of the softmax. j is the
    place in the whole row, counted from its middle: with positions that restart in each document, the end of a
    long one outweighs the start of the next. slope is split in two terms of 8 bits each, exact in bf16.

    A document is a ±1 code word, so the distance between any two is bounded on both sides: numbers themselves as
    features lose fp32's precision as they grow. Each place adds plus or minus a power of two, after a first feature
    that takes away what equal words add up to.

    The order matters in fp32: within a document the code's features sum to exactly 0 before those of the head
    come, and ALiBi's large ones come last. With the code last the error was twenty times as large, with
    ALiBi before the head's features five times at 8,192 tokens.
    """
    batch, length = documents.shape
    heads = len(slopes)
    root = math.sqrt(head_width)
    words = _code_words(documents + 1)
    places = words.shape[-1]
    loudness = LOGIT_PER_DISAGREEMENT / 2 / CODE_KEY * 2.0 ** math.ceil(math.log2(root))
    code_queries = F.pad(words * loudness, (1, 0), value=-places * loudness)[:, None]
    code_keys = F.pad(words, (1, 0), value=1.0)[:, None] * CODE_KEY
    high = (slopes * root).bfloat16().float()
    low = slopes * root - high
    step = torch.arange(length, device=documents.device) - length // 2
    unit = max(64, 1 << ((length - 1) // (2 * LARGEST_EXACT)).bit_length())
    coarse = torch.div(step, unit, rounding_mode="floor")
    fine = step - unit * coarse
    alibi_queries = torch.stack([high * unit, high, low * unit, low], dim=-1)[None, :, None]
    alibi_keys = torch.stack([coarse, fine, coarse, fine], dim=-1)[None, None]
    padding = (0, -(head_width + 1 + places + alibi_keys.shape[-1]) % KERNEL_WIDTH)
    return FusedMask(
        code_queries.to(dtype).expand(batch, heads, length, -1),
        code_keys.to(dtype),
        F.pad(alibi_queries, padding).to(dtype).expand(batch, heads, length, -1),
        F.pad(alibi_keys, padding).to(dtype).expand(batch, 1, length, -1),
    )


def _code_words(numbers: Tensor) -> Tensor:
    """(…) whole numbers from 0 to (…, n) words of ±1 of the extended Hamming code, n the shortest that has enough.

    Two different numbers differ in at least 4 of the n places (Hamming 1950, with the parity of the whole word).
    """
    longest = 1 << int(numbers.max()).bit_length()
    length = next(n for n in CODE_LENGTHS if longest <= 1 << (n - n.bit_length()))
    places = torch.arange(length, device=numbers.device)
    # Places that are powers of two hold parities, place 0 that of the whole word, and the others the number's bits.
    holds_data = (places & (places - 1)) != 0
    bits = torch.zeros(*numbers.shape, length, dtype=torch.int64, device=numbers.device)
    data = torch.arange(int(holds_data.sum()), device=numbers.device)
    bits[..., holds_data] = (numbers[..., None] >> data) & 1
    for exponent in range(length.bit_length() - 1):
        covered = ((places >> exponent) & 1).bool()
        bits[..., 1 << exponent] = bits[..., covered].sum(-1) & 1
    bits[..., 0] = bits.sum(-1) & 1
    return (1 - 2 * bits).float()


def _flex_mask(slopes: Tensor, documents: Tensor) -> FlexMask:
    batch, length = documents.shape
    buffers = _flex_buffers(batch, length, len(slopes), documents.device)
    buffers.documents.copy_(documents)
    buffers.slopes.copy_(slopes)
    blocks = _block_mask()(buffers.mask, batch, None, length, length, device=documents.device)
    return FlexMask(blocks, buffers.alibi)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for shapes that do not change, in as many graphs as a run has shapes.

    A row length needs up to four (training or not, a last batch of fewer rows). After eight of them Dynamo would
    leave off compiling without a word, and FlexAttention would hold every score.
    """
    torch._dynamo.config.recompile_limit = GRAPHS
    return torch.compile(function, dynamic=False)


class _FlexBuffers(NamedTuple):
    """Tensors that the functions of FlexAttention look into, and those functions.

    One set for each shape: a new closure in every step would be compiled anew in every step. They are written by
    the next batch only, when the backward pass of this one is done.
    """

    documents: Tensor
    slopes: Tensor
    mask: Callable[..., Tensor]
    alibi: Callable[..., Tensor]


@cache
def _flex_buffers(batch: int, length: int, heads: int, device: torch.device) -> _FlexBuffers:
    documents = torch.zeros(batch, length, dtype=torch.int64, device=device)
    slopes = torch.zeros(heads, device=device)

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (documents[b, i] == documents[b, j])

    def alibi(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + slopes[h] * (j - i)

    return _FlexBuffers(documents, slopes, mask, alibi)


@cache
def _flex() -> Callable[..., Tensor]:
    """Compiled, since the plain function materialises every score."""
    from torch.nn.attention.flex_attention import flex_attention

    return compiled(flex_attention)


@cache
def _block_mask() -> Callable[..., Any]:
    """Compiled, since the plain function materialises the whole mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    return compiled(create_block_mask)
