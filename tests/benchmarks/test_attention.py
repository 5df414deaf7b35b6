"""`python -m benchmarks.attention` on one short sequence."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.attention import MOST_ERROR, PLAIN, demands_of, main


@pytest.mark.slow
def test_every_backend_is_measured_in_both_precisions_with_one_document_and_many() -> None:
    finished = CliRunner().invoke(main, ["--length", "64", "--rounds", "2", "--threads", "1"])
    assert finished.exit_code == 0, finished.output
    printed = finished.stdout.splitlines()
    result: dict[str, Any] = json.loads(printed[-1])
    rows = {(row["precision"], row["documents"], row["backend"]): row for row in result["rows"]}
    assert {key[:2] for key in rows} == {(precision, count) for precision in ("fp32", "bf16") for count in (1, 7)}
    assert {"reference", "fused", PLAIN} <= {key[2] for key in rows}
    for (_, _, backend), row in rows.items():
        assert row["refused"] == ""
        assert row["seconds"].keys() == {"forward", "both", *(() if backend == PLAIN else ("mask",))}
        assert (row["peak_bytes"] or 0) > 0 or row["documents"] > 1
        assert (row["errors"] is None) == (backend == PLAIN)
    assert sum(line.split()[:3] == ["bf16", "64", "7"] for line in printed) == len(rows) // 4
    assert all(demand["met"] for demand in result["demands"] if demand["text"].startswith("fused"))


def test_the_worst_error_is_judged() -> None:
    errors = [{"output": 1e-5, "gradients": 2e-4}, {"output": 2e-5, "gradients": 1e-5}, None]
    rows = [{"backend": "fused", "precision": "fp32", "errors": some} for some in errors]
    output, gradients, *bf16 = demands_of([*rows, {"backend": PLAIN, "precision": "fp32", "errors": None}])
    assert (output.met, gradients.met) == (True, False)
    assert [demand.met for demand in bf16] == [None] * len(MOST_ERROR["bf16"])
