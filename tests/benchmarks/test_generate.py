"""`parakeet bench generate` as a process, for a model smaller than what it measures at by default."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from parakeet.benchmarks.decoding import STEPS, contexts_of, prefill_of
from parakeet.model.config import ModelConfig


@pytest.mark.parametrize(
    ("context", "contexts", "prefill"),
    [(16, (13,), 16), (40, (16,), 40), (512, (16,), 512), (1024, (16, 512), 512), (8192, (16, 512, 2048), 512)],
)
def test_what_is_measured_fits_the_context(context: int, contexts: tuple[int, ...], prefill: int) -> None:
    config = ModelConfig(layers=1, heads=1, width=8, context=context, vocabulary_rows=64)
    assert (contexts_of(config), prefill_of(config)) == (contexts, prefill)
    assert max(contexts) + STEPS <= context


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Lines for a width that int8 and int4 do not go into; a source of the active recipe is gone."""
    folder = tmp_path_factory.mktemp("bench")
    recipe = folder / "recipe.yaml"
    values = {
        "extends": "demo",
        "name": "tiny",
        "sources": [{"name": "text", "path": str(folder / "gone.txt")}],
        "tokenizer": {"vocabulary": 400},
        "packing": {"sequence_length": 32},
        "model": {"layers": 2, "heads": 2, "width": 48, "context": 40},
    }
    recipe.write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "parakeet.cli", "bench", "generate", "--threads", "1", "--rounds", "1"]
    # As the home's recipe.yaml it is the active recipe, too.
    environment = {**os.environ, "PARAKEET_HOME": str(folder)}
    # What lies where the user stands must not reach the processes that load.
    (folder / "torch.py").write_text("raise SystemExit('the wrong torch')\n", encoding="utf-8")
    finished = subprocess.run(
        [*command, "--recipe", str(recipe)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout.splitlines()


@pytest.fixture(scope="module")
def result(printed: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed[-1])
    return found


@pytest.mark.slow
def test_the_last_line_is_json_with_what_was_measured(result: dict[str, Any]) -> None:
    assert {"benchmark", "recipe", "parameters", "threads", "torch", "machine"} <= result.keys()
    assert (result["recipe"], result["rounds"], result["threads"]) == ("tiny", 1, 1)
    assert result["cpu"]["variants"].keys() == {"stock bf16", "fp32", "bf16"}
    for speeds in result["cpu"]["variants"].values():
        assert speeds["decode_seconds"].keys() == {"16"}
        assert speeds["prefill_tokens"] == 40
        for low, middle, high in (
            (sample[1], sample[0], sample[2])
            for sample in (*speeds["decode_seconds"].values(), speeds["prefill_seconds"])
        ):
            assert 0 < low <= middle <= high
    assert all(not loaded["over"] for loaded in result["loading"].values())


@pytest.mark.slow
def test_the_tables_name_what_they_measured(printed: list[str]) -> None:
    text = "\n".join(printed[:-1])
    assert "cpu at 16 " in text
    assert "cpu prefill of 40 " in text
    assert "at 512" not in text
    assert "read bandwidth" in text


@pytest.mark.slow
def test_what_a_model_does_not_go_into_is_left_out_by_name(printed: list[str], result: dict[str, Any]) -> None:
    assert result["left_out"].keys() == {"int8", "int4"}
    for dtype, reason in result["left_out"].items():
        assert f"{dtype} is left out: {reason}" in printed
    assert result["loading"].keys() == {"fp32", "bf16"}


@pytest.mark.slow
def test_a_lost_source_file_does_not_lose_the_measurement(printed: list[str], result: dict[str, Any]) -> None:
    assert result["bits_per_byte"] is None
    (line,) = (line for line in printed if line.startswith("Held-out bits per byte: not measured: "))
    assert "gone.txt" in line
