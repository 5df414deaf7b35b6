"""`python -m benchmarks.llama_cpp`: our side of it, its demands, and the whole where llama.cpp is."""

import json
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.llama_cpp import ATTENTIONS, PAIRS, demands_of, main, row_of, sample_ours
from parakeet.benchmarks.generate import write_random_model
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig

from .tiny import tiny_recipe


@pytest.mark.parametrize("kind", ["without the packages", "no Python at all"])
def test_a_python_without_llama_cpp_is_told_how_to_make_one(tmp_path: Path, kind: str) -> None:
    # -I and an empty prefix: this one has no packages at all, whatever is installed beside the tests.
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")
    program.chmod(0o755 if kind == "without the packages" else 0o644)
    finished = CliRunner().invoke(main, ["--python", str(program), "--recipe", str(tiny_recipe(tmp_path))])
    assert isinstance(finished.exception, ParakeetError)
    message = str(finished.exception)
    assert str(program) in message
    assert "pip install xllamacpp" in message
    assert "--python /tmp/llama/bin/python" in message


def test_ours_is_sampled_figure_by_figure(tmp_path: Path) -> None:
    write_random_model(ModelConfig(layers=2, heads=2, width=32, context=64, vocabulary_rows=256), tmp_path)
    shape = {"prompt": 40, "contexts": [16, 44], "tokens": 3, "capacity": 48, "threads": [2, 1]}
    threads = torch.get_num_threads()
    loaded, *samples = islice(sample_ours({"directory": str(tmp_path), "dtype": "int8", **shape}), 11)
    torch.set_num_threads(threads)
    assert loaded.keys() == {"seconds"}
    assert len(samples) == 2 * (1 + 2 * 2)
    for sample in samples:
        assert sample["seconds"] > 0
        assert sample["cpu_seconds"] >= 0


def test_decoding_is_judged_by_the_faster_attention_of_llama_cpp() -> None:
    def figures(prompt: float, step: float) -> dict[str, list[tuple[float, float]]]:
        return {"prompt": [(prompt, 0.0)] * 2, "16": [(step, 0.0)] * 2}

    samples = {"fp32, 2 threads": figures(2.0, 0.1), "int8, 2 threads": figures(2.5, 0.02)}
    samples |= {
        "llama.cpp Q8_0, 2 threads": figures(4.0, 0.03),
        "llama.cpp Q8_0, no flash, 2 threads": figures(4.0, 0.01),
    }
    samples |= {"int8, 1 thread": {"16": [(0.03, 0.0)] * 2}, "llama.cpp Q8_0, 1 thread": {"16": [(0.06, 0.0)] * 2}}
    found = {demand.text.partition(":")[0]: demand for demand in demands_of(samples, [16], [2, 1])}
    assert found["int8 beside Q8_0, decode at 16, 2 threads"].met is False
    assert found["int8 beside Q8_0, decode at 16, 2 threads"].found == "0.5 times"
    assert found["int8 beside Q8_0, decode at 16, 1 thread"].found == "2 times"
    assert found["int8 beside fp32, prompt"].met is False
    assert found["fp32 beside F32, decode at 16, 2 threads"].met is None
    assert found["first token, fastest dtype"].met is True
    assert found["decode at 16, fastest dtype"].found == "50 tokens/s"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp")
def test_both_are_measured_in_one_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, model={"layers": 2, "heads": 2, "width": 64, "context": 128})
    options = ["--recipe", str(recipe), "--rounds", "2", "--limit", "avx2", "--scratch", str(tmp_path)]
    finished = CliRunner().invoke(main, [*options, "--threads", "1", "--threads", "2"])
    assert finished.exit_code == 0, finished.output
    result = json.loads(finished.stdout.splitlines()[-1])
    engines = [*PAIRS, *(f"llama.cpp {kind}{suffix}" for kind in PAIRS.values() for suffix in ATTENTIONS)]
    assert result["variants"].keys() == {row_of(engine, threads) for engine in engines for threads in (1, 2)}
    assert (result["rounds"], result["left_out"], result["limit"]) == (2, {}, "avx2")
    for row, figures in result["variants"].items():
        assert figures.keys() == ({"16"} if row.endswith("1 thread") else {"prompt", "16"})
    assert list(tmp_path.glob("tmp*")) == []
