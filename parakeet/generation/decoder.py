"""The transformer as generation needs it: weights in any precision, each read once a token, and a cache of the past.

`parakeet.model.transformer` is the same function for training; tests hold both to one oracle.
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
"""CUDA graphs have fixed shapes, so there a step attends to a multiple of this many keys."""

QUERIES_PER_BLOCK = 128
"""Positions of a prompt that attend together: none looks at keys behind its block, which a mask alone would not save
(2.3 instead of 2.6 ms a layer for 512 positions in bf16)."""

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
    """Keys and values of every layer, (layers, batch, heads, capacity, head width) each, as a ring.

    Position p of a row lies in slot p mod capacity: beyond the capacity the newest token takes the place of the
    oldest. `lengths` counts the tokens that each row has seen.
    """

    def __init__(self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.keys = _untouched_zeros(shape, dtype, device)
        self.values = _untouched_zeros(shape, dtype, device)
        self.capacity = shape[3]
        self.lengths = [0] * shape[1]
        self.graphs: dict[int, _Graph] = {}
        """CUDA graphs of a step over this memory, by the keys they attend to; they must not outlive it."""

    @property
    def n_bytes_per_token(self) -> int:
        """Of one row: what one more token of context adds to every later step."""
        layers, _, heads, _, width = self.keys.shape
        return 2 * layers * heads * width * self.keys.element_size()


def _untouched_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take no memory before they are written to: a cache for 8,192 tokens is 1.4 GB in fp32, and most
    conversations are short. torch.zeros writes its zeros; numpy's come in huge pages, of which the first token of
    every head would touch one, and so all there are (1.7 s for a prompt of five tokens)."""
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    memory = fresh_memory(math.prod(shape) * dtype.itemsize, huge=False)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


@dataclass(frozen=True)
class _Layer:
    """One block. `projections` gives queries, keys and values in one product; with `keys_first`, the queries last."""

    attention_norm: Tensor
    projections: Matrix
    keys_first: bool
    attention_output: Matrix
    mlp_norm: Tensor
    mlp_input: Matrix
    mlp_output: Matrix


class Decoder:
    """A model's weights, ready to decode.

    The residual stream and the norms are fp32; products take the weights' precision (bf16 beside int8 and int4).
    """

    @torch.no_grad()
    def __init__(self, model: Parakeet, dtype: str, device: str = "cpu", make: MatrixMaker | None = None) -> None:
        """Copies the weights of `model` tensor by tensor; where those are mapped from a file (`load_model`), the file's
        pages are the only other copy. `make` replaces how matrices are made, for measurements."""
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
        # Rows for lookup: the head's own where it is dense, else the file's, of which only the rows used are read.
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
        """Bytes of weights that a step reads; the shared projections count once for each of their layers."""

    def new_cache(self, capacity: int, batch_size: int = 1) -> Cache:
        """An empty cache of `capacity` tokens a row; beyond the model's context it would hold what is never seen."""
        c = self.config
        shape = (c.layers, batch_size, c.heads, min(capacity, c.context), c.head_width)
        return Cache(shape, self.activation_dtype, self.device)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], cache: Cache, row: int = 0) -> Tensor:
        """Read some ids that follow on what row `row` holds, all at once; logits (vocabulary rows,) fp32 of the last.

        They must fit into what is left of the cache: a prompt never pushes itself out.
        """
        return self._head.product(self._hidden(ids, cache, row)[-1:].to(self.activation_dtype))[0].float()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """(len(ids), vocabulary rows) fp32: those of every position of one text."""
        hidden = self._hidden(ids, self.new_cache(len(ids)), 0)
        return self._head.product(hidden.to(self.activation_dtype)).float()

    @torch.inference_mode()
    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """One more token for every row: logits (batch, vocabulary rows) fp32 of what follows.

        A row may be beyond the cache's capacity: it then sees the latest `capacity` tokens.
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
        """Let Inductor fuse the small operations of a step. The first steps then take a minute."""
        self._run_step = torch.compile(self._step, dynamic=True)

    def _graph(self, cache: Cache, visible: int) -> "_Graph":
        if visible not in cache.graphs:
            cache.graphs[visible] = _Graph(self._run_step, cache, visible, self.device)
        return cache.graphs[visible]

    def _step(self, ids: Tensor, positions: Tensor, cache: Cache, visible: int) -> Tensor:
        """ids, positions (batch,) int64: fixed shapes and no decision that depends on them, as graphs need."""
        batch = torch.arange(ids.shape[0], device=self.device)
        slots = positions % cache.capacity
        # Slot s holds the token that is (position − s) mod capacity tokens back; more than `position` is none yet.
        distance = (positions[:, None] - torch.arange(visible, device=self.device)) % cache.capacity
        bias = -self._slopes[:, None, None] * distance[:, None, None, :]
        bias = self._mask(bias.masked_fill((distance > positions[:, None])[:, None, None, :], float("-inf")))
        x = self._embed(ids)
        for number, layer in enumerate(self._layers):
            query, key, value = self._project(layer, x)
            keys, values = cache.keys[number], cache.values[number]
            keys[batch, :, slots] = key
            values[batch, :, slots] = value
            seen = keys[:, :, :visible], values[:, :, :visible]
            mixed = F.scaled_dot_product_attention(query[:, :, None], *seen, bias)
            x = self._finish(layer, x, mixed[:, :, 0])
        return self._head.product(self._normed(x, self._final_norm)).float()

    def _hidden(self, ids: Sequence[int], cache: Cache, row: int) -> Tensor:
        """Final hidden states (len(ids), width) fp32 of ids that follow on row `row` of the cache."""
        past, end = cache.lengths[row], cache.lengths[row] + len(ids)
        # Newest first: then the bias of query r and key j depends on r + j alone, and one line for each head, looked
        # at with both strides 1, is the whole matrix (302 MB at the end of 8,192 tokens of the 378M model).
        line = torch.arange(end + QUERIES_PER_BLOCK, device=self.device)
        bias = (-self._slopes[:, None] * (end - 1 - line)).masked_fill_(line >= end, float("-inf"))
        x = self._embed(torch.tensor(ids, device=self.device).flip(0))
        for number, layer in enumerate(self._layers):
            query, key, value = (part.transpose(0, 1)[None] for part in self._project(layer, x))
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
        """Attention of a block of queries, newest first, of which the first is `begin` back from the newest."""
        last = keys.shape[2] - begin
        mask = bias.as_strided((1, len(bias), query.shape[2], last), (0, bias.stride(0), 1, 1), begin)
        return F.scaled_dot_product_attention(query, keys[:, :, :last], values[:, :, :last], self._mask(mask))

    def _mask(self, bias: Tensor) -> Tensor:
        """CUDA's kernels want a mask in the queries' dtype, and whole; the CPU's take fp32 with any strides."""
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
        """The rest of a block, for x (n, width), which is changed, and what attention mixed, (n, heads, head width)."""
        x += layer.attention_output.product(mixed.reshape(x.shape))
        hidden = F.gelu(layer.mlp_input.product(self._normed(x, layer.mlp_norm)))
        x += layer.mlp_output.product(hidden)
        return x

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(x, (self.config.width,), weight, None, EPSILON).to(self.activation_dtype)


def _pair(model: Parakeet, weights: Mapping[str, Tensor], pair: int, make: MatrixMaker, arena: Arena) -> list[_Layer]:
    """Two layers that share a key/value projection, or the odd last one.

    Their projections stand in one matrix as queries, keys, values, queries: the first layer takes the first three
    quarters, the second the last three, so that both have one product and nothing is held twice.
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
    """One step as a CUDA graph: a launch instead of some three hundred."""

    def __init__(
        self,
        step: Callable[[Tensor, Tensor, Cache, int], Tensor],
        cache: Cache,
        visible: int,
        device: torch.device,
    ) -> None:
        batch = len(cache.lengths)
        self._ids = torch.zeros(batch, dtype=torch.int64, device=device)
        self._positions = torch.tensor(cache.lengths, device=device)
        # A warm-up on a side stream, as capture asks for; it writes only the slot that the replay writes again.
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
        self._ids.copy_(torch.tensor(ids))
        self._positions.copy_(torch.tensor(positions))
        self._graph.replay()
        return self._logits.clone()
