"""Causal attention with ALiBi over packed documents, in four backends that compute the same.

`reference` holds every score and is the oracle. `fused` puts ALiBi and the document mask into extra features of queries
and keys, so that `scaled_dot_product_attention(is_causal=True)` does the rest, in memory linear in the length, on any
device. `tiled` holds the scores of 64 queries at a time and leaves out the keys that none of them sees; it is the
fastest on a CPU. `flex` is FlexAttention, for CUDA only.

With `softmax_one`, all four compute exp(x_i) / (1 + Σ exp(x_j)) in place of the softmax (Miller 2023, "Attention is off
by one"), as if one more key had the score 0 and the value 0: a head may attend to nothing.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.errors import ParakeetError
from parakeet.model.execution import AttentionBackend

LARGEST_EXACT = 256
"""bf16 is exact for whole numbers up to this. A position is n · a + b, with n large enough for the sequence length."""
CODE_LENGTHS = (16, 32)
"""Extended Hamming codes of these lengths have 2^11 and 2^26 words, any two of which differ in at least four places."""
LOGIT_PER_DISAGREEMENT = 64.0
"""A logit loses at least this much per place in which two code words differ. Two documents differ in at least four
places, and e^−256 is 0 in fp32."""
CODE_KEY = 8.0
"""Magnitude of a code word's features in the keys. Any power of two would do."""
TERMS = 3
"""bf16 numbers that add up to one in fp32."""
KERNEL_WIDTH = 8
"""Head widths that are multiples of this take the fast kernels."""

TILE_ROWS = 64
"""Queries of a tile. 128 took as long: half the calls, but more of the scores are above the diagonal."""

RECOMPILE_LIMIT = 64
FLEX_KERNEL_OPTIONS: dict[str, int] | None = None
"""torch's own choice of tiles. By the source of 2.11 it takes 64 KiB forward on GPUs like a 3080 Ti, and tiles of 64
backward, at a head width of 64; they have 99. `training/flex.py` finds a kernel that does not launch before a run
begins, and `benchmarks/gpu_check` measures smaller tiles."""


class ReferenceMask(NamedTuple):
    """bias (batch, heads, length, length): ALiBi, and −inf for future positions and other documents."""

    bias: Tensor
    softmax_one: bool = False


class FusedMask(NamedTuple):
    """Extra features: the queries' (batch, heads, length, f), the keys' (batch, 1, length, f).

    Those of the document code go in front of the head's own features, those of ALiBi behind them. With `softmax_one`,
    the first of length + 1 positions is that of the key of zeros.
    """

    code_queries: Tensor
    code_keys: Tensor
    alibi_queries: Tensor
    alibi_keys: Tensor
    softmax_one: bool = False


class Tile(NamedTuple):
    """Queries `begin` to `end` of sequence `row`. They see keys `first` to `end`; bias (heads, queries, keys)."""

    row: int
    first: int
    begin: int
    end: int
    bias: Tensor


class TiledMask(NamedTuple):
    tiles: list[Tile]
    softmax_one: bool = False


class FlexMask(NamedTuple):
    """A BlockMask, the ALiBi that FlexAttention adds to each score, and the compiled FlexAttention.

    The function is here because it must not be made inside a compiled block: the option of Dynamo that `compiled` sets
    would break the graph of a block with activation checkpointing, and then torch 2.11 compiles nothing else of it.
    """

    blocks: Any
    alibi: Callable[..., Tensor]
    attention: Callable[..., Any]
    wanted: Any = None
    """The AuxRequest of the logarithms of the divisors, with `softmax_one`."""


Mask = ReferenceMask | FusedMask | TiledMask | FlexMask


def alibi_slopes(heads: int) -> Tensor:
    """(heads,) slopes 2^(−8(h+1)/heads): the plain geometric rule, for any number of heads.

    Press et al. 2021 (arXiv 2108.12409) use it for powers of two, and interleave two such series otherwise. The
    original Parakeet does not interleave.
    """
    # Computed in Python: on the meta device, where `load_weights` builds a model, arithmetic imports torch's compiler.
    return torch.tensor([2.0 ** (-8.0 * head / heads) for head in range(1, heads + 1)], dtype=torch.float32)


def prepare_mask(
    backend: AttentionBackend,
    slopes: Tensor,
    documents: Tensor,
    head_width: int,
    dtype: torch.dtype,
    last_document: int | None = None,
    softmax_one: bool = False,
) -> Mask:
    """What the attention of a batch needs beside queries, keys and values; the same for every layer.

    slopes (heads,); documents (batch, length), one number per packed document and −1 for unused positions.
    last_document: the largest of these numbers, if the caller knows it. To read it from a GPU, the host waits for it.
    """
    if backend == "reference":
        return ReferenceMask(_bias(slopes, documents, dtype), softmax_one)
    if backend == "fused":
        last_document = int(documents.max()) if last_document is None else last_document
        return _fused_mask(slopes, documents, head_width, dtype, last_document, softmax_one)
    if backend == "tiled":
        return _tiled_mask(slopes, documents, torch.promote_types(dtype, torch.float32), softmax_one)
    if documents.device.type != "cuda":
        raise ParakeetError("training.attention is flex, which needs a CUDA device; use auto, fused or reference.")
    return _flex_mask(slopes, documents, softmax_one)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    """softmax(queries · keysᵀ / sqrt(head width) + ALiBi, masked) · values; all (batch, heads, length, head width).

    If the mask has `softmax_one`, one is added to the divisor of the softmax.
    """
    if isinstance(mask, ReferenceMask):
        # scores (batch, heads, length, length): [i, j] is what query i makes of key j.
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1]) + mask.bias
        # Softmax in at least fp32: in bf16, the sum of many small probabilities would be lost.
        wide = torch.promote_types(scores.dtype, torch.float32)
        if mask.softmax_one:
            return torch.softmax(F.pad(scores, (1, 0)), dim=-1, dtype=wide)[..., 1:].to(values.dtype) @ values
        return torch.softmax(scores, dim=-1, dtype=wide).to(values.dtype) @ values
    if isinstance(mask, FusedMask):
        return _attend_fused(queries, keys, values, mask)
    if isinstance(mask, TiledMask):
        mixed: Tensor = _TiledAttention.apply(queries, keys, values, mask.tiles, mask.softmax_one)
        return mixed
    return _attend_flex(queries, keys, values, mask)


def _bias(slopes: Tensor, documents: Tensor, dtype: torch.dtype) -> Tensor:
    length = documents.shape[1]
    position = torch.arange(length, device=documents.device)
    # distance (length, length): j − i, zero or negative for what a query may see.
    distance = position[None, :] - position[:, None]
    # visible (batch, length, length); bias (heads, length, length).
    visible = (documents[:, :, None] == documents[:, None, :]) & (distance <= 0)
    bias = slopes[:, None, None].to(dtype) * distance
    return bias.masked_fill(~visible[:, None], float("-inf"))


def _attend_fused(queries: Tensor, keys: Tensor, values: Tensor, mask: FusedMask) -> Tensor:
    heads, head_width = queries.shape[1], queries.shape[-1]
    if mask.softmax_one:
        # A key of zeros in front and its value. The query beside it is read by nothing: `is_causal` needs as many.
        queries, keys, values = (F.pad(part, (0, 0, 1, 0)) for part in (queries, keys, values))
    # The keys' features are the same for all heads. expand copies nothing.
    code_keys, alibi_keys = (part.expand(-1, heads, -1, -1) for part in (mask.code_keys, mask.alibi_keys))
    # All three become (batch, heads, length, head width + features); at a head width of 64, that is 88.
    queries = torch.cat([mask.code_queries, queries, mask.alibi_queries], dim=-1)
    mixed = F.scaled_dot_product_attention(
        queries,
        torch.cat([code_keys, keys, alibi_keys], dim=-1),
        # The kernels want values as wide as queries. The padding is cut off again.
        F.pad(values, (0, queries.shape[-1] - head_width)),
        is_causal=True,
        # The default would be 1 / sqrt of the width with the features.
        scale=1.0 / math.sqrt(head_width),
    )
    return mixed[:, :, int(mask.softmax_one) :, :head_width]


def _attend_flex(queries: Tensor, keys: Tensor, values: Tensor, mask: FlexMask) -> Tensor:
    if mask.wanted is None:
        mixed: Tensor = mask.attention(
            queries, keys, values, score_mod=mask.alibi, block_mask=mask.blocks, kernel_options=FLEX_KERNEL_OPTIONS
        )
        return mixed
    mixed, found = mask.attention(
        queries, keys, values, score_mod=mask.alibi, block_mask=mask.blocks, kernel_options=FLEX_KERNEL_OPTIONS,
        return_aux=mask.wanted,
    )  # fmt: skip
    # found.lse (batch, heads, length) is log Σ. The mix was divided by Σ, and Σ / (1 + Σ) is the sigmoid.
    return (mixed * torch.sigmoid(found.lse)[..., None]).to(mixed.dtype)


def _fused_mask(
    slopes: Tensor, documents: Tensor, head_width: int, dtype: torch.dtype, last_document: int, softmax_one: bool
) -> FusedMask:
    """Features whose product, divided by sqrt(head width), is slope · j − at least 64 · disagreements.

    ALiBi's slope · (j − i) has a term that is constant along a row of scores, so it drops out of the softmax. j is the
    place in the whole sequence, counted from its middle: with positions that restart in each document, the end of a
    long document would outweigh the start of the next. slope is split into two terms of 8 bits each, exact in bf16.

    A document is a ±1 code word, so the distance between two documents is bounded from both sides. Document numbers as
    features would lose fp32's precision as they grow. Each place of the code adds plus or minus a power of two, and one
    feature in front takes away what equal words add up to.

    The order of the features matters in fp32. Within a document the code's features sum to exactly 0 before those of
    the head are added, and ALiBi's large ones come last. With the code last the error was twenty times as large, and
    with ALiBi before the head's features five times, at 8,192 tokens.

    With `softmax_one`, the term that is constant along a row must not drop out: the zero key's score is slope · i beside
    the others' slope · j. The query has it in three terms of 8 bits each, and the zero key has ones for them, where the
    other keys have zeros. At a head width of 64 they are in what was padding.
    """
    batch, length = documents.shape
    heads = len(slopes)
    root = math.sqrt(head_width)

    # The document code. words (batch, length, places): ±1; unused positions (−1) are a document like any other.
    # Per place, query · key is +CODE_KEY · code_query where the words agree, and the negative where they differ. The
    # feature in front is −places of them, so a product is −2 · CODE_KEY · code_query · disagreements: divided by root,
    # that is −64 or less for each, since the power of two is at least root.
    table = _code_words(1 << (last_document + 1).bit_length(), documents.device)
    words = table[documents + 1]
    places = words.shape[-1]
    code_query = LOGIT_PER_DISAGREEMENT / 2 / CODE_KEY * 2.0 ** math.ceil(math.log2(root))
    # (batch, 1, length, 1 + places)
    code_queries = F.pad(words * code_query, (1, 0), value=-places * code_query)[:, None]
    code_keys = F.pad(words, (1, 0), value=1.0)[:, None] * CODE_KEY

    # ALiBi. high, low (heads,): slope · root in two terms, each exact in bf16; the product is divided by root again.
    high = (slopes * root).bfloat16().float()
    low = slopes * root - high
    # step (length,): places from the middle, as unit · coarse + fine; both exact in bf16 up to a length of 131,072.
    step = torch.arange(length, device=documents.device) - length // 2
    unit = max(64, 1 << ((length - 1) // (2 * LARGEST_EXACT)).bit_length())
    coarse = torch.div(step, unit, rounding_mode="floor")
    fine = step - unit * coarse
    # (1, heads, 1, 4) · (1, 1, length, 4) = (high + low) · (unit · coarse + fine)
    alibi_queries = torch.stack([high * unit, high, low * unit, low], dim=-1)[None, :, None]
    alibi_keys = torch.stack([coarse, fine, coarse, fine], dim=-1)[None, None]

    if softmax_one:
        own = in_terms((high + low)[:, None] * step)[None]  # (1, heads, length, 3)
        alibi_queries = torch.cat([alibi_queries.expand(-1, -1, length, -1), own], dim=-1)
        alibi_keys = F.pad(alibi_keys, (0, TERMS))
        code_queries, code_keys, alibi_queries, alibi_keys = (
            F.pad(part, (0, 0, 1, 0)) for part in (code_queries, code_keys, alibi_queries, alibi_keys)
        )
        alibi_keys[..., 0, -TERMS:] = 1
        length += 1

    # Zeros round the whole width up to a multiple of KERNEL_WIDTH: −x % n is what x lacks to it.
    padding = (0, -(head_width + 1 + places + alibi_keys.shape[-1]) % KERNEL_WIDTH)
    return FusedMask(
        code_queries.to(dtype).expand(batch, heads, length, -1),
        code_keys.to(dtype),
        F.pad(alibi_queries, padding).to(dtype).expand(batch, heads, length, -1),
        F.pad(alibi_keys, padding).to(dtype).expand(batch, 1, length, -1),
        softmax_one,
    )


def in_terms(x: Tensor) -> Tensor:
    """(…,) fp32 to (…, TERMS): numbers that are exact in bf16, and whose sum is x."""
    first = x.bfloat16().float()
    second = (x - first).bfloat16().float()
    return torch.stack([first, second, x - first - second], dim=-1)


@cache
def _code_words(count: int, device: torch.device) -> Tensor:
    """(count, n) the first words of ±1 of the extended Hamming code, n the shortest that has so many (a power of two).

    Two different words differ in at least 4 of the n places (Hamming 1950, with a parity of the whole word). It is a
    table because computing the words on a GPU would make the host wait, in every pass.
    """
    length = next(n for n in CODE_LENGTHS if count <= 1 << (n - n.bit_length()))
    numbers = torch.arange(count)
    places = torch.arange(length)
    # Places that are powers of two hold parities, place 0 holds that of the whole word, and the others hold data.
    holds_data = (places & (places - 1)) != 0
    # bits (count, n). Data place k takes bit k of the number.
    bits = torch.zeros(count, length, dtype=torch.int64)
    bits[:, holds_data] = (numbers[:, None] >> torch.arange(int(holds_data.sum()))) & 1
    # The parity at place 2^e covers every place with bit e set in its own number (the parity itself is still 0).
    for exponent in range(length.bit_length() - 1):
        covered = ((places >> exponent) & 1).bool()
        bits[:, 1 << exponent] = bits[:, covered].sum(-1) & 1
    bits[:, 0] = bits.sum(-1) & 1
    return (1 - 2 * bits).float().to(device)


@lru_cache(maxsize=4)
def _tile_bias(slopes: tuple[float, ...], length: int, dtype: torch.dtype) -> Tensor:
    """(heads, TILE_ROWS, length): ALiBi of the last queries of a sequence, and −inf for future positions."""
    place = torch.arange(length)
    distance = place - place[-TILE_ROWS:, None]
    bias = torch.tensor(slopes, dtype=dtype)[:, None, None] * distance
    return bias.masked_fill(distance > 0, float("-inf"))


def _tiled_mask(slopes: Tensor, documents: Tensor, dtype: torch.dtype, softmax_one: bool) -> TiledMask:
    """Tiles of at most TILE_ROWS queries, with the keys from the first token of any of their documents on.

    Only distances matter to ALiBi, so every tile takes its bias from that of the last one. A tile with several
    documents has a bias of its own. Since a document ends only once, they take memory linear in the length.
    """
    length = documents.shape[1]
    plain = _tile_bias(tuple(slopes.tolist()), length, dtype)
    numbers = documents.numpy()
    earliest = _first_positions(numbers)
    tiles = []
    for row, begin in np.ndindex(len(numbers), -(-length // TILE_ROWS)):
        begin *= TILE_ROWS
        end = min(begin + TILE_ROWS, length)
        first = int(earliest[row, begin:end].min())
        bias = plain[:, plain.shape[1] - (end - begin) :, length - (end - first) :]
        seen = documents[row, first:end]
        if (numbers[row, first:end] != numbers[row, begin]).any():
            bias = bias.masked_fill(documents[row, begin:end, None] != seen, float("-inf"))
        tiles.append(Tile(row, first, begin, end, bias))
    return TiledMask(tiles, softmax_one)


def _first_positions(documents: np.ndarray) -> np.ndarray:
    """(batch, length): for each position, the first one of the same document."""
    # Sorted by document, a position follows the ones before it of the same document.
    order = np.argsort(documents, axis=1, kind="stable")
    ordered = np.take_along_axis(documents, order, axis=1)
    begins = np.zeros_like(order)
    begins[:, 1:] = np.where(ordered[:, 1:] != ordered[:, :-1], np.arange(1, order.shape[1]), 0)
    firsts = np.take_along_axis(order, np.maximum.accumulate(begins, axis=1), axis=1)
    earliest = np.empty_like(order)
    np.put_along_axis(earliest, order, firsts, axis=1)
    return earliest


class _TiledAttention(torch.autograd.Function):
    """Softmax attention over tiles. The backward pass computes the probabilities again, so only its inputs are kept.

    A tile of n queries and m keys has scores, probabilities and their gradients of (heads, n, m). They are in fp32 even
    for bf16 inputs: CPUs have no fast small products in bf16, and ALiBi would be rounded. With `softmax_one`, they have
    a column in front for a key whose score and value are 0. No product reads it.
    """

    @staticmethod
    def forward(
        context: Any, queries: Tensor, keys: Tensor, values: Tensor, tiles: list[Tile], softmax_one: bool
    ) -> Tensor:
        context.save_for_backward(queries, keys, values)
        context.tiles, context.extra = tiles, int(softmax_one)
        dtype = queries.dtype
        queries, keys, values = (_widened(part) for part in (queries, keys, values))
        mixed = _beside_heads(queries)
        for tile in tiles:
            row, asking, seen = tile.row, slice(tile.begin, tile.end), slice(tile.first, tile.end)
            probabilities = _probabilities(queries[row, :, asking], keys[row, :, seen], tile.bias, context.extra)
            torch.bmm(probabilities[..., context.extra :], values[row, :, seen], out=mixed[row, :, asking])
        return mixed.to(dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        dtype = gradients[0].dtype
        queries, keys, values, gradient = (_widened(part) for part in (*context.saved_tensors, *gradients))
        scale, extra = 1.0 / math.sqrt(queries.shape[-1]), context.extra
        at_queries, at_keys, at_values = (
            _beside_heads(queries),
            _beside_heads(keys).zero_(),
            _beside_heads(keys).zero_(),
        )
        for tile in context.tiles:
            row, asking, seen = tile.row, slice(tile.begin, tile.end), slice(tile.first, tile.end)
            query, key, value, slope = (
                queries[row, :, asking], keys[row, :, seen], values[row, :, seen], gradient[row, :, asking],
            )  # fmt: skip
            probabilities = _probabilities(query, key, tile.bias, extra)
            at_values[row, :, seen].baddbmm_(probabilities[..., extra:].transpose(1, 2), slope)
            at_scores = _scores(query, key, extra)
            torch.bmm(slope, value.transpose(1, 2), out=at_scores[..., extra:])
            # The gradient of a softmax, p · (slope − Σ p · slope), in one pass and in place.
            torch.ops.aten._softmax_backward_data.out(
                at_scores, probabilities, -1, at_scores.dtype, grad_input=at_scores
            )
            at_scores = at_scores[..., extra:]
            out = at_queries[row, :, asking]
            torch.baddbmm(out, at_scores, key, beta=0, alpha=scale, out=out)
            at_keys[row, :, seen].baddbmm_(at_scores.transpose(1, 2), query, alpha=scale)
        return at_queries.to(dtype), at_keys.to(dtype), at_values.to(dtype), None, None


def _widened(x: Tensor) -> Tensor:
    """x in at least fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scores(queries: Tensor, keys: Tensor, extra: int) -> Tensor:
    """(heads, queries, extra + keys) for queries and keys (heads, n, head width); the extra columns are 0."""
    scores = queries.new_empty(len(queries), queries.shape[1], extra + keys.shape[1])
    scores[..., :extra] = 0
    return scores


def _probabilities(queries: Tensor, keys: Tensor, bias: Tensor, extra: int) -> Tensor:
    """(heads, queries, extra + keys), for queries and keys (heads, n, head width)."""
    scores = _scores(queries, keys, extra)
    scale = 1.0 / math.sqrt(queries.shape[-1])
    torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale, out=scores[..., extra:])
    return torch.softmax(scores, dim=-1, out=scores)


def _beside_heads(like: Tensor) -> Tensor:
    """An empty (batch, heads, length, head width) whose heads lie side by side in memory, as projections have them."""
    batch, heads, length, head_width = like.shape
    return like.new_empty(batch, length, heads, head_width).transpose(1, 2)


def _flex_mask(slopes: Tensor, documents: Tensor, softmax_one: bool) -> FlexMask:
    from torch.nn.attention.flex_attention import AuxRequest

    batch, length = documents.shape
    buffers = _flex_buffers(batch, length, len(slopes), documents.device)
    buffers.documents.copy_(documents)
    buffers.slopes.copy_(slopes)
    blocks = _block_mask()(buffers.mask, batch, None, length, length, device=documents.device)
    return FlexMask(blocks, buffers.alibi, _flex(), AuxRequest(lse=True) if softmax_one else None)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for static shapes, with as many graphs as a run has shapes. Not to be called in compiled code.

    A sequence length needs up to four graphs (training or not, a last batch of fewer sequences). By default, Dynamo
    silently stops compiling after eight, and FlexAttention would then hold every score.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    return torch.compile(function, dynamic=False)


class _FlexBuffers(NamedTuple):
    """Tensors that the functions of FlexAttention read, and those functions.

    There is one set per shape, because a new closure in every step would be compiled in every step. The next batch
    overwrites the tensors only when the backward pass of this one is done.
    """

    documents: Tensor
    slopes: Tensor
    mask: Callable[..., Tensor]
    alibi: Callable[..., Tensor]


@cache
def _flex_buffers(batch: int, length: int, heads: int, device: torch.device) -> _FlexBuffers:
    documents = torch.zeros(batch, length, dtype=torch.int64, device=device)
    slopes = torch.zeros(heads, device=device)

    # FlexAttention calls these with the batch, the head, the query and the key, as 0-dim tensors.
    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (documents[b, i] == documents[b, j])

    def alibi(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + slopes[h] * (j - i)

    return _FlexBuffers(documents, slopes, mask, alibi)


@cache
def _flex() -> Callable[..., Tensor]:
    """Compiled, because the plain function materialises every score."""
    from torch.nn.attention.flex_attention import flex_attention

    return compiled(flex_attention)


@cache
def _block_mask() -> Callable[..., Any]:
    """Compiled, because the plain function materialises the whole mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    return compiled(create_block_mask)
