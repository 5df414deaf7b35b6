"""`python -m benchmarks.attention` on one short sequence."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.attention import MOST_ERROR, PLAIN, demands_of, main


@pytest.fixture(scope="module")
def printed() -> list[str]:
    finished = CliRunner().invoke(main, ["--length", "64", "--rounds", "2", "--threads", "1"])
    assert finished.exit_code == 0, finished.output
    return finished.stdout.splitlines()


@pytest.mark.slow
def test_every_backend_is_measured_in_both_precisions_with_one_document_and_many(printed: list[str]) -> None:
    result: dict[str, Any] = json.loads(printed[-1])
    rows = {(row["precision"], row["documents"], row["backend"]): row for row in result["rows"]}
    assert {key[:2] for key in rows} == {(precision, count) for precision in ("fp32", "bf16") for count in (1, 7)}
    assert {"reference", "fused", PLAIN} <= {key[2] for key in rows}
    for (_, _, backend), row in rows.items():
        assert row["refused"] == ""
        assert row["seconds"].keys() == {"forward", "both", *(() if backend == PLAIN else ("mask",))}
        assert row["peak_bytes"] > 0
        assert (row["errors"] is None) == (backend == PLAIN)
    assert all(demand["met"] for demand in result["demands"] if demand["text"].startswith("fused"))


@pytest.mark.slow
def test_its_tables_name_what_they_measured(printed: list[str]) -> None:
    assert sum(line.startswith(("fp32, T = 64, 7 documents", "bf16, T = 64, 1 document ")) for line in printed) == 2


def test_the_worst_error_is_judged() -> None:
    errors = [{"output": 1e-5, "gradients": 2e-4}, {"output": 2e-5, "gradients": 1e-5}, None]
    rows = [{"backend": "fused", "precision": "fp32", "errors": some} for some in errors]
    output, gradients, *bf16 = demands_of([*rows, {"backend": PLAIN, "precision": "fp32", "errors": None}])
    assert (output.met, gradients.met) == (True, False)
    assert [demand.met for demand in bf16] == [None] * len(MOST_ERROR["bf16"])
