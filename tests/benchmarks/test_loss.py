"""`python -m benchmarks.loss` on a small batch."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.loss import demands_of, main


@pytest.mark.slow
def test_the_whole_and_every_piece_are_measured() -> None:
    arguments = ["--tokens", "64", "--width", "16", "--vocabulary", "128", "--rows", "16", "--rounds", "2"]
    finished = CliRunner().invoke(main, ["--threads", "1", *arguments])
    assert finished.exit_code == 0, finished.output
    *lines, last = finished.stdout.splitlines()
    result: dict[str, Any] = json.loads(last)
    assert [(row["width"], row["vocabulary"], row["piece"]) for row in result["rows"]] == [(16, 128, 0), (16, 128, 16)]
    for row in result["rows"]:
        assert row["refused"] == ""
        assert 0 < row["seconds"][1] <= row["seconds"][0] <= row["seconds"][2]
        assert row["peak_bytes"] >= 0
        assert row["errors"].keys() == {"loss", "gradients"}
    assert any(line.split()[:3] == ["16", "128", "16"] for line in lines)
    if result["precision"] == "fp32":
        loss, gradients, memory = result["demands"]
        assert (loss["met"], gradients["met"]) == (True, True)
        assert memory["met"] is None  # pieces of 8 KiB


def row(loss_error: float, peak_mib: int, piece: int = 1000) -> dict[str, Any]:
    """20,000 × 100 and 5,000 targets: 80 MB of logits a piece, 12 MB of gradients."""
    values = {"width": 100, "vocabulary": 20_000, "tokens": 5000, "targets": 5000, "piece": piece}
    return values | {"peak_bytes": peak_mib << 20, "errors": {"loss": loss_error, "gradients": 1e-6}}


@pytest.mark.parametrize(
    ("rows", "met"),
    [
        ([row(1e-7, 92)], [True, True, True]),
        ([row(2e-6, 92)], [False, True, True]),
        ([row(1e-7, 92), row(1e-7, 180)], [True, True, False]),
        ([row(1e-7, 180, piece=100)], [True, True, None]),  # too small to tell
        ([row(1.0, 9000, piece=0)], [None, None, None]),  # the whole is no piece
    ],
)
def test_the_verdicts(rows: list[dict[str, Any]], met: list[bool | None]) -> None:
    assert [demand.met for demand in demands_of(rows)] == met
