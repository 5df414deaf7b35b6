"""`parakeet bench generate` as a process, for a model smaller than what it measures at by default."""

import time
from pathlib import Path

import pytest
import torch

from parakeet.benchmarks.decoding import (
    PREFILL_SECONDS,
    STEPS,
    affordable_prefill,
    capacity_of,
    contexts_of,
    filled_cache,
    prefill_of,
)
from parakeet.benchmarks.processor import this_processor
from parakeet.benchmarks.timing import rounds_within
from parakeet.generation.cache import CACHE_DTYPES
from parakeet.generation.decoder import Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet

from .tiny import run_benchmark, tiny_recipe


@pytest.mark.parametrize(
    ("context", "contexts", "prefill"),
    [(16, (13,), 16), (40, (16,), 40), (512, (16,), 512), (1024, (16, 512), 512), (8192, (16, 512, 2048), 512)],
)
def test_what_is_measured_fits_the_context(context: int, contexts: tuple[int, ...], prefill: int) -> None:
    config = ModelConfig(layers=1, heads=1, width=8, context=context, vocabulary_rows=64)
    assert (contexts_of(config), prefill_of(config)) == (contexts, prefill)
    assert max(contexts) + STEPS <= capacity_of(config) <= context


@pytest.mark.parametrize(
    ("tokens", "seconds", "most", "expected"),
    [(64, 0.01, 512, 512), (64, PREFILL_SECONDS / 2, 512, 128), (64, 1000.0, 512, 64), (40, 1000.0, 40, 40)],
)
def test_a_slow_prefill_gets_fewer_tokens(tokens: int, seconds: float, most: int, expected: int) -> None:
    assert affordable_prefill(tokens, seconds, most) == expected


@pytest.mark.parametrize(
    ("rounds", "passed", "taken"), [(9, 0.0, 9), (9, 120.0, 2), (9, 200.0, 1), (1, 200.0, 1), (2, 120.0, 2)]
)
def test_rounds_end_when_the_time_is_used_up(rounds: int, passed: float, taken: int) -> None:
    assert len(list(rounds_within(rounds, 100.0, time.perf_counter() - passed))) == taken


def test_every_slot_of_a_cache_is_written_before_it_is_timed() -> None:
    model = Parakeet(ModelConfig(layers=2, heads=2, width=32, context=40, vocabulary_rows=64))
    model.initialise(torch.Generator().manual_seed(1))
    decoder = Decoder(model, "bf16")
    for dtype in ("", *CACHE_DTYPES):
        cache = filled_cache(decoder, 24, dtype)
        assert cache.keys.dtype == CACHE_DTYPES[dtype or decoder.cache_dtype]
        assert cache.keys.shape == decoder.new_cache(24).keys.shape
        assert bool(cache.keys.all())
        assert bool(cache.values.all())
        assert bool(decoder.step([1], cache).isfinite().all())


CPU_INFO = {
    "x86": ("model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 amx_tile avx512f avx512_vnni\n\nmodel name\t: Other\n",
            "Some CPU @ 2 GHz (avx2 avx512f avx512_vnni amx_tile)"),
    "arm": ("processor\t: 0\nmodel name\t: Neoverse\nFeatures\t: fp asimd asimddp i8mm\n", "Neoverse (asimddp i8mm)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CPU_INFO)
def test_a_processor_is_named_with_the_flags_that_matter(tmp_path: Path, kind: str) -> None:
    text, expected = CPU_INFO[kind]
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert str(this_processor(tmp_path / "cpuinfo")) == expected


def test_a_processor_that_the_system_does_not_describe_is_named_somehow(tmp_path: Path) -> None:
    assert this_processor(tmp_path / "none").name
    assert str(this_processor(tmp_path / "none")).endswith(" (no flags known)")


@pytest.mark.slow
def test_every_precision_that_fits_the_model_is_measured(tmp_path: Path) -> None:
    """Without a compiler, the width is one that int8 and int4 do not support. A source of the active recipe is gone."""
    recipe = tiny_recipe(
        tmp_path,
        sources=[{"name": "text", "path": str(tmp_path / "gone.txt")}],
        model={"layers": 2, "heads": 2, "width": 48, "context": 40},
    )
    # As the home's recipe.yaml it is the active recipe, too.
    options = ("--threads", "1", "--rounds", "1", "--recipe", str(recipe))
    lines, result = run_benchmark(
        tmp_path, "torch", "parakeet.cli", "bench", "generate", *options, PARAKEET_HOME=str(tmp_path), CC="missing"
    )
    assert {"benchmark", "recipe", "parameters", "threads", "torch", "machine"} <= result.keys()
    assert (result["recipe"], result["rounds"], result["threads"]) == ("tiny", 1, 1)
    assert result["cpu"]["variants"].keys() == {"stock bf16", "fp32", "bf16"}
    for speeds in result["cpu"]["variants"].values():
        assert speeds["decode_seconds"].keys() == {"16"}
        assert speeds["prefill_tokens"] == 40
        for middle, low, high in (*speeds["decode_seconds"].values(), speeds["prefill_seconds"]):
            assert 0 < low <= middle <= high
    text = "\n".join(lines)
    for heading in ("processor: ", "products of a step: torch's", "cpu at 16 ", "cpu prefill of 40 ", "read bandwidth"):
        assert heading in text
    assert "at 512" not in text

    assert result["left_out"].keys() == {"int8", "int4"}
    for dtype, reason in result["left_out"].items():
        assert f"{dtype} is left out: {reason}" in lines
    assert result["loading"].keys() == {"fp32", "bf16"}
    assert all(not loaded["over"] for loaded in result["loading"].values())

    assert result["bits_per_byte"] is None
    (line,) = (line for line in lines if line.startswith("Held-out bits per byte: not measured: "))
    assert "gone.txt" in line
