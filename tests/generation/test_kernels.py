"""The compiled kernels against torch, and their promise: a row's bits depend on nothing but the row."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.generation.cache import CACHE_DTYPES
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.generation.kernels import Library, library
from parakeet.generation.matrices import COMPILED_ROWS, Arena, CompiledMatrix
from parakeet.generation.sampling import Sampler
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.sampling_settings import SamplingSettings

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")


def compiled() -> Library:
    found = library()
    assert found is not None
    return found


def model_of(config: ModelConfig, seed: int = 1) -> Parakeet:
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    rows=st.integers(1, 70),
    width=st.integers(1, 600),
    count=st.integers(1, COMPILED_ROWS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_products_of_any_size_are_near_and_each_row_has_bits_of_its_own(
    rows: int, width: int, count: int, dtype: str, seed: int
) -> None:
    weight, x = numbers(rows, width, seed=seed), numbers(count, width, seed=seed + 1)
    matrix = CompiledMatrix.of(compiled(), dtype, weight, Arena(1 << 20, CPU))
    found = matrix.product(x)
    expected = x.double() @ weight.double().T
    allowed = {"fp32": 1e-6, "bf16": 4e-3, "int8": 0.02, "int4": 0.15}[dtype]
    assert (found - expected).norm() <= allowed * x.norm() * weight.norm()
    for index in range(count):
        assert torch.equal(matrix.product(x[index : index + 1])[0], found[index])
    begin = rows // 3
    assert torch.equal(matrix.part(begin, rows).product(x), found[:, begin:])
    # The same weights as a prompt reads them, not rounding x to int8.
    many = matrix.product(x.repeat(COMPILED_ROWS + 1, 1))[:count].double()
    assert (many - expected).norm() <= (allowed + 4e-3) * x.norm() * weight.norm()


@pytest.mark.parametrize("width", [96, 1152, 2000])
@pytest.mark.parametrize("outlier", [1, 30])
def test_rounding_x_costs_int8_nothing(width: int, outlier: float) -> None:
    """Beside the rounded weights with x in fp32, as prompts have them, also where a few columns are far larger."""
    matrix = CompiledMatrix.of(compiled(), "int8", numbers(40, width, seed=1), Arena(1 << 20, CPU))
    x = numbers(8, width, seed=2)
    x[:, :4] *= outlier
    exact = matrix.product(x.repeat(3, 1))[:8]
    assert (matrix.product(x) - exact).norm() <= 1e-3 * exact.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype: str) -> None:
    """More threads than cores, too."""
    matrix = CompiledMatrix.of(compiled(), dtype, numbers(515, 456, seed=1), Arena(1 << 22, CPU))
    x, before = numbers(5, 456, seed=2), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            found.append(matrix.product(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [5, 96, 256, 330])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_that_is_not_finite_spoils_its_own_row_and_no_other(dtype: str, width: int, number: float) -> None:
    weight, x = numbers(9, width, seed=1), numbers(7, width, seed=2)
    good = CompiledMatrix.of(compiled(), dtype, weight, Arena(1 << 20, CPU)).product(x)
    weight[4, width // 2], x[5, width - 1] = number, number
    found = CompiledMatrix.of(compiled(), dtype, weight, Arena(1 << 20, CPU)).product(x)
    assert not found[5].isfinite().any()
    assert not found[:, 4].isfinite().any()
    for part in (found, good):
        part[5], part[:, 4] = 0, 0
    assert torch.equal(found, good)


@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 5),
    head_width=st.integers(1, 80),
    capacity=st.integers(1, 40),
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    cache_dtype=st.sampled_from(sorted(CACHE_DTYPES)),
    softmax_one=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_pass_is_torchs_for_any_size_in_every_cache(
    layers: int, heads: int, head_width: int, capacity: int, lengths: list[int], cache_dtype: str, softmax_one: bool
) -> None:
    """Rows of different lengths, before and after the ring begins again."""
    width = heads * head_width
    config = ModelConfig(layers, heads, width, context=capacity, vocabulary_rows=13, softmax_one=softmax_one)
    model = model_of(config, seed=len(lengths))
    decoders = [Decoder(model, "fp32", cache_dtype=cache_dtype, compiled=compiled) for compiled in (True, False)]
    caches = [decoder.new_cache(capacity, len(lengths)) for decoder in decoders]
    for step in range(max(lengths) + 1):
        # Before a row begins, its first token is written again and again.
        positions = [max(step - (max(lengths) - length), 0) for length in lengths]
        ids = [(7 * step + row) % 13 for row in range(len(lengths))]
        found = []
        for decoder, cache in zip(decoders, caches, strict=True):
            cache.lengths = list(positions)
            found.append(decoder.step(ids, cache))
        # A number that lies between two steps of the cache may be rounded up by one program and down by the other.
        allowed = {"fp32": 1e-5, "bf16": 2e-3, "int8": 4e-3}[cache_dtype] * float(found[1].abs().max())
        torch.testing.assert_close(*found, rtol=1e-5, atol=allowed + 1e-6)


CONFIG = ModelConfig(layers=3, heads=3, width=120, context=64, vocabulary_rows=301)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cache_dtype", sorted(CACHE_DTYPES))
@pytest.mark.parametrize("softmax_one", [False, True])
def test_several_ids_at_once_and_rows_of_a_batch_give_the_bits_of_single_steps(
    dtype: str, cache_dtype: str, softmax_one: bool
) -> None:
    decoder = Decoder(model_of(replace(CONFIG, softmax_one=softmax_one)), dtype, cache_dtype=cache_dtype)
    ids = torch.randint(301, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    single, several, batch = decoder.new_cache(64), decoder.new_cache(64), decoder.new_cache(64, 3)
    for cache, row in ((single, 0), (several, 0), (batch, 0), (batch, 1), (batch, 2)):
        decoder.prefill(ids[: 20 if row < 2 else 7], cache, row)
    one_by_one = torch.cat([decoder.step([token], single) for token in ids[20:40]])
    assert torch.equal(
        torch.cat([decoder.append(ids[20:27], [0] * 7, several), decoder.append(ids[27:40], [0] * 13, several)]),
        one_by_one,
    )
    for index, token in enumerate(ids[20:40]):
        assert torch.equal(decoder.step([token, 5, token], batch)[0], one_by_one[index])
    # Forgotten ids leave no trace.
    several.lengths = [22]
    assert torch.equal(decoder.append(ids[22:30], [0] * 8, several), one_by_one[2:10])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "place", ["embedding.weight", "blocks.0.query.weight", "key_values.1.weight", "blocks.1.mlp_output.weight"]
)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_damaged_weights_are_noticed_in_every_precision(dtype: str, place: str, number: float) -> None:
    model = model_of(CONFIG)
    with torch.no_grad():
        dict(model.named_parameters())[place][3, 7] = number
    decoder = Decoder(model, dtype)
    cache = decoder.new_cache(64)
    decoder.prefill([1, 2], cache)
    with pytest.raises(ParakeetError, match="NaN or infinite"):
        Sampler(SamplingSettings(), torch.ones(301, dtype=torch.bool)).choose(decoder.step([5], cache)[0])


def test_it_works_on_every_kind_of_processor() -> None:
    """Instruction sets that this processor has too: torch's variable limits the kernels as well."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "any_size or threads or spoils",
    ]
    for capability in ("default", "avx2"):
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stdout
        assert "skipped" not in finished.stdout


def test_without_a_compiler_torch_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    anew = library.__wrapped__
    for compiler in (str(tmp_path / "missing"), "/bin/false", str(tmp_path)):
        monkeypatch.setenv("CC", compiler)
        assert anew() is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert anew() is None
    monkeypatch.undo()
    # A cache folder that cannot be made.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert anew() is None


def test_it_is_compiled_once_and_a_damaged_file_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    anew = library.__wrapped__
    assert anew() is not None
    (made,) = (tmp_path / "parakeet").iterdir()
    written = made.stat().st_mtime_ns
    monkeypatch.setenv("CC", shutil.which("cc") or "")
    assert anew() is not None
    assert made.stat().st_mtime_ns == written
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    (tmp_path / "other" / "parakeet").mkdir(parents=True)
    (tmp_path / "other" / "parakeet" / made.name).write_bytes(b"not a library")
    assert anew() is not None
    assert (tmp_path / "other" / "parakeet" / made.name).stat().st_size == made.stat().st_size
