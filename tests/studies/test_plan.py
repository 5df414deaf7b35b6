"""What a study takes, and budgets that do not hold it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.cli.study_plan import plan as plan_command
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.studies.plan import RunPlan, StudyPlan, check_budget, plan_study, refuse_over_budget
from parakeet.studies.records import record_file
from parakeet.studies.study import Study, StudyRun, make_study
from parakeet.training.gpus import gpu_named
from tests.studies.small import write_study


def planned(study: Study, seconds: Callable[[StudyRun], float], done: int = 0) -> StudyPlan:
    """The study on two cores, with runs of one thread that take as long as they are said to."""
    runs = [RunPlan(run, 1000, 10, 100, seconds(run), 1, number < done) for number, run in enumerate(study.runs())]
    return StudyPlan(study, runs, cores=2)


def test_runs_share_the_cores_and_none_is_shorter_than_the_longest(tmp_path: Path) -> None:
    study = make_study(write_study(tmp_path), "cpu")
    assert planned(study, lambda run: 10.0).seconds == 30.0
    assert planned(study, lambda run: 10.0, done=4).seconds_left == 10.0
    assert planned(study, lambda run: 100.0 if run.points.get("width") == "wide" else 1.0).seconds == 102.0
    assert planned(study, lambda run: 100.0 if run.name == "decays.strong.s7" else 1.0).seconds == 100.0


def test_a_budget_holds_one_and_a_half_times_its_minutes(tmp_path: Path) -> None:
    study = make_study(write_study(tmp_path), "cpu")
    check_budget(planned(study, lambda run: 29.0))  # 87 s of 60
    check_budget(planned(study, lambda run: 90.0, done=5))
    with pytest.raises(ParakeetError, match="6 runs take about 1 min 33 s on 2 cores, and the budget is 1 min"):
        check_budget(planned(study, lambda run: 31.0))


@pytest.mark.parametrize(
    ("seconds", "fitting"),
    [
        (
            lambda run: 35.0,
            "seeds 1 (1 min 10 s); without the arm widths (35 s); without the arm decays (1 min 10 s); "
            "without the point narrow of width (1 min 10 s); without the point none of decay (1 min 28 s).",
        ),
        (
            lambda run: 100.0 if run.points.get("width") == "wide" else 10.0,
            "What would fit: without the arm widths (10 s); without the point wide of width (20 s).",
        ),
        (lambda run: 85.0 if run.arm == "widths" else 80.0, "without the arm widths (1 min 20 s)."),
        (
            lambda run: 85.0 if run.points.get("width") == "wide" else 70.0,
            "without the arm widths (1 min 10 s).",
        ),
        (lambda run: 500.0, "Nothing like it fits: the shortest run alone takes 8 min 20 s."),
    ],
)
def test_the_refusal_says_what_would_fit(tmp_path: Path, seconds: Callable[[StudyRun], float], fitting: str) -> None:
    study = make_study(write_study(tmp_path), "cpu")
    plan = planned(study, seconds)
    with pytest.raises(ParakeetError) as error:
        check_budget(plan)
    assert str(error.value).startswith("Study widths does not fit scale cpu: ")
    assert fitting in str(error.value)


def test_a_gpu_takes_the_flops_at_half_of_its_peak_one_run_after_the_other(tmp_path: Path) -> None:
    gpu = gpu_named("RTX 3080 Ti")
    plan = plan_study(tmp_path, make_study(write_study(tmp_path), "gpu"), Progress(), gpu)
    flops = sum(run.flops for run in plan.runs)
    assert plan.seconds == pytest.approx(flops / (0.5 * 68.2e12))
    assert [round(one["seconds"] / plan.seconds, 2) for one in plan.as_json()["time_by_mfu"]] == [1.25, 1.0, 0.83]
    fp32 = plan_study(tmp_path, make_study(write_study(tmp_path), "cpu"), Progress(), gpu)
    assert fp32.seconds is None
    assert "set training.precision: bf16" in fp32.render()


def test_steps_are_measured_once_and_finished_runs_count_as_they_were(tmp_path: Path) -> None:
    study = make_study(write_study(tmp_path, ("{minutes: 1, seeds", "{minutes: 0.01, seeds")), "smoke")
    plan = plan_study(tmp_path, study, Progress())
    rates = tmp_path / "studies/widths/smoke/rates.json"
    before = rates.read_text(encoding="utf-8")
    assert plan.seconds_left is not None
    assert plan_study(tmp_path, study, Progress()).seconds_left == plan.seconds_left
    assert rates.read_text(encoding="utf-8") == before
    with pytest.raises(ParakeetError, match="Study widths does not fit scale smoke: 2 runs take about"):
        check_budget(plan)
    for run in study.runs():
        file = record_file(tmp_path, study, run)
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {"key": study.key(run), "checkpoint": "0", "training": {"seconds": 1000.0}}
        file.write_text(json.dumps(values), encoding="utf-8")
    done = plan_study(tmp_path, study, Progress())
    assert done.seconds is not None
    assert done.seconds > 1000.0
    assert done.seconds_left == 0.0
    assert re.search(r"(?m)^left +nothing$", done.render())
    refuse_over_budget(tmp_path, study, Progress())


def test_the_command_prints_a_table_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path))
    path = write_study(tmp_path)
    shown = CliRunner().invoke(plan_command, [path, "--scale", "gpu"], catch_exceptions=False).output
    assert "in all" in shown
    assert "RTX 3080 Ti" in shown
    document = json.loads(CliRunner().invoke(plan_command, [path, "--scale", "gpu", "--json"]).output)
    assert len(document["runs"]) == 6
    assert document["gpu"] == "RTX 3080 Ti"
    assert document["tokens"] == 4 * 1_048_576 + 2 * 65_536
    smaller = json.loads(
        CliRunner().invoke(plan_command, [path, "--scale", "gpu", "--json", "--set", "model.layers=1"]).output
    )
    assert smaller["flops"] < document["flops"]
    refused = CliRunner().invoke(plan_command, [path, "--data", str(tmp_path / "nothing.txt")])
    assert "does not exist" in str(refused.exception)
