"""`parakeet bench train` for a tiny model on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from parakeet.cli import main

from .tiny import tiny_recipe


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure the GPU")
def test_every_kind_of_activation_checkpointing_is_measured(tmp_path: Path) -> None:
    arguments = ["bench", "train", "--recipe", str(tiny_recipe(tmp_path)), "--threads", "1", "--rounds", "2"]
    finished = CliRunner().invoke(main, arguments)
    assert finished.exit_code == 0, finished.output
    *lines, last = finished.stdout.splitlines()
    result = json.loads(last)
    assert (result["benchmark"], result["recipe"], result["device"], result["rounds"]) == ("train", "tiny", "cpu", 2)
    assert [row["execution"]["activation_checkpointing"] for row in result["rows"]] == ["none", "mlp", "block"]
    for row in result["rows"]:
        assert row["refused"] == ""
        median, low, high = row["tokens_per_second"]
        assert 0 < low <= median <= high
        assert row["forecast_bytes"] > 0
        assert row["mfu"] is None
    assert [row["auto"] for row in result["rows"]] == [True, False, False]
    assert sum(line.endswith("<- auto") for line in lines) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be measured")
def test_a_cap_without_a_gpu_is_one_message(tmp_path: Path) -> None:
    arguments = ["bench", "train", "--recipe", str(tiny_recipe(tmp_path)), "--memory", "11.2GiB"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "PyTorch finds no CUDA device here" in refused.stderr


def test_what_does_not_fit_the_machine_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parakeet.benchmarks.training.memory_budget", lambda device, processes: 1000)
    finished = CliRunner().invoke(main, ["bench", "train", "--recipe", str(tiny_recipe(tmp_path))])
    assert finished.exit_code == 0, finished.output
    table = finished.stdout.splitlines()[:-1]
    assert sum("not measured: it needs about " in line for line in table) == 3
