"""Three ticks of a season: the first model, a retraining on new text, and nothing new."""

import json
from pathlib import Path

import pytest

from benchmarks.season import NAME, Plan, render, run_season
from parakeet.progress import Progress
from parakeet.release.pointers import incumbent
from parakeet.retraining import TrainedRelease


def test_new_text_trains_the_released_model_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PARAKEET_HOME", "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "set by the season, and restored after the test")
    plan = Plan(
        first=300, weekly=150, weeks=("new", "nothing"), tokens=5_120, width=16, compare=False, gates=False
    )  # fmt: skip
    record = run_season(tmp_path, plan, Progress())
    first, new, nothing = record["weeks"]
    assert first["outcome"] == new["outcome"] == "promoted"
    assert "There is no promoted release" in first["tick"]
    assert "Training continues from the" in new["tick"]
    assert nothing["tick"].startswith("skipped: Nothing is new since release")
    assert [decision[:2] for decision in record["history"]] == [
        ("promoted", first["release"]), ("promoted", new["release"]),
    ]  # fmt: skip
    released = incumbent(tmp_path / "home", NAME)
    assert released is not None
    assert released.name == new["release"]
    stages = TrainedRelease.open(released).manifest["stages"]
    replay = stages["packing_plan"]["counts"]["replay"]
    before = TrainedRelease.open(released.with_name(first["release"]))
    assert replay["share"] == pytest.approx(0.3, abs=0.05)
    assert replay["new_documents"] > 100
    # Twice the plan, in whole steps, whatever had been estimated; without the unused ends of sequences.
    positions = 2 * stages["packing_plan"]["counts"]["rows"] * 128
    assert 0.95 * positions < new["tokens"] <= positions + 1024
    assert stages["tokenizer"]["content"] == before.manifest["stages"]["tokenizer"]["content"]
    lineage = json.dumps(TrainedRelease.open(released).manifest["start"])
    assert first["release"] in lineage or before.run in lineage
    assert "skipped" in render(record)
