"""Every backend against plain softmax attention in float64, forward and backward, and against leaks."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

from parakeet.errors import ParakeetError
from parakeet.model.attention import FlexMask, alibi_slopes, attend, compiled, prepare_mask
from parakeet.model.execution import AttentionBackend

HEADS = 18
TOLERANCES = {torch.float32: (1e-4, 1e-4), torch.bfloat16: (3e-3, 6e-3)}
"""Norm of the error over the norm of the right result: forward, gradients."""


def some_documents(length: int, count: int, seed: int, padding: int = 0) -> Tensor:
    """(1, length): `count` documents of random lengths, and an unused end."""
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.randperm(length - padding - 1, generator=generator)[: count - 1] + 1
    starts = torch.zeros(length, dtype=torch.int64)
    starts[cuts] = 1
    documents = starts.cumsum(0)
    documents[length - padding :] = -1
    return documents[None]


def some_tensors(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(4)]


def attention_in_float64(
    queries: Tensor, keys: Tensor, values: Tensor, slopes: Tensor, documents: Tensor, slope: Tensor, softmax_one: bool
) -> list:
    """Attention and its gradients in float64, 256 queries at a time, straight from the formula."""
    queries, keys, values = (x.double().requires_grad_() for x in (queries, keys, values))
    length = queries.shape[2]
    place = torch.arange(length)
    pieces = []
    for begin in range(0, length, 256):
        rows, seen = slice(begin, begin + 256), slice(0, begin + 256)
        distance = (place[None, seen] - place[rows, None]).double()
        scores = queries[:, :, rows] @ keys[:, :, seen].transpose(-1, -2) / math.sqrt(queries.shape[-1])
        scores = scores + slopes.double()[:, None, None] * distance
        hidden = (distance > 0) | (documents[0, rows, None] != documents[0, None, seen])
        weight = scores.masked_fill(hidden, float("-inf")).exp()
        piece = weight / (weight.sum(-1, keepdim=True) + softmax_one) @ values[:, :, seen]
        piece.backward(slope[:, :, rows].double())
        pieces.append(piece.detach())
    return [torch.cat(pieces, dim=2), queries.grad, keys.grad, values.grad]


def computed(
    backend: AttentionBackend, tensors: list[Tensor], slopes: Tensor, documents: Tensor, softmax_one: bool = False
) -> list[Tensor]:
    queries, keys, values = (x.clone().requires_grad_() for x in tensors[:3])
    shape = queries.shape[-1], queries.dtype
    mask = prepare_mask(backend, slopes.to(queries.device), documents, *shape, softmax_one=softmax_one)
    mixed = attend(queries, keys, values, mask)
    mixed.backward(tensors[3])
    return [mixed.detach(), queries.grad, keys.grad, values.grad]


def error(found: Tensor, right: Tensor) -> float:
    return float((found.double().cpu() - right).norm() / right.norm())


@cache
def task(length: int, count: int, softmax_one: bool) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Slopes, documents, tensors that are exact in bf16, and the right results for them."""
    # The steepest and the flattest slope of the model, one head each; or all of them.
    slopes = alibi_slopes(HEADS) if softmax_one else alibi_slopes(HEADS)[[0, 17]]
    documents = some_documents(length, count, seed=count, padding=length // 50)
    tensors = some_tensors((1, len(slopes), length, 64), torch.bfloat16)
    right = attention_in_float64(*tensors[:3], slopes, documents, tensors[3], softmax_one)
    return slopes, documents, tensors, right


def check(
    backend: AttentionBackend,
    length: int,
    count: int,
    dtype: torch.dtype,
    device: str = "cpu",
    softmax_one: bool = False,
) -> None:
    slopes, documents, tensors, right = task(length, count, softmax_one)
    found = computed(backend, [x.to(device, dtype) for x in tensors], slopes, documents.to(device), softmax_one)
    forward, gradients = TOLERANCES[dtype]
    errors = [error(a, b) for a, b in zip(found, right, strict=True)]
    assert errors[0] < forward
    assert max(errors[1:]) < gradients


LENGTHS = [(2, 1), (64, 3), (513, 1), (1024, 100), (2048, 2), (8192, 1), (8192, 900)]


@pytest.mark.parametrize(("length", "count"), LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["fused", "tiled"])
def test_fused_and_tiled_are_attention_in_values_and_gradients(
    backend: AttentionBackend, length: int, count: int, dtype: torch.dtype
) -> None:
    check(backend, length, count, dtype)


@pytest.mark.parametrize(("length", "count"), LENGTHS[:4])
def test_reference_is_attention_in_values_and_gradients(length: int, count: int) -> None:
    check("reference", length, count, torch.float32)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2, 1), (64, 3), (1300, 60)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["fused", "tiled"])
def test_softmax_one_is_its_formula_in_values_and_gradients(
    backend: AttentionBackend, length: int, count: int, dtype: torch.dtype
) -> None:
    """For all 18 slopes."""
    check(backend, length, count, dtype, softmax_one=True)
    if length < 100 and dtype == torch.float32:
        check("reference", length, count, dtype, softmax_one=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has no backward pass on a CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["fused", "flex"])
@pytest.mark.parametrize("softmax_one", [False, True])
@pytest.mark.parametrize(("length", "count"), LENGTHS[2:])
def test_cuda_backends_are_attention(
    backend: AttentionBackend, length: int, count: int, dtype: torch.dtype, softmax_one: bool
) -> None:
    check(backend, length, count, dtype, "cuda", softmax_one)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["fused", "tiled"]), st.integers(1, 200), st.integers(1, 3), st.integers(1, 6),
    st.sampled_from([4, 8, 16, 24, 64, 72]), st.booleans(), st.booleans(), st.integers(0, 1 << 30),
)  # fmt: skip
def test_any_shape_agrees(
    backend: AttentionBackend,
    length: int,
    batch: int,
    heads: int,
    head_width: int,
    scattered: bool,
    softmax_one: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Runs of about nine tokens, then −1; or documents whose tokens lie anywhere.
    starts = torch.rand(batch, length, generator=generator) < 1 / 9
    documents = starts.cumsum(1) if not scattered else torch.randint(0, 4, (batch, length), generator=generator)
    documents[:, length - seed % 7 :] = -1
    tensors = some_tensors((batch, heads, length, head_width), torch.float32, seed=length)
    right = computed("reference", [x.double() for x in tensors], alibi_slopes(heads), documents, softmax_one)
    found = computed(backend, tensors, alibi_slopes(heads), documents, softmax_one)
    # A gradient may be zero (every document has one token), so errors are relative to the largest norm.
    largest = max(float(x.norm()) for x in right)
    # Processors sum the terms of a product in different orders: 1.7e-4 at a width of 24 on an AMD EPYC (Zen 5).
    assert all(float((a.double() - b).norm()) < 3e-4 * largest for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(backend, dtype) for backend in ("reference", "fused", "tiled") for dtype in (torch.float32, torch.bfloat16)],
)
@pytest.mark.parametrize(
    ("length", "count", "softmax_one"), [(600, 7, False), (2048, 900, False), (600, 7, True)]
)  # fmt: skip
def test_nothing_leaks_between_documents(
    backend: AttentionBackend, length: int, count: int, softmax_one: bool, dtype: torch.dtype
) -> None:
    slopes = alibi_slopes(HEADS)[[0, 17]]
    documents = some_documents(length, count, seed=2, padding=20)
    chosen = documents[0] == count // 2
    tensors = some_tensors((1, 2, length, 64), dtype)
    before = computed(backend, tensors, slopes, documents, softmax_one)
    # Give the other documents keys that would win by far if they were visible.
    larger = [torch.where(chosen[:, None], x, 8 * x) for x in tensors]
    after = computed(backend, larger, slopes, documents, softmax_one)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, :, chosen], b[:, :, chosen])
    only = [*tensors[:3], torch.where(chosen[:, None], tensors[3], torch.zeros((), dtype=dtype))]
    for gradient in computed(backend, only, slopes, documents, softmax_one)[1:]:
        assert not gradient[:, :, ~chosen].any()


def test_a_sequence_of_more_documents_than_the_short_code_has_words() -> None:
    documents = torch.arange(4096)[None]
    tensors = some_tensors((1, 2, 4096, 16), torch.float32)
    mixed, queries, keys, _ = computed("fused", tensors, alibi_slopes(2), documents)
    assert torch.allclose(mixed, tensors[2], atol=1e-5)
    assert queries.abs().max() < 1e-3
    assert keys.abs().max() < 1e-3


def test_sequences_of_131072_tokens_keep_their_places_in_bf16() -> None:
    """The last position's neighbours. Plain bf16 positions could not tell them apart beyond 256."""
    length = 131_072
    slopes = alibi_slopes(HEADS)[[0]]
    documents = torch.zeros(1, length, dtype=torch.int64)
    mask = prepare_mask("fused", slopes, documents, 64, torch.bfloat16)
    logits = (mask.alibi_queries[0, 0, -1].double() @ mask.alibi_keys[0, 0, -200:].double().T) / 8
    slope = float(slopes[0])
    expected = slope * (torch.arange(-199, 1).double())
    assert (logits - logits[-1] - expected).abs().max() < 0.02 * slope * 199


def test_masks_of_tiles_take_memory_linear_in_the_length() -> None:
    def elements(length: int) -> int:
        # Long documents beside short ones: the worst case is a long one that ends in the middle of a tile.
        documents = some_documents(length, max(2, length // 500), seed=3, padding=9)
        tiles = prepare_mask("tiled", alibi_slopes(2), documents, 64, torch.float32).tiles
        return sum(
            storage.nbytes()
            for storage in {s.data_ptr(): s for s in (t.bias.untyped_storage() for t in tiles)}.values()
        )

    assert elements(8192) < 5 * elements(2048)


def kept_bytes(length: int, backend: AttentionBackend) -> int:
    """Bytes that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tensors = some_tensors((1, 2, length, 64), torch.float32)
    documents = torch.zeros(1, length, dtype=torch.int64)
    mask = prepare_mask(backend, alibi_slopes(2), documents, 64, torch.float32)
    queries, keys, values = (x.requires_grad_() for x in tensors[:3])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept_alive = attend(queries, keys, values, mask)
    del kept_alive
    return sum(kept.values())


def test_memory_of_fused_and_tiled_grows_with_the_length_and_no_faster() -> None:
    assert kept_bytes(4096, "fused") <= 4.1 * kept_bytes(1024, "fused")
    assert kept_bytes(4096, "tiled") <= 4.1 * kept_bytes(1024, "tiled")
    assert kept_bytes(4096, "reference") > 8 * kept_bytes(1024, "reference")


def test_flex_does_not_break_the_graph_of_a_checkpointed_block() -> None:
    """Setting an option of Dynamo there would break it, and torch 2.11 would then compile nothing else of the block."""
    slopes = alibi_slopes(2)

    def causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    def alibi(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + slopes[h] * (j - i)

    def block(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attend(queries, keys, values, mask)

    def checkpointed(queries: Tensor, keys: Tensor, values: Tensor) -> Any:
        return checkpoint(block, queries, keys, values, use_reentrant=False)

    blocks = create_block_mask(causal, 1, None, 128, 128, device="cpu")
    queries, keys, values, _ = some_tensors((1, 2, 128, 16), torch.float32)
    for softmax_one in (False, True):
        wanted = AuxRequest(lse=True) if softmax_one else None
        mask = FlexMask(blocks, alibi, compiled(flex_attention), wanted)
        with torch._dynamo.config.patch(recompile_limit=8):
            found = torch.compile(checkpointed, backend="eager", fullgraph=True)(queries, keys, values)
            assert torch._dynamo.config.recompile_limit == 8
        documents = torch.zeros(1, 128, dtype=torch.int64)
        reference = prepare_mask("reference", slopes, documents, 16, torch.float32, softmax_one=softmax_one)
        assert torch.allclose(found, attend(queries, keys, values, reference), atol=1e-5)


def test_flex_on_a_cpu_is_refused_with_what_to_do() -> None:
    with pytest.raises(ParakeetError, match="needs a CUDA device; use auto, fused or reference"):
        prepare_mask("flex", alibi_slopes(2), torch.zeros(1, 8, dtype=torch.int64), 64, torch.float32)
