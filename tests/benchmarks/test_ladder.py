"""The rows from the original's way to ours, before anything is measured."""

from typing import Any

import pytest

from benchmarks.ladder import LENGTHS, ORIGINAL, ORIGINAL_STEP, SHAPES, Ladder, growth_lengths, ours_among
from parakeet.model.config import ModelConfig
from parakeet.recipe_file import load_recipe

TRAINING = load_recipe("demo").training


def differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sequence_length", LENGTHS)
def test_each_rung_changes_one_thing(shape: str, sequence_length: int) -> None:
    ladder = Ladder.of(SHAPES[shape], TRAINING, sequence_length, max(LENGTHS))
    original, first, *others = [rung.measurement for rung in ladder.rungs if not rung.name.startswith("auto")]
    assert (ladder.rungs[0].name, original.execution, original.backward) == (ORIGINAL, None, ORIGINAL_STEP)
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
    ladder = Ladder.of(SHAPES["3M"], TRAINING, sequence_length, max(LENGTHS))
    executions = [rung.measurement.execution for rung in ladder.rungs if rung.auto]
    assert sorted(execution.precision for execution in executions if execution) == ["bf16", "fp32"]
    assert {execution.residual for execution in executions if execution} == {"fp32"}


def test_no_two_rungs_compute_alike() -> None:
    ladder = Ladder.of(SHAPES["25M"], TRAINING, 256, 4096)
    computed = [(rung.measurement.execution, rung.measurement.pass_rows) for rung in ladder.rungs]
    assert len(set(computed)) == len(computed)


def test_a_row_that_does_not_fit_the_machine_is_not_measured() -> None:
    huge = ModelConfig(layers=256, heads=64, width=16_384, context=8192, vocabulary_rows=100_288)
    ladder = Ladder.of(huge, TRAINING, 4096, 4096)
    rows = ladder.measure(1, 1)
    assert len(rows) == len(ladder.rungs)
    assert all(row.refused.startswith("not measured: it would take about ") for row in rows)
    assert ours_among(rows) is None


def test_growth_is_measured_from_a_quarter_to_the_double() -> None:
    assert growth_lengths(4096) == (1024, 2048, 4096, 8192)
