"""`parakeet compare`, the pictures of runs, and ages."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.pages.charts import save_png
from parakeet.training.curve import draw_loss_curve, running_mean
from parakeet.training.job import METRICS_FILE
from parakeet.training.runs import age, load_run

from .run_folders import BATCH, PNG, Folder, parakeet, record


@pytest.fixture
def two(tmp_path: Path) -> Path:
    first = Folder(tmp_path, "aaaa", learning_rate=1e-3, optimizer="muon")
    first.train(*(record(step, 5.0, validation_loss=5.5 if step % 40 == 0 else None) for step in range(1, 101)))
    second = Folder(tmp_path, "bbbb", learning_rate=5e-4)
    second.train(*(record(step, 4.0, tokens=2 * BATCH * step) for step in range(1, 41)))
    return tmp_path


def test_runs_as_json(two: Path) -> None:
    (two / "training_runs" / "cccc").mkdir()
    status, output = parakeet(two, "runs", "--json")
    listed = json.loads(output)
    assert status == 0
    assert sorted(run["key"] for run in listed["runs"]) == ["aaaa", "bbbb"]
    assert len(listed["unreadable"]) == 1
    first = next(run for run in listed["runs"] if run["key"] == "aaaa")
    assert (first["step"], first["tokens"], first["loss"], first["note"]) == (100, 100 * BATCH, 5.0, None)
    shown = json.loads(parakeet(two, "runs", "aa", "--json")[1])
    assert {key: shown[key] for key in first} == first
    assert shown["settings"]["training.optimizer"] == "muon"
    assert (shown["checkpoints"], shown["events"]) == ([], [])
    status, output = parakeet(two, "runs", "--json", "zz")
    assert (status, output.count("\n")) == (1, 1)


def test_two_runs_are_compared_at_equal_tokens(two: Path) -> None:
    picture = two / "both.png"
    status, output = parakeet(two, "compare", "a", "b", "-o", str(picture))
    assert status == 0
    assert re.search(r"training\.learning_rate +0\.001 +0\.0005\n", output)
    assert re.search(r"training\.optimizer +muon +adamw\n", output)
    assert "training.seed" not in output
    assert "somewhere" not in output
    rows = re.findall(r"^ +([\d,]+) +5\.0000 +4\.0000 +-1\.0000$", output, re.MULTILINE)
    assert len(rows) == 10
    assert (rows[0], rows[-1]) == ("1,024", "40,448")
    assert re.search(r"held-out loss, best +5\.5000 +–", output)
    assert re.search(r"tokens/s +2,048 +2,048", output)
    assert re.search(r"^  tokens +51,200 +20,480$", output, re.MULTILINE)
    assert re.search(r"^  targets +51,200 +40,960$", output, re.MULTILINE)
    assert re.search(r"time in steps +25 s +10 s", output)
    assert picture.read_bytes().startswith(PNG)
    assert str(picture) in output
    assert len(list(two.iterdir())) == 2


def test_lost_lines_of_metrics_change_no_speed(two: Path) -> None:
    path = two / "training_runs" / "aaaa" / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:5] + lines[60:]), encoding="utf-8")
    _, output = parakeet(two, "compare", "a", "b")
    assert re.search(r"tokens/s +2,048 +2,048", output)
    path.write_text("".join(lines[:5] + lines[-5:]), encoding="utf-8")
    assert load_run(path.parent).tokens_per_second == 2048


def test_equal_settings_say_so_and_runs_without_common_tokens_too(tmp_path: Path) -> None:
    Folder(tmp_path, "aaaa").train(record(1))
    Folder(tmp_path, "bbbb")
    status, output = parakeet(tmp_path, "compare", "a", "b", "-o", str(tmp_path / "picture.png"))
    assert status == 0
    assert output.startswith("The settings are the same.\n")
    assert "the runs have none in common" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "aa"), "are the same run, aaaa"),
        (("a", "b", "-o", "picture.gif"), "ends in .png"),
        (("a", "b", "-o", "nowhere/picture.png"), "there is no folder"),
        (("a", "b", "-o", "training_runs.png"), "while running this command"),
    ],
)
def test_what_cannot_be_compared_is_one_message(
    two: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(two)
    (two / "training_runs.png").mkdir()
    status, output = parakeet(two, "compare", *arguments)
    assert status == 1
    assert message in output
    assert sorted(path.name for path in two.iterdir()) == ["training_runs", "training_runs.png"]


@pytest.mark.parametrize("command", [("runs",), ("runs", "a"), ("compare", "a", "b")])
def test_both_commands_need_no_torch_and_are_plain_in_a_pipe(two: Path, command: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom parakeet.cli import main\nmain(sys.argv[1:], standalone_mode=False)\n"
        "print('loaded', *{'torch', 'dagster', 'matplotlib'} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *command],
        capture_output=True,
        text=True,
        timeout=600,
        env={"PARAKEET_HOME": str(two), "PATH": ""},
    )
    assert finished.returncode == 0, finished.stderr
    assert "\x1b" not in finished.stdout
    assert finished.stdout.splitlines()[-1] == "loaded"


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
def test_the_running_mean_leaves_skipped_steps_out_and_stays_within_the_losses(steps: list[tuple[float, bool]]) -> None:
    metrics = [
        {"tokens": 10 * number, "loss": None if skipped else loss, "skipped": "nan" if skipped else None}
        for number, (loss, skipped) in enumerate(steps)
    ]
    kept = [loss for loss, skipped in steps if not skipped]
    tokens, smooth = running_mean(metrics)
    assert len(tokens) == len(smooth) == (max(0, len(kept) - max(1, len(kept) // 40) + 1) if kept else 0)
    assert all(min(kept) - 1e-9 <= value <= max(kept) + 1e-9 for value in smooth)
    assert list(tokens) == sorted(tokens)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"step": 1, "tokens": 0, "loss": None, "seconds": 1.0, "skipped": "nan"}],
        [{"step": n, "tokens": n, "loss": 5.0 + n % 7, "seconds": 1.0, "learning_rate": 1e-3} for n in range(20_000)],
        [
            {
                "step": n,
                "tokens": n * 512,
                "loss": 5.0,
                "seconds": 1.0,
                "learning_rate": 1e-3,
                "row_tokens": 32 if n < 50 else 64,
                "validation_loss": 5.0 if n % 10 == 0 else None,
                "skipped": "too large" if n % 30 == 0 else None,
            }
            for n in range(1, 101)
        ],
    ],
    ids=["no step", "skipped only", "old and many", "everything"],
)
def test_every_run_has_a_picture(tmp_path: Path, steps: list[dict[str, Any]]) -> None:
    save_png(partial(draw_loss_curve, steps), tmp_path / "curve.png")
    content = (tmp_path / "curve.png").read_bytes()
    assert content.startswith(PNG)
    # It is stored in Dagster's history, inside the metadata.
    assert len(content) < 100_000


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_no_age_is_negative_whatever_the_clock_does(then: float, now: float) -> None:
    assert "-" not in age(then, now)
    if now <= then:
        assert age(then, now) == "just now"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 min ago"),
        (5400, "1 h 30 min ago"),
        (1e6, "11 d 14 h ago"),
    ],
)
def test_ages(seconds: float, words: str) -> None:
    assert age(1000.0, 1000.0 + seconds) == words
