"""The key/value cache, and attention to it with ALiBi, in one form for CPUs and one for GPUs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from parakeet.generation.graphs import StepGraphs
from parakeet.generation.matrices import fresh_memory
from parakeet.model.attention import (
    KERNEL_WIDTH,
    LARGEST_EXACT,
    TERMS,
    ReferenceMask,
    alibi_slopes,
    in_terms,
)
from parakeet.model.attention import attend as attend_by_matrix
from parakeet.model.config import ModelConfig

QUERIES_PER_BLOCK = 128
"""Positions of a prompt that attend together on a CPU. A block does not read the keys after it, which a mask alone
would not save (2.3 instead of 2.6 ms a layer for 512 positions in bf16)."""

MARKS = 4
"""Features of a key that hold its position."""
UNWRITTEN = -(1 << 15)
"""The coarse position of an empty slot: a power of two, exact in bf16. Even the flattest slope, 2^−8, takes at least
8,000 from its logit, so its probability is 0."""

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN, which torch prefers on Hopper: on an H100 its first prompt of 4,000 tokens took 1.7 to 3.1 s, because
it plans each new length anew, and 0.2 s without it."""

CACHE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Appends key and value to a layer's cache, and gives the query's attention to all of it: layer, query, key, value."""


class Cache:
    """Keys and values of every layer as a ring buffer, each (layers, batch, heads, capacity, cached width).

    Position p of a row is in slot p mod capacity: beyond the capacity, the newest token overwrites the oldest.
    `lengths` counts the tokens that each row has seen. Lowering it forgets the newest.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        fixed_key: Tensor | None = None,
    ) -> None:
        """`shape` is that of the ring. With a `fixed_key` (cached width,), `keys` and `values` have one slot more in
        front, which holds it and a value of zeros."""
        whole = (*shape[:3], shape[3] + (fixed_key is not None), shape[4])
        self.keys = _untouched_zeros(whole, dtype, device)
        self.values = _untouched_zeros(whole, dtype, device)
        if fixed_key is not None:
            self.keys[..., 0, :] = fixed_key
        self.scales: tuple[Tensor, Tensor] | None = None
        """Of keys and values in int8: x ≈ q · scale, fp32 (layers, batch, heads, capacity) each."""
        if dtype == torch.int8:
            self.scales = (
                _untouched_zeros(shape[:4], torch.float32, device),
                _untouched_zeros(shape[:4], torch.float32, device),
            )
        self.capacity = shape[3]
        self.lengths = [0] * shape[1]
        self.marked = [-1] * shape[1]
        """For `MarkAttention`: the length of each row that its marks are right for."""
        self.graphs = StepGraphs(shape[1], device) if device.type == "cuda" else None
        """They use this cache's memory and must not outlive it."""

    @property
    def n_bytes_per_token(self) -> int:
        """Bytes that one more token of a row adds to what every later step reads."""
        layers, _, heads, _, width = self.keys.shape
        return 2 * layers * heads * (width * self.keys.element_size() + (4 if self.scales else 0))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which are then numbered in this order. Not on CUDA, whose graphs have one shape."""
        assert self.graphs is None
        chosen = torch.tensor(rows, device=self.keys.device)
        self.keys, self.values = self.keys[:, chosen], self.values[:, chosen]
        if self.scales is not None:
            self.scales = self.scales[0][:, chosen], self.scales[1][:, chosen]
        self.lengths, self.marked = [self.lengths[row] for row in rows], [self.marked[row] for row in rows]

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what row `source` is."""
        used = slice(self.keys.shape[3] - self.capacity + min(self.lengths[source], self.capacity))
        for stored in (self.keys, self.values, *(self.scales or ())):
            stored[:, target, :, used] = stored[:, source, :, used]
        self.lengths[target], self.marked[target] = self.lengths[source], -1

    def write(self, layer: int, where: Any, key: Tensor, value: Tensor) -> None:
        """Keys and values (…, head width) for the slots that `where` indexes in (batch, heads, capacity)."""
        for number, (stored, new) in enumerate(((self.keys, key), (self.values, value))):
            if self.scales is None:
                stored[layer][where] = new.to(stored.dtype)
            else:
                most = new.float().abs().amax(-1)
                stored[layer][where] = (new.float() * (127 / most.clamp_min(1e-30))[..., None]).round_().to(torch.int8)
                # A number that is not finite stays visible in the scale.
                self.scales[number][layer][where] = most / 127

    def read(self, layer: int, where: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values in `dtype`: those of the cache itself if it is of this dtype."""
        keys, values = self.keys[layer][where], self.values[layer][where]
        if self.scales is None:
            return keys.to(dtype), values.to(dtype)
        key_scales, value_scales = (scales[layer][where][..., None].to(dtype) for scales in self.scales)
        return keys.to(dtype) * key_scales, values.to(dtype) * value_scales


def _untouched_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take no memory until they are written: a cache for 8,192 tokens is 1.4 GB in fp32, and most
    conversations are short. torch.zeros writes its zeros. numpy's are in huge pages, and the first token of each head
    would touch another page, so all of them (1.7 s for a prompt of five tokens)."""
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    memory = fresh_memory(math.prod(shape) * dtype.itemsize, huge=False)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


class CacheAttention(Protocol):
    """How new positions attend to a cache. Queries, keys and values of the model are (…, head width)."""

    width: int
    """Of a key or value in the cache."""
    fixed_key: Tensor | None
    """A key that every position attends to, (width,), in a slot of its own before the ring; see `Cache`."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None: ...

    def prepare(self, cache: Cache, rows: Sequence[int], count: int) -> None:
        """To be called before `count` positions are appended to each of these rows."""

    def step(self, cache: Cache, positions: Tensor, visible: int) -> Attend:
        """For one position of each row, positions (batch,) on the device: query, key, value (batch, heads, head width).

        The first `visible` slots are read, written or not. Shapes are fixed and nothing branches on values, as CUDA
        graphs need.
        """

    def prefill(self, cache: Cache, row: int, past: int, end: int) -> Attend:
        """For positions `past` to `end` of a row that has not filled its ring: (1, heads, end − past, head width)."""


class MaskAttention:
    """ALiBi as a mask in fp32 with any strides, which torch's kernel for CPUs takes."""

    fixed_key: Tensor | None = None

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.width = config.head_width
        self._softmax_one = config.softmax_one
        self._slopes = alibi_slopes(config.heads).to(device)

    def prepare(self, cache: Cache, rows: Sequence[int], count: int) -> None:
        pass

    def step(self, cache: Cache, positions: Tensor, visible: int) -> Attend:
        device = positions.device
        batch = torch.arange(positions.shape[0], device=device)
        slots = positions % cache.capacity
        # (batch, visible): slot s holds the token (position − s) mod capacity tokens back. A distance beyond
        # `position` means that the slot is still empty.
        distance = (positions[:, None] - torch.arange(visible, device=device)) % cache.capacity
        # (batch, heads, 1, visible): ALiBi, and −inf for empty slots.
        bias = -self._slopes[:, None, None] * distance[:, None, None, :]
        bias = bias.masked_fill((distance > positions[:, None])[:, None, None, :], float("-inf"))

        everywhere = (slice(None), slice(None), slice(visible))

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write(layer, (batch, slice(None), slots), key, value)
            seen = cache.read(layer, everywhere, query.dtype)
            return self._mix(query[:, :, None], *seen, bias)[:, :, 0]

        return attend

    def prefill(self, cache: Cache, row: int, past: int, end: int) -> Attend:
        # Queries run from the newest (r = 0) to the oldest, keys from the oldest (j = 0). Their distance is then
        # end − 1 − (r + j), so the bias matrix of a head is one line read with both strides 1. Written out, it would
        # take 302 MB for 512 queries at the end of 8,192 tokens of the 378M model.
        line = torch.arange(end + QUERIES_PER_BLOCK, device=self._slopes.device)
        bias = (-self._slopes[:, None] * (end - 1 - line)).masked_fill_(line >= end, float("-inf"))  # (heads, line)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write(layer, (slice(row, row + 1), slice(None), slice(past, end)), key, value)
            keys, values = cache.read(layer, (slice(row, row + 1), slice(None), slice(end)), query.dtype)
            newest_first, mixed = query.flip(2), []
            for begin in range(0, end - past, QUERIES_PER_BLOCK):
                queries = newest_first[:, :, begin : begin + QUERIES_PER_BLOCK]
                # The block's newest query sees this many keys.
                last = end - begin
                mask = self._mask(bias, begin, queries.shape[2], last)
                mixed.append(self._mix(queries, keys[:, :, :last], values[:, :, :last], mask))
            return torch.cat(mixed, 2).flip(2)

        return attend

    def _mix(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """query (batch, heads, n, head width), keys and values (batch, heads, m, head width), bias (…, n, m) fp32."""
        if not self._softmax_one:
            return F.scaled_dot_product_attention(query, keys, values, bias)
        if query.device.type != "cpu":
            return attend_by_matrix(query, keys, values, ReferenceMask(bias, softmax_one=True))
        # The kernel that the function above calls, and log Σ exp (batch, heads, n), which that does not give. The mix
        # was divided by Σ, and Σ / (1 + Σ) is the sigmoid.
        mixed, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, attn_mask=bias
        )
        return (mixed * torch.sigmoid(log_sums)[..., None]).to(mixed.dtype)

    def _mask(self, bias: Tensor, begin: int, queries: int, keys: int) -> Tensor:
        """The bias matrix (1, heads, queries, keys) that starts at `begin` of each head's line."""
        return bias.as_strided((1, len(bias), queries, keys), (0, bias.stride(0), 1, 1), begin)


class WrittenMaskAttention(MaskAttention):
    """The same with the mask written out, for a device whose kernels may not read rows that overlap (Apple's MPS)."""

    def _mask(self, bias: Tensor, begin: int, queries: int, keys: int) -> Tensor:
        line = torch.arange(begin, begin + max(queries, keys), device=bias.device)
        return bias[None, :, line[:queries, None] + line[:keys] - begin]


class MarkAttention:
    """ALiBi as features behind a key's own, the marks of its position, and no mask.

    CUDA's kernels take a mask only in the precision of the products: in bf16, a far key's bias of 32 is off by up to
    0.06, and its probability by 6 %. They do not split a masked query's keys over the processors either. Without a
    mask, FlashAttention does both, and the products of the marks are exact as in training (`_fused_mask`).

    A key is (head width, coarse, fine, coarse, fine, zeros) and a query (head width, high · unit, high, low · unit,
    low, zeros): their product has slope · position for the position in the ring, in which ALiBi's slope · (key − query)
    differs by a term that drops out of the softmax. When a row begins its ring again, the keys of the last round go
    one capacity back.

    With `softmax_one`, a key of zeros in front of the ring has the score slope · (position of the query), in terms that
    the query has behind its marks and this key has ones for, and the value 0 (as in training).
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._own = config.head_width
        terms = TERMS if config.softmax_one else 0
        self.width = -(-(config.head_width + MARKS + terms) // KERNEL_WIDTH) * KERNEL_WIDTH
        # Positions from −context to context as unit · coarse + fine, both exact in bf16 up to a context of 65,536.
        self._unit = max(64, 1 << ((2 * config.context - 1) // (2 * LARGEST_EXACT)).bit_length())
        root = math.sqrt(config.head_width)
        slopes = alibi_slopes(config.heads)
        # The slope in two terms of 8 bits each; the scores are divided by root again.
        high = (slopes * root).bfloat16().float()
        low = slopes * root - high
        marks = torch.stack([high * self._unit, high, low * self._unit, low], dim=-1)[None, :, None]
        # (1, heads, 1, width − head width)
        self._query_marks = F.pad(marks, (0, self.width - self._own - MARKS)).to(device, dtype)
        self._slopes = (slopes * root).to(device)
        self.fixed_key: Tensor | None = None
        self._begin = 0
        """The ring's first slot."""
        if config.softmax_one:
            self.fixed_key, self._begin = torch.zeros(self.width, dtype=dtype, device=device), 1
            self.fixed_key[self._own + MARKS : self._own + MARKS + TERMS] = 1

    def prepare(self, cache: Cache, rows: Sequence[int], count: int) -> None:
        for row in rows:
            length = cache.lengths[row]
            if cache.marked[row] != length or (length and length % cache.capacity == 0):
                self._mark_all(cache, row, length)
            cache.marked[row] = length + count

    def _mark_all(self, cache: Cache, row: int, length: int) -> None:
        """The marks of every slot of a row that has seen `length` tokens."""
        slots = torch.arange(cache.capacity, device=cache.keys.device)
        older = slots - cache.capacity if length >= cache.capacity else torch.full_like(slots, UNWRITTEN * self._unit)
        marks = self._marks(torch.where(slots < length % cache.capacity, slots, older))
        cache.keys[:, row, :, self._begin :, self._own :] = marks

    def _marks(self, positions: Tensor) -> Tensor:
        """(n,) to (n, width − head width)."""
        coarse = torch.div(positions, self._unit, rounding_mode="floor")
        fine = positions - self._unit * coarse
        marks = torch.stack([coarse, fine, coarse, fine], dim=-1)
        return F.pad(marks, (0, self.width - self._own - MARKS)).to(self._query_marks.dtype)

    def step(self, cache: Cache, positions: Tensor, visible: int) -> Attend:
        batch = torch.arange(positions.shape[0], device=positions.device)
        places = positions % cache.capacity
        slots, end = self._begin + places, self._begin + visible
        # All layers at once: (batch, layers, heads, width − head width).
        cache.keys[:, batch, :, slots, self._own :] = self._marks(places)[:, None, None]
        query_marks = self._marks_of_queries(places[:, None])

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = cache.keys[layer], cache.values[layer]  # (batch, heads, slots, width)
            keys[batch, :, slots, : self._own] = key.to(keys.dtype)
            values[batch, :, slots, : self._own] = value.to(values.dtype)
            return self._mix(query[:, :, None], query_marks, keys[:, :, :end], values[:, :, :end], None)[:, :, 0]

        return attend

    def prefill(self, cache: Cache, row: int, past: int, end: int) -> Attend:
        new = torch.arange(past, end, device=cache.keys.device)
        query_marks = self._marks_of_queries(new[None])
        past, end = self._begin + past, self._begin + end
        cache.keys[:, row, :, past:end, self._own :] = self._marks(new)
        # Imported here: it takes 1.3 s, more than torch itself, and only a GPU needs it.
        from torch.nn.attention.bias import causal_lower_right

        # Query i sees the keys up to past + i. No matrix is made of this.
        causal = causal_lower_right(end - past, end)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = cache.keys[layer, row : row + 1, :, :end], cache.values[layer, row : row + 1, :, :end]
            keys[:, :, past:, : self._own] = key
            values[:, :, past:, : self._own] = value
            return self._mix(query, query_marks, keys, values, causal)

        return attend

    def _marks_of_queries(self, places: Tensor) -> Tensor:
        """(batch, n), places in the ring, to (batch, heads, n, width − head width)."""
        marks = self._query_marks.expand(places.shape[0], -1, places.shape[1], -1)
        if self.fixed_key is None:
            return marks
        own = in_terms(self._slopes[:, None] * places[:, None])  # (batch, heads, n, TERMS)
        return torch.cat([marks[..., :MARKS], own.to(marks.dtype), marks[..., MARKS + TERMS :]], dim=-1)

    def _mix(self, query: Tensor, marks: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """query (batch, heads, n, head width) and its marks, keys and values (batch, heads, m, width)."""
        marked = torch.cat([query.to(marks.dtype), marks], dim=-1)
        with sdpa_kernel(KERNELS):
            # The default scale would be 1 / sqrt of the width with the marks.
            mixed = F.scaled_dot_product_attention(marked, keys, values, mask, scale=1 / math.sqrt(self._own))
        return mixed[..., : self._own]
