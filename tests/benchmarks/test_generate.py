"""`parakeet bench generate` as a process, for a model smaller than what it measures at by default."""

from pathlib import Path

import pytest

from parakeet.benchmarks.decoding import STEPS, contexts_of, prefill_of
from parakeet.model.config import ModelConfig

from .tiny import run_benchmark, tiny_recipe


@pytest.mark.parametrize(
    ("context", "contexts", "prefill"),
    [(16, (13,), 16), (40, (16,), 40), (512, (16,), 512), (1024, (16, 512), 512), (8192, (16, 512, 2048), 512)],
)
def test_what_is_measured_fits_the_context(context: int, contexts: tuple[int, ...], prefill: int) -> None:
    config = ModelConfig(layers=1, heads=1, width=8, context=context, vocabulary_rows=64)
    assert (contexts_of(config), prefill_of(config)) == (contexts, prefill)
    assert max(contexts) + STEPS <= context


@pytest.mark.slow
def test_every_precision_that_fits_the_model_is_measured(tmp_path: Path) -> None:
    """The width is one that int8 and int4 do not support. A source of the active recipe is gone."""
    recipe = tiny_recipe(
        tmp_path,
        sources=[{"name": "text", "path": str(tmp_path / "gone.txt")}],
        model={"layers": 2, "heads": 2, "width": 48, "context": 40},
    )
    # As the home's recipe.yaml it is the active recipe, too.
    options = ("--threads", "1", "--rounds", "1", "--recipe", str(recipe))
    lines, result = run_benchmark(
        tmp_path, "torch", "parakeet.cli", "bench", "generate", *options, PARAKEET_HOME=str(tmp_path)
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
    for heading in ("cpu at 16 ", "cpu prefill of 40 ", "read bandwidth"):
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
