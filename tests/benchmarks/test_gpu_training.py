"""The comparison on a GPU: its verdicts, and all of it with a CPU in the GPU's place."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_training import PRESETS, WITHOUT_8_BIT, Lengths, configurations, demands_of, run
from benchmarks.original_step import ORIGINAL
from parakeet.benchmarks.steps import Measurement
from parakeet.benchmarks.timing import Sample
from parakeet.benchmarks.training import Configuration, Row
from parakeet.model.config import ModelConfig
from parakeet.recipe import Training
from parakeet.recipe_file import load_recipe
from parakeet.training.forecast import GIB

from .tiny import tiny_recipe

CAP = round(11.2 * GIB)
CONFIG = ModelConfig(layers=1, heads=1, width=8, context=8, vocabulary_rows=64)


def row(
    name: str, sequence_length: int, peak: float = 8.0, mfu: float = 0.5, refused: str = "", **training: Any
) -> Row:
    """Peak in GiB, forecast 5 % above it."""
    settings = Training(tokens=1, batch_tokens=sequence_length, learning_rate=1e-3, **training)
    measurement = Measurement(CONFIG, settings, 1, sequence_length, 1, device="cuda")
    forecast = None if name == ORIGINAL else round(1.05 * peak * GIB)
    configuration = Configuration(name, measurement, forecast)
    if refused:
        return Row(configuration, refused=refused)
    return Row(configuration, Sample.of([1e5]), round(peak * GIB), "NVIDIA H200", mfu, mfu)


def original(sequence_length: int, refused: str = "", optimizer: str = "adamw_8bit") -> Row:
    return row(ORIGINAL, sequence_length, refused=refused, optimizer=optimizer)


def good_rows() -> list[Row]:
    presets = [preset.name for preset in PRESETS]
    rows = [original(1200), original(1280), original(1400, "out of memory")]
    rows += [row(name, length) for length in (8192, 1024) for name in presets]
    return [*rows, row(presets[0], 16_384), row(presets[0], 24_576)]


def unmet(rows: Sequence[Row], memory: int = CAP) -> list[str]:
    return [demand.text for demand in demands_of(rows, memory) if demand.met is False]


def unmeasured(rows: Sequence[Row], memory: int = CAP) -> list[str]:
    return [demand.text for demand in demands_of(rows, memory) if demand.met is None]


def test_all_demands_can_be_met() -> None:
    assert [demand.met for demand in demands_of(good_rows(), CAP)] == [True] * 8


@pytest.mark.parametrize(
    ("originals", "met"),
    [
        ([(1200, "out of memory")], False),
        ([(1200, ""), (1280, ""), (1400, ""), (1536, "out of memory")], False),
        ([(1200, ""), (1280, "out of memory")], True),
        ([(1200, ""), (1280, "the process ended with status 1")], None),
    ],
)
def test_where_the_originals_way_has_to_end(originals: list[tuple[int, str]], met: bool | None) -> None:
    rows = [original(length, refused) for length, refused in originals]
    assert demands_of([*rows, *good_rows()[3:]], CAP)[0].met is met


def test_its_end_is_judged_under_the_cap_and_with_8_bit_state_only() -> None:
    assert len(unmeasured(good_rows(), memory=0)) == 1
    rows = [original(1200, "out of memory", "adamw"), *good_rows()[3:]]
    (demand,) = [demand for demand in demands_of(rows, CAP) if demand.met is None]
    assert "bitsandbytes" in demand.found


def test_what_is_too_much_or_too_slow_is_named() -> None:
    rows = good_rows()
    rows[3] = row(PRESETS[0].name, 8192, refused="out of memory")
    assert unmet(rows) == [f"{PRESETS[0].name}, peak at 8,192: at most 8.6 GiB"]
    rows[3] = row(PRESETS[0].name, 8192, peak=8.7)
    assert unmet(rows) == [f"{PRESETS[0].name}, peak at 8,192: at most 8.6 GiB"]
    rows[3] = replace(rows[3], configuration=replace(rows[3].configuration, forecast=7 * GIB))
    assert "forecast beside the measured peak, off by: at most 10 %" in unmet(rows)
    rows = [*good_rows()[:-1], row(PRESETS[0].name, 24_576, refused="out of memory")]
    assert unmet(rows) == [f"{PRESETS[0].name}: runs at 24,576"]
    slow = [row(found.configuration.name, found.length, mfu=0.4) for found in good_rows()[3:]]
    assert unmet([*good_rows()[:3], *slow]) == ["best MFU at 1,024: at least 45 %"]


def test_a_missing_package_and_an_unknown_gpu_are_no_verdicts() -> None:
    missing = [
        row(
            found.configuration.name,
            found.length,
            refused="not measured: bitsandbytes is missing",
        )
        if "8-bit" in found.configuration.name
        else replace(found, mfu=None)
        for found in good_rows()
    ]
    assert unmet(missing) == []
    assert [text.split(":")[0] for text in unmeasured(missing)] == [
        f"{PRESETS[1].name}, peak at 8,192",
        f"{PRESETS[2].name}, peak at 8,192",
        "best MFU at 1,024",
        "best MFU at 8,192",
    ]


def test_every_preset_is_measured_at_every_length_in_steps_of_the_longest() -> None:
    lengths = Lengths(original=(24, 28), ours=(64, 32), longest=(128,))
    training = Training(tokens=1, batch_tokens=64, learning_rate=1e-3)
    found = [
        (one.name, one.measurement.sequence_length, one.measurement.rows)
        for one in configurations(CONFIG, training, CAP, "cpu", lengths)
    ]
    names = [preset.name for preset in (*PRESETS, *([] if find_spec("bitsandbytes") else [WITHOUT_8_BIT]))]
    assert found == [
        (ORIGINAL, 24, 1),
        (ORIGINAL, 28, 1),
        *((name, 64, 1) for name in names),
        *((name, 32, 2) for name in names),
        (names[0], 128, 1),
    ]


@pytest.mark.slow
def test_all_of_it_with_a_cpu_in_the_gpus_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # To compile takes 40 s of CPU time; tests/model/test_execution.py does it.
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    recipe = load_recipe(str(tiny_recipe(tmp_path)))
    run(recipe, CAP, rounds=1, threads=1, device="cpu", lengths=Lengths(original=(24,), ours=(32,), longest=()))
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert [found["name"] for found in result["rows"][:4]] == [ORIGINAL, *(preset.name for preset in PRESETS)]
    for found in result["rows"]:
        assert found["tokens_per_second"], found["refused"]
        assert (found["forecast_bytes"] is None) == (found["name"] == ORIGINAL)
        assert found["mfu"] is None
    assert "at most 11.2 GiB" in printed
    assert "its MFU is unknown" in printed
    assert sum("unknown" in line for line in printed.splitlines()) >= len(result["rows"]) - 2
    assert result["demands"] == []  # they are for the original's shape
