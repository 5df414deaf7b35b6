"""A study forecasts its last points before they are trained, and cannot change its mind afterwards."""

import json
from pathlib import Path

import pytest

from parakeet.studies.forecast import read_forecast, write_forecast
from parakeet.studies.records import record_file
from parakeet.studies.study import Study, StudyRun, make_study
from tests.studies.size_records import config, record, true_loss


@pytest.fixture
def study() -> Study:
    return make_study("size", "cpu")


def finish(root: Path, study: Study, runs: list[StudyRun]) -> None:
    for run in runs:
        (size,) = run.points.values()
        file = record_file(root, study, run)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**record(run.arm, size, run.seed).values, "key": study.key(run)}))


def of_text(study: Study, forecast: bool) -> list[StudyRun]:
    return [run for run in study.runs() if run.arm != "tasks" and run.is_forecast == forecast]


def test_the_forecast_is_written_before_and_stays(tmp_path: Path, study: Study) -> None:
    finish(tmp_path, study, of_text(study, forecast=False))
    written, reason = write_forecast(tmp_path, study)
    assert reason == ""
    assert written is not None
    assert written == read_forecast(tmp_path, study)
    assert not written["made_afterwards"]
    assert written["from"] == {run.name: study.key(run) for run in of_text(study, forecast=False)}
    assert [(point["arm"], point["tokens"]) for point in written["points"]] == [
        ("equal_tokens", 262_144),
        ("equal_compute", 72_704),
    ]
    for point in written["points"]:
        assert point["parameters"] == config("256x4").parameter_count
        low, high = point["interval"]
        assert low < true_loss(point["parameters"], point["tokens"]) < high

    # A record of a forecast run is there: what was forecast stays, even if other runs are not the same any more.
    finish(tmp_path, study, of_text(study, forecast=True)[:1])
    for run in of_text(study, forecast=False)[:9]:
        record_file(tmp_path, study, run).unlink()
    again, _ = write_forecast(tmp_path, study)
    assert again == written


def test_a_forecast_that_is_too_late_says_so(tmp_path: Path, study: Study) -> None:
    finish(tmp_path, study, [*of_text(study, forecast=False)[1:], *of_text(study, forecast=True)])
    written, _ = write_forecast(tmp_path, study)
    assert written is not None
    assert written["made_afterwards"]
    assert written["missing"] == [of_text(study, forecast=False)[0].name]
    assert not any("256x4" in name for name in written["from"])


def test_too_few_runs_are_not_forecast_from(tmp_path: Path, study: Study) -> None:
    finish(tmp_path, study, of_text(study, forecast=False)[:3])
    written, reason = write_forecast(tmp_path, study)
    assert written is None
    assert "there are 1" in reason
    assert read_forecast(tmp_path, study) is None
    smoke = make_study("size", "smoke")
    assert "no points to forecast" in write_forecast(tmp_path, smoke)[1]
