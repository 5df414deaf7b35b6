"""`parakeet bench train` on the CPU, for a model smaller than what it measures at by default."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from parakeet.benchmarks.decoding import Sample
from parakeet.benchmarks.ladder import ORIGINAL, Row, Rung
from parakeet.benchmarks.training import demands_of
from parakeet.benchmarks.ways import Way
from parakeet.cli import main
from parakeet.model.execution import Execution

from .tiny import tiny_recipe

GIB = 1 << 30


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-P", "-m", "parakeet.cli", "bench", "train", "--threads", "1", "--rounds", "2"]
    command += ["--recipe", str(tiny_recipe(folder)), "--length", "32"]
    # What lies where the user stands must not reach the processes that measure.
    (folder / "torch.py").write_text("raise SystemExit('the wrong torch')\n", encoding="utf-8")
    # The ladder is for the CPU: a card would be measured in its place.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout.splitlines()


@pytest.fixture(scope="module")
def result(printed: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed[-1])
    return found


@pytest.mark.slow
def test_every_rung_is_timed_and_its_memory_measured(result: dict[str, Any]) -> None:
    assert (result["benchmark"], result["device"], result["rounds"], result["tokens"]) == ("train", "cpu", 2, 32)
    (rows,) = result["shapes"]["tiny"]["lengths"].values()
    assert rows[0]["name"] == ORIGINAL
    for row in rows:
        assert row["refused"] == ""
        median, low, high = row["tokens_per_second"]
        assert 0 < low <= median <= high
        assert row["above_bytes"] > 0
        assert (row["forecast_bytes"] is None) == (row["name"] == ORIGINAL)
    (ours,) = [row for row in rows if row["ours"]]
    assert ours["auto"]
    assert ours["tokens_per_second"][0] == max(row["tokens_per_second"][0] for row in rows if row["auto"])


@pytest.mark.slow
def test_memory_is_measured_as_the_length_doubles(result: dict[str, Any]) -> None:
    assert list(result["shapes"]["tiny"]["growth"]) == ["8", "16", "32", "64"]


@pytest.mark.slow
def test_the_demands_are_judged_and_printed(printed: list[str], result: dict[str, Any]) -> None:
    texts = [demand["text"] for demand in result["demands"]]
    assert any(text.startswith("tiny, speed beside the original's way at 32") for text in texts)
    assert any(text.startswith("loader alone") for text in texts)
    verdicts = {True: "met", False: "NOT MET", None: "not measured"}
    for demand in result["demands"]:
        assert demand["met"] in (True, False)
        assert any(line.startswith(demand["text"]) and verdicts[demand["met"]] in line for line in printed)


@pytest.mark.slow
def test_the_table_marks_ours_and_tells_how_to_measure_a_card(printed: list[str]) -> None:
    assert any(line.startswith("T = 32, 1 row ") and "x original" in line for line in printed)
    assert sum(line.endswith("<- ours") for line in printed) == 1
    (line,) = (line for line in printed if line.startswith("CUDA: not measured"))
    assert "parakeet bench train --recipe parakeet-378m --memory 11.2GiB" in line


def rows_of(ours_speed: float, ours_gib: float) -> list[Row]:
    """Beside an original's way of 100 tokens a second in 4 GiB."""
    ways = [Way(ORIGINAL, None, 1), Way("fused attention", Execution(), 1)]
    figures = [(100.0, 4.0), (ours_speed, ours_gib)]
    return [
        Row(Rung(way, None, 0), Sample.of([speed]), round(gib * GIB), ours=way.execution is not None)
        for way, (speed, gib) in zip(ways, figures, strict=True)
    ]


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
    refused = Row(Rung(Way(ORIGINAL, None, 1), None, 0), refused="out of memory")
    tables = {4096: [refused, rows_of(300, 1.0)[1]]}
    assert [demand.met for demand in demands_of("3M", tables, {})] == [None] * 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card, and it would be measured")
def test_a_cap_without_a_card_is_one_message(tmp_path: Path) -> None:
    arguments = ["bench", "train", "--recipe", str(tiny_recipe(tmp_path)), "--memory", "11.2GiB"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "torch finds no CUDA device here" in refused.stderr


def test_lengths_that_do_not_go_into_a_step_are_refused() -> None:
    refused = CliRunner().invoke(main, ["bench", "train", "--length", "100", "--length", "256"])
    assert refused.exit_code == 1
    assert "--length 100 does not go into steps of 256 tokens" in refused.stderr


def test_a_recipe_and_a_shape_are_one_too_many() -> None:
    assert CliRunner().invoke(main, ["bench", "train", "--recipe", "demo", "--shape", "3M"]).exit_code == 2
