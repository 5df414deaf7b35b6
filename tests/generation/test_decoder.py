"""The decoder against the training model's plain forward pass, and against itself without its cache."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from parakeet.errors import ParakeetError
from parakeet.generation.cache import Cache, CacheAttention, MarkAttention, MaskAttention, WrittenMaskAttention
from parakeet.generation.decoder import DTYPES, Decoder, matrix_maker
from parakeet.generation.kernels import Library, library
from parakeet.generation.matrices import Arena
from parakeet.generation.sampling import Sampler, choose_all
from parakeet.model.attention import ReferenceMask, alibi_slopes
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.sampling_settings import SamplingSettings

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CONFIG = ModelConfig(layers=3, heads=3, width=192, context=96, vocabulary_rows=320)
# On a CPU, the form of attention that CUDA uses computes the same.
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])]
FORMS = pytest.mark.parametrize("form", [MaskAttention, MarkAttention])
DIVISORS = pytest.mark.parametrize("softmax_one", [False, True], ids=["plain", "softmax_one"])


def random_model(config: ModelConfig = CONFIG, size: float = 2.0) -> Parakeet:
    """With `size` 2, logits differ by several units, so greedy choices are far from ties."""
    model = Parakeet(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                scale = 1.0 if name == "embedding.weight" else size
                parameter.normal_(0.0, scale / parameter.shape[1] ** 0.5, generator=generator)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.1, generator=generator))
    return model.eval()


def random_ids(count: int, seed: int = 2) -> list[int]:
    return torch.randint(0, CONFIG.vocabulary_rows, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def recomputed(model: Parakeet, ids: list[int], band: int | None = None) -> Tensor:
    """Logits (rows,) of the last position with no cache: each key at most `band` − 1 tokens back is seen."""
    from torch.nn import functional as F

    tokens = torch.tensor([ids])
    if band is None:
        return model.logits(model(tokens, torch.zeros_like(tokens)))[0, -1]
    position = torch.arange(len(ids))
    distance = position[None, :] - position[:, None]
    bias = (model.slopes[:, None, None] * distance).masked_fill((distance > 0) | (distance <= -band), float("-inf"))
    x = F.layer_norm(model.embedding(tokens), (CONFIG.width,), model.embedding_norm.weight, model.embedding_norm.bias)
    for layer, block in enumerate(model.blocks):
        mask = ReferenceMask(bias[None], model.config.softmax_one)
        x = block(x, model.key_values[layer // 2].weight, mask, x.dtype, False)
    return model.logits(model.final_norm(x))[0, -1]


def greedy_with_cache(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    cache = decoder.new_cache(decoder.config.context)
    chosen = [int(decoder.prefill(prompt, cache).argmax())]
    while len(chosen) < count:
        chosen.append(int(decoder.step(chosen[-1:], cache)[0].argmax()))
    return chosen


@FORMS
def test_logits_with_the_cache_are_those_of_the_whole_prefix(form: type[CacheAttention]) -> None:
    model, ids = random_model(), random_ids(60)
    decoder = Decoder(model, "fp32", attention=form)
    cache = decoder.new_cache(96)
    pieces = [decoder.prefill(ids[:20], cache), decoder.prefill(ids[20:50], cache)]
    pieces += [decoder.step(ids[i : i + 1], cache)[0] for i in range(50, 60)]
    for piece, length in zip(pieces, [20, *range(50, 61)], strict=True):
        torch.testing.assert_close(piece, recomputed(model, ids[:length]), rtol=1e-4, atol=1e-4)
    every = decoder.logits(ids)
    torch.testing.assert_close(every[-1], pieces[-1], rtol=1e-4, atol=1e-4)


def test_greedy_decoding_with_the_cache_equals_recomputing_token_for_token() -> None:
    config = ModelConfig(layers=4, heads=3, width=96, context=600, vocabulary_rows=320)
    model, prompt = random_model(config), random_ids(16)
    chosen = greedy_with_cache(Decoder(model, "fp32"), prompt, 512)
    ids = torch.tensor([prompt + chosen])
    with torch.no_grad():
        # One pass over the whole gives the logits of every prefix: attention is causal.
        best = model.logits(model(ids, torch.zeros_like(ids)))[0].argmax(-1).tolist()
    assert chosen == best[len(prompt) - 1 : -1]
    for length in (1, 100, 511):
        assert chosen[length] == int(recomputed(model, prompt + chosen[:length]).argmax())
    assert len(set(chosen)) > 4


@FORMS
@pytest.mark.parametrize("prompt_length", [1, 50, 96])
def test_past_the_context_it_equals_recomputing_under_a_band_as_wide_as_the_context(
    prompt_length: int, form: type[CacheAttention]
) -> None:
    model, prompt = random_model(), random_ids(prompt_length)
    chosen = greedy_with_cache(Decoder(model, "fp32", attention=form), prompt, 220)
    for length in range(0, 220, 3):
        expected = recomputed(model, prompt + chosen[:length], band=CONFIG.context)
        assert chosen[length] == int(expected.argmax()), length


@FORMS
@DIVISORS
def test_a_batch_of_four_equals_four_singles(form: type[CacheAttention], softmax_one: bool) -> None:
    model = random_model(replace(CONFIG, softmax_one=softmax_one))
    decoder = Decoder(model, "fp32", attention=form)
    prompts = [random_ids(length, seed=length) for length in (3, 40, 17, 90)]
    cache = decoder.new_cache(96, 4)
    last = [int(decoder.prefill(prompt, cache, row).argmax()) for row, prompt in enumerate(prompts)]
    rows = [[token] for token in last]
    for _ in range(120):
        last = decoder.step(last, cache).argmax(-1).tolist()
        for row, token in zip(rows, last, strict=True):
            row.append(token)
    assert rows == [greedy_with_cache(decoder, prompt, 121) for prompt in prompts]


@FORMS
@DIVISORS
def test_a_shorter_length_forgets_what_came_after(form: type[CacheAttention], softmax_one: bool) -> None:
    """Also after the ring has begun again, and with a step instead of a prefill next."""
    model, ids = random_model(replace(CONFIG, softmax_one=softmax_one)), random_ids(300)
    decoder = Decoder(model, "fp32", attention=form)
    cache = decoder.new_cache(96)
    for filled, kept in ((90, 40), (96, 95), (250, 0), (96, 0)):
        cache.lengths = [0]
        decoder.prefill(ids[: min(filled, 96)], cache)
        for token in ids[96:filled]:
            decoder.step([token], cache)
        cache.lengths = [kept]
        for end in range(kept + 1, kept + 4):
            found = decoder.step(ids[end - 1 : end], cache)[0]
            torch.testing.assert_close(found, recomputed(model, ids[:end], band=96), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("past", [0, 60, 5000, 8100])
@pytest.mark.parametrize("slope", [0, 4, 17])
@DIVISORS
def test_far_probabilities_are_as_exact_as_bf16(past: int, slope: int, softmax_one: bool, device: str) -> None:
    """With 18 heads of width 64, for the steepest slope and flatter ones. The values of the last tokens are unit
    vectors, so the output is their probabilities."""
    config = ModelConfig(1, 18, 18 * 64, context=8192, vocabulary_rows=8, softmax_one=softmax_one)
    attention = MarkAttention(config, torch.bfloat16, torch.device(device))
    generator = torch.Generator().manual_seed(past)
    query, key = torch.randn(2, 1, 18, 64, 64, generator=generator).bfloat16()
    value = torch.eye(64).bfloat16().expand(1, 18, 64, 64)
    cache = Cache((1, 1, 18, 8192, attention.width), torch.bfloat16, torch.device(device), attention.fixed_key)
    cache.lengths = [past]
    attention.prepare(cache, [0], 64)
    attend = attention.prefill(cache, 0, past, past + 64)
    found = attend(0, query.to(device), key.to(device), value.to(device))[0, slope, -1].double().cpu()
    # The keys before these are 0, so ALiBi alone counts.
    scores = torch.zeros(past + 64, dtype=torch.float64)
    scores[past:] = key[0, slope].double() @ query[0, slope, -1].double() / math.sqrt(64)
    scores += alibi_slopes(18)[slope].double() * torch.arange(-past - 63, 1)
    expected = scores[past:].exp() / (scores.exp().sum() + softmax_one)
    errors = (found / expected - 1).abs()[expected > 1e-25]
    # Each probability and the output are rounded to 8 bits. A bias rounded to bf16 was off by 6 %.
    assert errors.max() < 2**-8 + 2**-9 + 1e-3
    if slope == 0:
        assert expected.min() < 1e-15


@pytest.mark.parametrize(
    ("form", "softmax_one"), [(MaskAttention, False), (MarkAttention, False), (MarkAttention, True)]
)
def test_a_step_is_one_graph_that_branches_on_no_value(form: type[CacheAttention], softmax_one: bool) -> None:
    """CUDA graphs need that, and no step waits for the device. `fullgraph` refuses anything else."""
    config = ModelConfig(1, 3, 192, context=96, vocabulary_rows=320, softmax_one=softmax_one)
    decoder = Decoder(random_model(config), "bf16", compiled=False, attention=form)
    cache, counter = decoder.new_cache(96), CompileCounter()
    decoder.prefill(random_ids(20), cache)
    step = torch.compile(decoder._step, fullgraph=True, dynamic=True, backend=counter)
    with torch.inference_mode():
        for position in (20, 21, 40):
            step(torch.tensor([1]), torch.tensor([position]), cache, 96)
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("form", [MarkAttention, WrittenMaskAttention])
@DIVISORS
def test_all_of_a_pass_is_on_the_models_device(form: type[CacheAttention], dtype: str, softmax_one: bool) -> None:
    """A tensor left on the CPU would be an error on a GPU. The meta device computes shapes only, and refuses it too."""
    model = random_model(replace(CONFIG, softmax_one=softmax_one))
    decoder = Decoder(model, dtype, "meta", attention=form)
    cache = decoder.new_cache(96, 2)
    assert decoder.prefill([1, 2, 3], cache).device.type == "meta"
    assert decoder.prefill([4], cache).shape == (320,)
    cache.lengths = [96, 250]
    assert decoder.step([1, 2], cache).shape == (2, 320)


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 1e-5), ("bf16", 0.01), ("int8", 0.02), ("int4", 0.2)])
@pytest.mark.parametrize("form", [None, MaskAttention, WrittenMaskAttention, MarkAttention])
def test_each_precision_is_near_the_model(dtype: str, error: float, form: type[CacheAttention] | None) -> None:
    """By the compiled kernels, where there are any, and by torch's."""
    model, ids = random_model(size=0.5), random_ids(64)
    decoder = Decoder(model, dtype, compiled=form is None, attention=form)
    cache = decoder.new_cache(64)
    decoder.prefill(ids[:63], cache)
    expected = recomputed(model, ids)
    for found in (decoder.logits(ids)[-1], decoder.step(ids[63:], cache)[0]):
        assert float((found - expected).norm() / expected.norm()) < error


def test_precisions_read_fewer_bytes() -> None:
    model = random_model()
    sizes = [Decoder(model, dtype, compiled=False).bytes_per_token for dtype in DTYPES]
    assert sizes == sorted(sizes, reverse=True)
    d, weights = CONFIG.width, 4
    matrices = 3 * 12 * d * d + CONFIG.vocabulary_rows * d
    assert sizes[0] == weights * matrices


@pytest.mark.parametrize("width", [24, 48, 80])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_widths_that_torchs_kernels_cannot_read_are_refused(dtype: str, width: int) -> None:
    config = ModelConfig(layers=1, heads=2, width=width, context=32, vocabulary_rows=320)
    with pytest.raises(ParakeetError, match="use bf16 instead"):
        Decoder(random_model(config), dtype, compiled=False)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 23, 24, 40, 191, 192, 300])
@pytest.mark.parametrize("kernels", [library(), None], ids=["compiled", "torch"])
def test_any_number_of_rows_gives_the_same_product(dtype: str, count: int, kernels: Library | None) -> None:
    """Few rows use the quantised kernel, many use weights converted to bf16 or fp32."""
    generator = torch.Generator().manual_seed(3)
    weight, x = (torch.randn(rows, 128, generator=generator) for rows in (192, count))
    matrix = matrix_maker(dtype, kernels)(weight, Arena(1 << 20, torch.device("cpu")))
    one_by_one = torch.cat([matrix.product(row[None].bfloat16()) for row in x])
    for found, rows in ((matrix, slice(None)), (matrix.part(64, 192), slice(64, 192))):
        expected = one_by_one[:, rows].float()
        # A kernel that rounds x to int8 differs from one that does not.
        assert float((found.product(x.bfloat16()).float() - expected).norm() / expected.norm()) < 0.015
    error = (one_by_one.float() - x @ weight.T).norm() / (x @ weight.T).norm()
    assert error < (0.02 if dtype == "int8" else 0.12)


@pytest.mark.gpu
@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize(("dtype", "error"), [("fp32", 1e-3), ("bf16", 0.05)])
def test_cuda_graphs_say_what_the_cpu_says(dtype: str, error: float, device: int) -> None:
    """Caches of different sizes, one after the other: a graph must not outlive the memory that it uses. The second
    device is not the current one, whose stream a capture would use."""
    if torch.cuda.device_count() <= device:
        pytest.skip(f"needs the CUDA device {device}")
    model = random_model(size=0.5)
    expected, found = Decoder(model, "fp32"), Decoder(model, dtype, f"cuda:{device}")
    for capacity, length in ((96, 50), (64, 60), (96, 20)):
        ids = random_ids(length + 60)
        caches = [decoder.new_cache(capacity) for decoder in (expected, found)]
        pairs = [[d.prefill(ids[:length], c).cpu() for d, c in zip((expected, found), caches, strict=True)]]
        for token in ids[length:]:
            pairs.append([d.step([token], c)[0].cpu() for d, c in zip((expected, found), caches, strict=True)])
        for ours, theirs in pairs:
            assert float((ours - theirs).norm() / ours.norm()) < error


@pytest.mark.gpu
@NEEDS_CUDA
def test_only_the_draw_waits_for_the_device() -> None:
    decoder = Decoder(random_model(), "bf16", "cuda")
    cache = decoder.new_cache(96)
    decoder.prefill(random_ids(20), cache)
    samplers = [Sampler(SamplingSettings(seed=1), torch.ones(320, dtype=torch.bool))]
    for _ in range(3):
        token = choose_all(samplers, list(decoder.step([1], cache)))[0]
    torch.cuda.set_sync_debug_mode("error")
    try:
        logits = decoder.step([token], cache)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert logits.isfinite().all()
