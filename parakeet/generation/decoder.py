"""The transformer for generation: weights in any precision, each read once a token, and a key/value cache.

`parakeet.model.transformer` is the same function for training; tests compare both with one oracle.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.generation.cache import (
    CACHE_DTYPES,
    Cache,
    CacheAttention,
    MarkAttention,
    MaskAttention,
    WrittenMaskAttention,
)
from parakeet.generation.kernels import KINDS, LayerWeights, Library, library
from parakeet.generation.matrices import (
    COMPILED_ROWS,
    Arena,
    CompiledMatrix,
    DenseMatrix,
    Int4Matrix,
    Int8Matrix,
    Matrix,
)
from parakeet.model.attention import alibi_slopes
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet

DTYPES = ("fp32", "bf16", "int8", "int4")
AUTO_CACHE = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "int4": "int8"}
"""The dtype of the cache by that of the weights. int8 costs up to 0.02 % in bits per byte."""
ATTENTION: dict[str, type[CacheAttention]] = {"cuda": MarkAttention, "mps": WrittenMaskAttention}
"""The form of attention by kind of device; MaskAttention on others."""
KEYS_PER_BUCKET = 256
"""CUDA graphs have fixed shapes, so on CUDA a step attends to a multiple of this many keys."""

EPSILON = 1e-5

MatrixMaker = Callable[[Tensor, Arena], Matrix]


def dense(weight: Tensor, arena: Arena, dtype: torch.dtype) -> Matrix:
    return DenseMatrix(arena.place(weight, dtype))


def matrix_maker(dtype: str, kernels: Library | None = None) -> MatrixMaker:
    """How a weight of the file becomes a matrix of `dtype`, one of DTYPES: for the kernels, or for torch without."""
    if kernels:
        return partial(CompiledMatrix.of, kernels, dtype)
    makers: dict[str, MatrixMaker] = {
        "fp32": lambda weight, arena: dense(weight, arena, torch.float32),
        "bf16": lambda weight, arena: dense(weight, arena, torch.bfloat16),
        "int8": Int8Matrix.quantised,
        "int4": Int4Matrix.quantised,
    }
    return makers[dtype]


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

    The residual stream and the norms are fp32; each matrix rounds its input as it needs.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Parakeet,
        dtype: str,
        device: str = "cpu",
        cache_dtype: str = "auto",
        compiled: bool = True,
        make: MatrixMaker | None = None,
        attention: type[CacheAttention] | None = None,
    ) -> None:
        """Copies the weights of `model` one tensor at a time. If they are mapped from a file (`load_model`), the file's
        pages are the only other copy.

        `cache_dtype` is one of CACHE_DTYPES; auto is AUTO_CACHE's. `compiled` uses the kernels of kernels.c on a CPU
        that has them. `make` replaces `matrix_maker(dtype)` and `attention` the device's form of attention, for
        measurements and tests."""
        self.config: ModelConfig = model.config
        self.dtype = dtype
        self.device = torch.device(device)
        plain = make is None and attention is None and self.device.type == "cpu"
        kernels = library() if compiled and plain else None
        self.compiled = kernels is not None
        """Whether the kernels of kernels.c are used."""
        self.cache_dtype = AUTO_CACHE[dtype] if cache_dtype == "auto" else cache_dtype
        if cache_dtype == "auto" and not kernels and self.cache_dtype == "int8":
            self.cache_dtype = "bf16"  # torch would convert all of it back at each step
        make = make or matrix_maker(dtype, kernels)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        # A row of int8 takes its width, filled up to 32, and 4 bytes: more than fp32 for a width below 9.
        arena = Arena(max(4, -(-36 // model.config.width)) * parameters + (1 << 20), self.device)
        weights = model.state_dict()
        self._layers: list[_Layer] = []
        for projection, users in groupby(range(model.config.layers), model.config.projection_of):
            self._layers += _layers_with(projection, list(users), weights, make, arena)
        self._head = make(model.embedding.weight, arena)
        # Rows for embedding lookup: the head's own if it is dense, else the file's, which reads only the rows used.
        self._rows = model.embedding.weight.detach()
        if self._head.dense is not None:
            self._rows = self._head.dense
        self._embedding_norm = arena.place(model.embedding_norm.weight), arena.place(model.embedding_norm.bias)
        self._final_norm = arena.place(model.final_norm.weight)
        form = attention or ATTENTION.get(self.device.type, MaskAttention)
        what = model.config, CACHE_DTYPES[self.cache_dtype], self.device
        self._attention = form(*what)
        self._compiled = _CompiledPass(kernels, self) if kernels else None
        matrices = [m for layer in self._layers for m in (layer.projections, layer.attention_output)]
        matrices += [m for layer in self._layers for m in (layer.mlp_input, layer.mlp_output)]
        self.bytes_per_token = sum(matrix.n_bytes for matrix in [*matrices, self._head])
        """Bytes of weights that a step reads. Shared projections count once for each layer that reads them."""

    def hold_embedding(self) -> None:
        """Copy the embedding into memory if it is still read from the model's file: 4 bytes a weight.

        A file that is overwritten or cut while it is mapped changes replies, or ends the process with SIGBUS.
        """
        if self._head.dense is None:
            self._rows = self._rows.clone()

    def new_cache(self, capacity: int, batch_size: int = 1) -> Cache:
        """An empty cache of `capacity` tokens a row, at most the model's context."""
        c = self.config
        shape = (c.layers, batch_size, c.heads, min(capacity, c.context), self._attention.width)
        return Cache(shape, CACHE_DTYPES[self.cache_dtype], self.device, self._attention.fixed_key)

    def prefill(self, ids: Sequence[int], cache: Cache, row: int = 0) -> Tensor:
        """Append ids to row `row` of the cache in one pass; logits (vocabulary rows,) fp32 after the last.

        They must fit into the rest of the cache: a prompt never overwrites itself.
        """
        return finish(self.prefill_in_parts(ids, cache, row))

    @torch.inference_mode()
    def prefill_in_parts(self, ids: Sequence[int], cache: Cache, row: int = 0) -> Generator[None, None, Tensor]:
        """The same, with three pauses a layer; the result is returned.

        Other rows may be appended to in a pause if `can_append`. The bits of the result are those without pauses.
        """
        hidden = yield from self.hidden_in_parts(ids, cache, row)
        return self.head(hidden[-1:])[0]

    @torch.inference_mode()
    def hidden_in_parts(self, ids: Sequence[int], cache: Cache, row: int = 0) -> Generator[None, None, Tensor]:
        """As `prefill_in_parts`, but returns the final hidden states (len(ids), width) fp32, for `head`."""
        past, end = cache.lengths[row], cache.lengths[row] + len(ids)
        self._attention.prepare(cache, [row], len(ids))
        attend = self._attention.prefill(cache, row, past, end)
        x = self._embed(torch.tensor(ids, device=self.device))  # (n, width)
        for number, layer in enumerate(self._layers):
            if number:
                yield
            # (n, heads, head width) to (1, heads, n, head width) each, and back
            query, key, value = (part.transpose(0, 1)[None] for part in self._project(layer, x))
            mixed = attend(number, query, key, value)[0].transpose(0, 1)
            yield
            hidden = self._hidden(layer, x, mixed)
            yield
            x += layer.mlp_output.product(hidden)
        cache.lengths[row] = end
        return self._normed(x, self._final_norm)

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, vocabulary rows) fp32 of final hidden states (n, width)."""
        return self._head.product(hidden).float()

    def logits(self, ids: Sequence[int], cache: Cache | None = None) -> Tensor:
        """Logits (len(ids), vocabulary rows) fp32 of every position of one text, or of ids that continue a cache."""
        return self.head(finish(self.hidden_in_parts(ids, cache or self.new_cache(len(ids)))))

    @property
    def can_append(self) -> bool:
        """Whether `append` takes several ids of one row, and is cheaper than a `step` for each."""
        return self._compiled is not None

    @torch.inference_mode()
    def append(self, ids: Sequence[int], rows: Sequence[int], cache: Cache) -> Tensor:
        """Append ids[i] to row rows[i] of the cache, in this order; logits (len(ids), vocabulary rows) fp32 after each.

        With `can_append` there may be several ids of one row, if they fit into the rest of the cache. The result is
        the bits that one `step` after the other gives, since the kernels compute each row apart from others. One id
        alone may pass the end of the cache, and sees the latest tokens.
        """
        if self._compiled is None:
            return self._step_some(ids, rows, cache)
        if len(ids) > COMPILED_ROWS:
            pieces = [slice(begin, begin + COMPILED_ROWS) for begin in range(0, len(ids), COMPILED_ROWS)]
            return torch.cat([self.append(ids[piece], rows[piece], cache) for piece in pieces])
        positions = []
        for row in rows:
            positions.append(cache.lengths[row])
            cache.lengths[row] += 1
        return self._compiled(self._embed(torch.tensor(ids)), cache, torch.tensor(rows), torch.tensor(positions))

    @torch.inference_mode()
    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """Append one id to every row of the cache; logits (batch, vocabulary rows) fp32 after them.

        A row that is longer than the cache's capacity sees the latest `capacity` tokens.
        """
        if self._compiled is not None and len(ids) <= COMPILED_ROWS:
            return self.append(ids, range(len(ids)), cache)
        found = self._step_all(ids, cache.lengths, range(len(ids)), cache)
        cache.lengths = [length + 1 for length in cache.lengths]
        return found

    def _step_some(self, ids: Sequence[int], rows: Sequence[int], cache: Cache) -> Tensor:
        """One step of some rows where a step is of all: the others compute what nobody reads, in the slot after their
        last, or in a full row in the last, which no later prompt reuses."""
        assert len(set(rows)) == len(rows)
        of_row = dict(zip(rows, ids, strict=True))
        idle = [min(length, cache.capacity - 1) for length in cache.lengths]
        positions = [length if row in of_row else idle[row] for row, length in enumerate(cache.lengths)]
        found = self._step_all([of_row.get(row, 0) for row in range(len(positions))], positions, rows, cache)
        for row in rows:
            cache.lengths[row] += 1
        return found[list(rows)]

    def _step_all(self, ids: Sequence[int], positions: Sequence[int], rows: Sequence[int], cache: Cache) -> Tensor:
        """One id at a position of every row; `rows` are those that go on afterwards."""
        visible = min(cache.capacity, max(positions) + 1)
        self._attention.prepare(cache, rows, 1)
        if cache.graphs is None:
            newest, where = torch.tensor([list(ids), list(positions)], device=self.device).unbind(0)
            return self._step(newest, where, cache, visible)
        keys = min(cache.capacity, -(-visible // KEYS_PER_BUCKET) * KEYS_PER_BUCKET)
        return cache.graphs.run(lambda a, b: self._step(a, b, cache, keys), ids, positions, keys)

    def _step(self, ids: Tensor, positions: Tensor, cache: Cache, visible: int) -> Tensor:
        """ids, positions (batch,) int64. Shapes are fixed and nothing branches on values, as CUDA graphs need."""
        attend = self._attention.step(cache, positions, visible)
        x = self._embed(ids)  # (batch, width)
        for number, layer in enumerate(self._layers):
            query, key, value = self._project(layer, x)  # (batch, heads, head width) each
            x += layer.mlp_output.product(self._hidden(layer, x, attend(number, query, key, value)))
        return self._head.product(self._normed(x, self._final_norm)).float()

    def _embed(self, ids: Tensor) -> Tensor:
        weight, bias = self._embedding_norm
        rows = self._rows[ids.to(self._rows.device)].to(self.device, torch.float32)
        return F.layer_norm(rows, (self.config.width,), weight, bias, EPSILON)

    def _project(self, layer: _Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (n, width), each (n, heads, head width)."""
        joint = layer.projections.product(self._normed(x, layer.attention_norm))
        first, second, third = joint.view(x.shape[0], 3, self.config.heads, self.config.head_width).unbind(1)
        return (third, first, second) if layer.keys_first else (first, second, third)

    def _hidden(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention's output, (n, heads, head width) before its projection, to x (n, width) in place; the
        hidden numbers of the MLP (n, 4 · width)."""
        x += layer.attention_output.product(mixed.reshape(x.shape))
        return F.gelu(layer.mlp_input.product(self._normed(x, layer.mlp_norm)))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(x, (self.config.width,), weight, None, EPSILON)


def finish(parts: Generator[None, None, Tensor]) -> Tensor:
    """The result of a computation in parts, without a pause."""
    while True:
        try:
            next(parts)
        except StopIteration as stopped:
            return stopped.value


class _CompiledPass:
    """A step of a few rows as one call of kernels.c. torch's own calls take 3 ms a token of 18 layers."""

    def __init__(self, kernels: Library, decoder: Decoder) -> None:
        self._kernels = kernels
        self._layers = (LayerWeights * decoder.config.layers)(*map(_described, decoder._layers))
        assert isinstance(decoder._head, CompiledMatrix)
        self._head = decoder._head.described()
        self._final_norm = decoder._final_norm
        self._cache_kind = KINDS[decoder.cache_dtype]
        self._slopes = alibi_slopes(decoder.config.heads)
        self._softmax_one = decoder.config.softmax_one

    def __call__(self, x: Tensor, cache: Cache, rows: Tensor, positions: Tensor) -> Tensor:
        """Logits (n, vocabulary rows) after embedded ids x (n, width): see `Library.forward`."""
        stored = cache.keys, cache.values, cache.scales
        what = self._layers, self._final_norm, self._head, self._cache_kind
        return self._kernels.forward(*what, *stored, self._softmax_one, rows, positions, self._slopes, x)


def _described(layer: _Layer) -> LayerWeights:
    described = []
    for matrix in (layer.projections, layer.attention_output, layer.mlp_input, layer.mlp_output):
        assert isinstance(matrix, CompiledMatrix)
        described.append(matrix.described())
    return LayerWeights(layer.attention_norm.data_ptr(), layer.mlp_norm.data_ptr(), *described, layer.keys_first)


def _layers_with(
    projection: int, layers: Sequence[int], weights: Mapping[str, Tensor], make: MatrixMaker, arena: Arena
) -> list[_Layer]:
    """The two layers that share a key/value projection, or the only one that has it.

    The projections of two are one matrix (4 · width, width) of queries, keys, values, queries. The first layer uses the
    first three quarters, the second the last three: one product for each, and no weight is stored twice.
    """
    first, *second = (weights[f"blocks.{layer}.query.weight"] for layer in layers)
    matrix = make(torch.cat([first, weights[f"key_values.{projection}.weight"], *second]), arena)
    d = first.shape[1]

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
