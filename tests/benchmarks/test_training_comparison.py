"""`python -m benchmarks.training` on the CPU, for a model smaller than its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import training
from benchmarks.demands import VERDICTS
from benchmarks.original_step import ORIGINAL
from benchmarks.training import demands_of
from parakeet.benchmarks.steps import Measurement
from parakeet.benchmarks.timing import Sample
from parakeet.benchmarks.training import Configuration, Row
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.recipe import Training

from .tiny import ROOT, tiny_recipe

GIB = 1 << 30


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU would be measured in place of the CPU")
def test_every_row_is_measured_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LOADER_DOCUMENTS", 1000)
    monkeypatch.setattr(training, "LOADER_SECONDS", 0.1)
    options = ["--threads", "1", "--rounds", "2", "--recipe", str(tiny_recipe(tmp_path)), "--length", "32"]
    finished = CliRunner().invoke(training.main, options)
    assert finished.exit_code == 0, finished.output
    *lines, last = finished.stdout.splitlines()
    result = json.loads(last)
    assert (result["benchmark"], result["device"], result["rounds"], result["tokens"]) == ("training", "cpu", 2, 32)
    (rows,) = result["shapes"]["tiny"]["lengths"].values()
    assert rows[0]["name"] == ORIGINAL
    for row in rows:
        assert row["refused"] == ""
        median, low, high = row["tokens_per_second"]
        assert 0 < low <= median <= high
        assert row["memory_bytes"] >= 0
        assert (row["forecast_bytes"] is None) == (row["name"] == ORIGINAL)
    assert len([row for row in rows if row["auto"]]) == 2
    assert list(result["shapes"]["tiny"]["growth"]) == ["8", "16", "32", "64"]
    assert any(line.startswith("1 × 32 tokens") and "x original" in line for line in lines)
    assert sum(line.endswith("<- ours") for line in lines) == 1
    (line,) = (line for line in lines if line.startswith("CUDA: not measured"))
    assert "python -m benchmarks.training --recipe parakeet-378m --memory 11.2GiB" in line

    texts = [demand["text"] for demand in result["demands"]]
    assert any(text.startswith("tiny, speed beside the original's way at 32") for text in texts)
    assert any(text.startswith("loader alone") for text in texts)
    for demand in result["demands"]:
        assert demand["met"] in (True, False)
        assert any(line.startswith(demand["text"]) and VERDICTS[demand["met"]] in line for line in lines)


MEASUREMENT = Measurement(
    ModelConfig(layers=1, heads=1, width=8, context=8, vocabulary_rows=64),
    Training(tokens=16, batch_tokens=16, learning_rate=1e-3), 1, 8, 1,
)  # fmt: skip


def rows_of(ours_speed: float, ours_gib: float) -> list[Row]:
    """Beside an original's way of 100 tokens a second in 4 GiB."""
    original = Row(Configuration(ORIGINAL, MEASUREMENT, None), Sample.of([100.0]), 4 * GIB)
    ours = Configuration("fused attention", MEASUREMENT, None, auto=True)
    return [original, Row(ours, Sample.of([ours_speed]), round(ours_gib * GIB))]


LINEAR = {1024: 30, 2048: 55, 4096: 105, 8192: 205}


@pytest.mark.parametrize(
    ("speed_at_256", "speed", "memory", "growth", "met"),
    [
        (96, 300, 1.0, LINEAR, [True] * 5),
        (94, 300, 1.0, LINEAR, [False, True, True, True, True]),
        (96, 299, 1.0, LINEAR, [True, True, False, True, True]),
        (96, 300, 1.1, LINEAR, [True, True, True, False, True]),
        (96, 300, 1.0, {1024: 10, 2048: 25, 4096: 75, 8192: 260}, [True, True, True, True, False]),
        (96, 300, 1.0, {1024: 10, 2048: None, 4096: 75, 8192: 260}, [True, True, True, True, None]),
    ],
)
def test_the_verdicts(
    speed_at_256: float, speed: float, memory: float, growth: dict[int, int | None], met: list[bool | None]
) -> None:
    tables = {256: rows_of(speed_at_256, 4.0), 4096: rows_of(speed, memory)}
    assert [demand.met for demand in demands_of("3M", tables, growth)] == met


def test_what_was_refused_is_no_verdict() -> None:
    refused = Row(Configuration(ORIGINAL, MEASUREMENT, None), refused="out of memory")
    tables = {4096: [refused, rows_of(300, 1.0)[1]]}
    assert [demand.met for demand in demands_of("3M", tables, {})] == [None] * 4


def test_a_cap_without_a_gpu_is_one_message(tmp_path: Path) -> None:
    arguments = ["-m", "benchmarks.training", "--recipe", str(tiny_recipe(tmp_path)), "--memory", "11.2GiB"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert "there is no CUDA device here" in finished.stderr


def test_lengths_that_do_not_divide_a_step_are_refused() -> None:
    finished = CliRunner().invoke(training.main, ["--length", "100", "--length", "256"])
    assert isinstance(finished.exception, ParakeetError)
    assert "--length 100 does not divide a step of 256 tokens" in str(finished.exception)


def test_a_recipe_and_a_shape_are_one_too_many() -> None:
    finished = CliRunner().invoke(training.main, ["--recipe", "demo", "--shape", "3M"])
    assert finished.exit_code == 2
    assert "give one of them" in finished.stderr
