"""A store that the version before this one made: found, continued and read, and nothing of it is built again.

stores/store_0_1.tar.xz was made by Parakeet 0.1 at commit 1eac929 with the two recipes that it holds: `small.yaml` was
built to its release; of `longer.yaml`, training was interrupted after step 119.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from filelock import FileLock

from parakeet.artifact import Artifact
from parakeet.clean import leftovers
from parakeet.data.reading.stage import DocumentsStage
from parakeet.earlier import earlier_fingerprint
from parakeet.errors import ParakeetError
from parakeet.evaluation.metrics import measured_metrics
from parakeet.evaluation.probes import Probes
from parakeet.evaluation.stage import EvaluationStage
from parakeet.pages import render
from parakeet.progress import Progress
from parakeet.recipe import Recipe, Training
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build, active_recipe, stages_of, use_recipe
from parakeet.training.recorded import left_unfinished, load_begun
from parakeet.training.stage import CheckpointStage

from .program_server import programs

ARCHIVE = Path(__file__).parent / "stores" / "store_0_1.tar.xz"
STEPS_BEFORE = 119
LATER = ("trace_index", "memorisation", "report", "comparison")
"""Stages that 0.1 did not have: they are made from what it made. Today the release is made from the report."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "home", filter="data")
    active = tmp_path / "home" / "recipe.yaml"
    # The text lay in another folder when the store was made.
    text = active.read_text(encoding="utf-8")
    active.write_text(re.sub(r"path: .*/notes\.txt", f"path: {tmp_path}/home/notes.txt", text), encoding="utf-8")
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path / "home"


def parakeet(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = programs().start(arguments, os.environ)
    out, errors = program.communicate()
    assert program.returncode is not None
    return subprocess.CompletedProcess(arguments, program.returncode, out.decode(), errors.decode())


def run_with_seed(store: Path, seed: int) -> Path:
    jobs = {
        path.parent: json.loads(path.read_text(encoding="utf-8")) for path in store.glob("training_runs/*/job.json")
    }
    return next(run for run, job in jobs.items() if job["training"]["seed"] == seed)


def test_every_artefact_is_found(store: Path) -> None:
    recipe = load_recipe(str(store / "small.yaml"))
    build = Build(store, recipe)
    made = {name: build.find(name) for name in build.stages if name not in (*LATER, "release", "original_model")}
    assert [name for name, artifact in made.items() if artifact is None] == []
    report = Artifact(store / "report", {"content": "of a report of today", "files": {}})
    assert Build(store, recipe, {"report": report}).find("release") is not None


def test_an_earlier_evaluation_is_found_although_no_trace_index_is_wanted(store: Path) -> None:
    recipe = load_recipe(str(store / "small.yaml"))
    without = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"trace_index": False})})
    build = Build(store, without)
    assert build.artifact("evaluation") == Build(store, recipe).artifact("evaluation")
    assert not {"trace_index", "memorisation"} & {*build.upstream("release")}


def test_an_earlier_evaluation_is_shown(store: Path) -> None:
    """It lacks the metrics that came later, and the intervals of bits per byte."""
    evaluation = Build(store, load_recipe(str(store / "small.yaml"))).artifact("evaluation")
    stage = EvaluationStage()
    headline, figures = stage.headline(evaluation.counts), stage.figures(evaluation)
    assert re.fullmatch(r"bits per byte synthetic \d\.\d{3}", headline)
    first = next(iter(figures))
    assert (first, figures[first]) == ("bits_per_byte", figures["bits_per_byte_synthetic"])
    assert "minimal_pairs" not in figures
    metrics = measured_metrics(evaluation.counts)
    page = render("evaluation.md", name="small", metrics=metrics, evaluation=evaluation.counts)
    assert "Held-out bits per byte" in page
    assert "minimal pairs" not in page


@pytest.mark.slow
def test_a_build_makes_nothing_and_chat_answers(store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*-0") if path.is_dir()}
    finished = parakeet("build", "--recipe", str(store / "small.yaml"))
    assert finished.returncode == 0, finished.stderr
    names = [stage.name for stage in stages_of(load_recipe("demo")) if stage.group != "original"]
    found = [name for name in names if name not in LATER]
    assert re.findall(r"^(\w+) +up to date", finished.stderr, re.MULTILINE) == found
    assert re.findall(r"^(\w+) +made in", finished.stderr, re.MULTILINE) == list(LATER)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert parakeet("verify", str(store / "releases" / "latest")).returncode == 0
    replied = parakeet("chat", "-m", "Hello!", "--temperature", "0", "--max-tokens", "5")
    assert (replied.returncode, replied.stderr) == (0, "")


@pytest.mark.slow
def test_an_interrupted_training_run_is_continued(store: Path) -> None:
    """With fewer tokens than it was begun for, which is a change that a run may see."""
    recipe = store / "longer.yaml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("tokens: 2560000", "tokens: 40000"), encoding="utf-8")
    runs = sorted((store / "training_runs").iterdir())
    run = run_with_seed(store, 2)
    before = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    finished = parakeet("build", "--recipe", str(recipe))
    assert finished.returncode == 0, finished.stderr
    assert sorted((store / "training_runs").iterdir()) == runs
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    # None of the steps before was trained again.
    assert lines[:STEPS_BEFORE] == before[:STEPS_BEFORE]
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 158))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in events if event["kind"] == "resumed"] == [STEPS_BEFORE]
    assert re.findall(r"^(\w+) +made in", finished.stderr, re.MULTILINE) == [
        *("trace_index", "checkpoint", "evaluation", "memorisation", "report", "release", "comparison"),
    ]


def test_an_unfinished_run_is_found_after_its_recipe_and_its_text_changed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another recipe of the same name is used, the source's file is gone, and the stage makes another text."""
    run = run_with_seed(store, 2)
    longer = load_recipe(str(store / "longer.yaml"))
    changed = longer.model_copy(update={"training": longer.training.model_copy(update={"learning_rate": 1e-4})})
    use_recipe(store, changed)
    (store / "notes.txt").unlink()
    monkeypatch.setattr(DocumentsStage, "version", 100)
    monkeypatch.setattr(DocumentsStage, "valid_versions", ())
    (line,) = left_unfinished(store, changed)
    assert f"Run {run.name[:8]} of recipe longer, begun with other settings or text, is unfinished: step 119 of" in line
    assert line.endswith(f"parakeet build --run {run.name[:8]}")
    assert left_unfinished(store, changed, other_settings=True) == [line]
    assert left_unfinished(store, longer, other_settings=True) == []
    assert left_unfinished(store, load_recipe("demo")) == []
    begun = load_begun(store, run.name[:8])
    assert begun.recipe == longer
    build = Build(store, begun.recipe, begun.artifacts)
    assert build.stage("checkpoint").run_folders(begun.recipe, build.inputs("checkpoint"), store) == [run]
    assert {"documents", "tokenizer", "token_shards", "packing_plan"} < begun.artifacts.keys()


@pytest.mark.slow
def test_an_unfinished_run_is_finished_as_it_was_begun(store: Path) -> None:
    run = run_with_seed(store, 2)
    job = json.loads((run / "job.json").read_text(encoding="utf-8"))
    job["training"]["tokens"] = 40_000
    (run / "job.json").write_text(json.dumps(job), encoding="utf-8")
    recipe = (store / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(recipe.replace("tokens: 2560000", "tokens: 40000"), encoding="utf-8")
    (store / "notes.txt").unlink()
    finished = parakeet("build", "--run", run.name[:6])
    assert finished.returncode == 0, finished.stderr
    assert "Resuming from step 119 of 157." in finished.stderr
    made = re.findall(r"^(\w+) +made in", finished.stderr, re.MULTILINE)
    assert made == ["trace_index", "checkpoint", "evaluation", "memorisation", "report", "release", "comparison"]
    assert (store / "recipe.yaml").read_text(encoding="utf-8") == recipe
    again = parakeet("build", "--run", run.name)
    assert (again.returncode, again.stderr) == (
        1,
        f"Error: Run {run.name} is finished: there is nothing to continue.\n",
    )


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("packing_plan", "packing_plan/[0-9a-f]+-0, which it was begun with, was removed"),
        ("documents", "documents/[0-9a-f]+-0, which it was begun with, was removed"),
        ("training_runs/*/step-*", "has no checkpoint to continue from"),
        ("recipe.yaml", "does not hold the whole recipe"),
    ],
)
def test_a_run_that_cannot_be_finished_says_why(store: Path, remove: str, message: str) -> None:
    run = run_with_seed(store, 2)
    if remove != "recipe.yaml":
        use_recipe(store, load_recipe("demo"))
    for path in list(store.glob(remove)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ParakeetError, match=message):
        load_begun(store, run.name)


def test_a_run_is_finished_with_nothing_else_chosen(store: Path) -> None:
    run = run_with_seed(store, 2)
    refused = parakeet("build", "--run", run.name, "--set", "training.seed=3", "--limit", "0.5")
    assert refused.returncode == 1
    assert refused.stderr == "Error: --run finishes a run with its own recipe: leave out --set, --limit.\n"


def test_clean_offers_neither_models_nor_unfinished_runs(store: Path) -> None:
    """The active recipe is `longer`; `small` was built before it, and its release is the latest."""
    assert active_recipe(store).name == "longer"
    found = leftovers(store)
    offered = {(entry.path.parent.name, entry.path.name.startswith(".partial-")) for entry in found.unreferenced}
    # The checkpoint's directory is empty until training has ended: all that was trained is in the run's folder.
    assert offered == {("checkpoint", True), ("data_card", False)}
    assert found.unfinished == []


def test_a_setting_that_0_1_did_not_have_is_built_anew(store: Path) -> None:
    recipe = load_recipe(str(store / "small.yaml"))
    changed = recipe.model_copy(update={"training": recipe.training.model_copy(update={"decay": "sqrt"})})
    build = Build(store, changed)
    assert build.find("packing_plan") is not None
    assert build.find("checkpoint") is None


def test_a_stage_and_a_section_that_0_1_did_not_have_are_new(store: Path) -> None:
    class OtherTraining(Training):
        invented: int = 3

    recipe = load_recipe(str(store / "small.yaml"))
    used = recipe.model_copy(update={"training": OtherTraining(**recipe.training.model_dump(), invented=4)})
    build = Build(store, used)
    assert build.find("packing_plan") is not None
    assert build.find("checkpoint") is None
    (folder,) = build.stage("checkpoint").run_folders(used, build.inputs("checkpoint"), store)
    assert not folder.exists()
    assert earlier_fingerprint("invented", 1, {}, recipe, {}, {}) is None


def test_a_raised_version_is_built_anew(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(str(store / "small.yaml"))
    monkeypatch.setattr(CheckpointStage, "version", 2)
    assert Build(store, recipe).find("packing_plan") is not None
    assert Build(store, recipe).find("checkpoint") is None


def test_a_run_that_is_continued_for_more_tokens_is_unfinished(store: Path) -> None:
    """Although an earlier checkpoint of it was finished."""
    run = run_with_seed(store, 1)
    job = json.loads((run / "job.json").read_text(encoding="utf-8"))
    job["training"]["tokens"] *= 400
    (run / "job.json").write_text(json.dumps(job), encoding="utf-8")
    use_recipe(store, load_recipe("demo"))
    release = (store / "releases" / "latest").resolve()
    manifest = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    (store / "releases" / "latest").unlink()
    manifest["schema"] = 2  # of a later Parakeet
    (release / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    found = leftovers(store)
    assert run in [entry.path for entry in found.unfinished]
    # What the run was begun with: nothing else refers to it.
    needed = {"tokenizer", "token_shards", "packing_plan"}
    assert not needed & {entry.path.parent.name for entry in found.unreferenced}
    assert needed < {entry.path.parent.name for entry in leftovers(store, with_unfinished=True).unreferenced}
    offered = [entry.path for entry in found.unreferenced]
    assert run not in offered
    assert release not in offered


def test_nothing_is_offered_while_a_run_is_trained(store: Path) -> None:
    (run, *_) = sorted((store / "training_runs").iterdir())
    with FileLock(run / "run.lock"), pytest.raises(ParakeetError, match="Something is being built"):
        leftovers(store)


def test_an_unfinished_run_of_another_recipe_stays_unless_it_is_asked_for(store: Path) -> None:
    assert parakeet("use", str(store / "small.yaml")).returncode == 0
    (run,) = (entry.path for entry in leftovers(store).unfinished)
    listed = parakeet("clean", "--yes")
    assert listed.returncode == 0, listed.stderr
    assert "Unfinished work, which stays unless you add --unfinished:" in listed.stdout
    assert str(run) in listed.stdout
    assert run.is_dir()
    removed = parakeet("clean", "--unfinished", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert not run.exists()
    assert Build(store, load_recipe(str(store / "small.yaml"))).find("evaluation") is not None
    assert (store / "releases" / "latest").is_dir()


def test_what_an_earlier_version_of_a_stage_made_is_used_while_it_is_valid(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(store / "small.yaml"))

    def documents() -> Artifact:
        return Build(store, recipe).ensure("documents", Progress(), refuse_launch)[0]

    def refuse_launch(*arguments: object) -> None:
        raise AssertionError("`documents` launches nothing")

    monkeypatch.setattr(DocumentsStage, "valid_versions", ())
    monkeypatch.setattr(DocumentsStage, "version", 100)
    made = documents()
    monkeypatch.setattr(DocumentsStage, "version", 101)
    assert Build(store, recipe).find("documents") is None
    monkeypatch.setattr(DocumentsStage, "valid_versions", (99, 100))
    assert documents().path == made.path
    newer = Build(store, recipe).ensure("documents", Progress(), refuse_launch, force=True)[0]
    assert newer.manifest["version"] == 101
    assert documents().path == newer.path


def test_what_was_made_of_a_folder_is_used_although_other_files_of_it_are_read_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cloned"
    folder.mkdir()
    (folder / "data.jsonl").write_text('{"text": "A long walk."}\n{"text": "A short walk."}\n', encoding="utf-8")
    (folder / "README.md").write_text("# A card\n", encoding="utf-8")
    (folder / "more.csv").write_text("text\nA third walk.\n", encoding="utf-8")
    recipe = load_recipe("demo")
    source = {"kind": "files", "name": "cloned", "path": str(folder)}
    recipe = Recipe.model_validate({**recipe.model_dump(), "sources": [source]})

    def find() -> Artifact | None:
        return Build(tmp_path / "home", recipe).find("documents")

    with monkeypatch.context() as then:
        then.setattr(DocumentsStage, "version", DocumentsStage.valid_versions[0])
        then.setattr(DocumentsStage, "valid_versions", ())
        then.setattr(DocumentsStage, "files", DocumentsStage.files_before)
        build = Build(tmp_path / "home", recipe)
        made = build.store.ensure(build.work("documents"), lambda output, _: {"documents": 3}, Progress())[0]
    assert sorted(made.manifest["source_files"]) == ["cloned/README.md", "cloned/data.jsonl"]
    assert find() == made
    time.sleep(0.01)
    (folder / "later.csv").write_text("text\nA walk that is new.\n", encoding="utf-8")
    assert find() is None


def test_an_evaluation_that_was_made_anew_is_not_replaced_by_an_earlier_one(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(store / "small.yaml"))
    found = Build(store, recipe).artifact("evaluation")
    assert found.manifest["version"] < EvaluationStage.version
    forced = made_by_force(Build(store, recipe), "evaluation")
    assert Build(store, recipe).find("evaluation") == forced
    monkeypatch.setattr(Probes, "version", 100)
    assert Build(store, recipe).find("evaluation") is None
    shutil.rmtree(forced.path)
    assert Build(store, recipe).find("evaluation") == found


def test_a_release_with_a_report_is_not_replaced_by_an_earlier_one_without(store: Path) -> None:
    recipe = load_recipe(str(store / "small.yaml"))

    def build(content: str) -> Build:
        return Build(store, recipe, {"report": Artifact(store / "report", {"content": content, "files": {}})})

    found = build("one").artifact("release")
    forced = made_by_force(build("one"), "release")
    assert build("one").find("release") == forced
    assert build("other").find("release") is None
    shutil.rmtree(forced.path)
    assert build("other").find("release") == found


def made_by_force(build: Build, name: str) -> Artifact:
    return build.store.ensure(build.work(name), lambda output, _: {}, Progress(), force=True)[0]
