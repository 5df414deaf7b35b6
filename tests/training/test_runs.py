"""`parakeet runs`, over folders as a trainer leaves them."""

import json
import re
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.training.job import FAILURE_FILE, JOB_FILE, LOCK_FILE, METRICS_FILE, TrainingJob
from parakeet.training.logging import Heartbeat
from parakeet.training.runs import find_run, list_runs, load_run, render_runs

from ..conftest import Prepared
from .conftest import ForkServer, until
from .run_folders import BATCH, RECIPE, STEPS, Folder, parakeet, record, row, schedule_of


def test_a_home_without_runs_is_one_friendly_line(tmp_path: Path) -> None:
    status, output = parakeet(tmp_path, "runs")
    assert status == 0
    assert output == f"No training run yet in {tmp_path / 'training_runs'}. Start one with: parakeet build\n"


def test_a_run_is_one_line_with_how_far_it_came(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "3fa94c1200000000").event("started")
    folder.train(*(record(step, loss=9.0) for step in range(1, 31)))
    folder.train(*(record(step, loss=4.0) for step in range(31, 50)))
    folder.train(record(50, loss=float("nan"), skipped="the loss is nan"))
    folder.event("skipped", 50).event("resumed", 40).event("skipped", 50).save(40)
    with FileLock(folder.path / LOCK_FILE):
        _, output = parakeet(tmp_path, "runs")
    assert row(output, "3fa94c12") == [
        *("3fa94c12", "training", "1.23 M", "50 of 100", "50%", "25,600 of 51,200", "4.000", "2,048", "40", "just now"),
        *("1", "0"),
    ]


def test_states(tmp_path: Path) -> None:
    Folder(tmp_path, "aaaa").event("started").train(*map(record, range(1, STEPS + 1))).event("finished", STEPS)
    Folder(tmp_path, "bbbb").event("started").train(record(1)).event("stopped", 1)
    Folder(tmp_path, "cccc").event("resumed").train(record(1))
    failed = Folder(tmp_path, "dddd").event("started").train(record(1))
    (failed.path / FAILURE_FILE).write_text("The GPU is\x1b]0;gone\x07\non fire.", encoding="utf-8")
    Folder(tmp_path, "eeee")
    refused = Folder(tmp_path, "gggg")
    (refused.path / FAILURE_FILE).write_text("It does not fit.", encoding="utf-8")
    longer = Folder(tmp_path, "ffff", tokens=BATCH * STEPS * 2).event("started").event("finished", STEPS)
    longer.train(*map(record, range(1, STEPS + 1)))
    runs, faults = list_runs(tmp_path / "training_runs")
    assert not faults
    states = {run.key: run.state for run in runs}
    assert states == {
        "aaaa": "finished",
        "bbbb": "stopped",
        "cccc": "failed",
        "dddd": "failed",
        "eeee": "not begun",
        "ffff": "stopped",
        "gggg": "refused",
    }
    assert [run.key for run in runs[-2:]] == ["gggg", "eeee"]
    notes = {run.key: run.note for run in runs}
    assert notes["gggg"] == "It does not fit."
    assert notes["dddd"] == "The GPU is on fire."
    assert "killed, or the power failed" in notes["cccc"]


def test_what_was_skipped_is_counted_on_the_way_to_the_present_step(tmp_path: Path) -> None:
    """The same counts as the trainer keeps in its checkpoints."""

    def counts() -> tuple[int, int]:
        run = load_run(folder.path)
        return run.count("skipped"), run.count("rolled_back")

    folder = Folder(tmp_path, "aaaa").event("started").event("skipped", 3).event("rolled_back", 9, to=2)
    folder.event("started").train(record(1))
    assert counts() == (0, 0), "started again"
    folder.event("skipped", 5).event("skipped", 8).event("resumed", 6)
    assert counts() == (1, 0), "step 8 is ahead again"
    folder.event("skipped", 8).event("skipped", 20).event("skipped", 21).event("rolled_back", 21, to=10)
    assert counts() == (4, 1)
    folder.event("skipped", 20).event("resumed", 15)
    assert counts() == (4, 1), "a checkpoint after the rollback counts it"
    folder.event("resumed", 10)
    assert counts() == (2, 0), "the one that it rolled back to does not"


def test_tokens_are_those_of_the_progress_bar_and_targets_are_shown_separately(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "aaaa", tokens=BATCH * STEPS - 100).event("started")
    folder.train(*(record(step, tokens=500 * step) for step in range(1, STEPS + 1))).event("finished", STEPS)
    _, output = parakeet(tmp_path, "runs")
    assert row(output, "aaaa")[4:6] == ["100%", "51,200 of 51,200"]
    _, output = parakeet(tmp_path, "runs", "aaaa")
    assert re.search(r"^  tokens +51,200 of 51,200$", output, re.MULTILINE)
    assert re.search(r"^  targets +50,000\b", output, re.MULTILINE)


def test_the_run_with_the_latest_sign_of_life_comes_first(tmp_path: Path) -> None:
    for key, moment in (("aaaa", 1e9), ("bbbb", 3e9), ("cccc", 2e9)):
        Folder(tmp_path, key).train(record(1, time=moment))
    Heartbeat(tmp_path / "training_runs" / "aaaa", "1").beat(1, 2, 3.0, 4.0)
    _, output = parakeet(tmp_path, "runs")
    assert [line[:4] for line in output.splitlines()[1:]] == ["bbbb", "cccc", "aaaa"]
    assert [row(output, key)[9] for key in ("aaaa", "bbbb")] == ["just now", "just now"]


@pytest.mark.parametrize(
    "job",
    [
        None,
        "{",
        "[]",
        '{"model": 3, "training": 4}',
        '{"model": {"layers": 1, "width": 8}, "training": {"tokens": 1, "batch_tokens": 0}}',
        '{"model": {"layers": "x", "width": 8}, "training": {"tokens": 1, "batch_tokens": 1}}',
        '{"model": {"layers": 1, "width": 8}, "training": {"tokens": 99, "batch_tokens": 32}}',
        '{"model": {"layers": 1, "width": 8}, "training": {"tokens": 99, "batch_tokens": 32}, "packing": 3}',
        '{"model": {"layers": 1, "width": 8}, "training": {"tokens": 99, "batch_tokens": 32}, "packing": {}}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_corrupt_folder_is_one_line_and_the_rest_is_shown(tmp_path: Path, job: str | None) -> None:
    Folder(tmp_path, "aaaa").train(record(1))
    broken = tmp_path / "training_runs" / "bbbb"
    broken.mkdir()
    (tmp_path / "training_runs" / "a file").touch()
    if job is not None:
        (broken / JOB_FILE).write_bytes(job.encode(errors="surrogateescape"))
    status, output = parakeet(tmp_path, "runs")
    assert status == 0
    assert row(output, "aaaa")[1] == "stopped"
    assert len(output.splitlines()) == 3
    assert str(broken) in output.splitlines()[-1]
    status, output = parakeet(tmp_path, "runs", "bb")
    assert status == 1
    assert output.startswith("Error: ")


def test_a_job_of_the_version_before_this_one_is_read(tmp_path: Path) -> None:
    """0.1 wrote three sections instead of the recipe, with the keys of its time."""
    folder = Folder(tmp_path, "aaaa").train(record(1))
    new, path = load_run(folder.path), folder.path / JOB_FILE
    job = TrainingJob.load(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    recipe = values.pop("recipe")
    assert recipe["name"] == RECIPE.name
    values |= {name: recipe[name] for name in ("model", "training", "packing")}
    values["packing"]["row_tokens"] = values["packing"].pop("sequence_length")
    values["training"]["recompute"] = values["training"].pop("activation_checkpointing")
    path.write_text(json.dumps(values), encoding="utf-8")
    assert load_run(folder.path).settings == new.settings
    earlier = TrainingJob.load(path).recipe
    assert (earlier.model, earlier.training, earlier.packing) == (
        *(job.recipe.model, job.recipe.training, job.recipe.packing),
    )


def test_damaged_files_of_a_run_are_ignored(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "aaaa").train(record(1)).save(1)
    for path in (folder.path / "step-00000001").iterdir():
        path.write_bytes(b"\xff" * 9)
    for name in ("events.jsonl", "best.json", "heartbeat-1.json", "step-00000002"):
        (folder.path / name).write_bytes(b'{"step": "\xff')
    (folder.path / "step-00000003").mkdir()
    status, output = parakeet(tmp_path, "runs", "aaaa")
    assert status == 0
    assert "none yet" in output


def test_one_run_in_full(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "3fa94c1200000000", tensorboard=True).train(*map(record, range(1, 91)))
    assert folder.schedule.stable_until == 60
    folder.save(40, 4.25).save(60, 4.125).save(80, 4.5)
    (folder.path / "best.json").write_text('{"step": 60, "validation_loss": 4.125}', encoding="utf-8")
    for step in range(12):
        folder.event("saved", step, f"Number {step}\x1b[31m of\n many.")
    status, output = parakeet(tmp_path, "runs", "3fa")
    assert status == 0
    assert "\x1b" not in output
    assert str(folder.path) in output
    assert re.search(r"training\.tensorboard +true", output)
    assert re.search(r"shards_content +d{12}…\n", output)
    assert re.search(r"plan_digests\.256 +e{12}…\n", output)
    assert "2,048 tokens/s, MFU unknown" in output
    assert "3.00 GiB" in output
    assert re.findall(r"^ +(\d+) +(4\.\d{4})  (.*?) +step-", output, re.MULTILINE) == [
        ("40", "4.2500", "stable"),
        ("60", "4.1250", "stable, best"),
        ("80", "4.5000", ""),
    ]
    assert re.findall(r"Number (\d+) of many\.", output) == [str(number) for number in range(2, 12)]


def test_stable_checkpoints_are_those_the_present_settings_can_continue_from(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "aaaa", warmup_steps=9).train(*map(record, range(1, 51)))
    branch = schedule_of(50, warmup_steps=9)
    assert (branch.stable_until, folder.schedule.stable_until) == (30, 60)
    for step, schedule in ((30, branch), (40, branch), (50, folder.schedule), (80, folder.schedule)):
        folder.save(step, 4.0 + step / 100, schedule)
    _, output = parakeet(tmp_path, "runs", "aaaa")
    assert re.findall(r"^ +(\d+) +4\.\d{4}  (.*?) +step-", output, re.MULTILINE) == [
        ("30", "stable"),
        ("50", "stable"),
        ("80", ""),
        ("40", "abandoned"),
    ]
    assert "4.8000 nats a token at step 80" in output
    assert load_run(folder.path).last_saved == 50


def test_the_decay_of_a_longer_run_is_abandoned_by_the_present_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "aaaa", tokens=BATCH * 50, warmup_steps=9)
    longer = schedule_of(STEPS, warmup_steps=9)
    folder.save(30, None, longer).save(45, None, longer).save(90, None, longer)
    run = load_run(folder.path)
    assert [(saved.step, saved.stable, saved.abandoned) for saved in run.saved] == [
        (30, True, False),
        (45, False, True),
        (90, False, True),
    ]
    assert run.step == 30


def test_an_event_is_one_line_however_many_documents_it_names(tmp_path: Path) -> None:
    documents = ", ".join(f"{number:032x}" for number in range(2000))
    Folder(tmp_path, "aaaa").event("skipped", 3, f"Step 3 was left out: the loss is nan. Its documents: {documents}.")
    _, output = parakeet(tmp_path, "runs", "aaaa")
    (line,) = [line for line in output.splitlines() if "Step 3 was left out: the loss is nan." in line]
    assert line.endswith("…")
    assert len(line) < 150
    assert "events.jsonl" in output


def test_a_prefix_of_no_run_or_of_several_names_the_candidates(tmp_path: Path) -> None:
    assert "Start one with: parakeet build" in parakeet(tmp_path, "runs", "ab")[1]
    for key in ("abcd0", "abcd1", "ffff"):
        Folder(tmp_path, key)
    status, output = parakeet(tmp_path, "runs", "abc")
    assert status == 1
    assert output == "Error: Several runs begin with 'abc': abcd0, abcd1. Type more of it.\n"
    status, output = parakeet(tmp_path, "compare", "fff", "abdc0")
    assert status == 1
    assert "No run begins with 'abdc0'. There are: abcd0" in output
    assert find_run(tmp_path / "training_runs", "f").key == "ffff"
    status, output = parakeet(tmp_path, "runs", "../training_runs/ffff")
    assert status == 1


@given(st.integers(20, 200))
def test_no_line_is_wider_than_the_terminal_while_columns_can_go(
    tmp_path_factory: pytest.TempPathFactory, width: int
) -> None:
    home = tmp_path_factory.mktemp("home")
    Folder(home, "3fa94c1200000000").train(*map(record, range(1, 60)))
    Folder(home, "3fa94c1299999999").train(record(1))
    wide = render_runs(home / "training_runs", None)
    narrow = render_runs(home / "training_runs", width)
    assert narrow == wide if max(map(len, wide.splitlines())) <= width else len(narrow) < len(wide)
    if width >= 70:
        assert max(map(len, narrow.splitlines())) <= width
    # Two keys that differ only from their ninth digit on.
    assert {"3fa94c120", "3fa94c129"} == {line.split()[0] for line in narrow.splitlines()[1:]}


def test_a_run_that_is_no_folder_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match="is not a training run"):
        load_run(tmp_path / "gone")
    assert not (tmp_path / METRICS_FILE).exists()


def test_a_real_run_is_listed_while_it_trains_after_a_stop_and_at_the_end(
    prepared: Prepared, trainers: ForkServer, tmp_path: Path
) -> None:
    run, output = tmp_path / "training_runs" / "aaaa", tmp_path / "output"
    run.mkdir(parents=True)
    output.mkdir()
    recipe = prepared.recipe
    training = recipe.training.model_copy(update={"tokens": 256 * 200, "checkpoint_steps": 20})
    job = TrainingJob(
        recipe=recipe.model_copy(update={"training": training}),
        tokenizer=prepared.tokenizer_folder,
        shards=prepared.shards,
        shards_content="shards",
        plan=prepared.plan,
        plan_digests={str(recipe.packing.sequence_length): "plan"},
        run=run,
        output=output,
    ).save()
    trainer = trainers.start(job)
    until(lambda: any(run.glob("step-*")), trainer)
    trainer.send(signal.SIGSTOP)  # however slow this process is
    live = load_run(run)
    trainer.send(signal.SIGCONT)
    trainer.send(signal.SIGTERM)
    trainer.wait()
    assert live.state == "training"
    assert 20 <= live.step < 200
    assert live.parameters is not None
    assert live.saved[0].stable
    assert live.saved[0].validation_loss is not None
    assert live.loss is not None
    stopped = load_run(run)
    assert stopped.state == "stopped"
    assert stopped.last_saved == stopped.step
    assert not list(run.glob("heartbeat-*"))
    trainers.finish(job)
    finished = load_run(run)
    assert (finished.state, finished.step, finished.mfu) == ("finished", 200, None)
    assert [event["step"] for event in finished.events if event["kind"] == "resumed"] == [stopped.step]
    status, shown = parakeet(tmp_path, "runs", "aaaa")
    assert status == 0
    assert "MFU unknown" in shown
