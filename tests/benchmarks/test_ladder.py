"""The rows from the original's way to ours, before anything is measured."""

from typing import Any

import pytest

from benchmarks.original_step import ORIGINAL
from benchmarks.training import LENGTHS, SHAPES, measure_rungs, ours_among, rungs
from parakeet.model.config import ModelConfig
from parakeet.recipe_file import load_recipe

TRAINING = load_recipe("demo").training


def differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sequence_length", LENGTHS)
def test_each_rung_changes_one_thing(shape: str, sequence_length: int) -> None:
    ladder = list(rungs(SHAPES[shape], TRAINING, sequence_length, max(LENGTHS)))
    original, first, *others = [rung.measurement for rung in ladder if not rung.name.startswith("auto")]
    assert (ladder[0].name, original.execution) == (ORIGINAL, None)
    assert original.backward == "benchmarks.original_step:OriginalStep"
    assert original.pass_rows == first.pass_rows == max(LENGTHS) // sequence_length
    assert first.execution is not None
    plain = (first.execution.attention, first.execution.precision, first.execution.activation_checkpointing)
    assert plain == ("reference", "fp32", "none")
    before = first.as_values()
    for rung in others:
        after = rung.as_values()
        changed = differing(before["execution"], after["execution"]) | differing(before, after) - {"execution"}
        assert len(changed) == 1
        before = after


@pytest.mark.parametrize("sequence_length", LENGTHS)
def test_the_trainers_own_choice_is_among_them_in_both_precisions(sequence_length: int) -> None:
    ladder = rungs(SHAPES["3M"], TRAINING, sequence_length, max(LENGTHS))
    executions = [rung.measurement.execution for rung in ladder if rung.auto]
    assert sorted(execution.precision for execution in executions if execution) == ["bf16", "fp32"]
    assert {execution.residual for execution in executions if execution} == {"fp32"}


def test_no_two_rungs_compute_alike() -> None:
    ladder = rungs(SHAPES["25M"], TRAINING, 256, 4096)
    computed = [(rung.measurement.execution, rung.measurement.pass_rows) for rung in ladder]
    assert len(set(computed)) == len(computed)


def test_a_row_that_does_not_fit_the_machine_is_not_measured() -> None:
    huge = ModelConfig(layers=256, heads=64, width=16_384, context=8192, vocabulary_rows=100_288)
    ladder = list(rungs(huge, TRAINING, 4096, 4096))
    rows = measure_rungs(ladder, 1, 1)
    assert len(rows) == len(ladder)
    assert all(row.refused.startswith("not measured: it needs about ") for row in rows)
    assert ours_among(rows) is None
