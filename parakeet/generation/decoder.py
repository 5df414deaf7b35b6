"""The transformer for generation: weights in any precision, each read once a token, and a key/value cache.

`parakeet.model.transformer` is the same function for training; tests compare both with one oracle.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.generation.matrices import Arena, DenseMatrix, Int4Matrix, Int8Matrix, Matrix, fresh_memory
from parakeet.model.attention import alibi_slopes
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet

DTYPES = ("fp32", "bf16", "int8", "int4")
KEYS_PER_BUCKET = 256
"""CUDA graphs have fixed shapes, so on CUDA a step attends to a multiple of this many keys."""

QUERIES_PER_BLOCK = 128
"""Positions of a prompt that attend together. A block does not read the keys after it, which a mask alone would not
save (2.3 instead of 2.6 ms a layer for 512 positions in bf16)."""

EPSILON = 1e-5

MatrixMaker = Callable[[Tensor, Arena], Matrix]


def dense(weight: Tensor, arena: Arena, dtype: torch.dtype) -> Matrix:
    return DenseMatrix(arena.place(weight, dtype))


def matrix_maker(dtype: str) -> MatrixMaker:
    """How a weight of the file becomes a matrix of `dtype`, one of DTYPES."""
    makers: dict[str, MatrixMaker] = {
        "fp32": lambda weight, arena: dense(weight, arena, torch.float32),
        "bf16": lambda weight, arena: dense(weight, arena, torch.bfloat16),
        "int8": Int8Matrix.quantised,
        "int4": Int4Matrix.quantised,
    }
    return makers[dtype]


class Cache:
    """Keys and values of every layer as a ring buffer, each (layers, batch, heads, capacity, head width).

    Position p of a row is in slot p mod capacity: beyond the capacity, the newest token overwrites the oldest.
    `lengths` counts the tokens that each row has seen.
    """

    def __init__(self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.keys = _untouched_zeros(shape, dtype, device)
        self.values = _untouched_zeros(shape, dtype, device)
        self.capacity = shape[3]
        self.lengths = [0] * shape[1]
        self.graphs: dict[int, _Graph] = {}
        """CUDA graphs of a step, by the number of keys. They use this cache's memory and must not outlive it."""

    @property
    def n_bytes_per_token(self) -> int:
        """Bytes that one more token of a row adds to what every later step reads."""
        layers, _, heads, _, width = self.keys.shape
        return 2 * layers * heads * width * self.keys.element_size()


def _untouched_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take no memory until they are written: a cache for 8,192 tokens is 1.4 GB in fp32, and most
    conversations are short. torch.zeros writes its zeros. numpy's are in huge pages, and the first token of each head
    would touch another page, so all of them (1.7 s for a prompt of five tokens)."""
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    memory = fresh_memory(math.prod(shape) * dtype.itemsize, huge=False)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


@dataclass(frozen=True)
class _Layer:
    """One block. `projections` (3 · width, width) is queries, keys, values in this order, or with `keys_first` keys,
    values, queries."""

    attention_norm: Tensor
    projections: Matrix
    keys_first: bool
    attention_output: Matrix
    mlp_norm: Tensor
    mlp_input: Matrix
    mlp_output: Matrix


class Decoder:
    """A model's weights, ready to decode.

    The residual stream and the norms are fp32. Products use the weights' precision, with bf16 activations for int8 and
    int4.
    """

    @torch.no_grad()
    def __init__(self, model: Parakeet, dtype: str, device: str = "cpu", make: MatrixMaker | None = None) -> None:
        """Copies the weights of `model` one tensor at a time. If they are mapped from a file (`load_model`), the file's
        pages are the only other copy. `make` replaces `matrix_maker(dtype)`, for measurements."""
        make = make or matrix_maker(dtype)
        self.config: ModelConfig = model.config
        self.dtype = dtype
        self.device = torch.device(device)
        self.activation_dtype = torch.float32 if dtype == "fp32" else torch.bfloat16
        parameters = sum(parameter.numel() for parameter in model.parameters())
        arena = Arena(4 * parameters + (1 << 20), self.device)
        weights = model.state_dict()
        pairs = range(model.config.shared_projections)
        self._layers = [layer for pair in pairs for layer in _pair(model, weights, pair, make, arena)]
        self._head = make(model.embedding.weight, arena)
        # Rows for embedding lookup: the head's own if it is dense, else the file's, which reads only the rows used.
        self._rows = model.embedding.weight.detach()
        if isinstance(self._head, DenseMatrix):
            self._rows = self._head.weight
        self._embedding_norm = arena.place(model.embedding_norm.weight), arena.place(model.embedding_norm.bias)
        self._final_norm = arena.place(model.final_norm.weight)
        self._slopes = alibi_slopes(model.config.heads).to(self.device)
        self._run_step = self._step
        matrices = [m for layer in self._layers for m in (layer.projections, layer.attention_output)]
        matrices += [m for layer in self._layers for m in (layer.mlp_input, layer.mlp_output)]
        self.bytes_per_token = sum(matrix.n_bytes for matrix in [*matrices, self._head])
        """Bytes of weights that a step reads. Shared projections count once for each layer that reads them."""

    def new_cache(self, capacity: int, batch_size: int = 1) -> Cache:
        """An empty cache of `capacity` tokens a row, at most the model's context."""
        c = self.config
        shape = (c.layers, batch_size, c.heads, min(capacity, c.context), c.head_width)
        return Cache(shape, self.activation_dtype, self.device)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], cache: Cache, row: int = 0) -> Tensor:
        """Append ids to row `row` of the cache in one pass; logits (vocabulary rows,) fp32 after the last.

        They must fit into the rest of the cache: a prompt never overwrites itself.
        """
        return self._head.product(self._hidden(ids, cache, row)[-1:].to(self.activation_dtype))[0].float()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], cache: Cache | None = None) -> Tensor:
        """Logits (len(ids), vocabulary rows) fp32 of every position of one text, or of ids that continue a cache."""
        hidden = self._hidden(ids, cache or self.new_cache(len(ids)), 0)
        return self._head.product(hidden.to(self.activation_dtype)).float()

    @torch.inference_mode()
    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """Append one id to every row of the cache; logits (batch, vocabulary rows) fp32 after them.

        A row that is longer than the cache's capacity sees the latest `capacity` tokens.
        """
        positions = cache.lengths
        visible = min(cache.capacity, max(positions) + 1)
        if self.device.type == "cuda":
            visible = min(cache.capacity, -(-visible // KEYS_PER_BUCKET) * KEYS_PER_BUCKET)
            logits = self._graph(cache, visible).replay(ids, positions)
        else:
            logits = self._run_step(torch.tensor(ids), torch.tensor(positions), cache, visible)
        cache.lengths = [length + 1 for length in positions]
        return logits

    def compile(self) -> None:
        """Let Inductor fuse the small operations of a step. The first steps take a minute then."""
        self._run_step = torch.compile(self._step, dynamic=True)

    def _graph(self, cache: Cache, visible: int) -> "_Graph":
        if visible not in cache.graphs:
            cache.graphs[visible] = _Graph(self._run_step, cache, visible, self.device)
        return cache.graphs[visible]

    def _step(self, ids: Tensor, positions: Tensor, cache: Cache, visible: int) -> Tensor:
        """ids, positions (batch,) int64. Shapes are fixed and nothing branches on values, as CUDA graphs need."""
        batch = torch.arange(ids.shape[0], device=self.device)
        slots = positions % cache.capacity
        # (batch, visible): slot s holds the token (position − s) mod capacity tokens back. A distance beyond
        # `position` means that the slot is still empty.
        distance = (positions[:, None] - torch.arange(visible, device=self.device)) % cache.capacity
        # (batch, heads, 1, visible): ALiBi, and −inf for empty slots.
        bias = -self._slopes[:, None, None] * distance[:, None, None, :]
        bias = self._mask(bias.masked_fill((distance > positions[:, None])[:, None, None, :], float("-inf")))
        x = self._embed(ids)  # (batch, width)
        for number, layer in enumerate(self._layers):
            query, key, value = self._project(layer, x)  # (batch, heads, head width) each
            keys, values = cache.keys[number], cache.values[number]  # (batch, heads, capacity, head width)
            keys[batch, :, slots] = key
            values[batch, :, slots] = value
            seen = keys[:, :, :visible], values[:, :, :visible]
            mixed = F.scaled_dot_product_attention(query[:, :, None], *seen, bias)  # (batch, heads, 1, head width)
            x = self._finish(layer, x, mixed[:, :, 0])
        return self._head.product(self._normed(x, self._final_norm)).float()

    def _hidden(self, ids: Sequence[int], cache: Cache, row: int) -> Tensor:
        """Append n ids to row `row` of the cache; their final hidden states (n, width) fp32."""
        past, end = cache.lengths[row], cache.lengths[row] + len(ids)
        # Queries run from the newest (r = 0) to the oldest, keys from the oldest (j = 0). Their distance is then
        # end − 1 − (r + j), so the bias matrix of a head is one line read with both strides 1. Written out, it would
        # take 302 MB for 512 queries at the end of 8,192 tokens of the 378M model.
        line = torch.arange(end + QUERIES_PER_BLOCK, device=self.device)
        bias = (-self._slopes[:, None] * (end - 1 - line)).masked_fill_(line >= end, float("-inf"))  # (heads, line)
        x = self._embed(torch.tensor(ids, device=self.device).flip(0))  # (n, width), newest first
        for number, layer in enumerate(self._layers):
            # (n, heads, head width) to (1, heads, n, head width) each
            query, key, value = (part.transpose(0, 1)[None] for part in self._project(layer, x))
            # (1, heads, end, head width), oldest first
            keys, values = cache.keys[number, row : row + 1, :, :end], cache.values[number, row : row + 1, :, :end]
            keys[:, :, past:] = key.flip(2)
            values[:, :, past:] = value.flip(2)
            mixed = [
                self._attend(query[:, :, begin : begin + QUERIES_PER_BLOCK], keys, values, bias, begin)
                for begin in range(0, len(ids), QUERIES_PER_BLOCK)
            ]
            x = self._finish(layer, x, torch.cat(mixed, 2)[0].transpose(0, 1))
        cache.lengths[row] = end
        return F.layer_norm(x, (self.config.width,), self._final_norm, None, EPSILON).flip(0)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, begin: int) -> Tensor:
        """Attention of a block of queries (1, heads, block, head width), newest first, which starts `begin` before the
        newest position. keys, values (1, heads, end, head width), bias (heads, line)."""
        # The block's newest query sees this many keys.
        last = keys.shape[2] - begin
        mask = bias.as_strided((1, len(bias), query.shape[2], last), (0, bias.stride(0), 1, 1), begin)
        return F.scaled_dot_product_attention(query, keys[:, :, :last], values[:, :, :last], self._mask(mask))

    def _mask(self, bias: Tensor) -> Tensor:
        """CUDA's kernels need a contiguous mask in the queries' dtype; the CPU's take fp32 with any strides."""
        return bias if self.device.type == "cpu" else bias.to(self.activation_dtype).contiguous()

    def _embed(self, ids: Tensor) -> Tensor:
        weight, bias = self._embedding_norm
        rows = self._rows[ids.to(self._rows.device)].to(self.device, torch.float32)
        return F.layer_norm(rows, (self.config.width,), weight, bias, EPSILON)

    def _project(self, layer: _Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (n, width), each (n, heads, head width)."""
        joint = layer.projections.product(self._normed(x, layer.attention_norm))
        first, second, third = joint.view(x.shape[0], 3, self.config.heads, self.config.head_width).unbind(1)
        return (third, first, second) if layer.keys_first else (first, second, third)

    def _finish(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a block: x (n, width), changed in place, and the attention's output (n, heads, head width)."""
        x += layer.attention_output.product(mixed.reshape(x.shape))
        hidden = F.gelu(layer.mlp_input.product(self._normed(x, layer.mlp_norm)))
        x += layer.mlp_output.product(hidden)
        return x

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(x, (self.config.width,), weight, None, EPSILON).to(self.activation_dtype)


def _pair(model: Parakeet, weights: Mapping[str, Tensor], pair: int, make: MatrixMaker, arena: Arena) -> list[_Layer]:
    """Two layers that share a key/value projection, or the odd last one.

    Their projections are one matrix (4 · width, width) of queries, keys, values, queries. The first layer uses the
    first three quarters, the second the last three: one product for each, and no weight is stored twice.
    """
    d = model.config.width
    layers = range(2 * pair, min(2 * pair + 2, model.config.layers))
    first, *second = (weights[f"blocks.{layer}.query.weight"] for layer in layers)
    matrix = make(torch.cat([first, weights[f"key_values.{pair}.weight"], *second]), arena)

    def weight(layer: int, name: str) -> Tensor:
        return weights[f"blocks.{layer}.{name}.weight"]

    return [
        _Layer(
            attention_norm=arena.place(weight(layer, "attention_norm")),
            projections=matrix.part(number * d, number * d + 3 * d),
            keys_first=number == 1,
            attention_output=make(weight(layer, "attention_output"), arena),
            mlp_norm=arena.place(weight(layer, "mlp_norm")),
            mlp_input=make(weight(layer, "mlp_input"), arena),
            mlp_output=make(weight(layer, "mlp_output"), arena),
        )
        for number, layer in enumerate(layers)
    ]


class _Graph:
    """One step as a CUDA graph: one kernel launch instead of some three hundred."""

    def __init__(
        self,
        step: Callable[[Tensor, Tensor, Cache, int], Tensor],
        cache: Cache,
        visible: int,
        device: torch.device,
    ) -> None:
        self._device = device
        batch = len(cache.lengths)
        self._ids = torch.zeros(batch, dtype=torch.int64, device=device)
        self._positions = torch.tensor(cache.lengths, device=device)
        # Capture and replay use the current device's stream, and the current device is cuda:0 even if the model is
        # on cuda:1: the graph would be empty, or the capture fail.
        with torch.cuda.device(device):
            # Capture needs a warm-up on a side stream. It writes only the slot that the replay overwrites.
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(3):
                    step(self._ids, self._positions, cache, visible)
            torch.cuda.current_stream(device).wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits = step(self._ids, self._positions, cache, visible)

    def replay(self, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        with torch.cuda.device(self._device):
            self._ids.copy_(torch.tensor(ids))
            self._positions.copy_(torch.tensor(positions))
            self._graph.replay()
            return self._logits.clone()
