"""Which changes of a recipe continue the same run, which begin another, and how a run starts over."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from parakeet.artifact import Artifact, sha256_of
from parakeet.data.tokens.packing import plan_file
from parakeet.progress import Progress
from parakeet.recipe import LaterBatches, LaterSequences, Recipe
from parakeet.release.start import find_start
from parakeet.stage import MakeContext
from parakeet.training.checkpoint import checkpoints
from parakeet.training.job import CHECKPOINT_PATTERN, FAILURE_FILE, JOB_FILE, LOCK_FILE, TrainingJob
from parakeet.training.logging import EVENTS_FILE, read_events
from parakeet.training.stage import CheckpointStage, run_key

from ..conftest import Prepared
from .conftest import SECONDS, history, until


def inputs(**digests: str) -> dict[str, Artifact]:
    def artifact(name: str, files: dict[str, Any]) -> Artifact:
        return Artifact(Path(name), {"stage": name, "content": name, "files": files, "counts": {}})

    plans = {f"plan-{length}.arrow": {"sha256": digest} for length, digest in {"32": "a", "64": "b", **digests}.items()}
    return {"token_shards": artifact("s", {}), "tokenizer": artifact("t", {}), "packing_plan": artifact("p", plans)}


def changed(recipe: Recipe, section: str, **values: object) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


@pytest.mark.parametrize(
    ("section", "values", "same"),
    [
        ("training", {"tokens": 1 << 20, "decay_fraction": 0.5}, True),
        (
            "training",
            {"micro_batch_tokens": 64, "attention": "fused", "activation_checkpointing": "block", "compile": True},
            True,
        ),
        ("training", {"processes": 2, "keep_every": 10, "validation_tokens": 0, "tensorboard": True}, True),
        ("training", {"checkpoint_steps": 7, "keep_checkpoints": 1, "threads": 2, "device": "cuda"}, True),
        ("packing", {"then": [LaterSequences(sequence_length=64, share=0.1)]}, True),
        ("packing", {"sequence_length": 64}, False),
        ("packing", {"seed": 2}, False),
        ("training", {"learning_rate": 0.5}, False),
        ("training", {"optimizer": "adamw_8bit"}, False),
        ("training", {"embedding_rate": 2.5}, False),
        ("training", {"then": [LaterBatches(batch_tokens=128, share=0.1)]}, True),
        ("training", {"residual": "bf16"}, False),
        ("training", {"z_loss": 1e-4}, False),
        ("model", {"dropout": 0.2}, False),
    ],
)
def test_which_changes_of_a_recipe_continue_the_same_run(
    prepared: Prepared, section: str, values: dict[str, Any], same: bool
) -> None:
    before = run_key(prepared.recipe, inputs())
    assert (run_key(changed(prepared.recipe, section, **values), inputs()) == before) is same


def test_a_run_depends_on_the_packing_plan_of_its_first_sequence_length_only(prepared: Prepared) -> None:
    before = run_key(prepared.recipe, inputs())
    assert run_key(prepared.recipe, inputs(**{"64": "other"})) == before
    assert run_key(prepared.recipe, inputs(**{"32": "other"})) != before


@pytest.fixture
def runs(prepared: Prepared, tmp_path: Path) -> Path:
    """A folder for runs; the input of `build`, which runs in a process of its own, is beside it."""
    folders = {"token_shards": prepared.shards, "tokenizer": prepared.tokenizer_folder, "packing_plan": prepared.plan}
    values = {"recipe": prepared.recipe.model_dump(mode="json"), "folders": folders}
    (tmp_path / "inputs.json").write_text(json.dumps(values, default=str))
    return tmp_path / "training_runs"


def build(runs: Path, output: Path, steps: int, fresh: bool) -> None:
    """Stage `checkpoint`: its trainer is a process of its own."""
    values = json.loads(runs.with_name("inputs.json").read_text())
    recipe = Recipe.model_validate(values["recipe"])
    plan = plan_file(recipe.packing.sequence_length)

    def artifact(name: str, folder: Path) -> Artifact:
        files = {plan: {"sha256": sha256_of(folder / plan)}} if name == "packing_plan" else {}
        known = {"stage": name, "content": name, "files": files}
        return Artifact(folder, {**known, "counts": {}, "inputs": {}, "source_files": {}})

    def launch(command: Sequence[str]) -> str | None:
        status = subprocess.run(command).returncode
        return f"exit status {status}" if status else None

    made_from = {name: artifact(name, Path(folder)) for name, folder in values["folders"].items()}
    output.mkdir()
    recipe = changed(recipe, "training", tokens=recipe.training.batch_tokens * steps)
    context = MakeContext(
        recipe,
        runs.parent,
        made_from,
        dict,
        output,
        Progress(),
        launch,
        force=fresh,
        try_anyway=False,
        refuse_changed=lambda: None,
    )
    CheckpointStage(find_start).make(context)


def start_build(runs: Path, name: str, steps: int, fresh: bool = False) -> subprocess.Popen[str]:
    code = (
        "from pathlib import Path\n"
        "from tests.training.test_stage import build\n"
        f"build(Path({str(runs)!r}), Path({str(runs.with_name(name))!r}), {steps}, {fresh})\n"
    )
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=root)


def heard(process: subprocess.Popen[str], words: str) -> None:
    """Read its messages up to these words."""
    assert process.stderr is not None
    printed = []
    for line in process.stderr:
        printed.append(line)
        if words in line:
            return
    raise AssertionError("".join(printed))


@pytest.mark.skipif(sys.platform != "linux", reason="a trainer notices only there that its parent is gone")
def test_a_run_starts_over_only_when_the_orphan_of_a_killed_build_has_ended(runs: Path) -> None:
    killed = start_build(runs, "killed", steps=4000)
    until(lambda: len(list(runs.glob(f"*/{CHECKPOINT_PATTERN}"))) > 0 or killed.poll() is not None)
    (run,) = runs.iterdir()
    lock = (run / LOCK_FILE).stat().st_ino
    orphan = int((run / LOCK_FILE).with_suffix(".holder").read_text().split()[1])
    os.kill(orphan, signal.SIGSTOP)  # still saving, for as long as it suits us
    killed.kill()
    killed.wait()

    fresh = start_build(runs, "fresh", steps=6, fresh=True)
    heard(fresh, f"Waiting: this run is being trained by process {orphan}")
    assert list(run.glob(CHECKPOINT_PATTERN)), "nothing is deleted under a trainer that lives"
    os.kill(orphan, signal.SIGCONT)
    _, printed = fresh.communicate(timeout=SECONDS)
    assert fresh.returncode == 0, printed
    assert [line[0] for line in history(run / JOB_FILE)] == list(range(1, 7))
    kinds = [event["kind"] for event in read_events(run / EVENTS_FILE)]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    assert "resumed" not in kinds
    assert {path.name for path in checkpoints(run)} <= {f"step-{step:08d}" for step in range(1, 7)}
    assert (run / LOCK_FILE).stat().st_ino == lock
    assert not (run / FAILURE_FILE).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the trainer in /proc")
@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "had not begun"), (signal.SIGKILL, "ended early")])
def test_a_build_whose_trainer_ends_while_waiting_reports_it_and_disturbs_nobody(
    runs: Path, number: signal.Signals, reason: str
) -> None:
    start_build(runs, "first", steps=3).communicate(timeout=SECONDS)
    (run,) = runs.iterdir()
    (run / FAILURE_FILE).write_text("The word of the one that trains.")
    with FileLock(run / LOCK_FILE):
        second = start_build(runs, "second", steps=6)
        heard(second, "Waiting: this run is being trained")
        (trainer,) = Path(f"/proc/{second.pid}/task/{second.pid}/children").read_text().split()
        os.kill(int(trainer), number)
        _, printed = second.communicate(timeout=SECONDS)
    assert second.returncode == 1
    assert reason in printed.splitlines()[-1]
    assert (run / FAILURE_FILE).read_text() == "The word of the one that trains."
    assert TrainingJob.load(run / JOB_FILE).output == runs.with_name("second")
    assert not list(run.glob(f".{JOB_FILE}*"))
