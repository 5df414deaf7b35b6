"""The history of a run, whatever happens to the disk and the process."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.training.job import METRICS_FILE
from parakeet.training.logging import EVENTS_FILE, SCHEDULE_FILE, RunLog, read_events, read_metrics
from parakeet.training.schedule import Schedule

from .run_folders import record, schedule_of


def steps(run: Path) -> list[int]:
    return [values["step"] for values in read_metrics(run / METRICS_FILE)]


numbers = st.floats(width=32)


@given(st.lists(st.tuples(numbers, numbers), max_size=20))
def test_losses_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, measured: list[tuple[float, float]]
) -> None:
    run = tmp_path_factory.mktemp("run")
    log = RunLog(run)
    for step, (loss, norm) in enumerate(measured, start=1):
        log.step(record(step, loss, gradient_norm=norm))
    read = [(values["loss"], values["gradient_norm"]) for values in read_metrics(run / METRICS_FILE)]
    assert read == [tuple(value if math.isfinite(value) else None for value in pair) for pair in measured]


def test_a_line_is_json_that_every_program_reads(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.step(record(1, math.nan, skipped="the loss is nan"))
    log.step(record(2, validation_loss=4.5, mfu=0.41234567))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    first, second = (
        json.loads(line, parse_constant=refuse) for line in (tmp_path / METRICS_FILE).read_text().splitlines()
    )
    assert first["loss"] is None
    assert first["skipped"] == "the loss is nan"
    assert "validation_loss" not in first
    assert "skipped" not in second
    assert (second["validation_loss"], second["mfu"]) == (4.5, 0.4123)


@given(st.integers(1, 30), st.integers(0, 35), st.booleans())
def test_truncating_leaves_a_history_that_can_be_continued(
    tmp_path_factory: pytest.TempPathFactory, count: int, kept: int, torn: bool
) -> None:
    run = tmp_path_factory.mktemp("run")
    log = RunLog(run)
    for step in range(1, count + 1):
        log.step(record(step))
    if torn:
        with (run / METRICS_FILE).open("a") as file:
            file.write('{"step": 3, "tok')
    again = RunLog(run)
    again.truncate(kept)
    assert steps(run) == list(range(1, min(count, kept) + 1))
    again.step(record(kept + 1))
    assert steps(run)[-1] == kept + 1
    assert (run / METRICS_FILE).read_bytes().count(b"\n") == len(steps(run))


def test_a_damaged_line_is_ignored_and_the_others_are_read(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.step(record(1))
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(
            '\0\0\0\n[1]\n{"step": "2", "tokens": 1}\n{"step": 2, "tokens": 1, "loss": "low", "seconds": 1}\n{"st'
        )
    log.step(record(2))
    assert steps(tmp_path) == [1, 2]
    assert [values["step"] for values in read_metrics(tmp_path / METRICS_FILE, last=1)] == [2]
    log.truncate(1)
    assert steps(tmp_path) == [1]


def test_events_are_kept_for_good_and_survive_a_damaged_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.event("started", 0, "From the beginning.")
    log.event("skipped", 3, "The loss is nan.", loss=math.nan, documents=["ab", "cd"])
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"time": 1.0, "kind": "sto')
    again = RunLog(tmp_path)
    again.truncate(0)
    again.event("resumed", 2, "From step 2.")
    again.flush()
    events = read_events(tmp_path / EVENTS_FILE)
    assert [(event["kind"], event["step"]) for event in events] == [("started", 0), ("skipped", 3), ("resumed", 2)]
    assert (events[1]["documents"], events[1]["loss"]) == (["ab", "cd"], None)


def test_a_file_deleted_during_training_is_created_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.step(record(1))
    (tmp_path / METRICS_FILE).unlink()
    assert steps(tmp_path) == []
    log.flush()
    log.truncate(1)
    log.step(record(2))
    assert steps(tmp_path) == [2]


LONG = schedule_of(1000, decay_fraction=0.4, warmup_steps=2)
BRANCH = schedule_of(30, decay_fraction=0.4, warmup_steps=2)
OTHER_DECAY = schedule_of(30, decay_fraction=0.2, warmup_steps=2)
Lines = list[tuple[int, float]]


def lines(run: Path) -> Lines:
    return [(values["step"], values["loss"]) for values in read_metrics(run / METRICS_FILE)]


def train_on(run: Path, mine: Schedule, source: Schedule | None, after: int, last: int, loss: float) -> Lines:
    """A process trains from a checkpoint of `source`. Returns the history that it leaves."""
    log = RunLog(run)
    log.resume(after, mine, source)
    for step in range(after + 1, last + 1):
        log.step(record(step, loss))
    log.flush()
    return lines(run)


def test_a_long_run_has_its_whole_history_after_a_branch_was_cut_from_it(tmp_path: Path) -> None:
    long = train_on(tmp_path, LONG, None, 0, 100, 5.0)
    branch = train_on(tmp_path, BRANCH, LONG, 18, 25, 4.0)
    assert branch == [*long[:18], *((step, 4.0) for step in range(19, 26))]
    assert train_on(tmp_path, LONG, LONG, 100, 101, 3.0) == [*long, (101, 3.0)]
    assert train_on(tmp_path, BRANCH, BRANCH, 22, 22, 3.0) == branch[:22]


run_of = st.sampled_from([LONG, BRANCH, OTHER_DECAY])


@given(
    st.lists(
        st.tuples(run_of, st.sampled_from([None, LONG, BRANCH, OTHER_DECAY]), st.integers(0, 30), st.integers(0, 3))
    )
)
def test_every_schedule_continues_the_history_of_the_checkpoint_that_it_resumes_from(
    tmp_path_factory: pytest.TempPathFactory, sessions: list[tuple[Schedule, Schedule | None, int, int]]
) -> None:
    run = tmp_path_factory.mktemp("run")
    histories: dict[Schedule | None, Lines] = {}
    for loss, (mine, source, after, more) in enumerate(sessions):
        begun = histories.get(source, [])
        after = min(after, len(begun))
        histories[mine] = [*begun[:after], *((after + step, float(loss)) for step in range(1, more + 1))]
        assert train_on(run, mine, source if begun else None, after, after + more, loss) == histories[mine]


def test_a_folder_of_an_older_version_has_the_history_of_the_run_that_wrote_the_checkpoint(tmp_path: Path) -> None:
    long = train_on(tmp_path, LONG, None, 0, 40, 5.0)
    for nonsense in (None, "{", "[]", '{"schedule": "../../up-00000000"}'):
        path = tmp_path / SCHEDULE_FILE
        path.unlink() if nonsense is None else path.write_text(nonsense, encoding="utf-8")
        assert train_on(tmp_path, BRANCH, LONG, 18, 18, 5.0) == long[:18]
        assert train_on(tmp_path, LONG, LONG, 40, 40, 5.0) == long


def status_if_killed(run: Path, moment: int, killed: str) -> int:
    """Continue a history in a fork, which is killed when it touches the run's files once more than `moment` times."""
    mine, source, after = (LONG, LONG, 40) if killed == "long" else (BRANCH, BRANCH, 22)

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal moment
        if event in ("open", "os.rename", "os.remove", "os.truncate") and str(run) in str(arguments[0]):
            moment -= 1
            if moment < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            sys.addaudithook(count)
            train_on(run, mine, source, after, after, 0.0)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL")
@pytest.mark.parametrize("killed", ["long", "branch"])
def test_no_history_is_lost_whenever_the_process_is_killed(tmp_path: Path, killed: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    long = train_on(whole, LONG, None, 0, 40, 5.0)
    branch = train_on(whole, BRANCH, LONG, 18, 22, 4.0)
    if killed == "branch":
        train_on(whole, LONG, LONG, 40, 40, 5.0)
    for moment in range(100):
        run = tmp_path / f"{moment}"
        shutil.copytree(whole, run)
        status = status_if_killed(run, moment, killed)
        again = shutil.copytree(run, tmp_path / f"{moment}-again")
        for folder, order in ((run, (LONG, BRANCH, LONG)), (again, (BRANCH, LONG, BRANCH))):
            for mine in order:
                history = long if mine == LONG else branch
                assert train_on(folder, mine, mine, len(history), len(history), 0.0) == history, f"killed at {moment}"
            assert len(list(folder.iterdir())) == 3
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert moment > 8


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.training.run_folders import record
from parakeet.training.logging import RunLog

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = RunLog(Path(sys.argv[1]))
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
for step in range(1, 31):
    log.step(record(step))
log.flush()
assert b"\\n" == Path(sys.argv[1], "metrics.jsonl").read_bytes()[-1:], "half a line was left"
log.truncate(20)
if sys.argv[2] != "stay full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
getattr(log, sys.argv[3])(*[record(21)][: sys.argv[3] == "step"])
"""


def full_disk(run: Path, disk: str, then: str) -> str:
    """The messages of a log whose disk is full for thirty steps, which is cut to step 20, and then does `then`."""
    finished = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(run), disk, then],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(__file__).parents[2],
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


@pytest.mark.parametrize(("then", "last"), [("step", 21), ("flush", 20)])
def test_a_full_disk_is_reported_once_and_waiting_lines_are_written_when_there_is_room(
    tmp_path: Path, then: str, last: int
) -> None:
    printed = full_disk(tmp_path, "has room again", then)
    assert printed.count("Training continues") == 1
    assert printed.count("is being written again; no line is missing") == 1
    assert len(printed.splitlines()) == 2
    assert steps(tmp_path) == list(range(1, last + 1))


def test_a_disk_that_stays_full_ends_no_training(tmp_path: Path) -> None:
    printed = full_disk(tmp_path, "stay full", "flush")
    assert len(printed.splitlines()) == 1
    assert steps(tmp_path) == [1, 2, 3]


def test_a_missing_run_folder_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path / "gone")
    for step in range(1, 5):
        log.step(record(step))
    assert capsys.readouterr().err.count("Training continues") == 1
