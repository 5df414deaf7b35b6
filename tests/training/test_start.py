"""`training.start`: which models a training can begin with, and that it does."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parakeet.clean import leftovers
from parakeet.errors import ParakeetError
from parakeet.home import latest_release
from parakeet.recipe import Recipe
from parakeet.recipe_changes import changed as with_changes
from parakeet.release.start import find_start, pinned, read_start
from parakeet.release.verify import TRAINING_MANIFEST_FILE, write_generation_config, write_json, write_sums
from parakeet.stages import use_recipe
from parakeet.training.checkpoint import checkpoints
from parakeet.training.job import SUMMARY_FILE, TrainingJob
from parakeet.training.start import Start

from ..conftest import Prepared
from .conftest import ForkServer, MakeJob, events, failure, history, result, until

RANDOM_LOSS = 5.5
"""Nats a token: every run that begins with random weights begins above it."""


@pytest.fixture(scope="session")
def trained(write_job: MakeJob, trainers: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job of a finished run in a store of its own."""
    root = tmp_path_factory.mktemp("started")
    (root / "training_runs").mkdir()
    job = write_job(root / "training_runs" / "aaaa", learning_rate=0.02)
    trainers.finish(job)
    return job


@pytest.fixture(scope="session")
def shop(trained: Path, prepared: Prepared) -> Path:
    """A store with the finished run and a release of it called `tiny`, the latest."""
    root = trained.parents[2]
    release(root / "releases" / "aaaa-0", trained, prepared)
    (root / "releases" / "latest").symlink_to("aaaa-0")
    return root


def release(folder: Path, trained: Path, prepared: Prepared, name: str = "tiny", **manifest: Any) -> Path:
    folder.mkdir(parents=True)
    output = TrainingJob.load(trained).output
    for file in ("model.safetensors", "config.json"):
        shutil.copy2(output / file, folder)
    prepared.tokenizer.save(folder)
    write_generation_config(folder, name, prepared.recipe.generation, prepared.tokenizer)
    counts = json.loads((output / SUMMARY_FILE).read_text())
    values = {"recipe": prepared.recipe.model_dump(mode="json"), "stages": {"checkpoint": {"counts": counts}}}
    write_json(folder / TRAINING_MANIFEST_FILE, values | manifest)
    write_sums(folder)
    about = {
        "schema": 1,
        "stage": "release",
        "fingerprint": "aaaa",
        "content": "c",
        "made": "2026-11-28T00:00:00+00:00",
    }
    write_json(folder / "manifest.json", about | {"counts": {"name": name, "parameters": 1}, "inputs": {}, "files": {}})
    return folder


def started(recipe: Recipe, start: str | Path, **sections: dict[str, Any]) -> Recipe:
    values = recipe.model_dump()
    for section, changes in {**sections, "training": {**sections.get("training", {}), "start": str(start)}}.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def found(recipe: Recipe, root: Path) -> Start:
    start = find_start(recipe, root)
    assert start is not None
    return start


def begun_with(start: Start) -> dict[str, Any]:
    return {"start": start.lineage(), "learning_rate": 1e-3}


@pytest.mark.parametrize("name", ["latest", "tiny", "aaaa", "releases/aaaa-0", "releases/latest", "run"])
def test_a_start_is_found_by_each_of_its_names(shop: Path, prepared: Prepared, name: str) -> None:
    last = checkpoints(shop / "training_runs" / "aaaa")[-1]
    place = last if name == "run" else shop / name if "/" in name else name
    start = found(started(prepared.recipe, place), shop)
    assert start.tokenizer.sha256 == prepared.tokenizer.sha256
    assert start.config.layers == prepared.recipe.model.layers
    assert start.kind == ("checkpoint" if name == "run" else "release")
    assert start.tokens == json.loads((shop / "training_runs/aaaa-output" / SUMMARY_FILE).read_text())["tokens"]
    assert load_file(start.weights).keys() == load_file(last / "model.safetensors").keys()
    again = pinned(started(prepared.recipe, place), shop)
    assert found(again, shop / "elsewhere").weights_sha256 == start.weights_sha256


def test_clean_keeps_the_run_that_the_recipe_in_use_starts_from(
    shop: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(shop, tmp_path / "home", symlinks=True))
    monkeypatch.chdir(tmp_path)
    for folder in (home, tmp_path):
        (folder / "unused.txt").touch()  # the source of the recipe, from where it is read
    run = home / "training_runs" / "aaaa"
    use_recipe(home, prepared.recipe)
    assert run in [entry.path for entry in leftovers(home).unfinished]
    use_recipe(home, started(prepared.recipe, checkpoints(run)[-1]))
    for with_unfinished in (False, True):
        found = leftovers(home, with_unfinished)
        assert run not in [entry.path for entry in (*found.unreferenced, *found.unfinished)]


def test_no_start_is_none(shop: Path, prepared: Prepared) -> None:
    assert find_start(prepared.recipe, shop) is None
    assert prepared.recipe == Recipe.model_validate(prepared.recipe.model_dump() | {})
    assert started(prepared.recipe, "none").training.start is None


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("model", {"layers": 4}, ["layers 3 there, 4 in the recipe", "Set model.layers to 3"]),
        (
            "model",
            {"softmax_one": True},
            ["softmax_one false there, true in the recipe", "Set model.softmax_one to false"],
        ),
        (
            "model",
            {"share_keys_values": False},
            ["share_keys_values true there, false in the recipe", "Set model.share_keys_values to true"],
        ),
        ("model", {"heads": 4}, ["heads 2 there, 4 in the recipe"]),
        ("model", {"width": 64}, ["width 32 there, 64 in the recipe"]),
        ("model", {"layers": 2, "width": 16}, ["layers", "width", "model.layers to 3, model.width to 32"]),
        ("tokenizer", {"kind": "words"}, ["tokenizer bpe of", "words in the recipe", "tokenizer.kind to bpe"]),
        ("tokenizer", {"kind": "cl100k_base"}, ["cl100k_base in the recipe"]),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(
    shop: Path, prepared: Prepared, section: str, values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ParakeetError) as refused:
        find_start(started(prepared.recipe, "tiny", **{section: values}), shop)
    for word in [*words, "releases/aaaa-0", "tiny"]:
        assert word in str(refused.value)


@pytest.mark.parametrize("name", ["tiny", "run"])
def test_what_the_start_was_trained_on_is_not_held_out(shop: Path, prepared: Prepared, name: str) -> None:
    place = checkpoints(shop / "training_runs" / "aaaa")[-1] if name == "run" else name
    share = prepared.recipe.deduplication.held_out_fraction
    for fraction in (share, share / 2):
        assert found(started(prepared.recipe, place, deduplication={"held_out_fraction": fraction}), shop)
    more = started(prepared.recipe, place, deduplication={"held_out_fraction": 2 * share})
    with pytest.raises(ParakeetError, match=rf"source text .*Set deduplication.held_out_fraction to {share:g}, or"):
        find_start(more, shop)
    elsewhere = [source.model_copy(update={"path": "other.txt"}) for source in more.sources]
    assert found(more.model_copy(update={"sources": elsewhere}), shop)


def test_a_start_with_more_tokens_than_the_recipe_allows_is_refused(shop: Path, prepared: Prepared) -> None:
    recipe = started(prepared.recipe, "tiny")
    few = recipe.model_copy(update={"tokenizer": recipe.tokenizer.model_copy(update={"vocabulary": 260})})
    with pytest.raises(ParakeetError, match=r"at most 260 in the recipe.*Set tokenizer.vocabulary to"):
        find_start(few, shop)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("model", {"dropout": 0.3}),
        ("model", {"context": 64}),
        ("model", {"context": 4096}),
        ("tokenizer", {"vocabulary": 5000}),
        ("training", {"optimizer": "adamw", "seed": 9, "warmup_steps": 0}),
    ],
)
def test_what_may_differ_is_not_refused(shop: Path, prepared: Prepared, section: str, values: dict[str, Any]) -> None:
    assert find_start(started(prepared.recipe, "tiny", **{section: values}), shop) is not None


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def damaged(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        body = bytearray((folder / name).read_bytes())
        body[len(body) // 2] ^= 1
        (folder / name).write_bytes(body)

    return damage


HARMED = [
    (without("model.safetensors"), "model.safetensors is missing"),
    (damaged("model.safetensors"), "model.safetensors"),
    (lambda folder: shutil.rmtree(folder), "there is no"),
    (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "holds no model"),
    (lambda folder: (shutil.rmtree(folder), folder.write_text("PK")), "is a file.*parakeet import"),
]


@pytest.mark.parametrize(
    ("kind", "harm", "words"),
    [
        *(("release", harm, words) for harm, words in HARMED),
        ("release", damaged("tokenizer.json"), "tokenizer.json"),
        ("release", damaged("SHA256SUMS"), "has sha256 .*, expected"),
        *(("checkpoint", harm, words) for harm, words in HARMED),
        ("checkpoint", damaged("state.json"), "state.json"),
        ("checkpoint", lambda folder: (folder.parent / "job.json").unlink(), "outside of its run.s folder"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_one_message(
    tmp_path: Path, trained: Path, prepared: Prepared, kind: str, harm: Callable[[Path], object], words: str
) -> None:
    if kind == "release":
        folder = release(tmp_path / "releases" / "mine", trained, prepared)
    else:
        folder = tmp_path / "run" / "step-00000020"
        shutil.copytree(checkpoints(trained.parent)[-1], folder)
        shutil.copy2(trained, tmp_path / "run")
    read_start(folder, tmp_path)
    harm(folder)
    with pytest.raises(ParakeetError, match=words):
        read_start(folder, tmp_path)


def test_other_places_say_what_they_are(shop: Path, prepared: Prepared, tmp_path: Path) -> None:
    for place, words in {
        shop / "training_runs" / "aaaa": "name one of its checkpoints. It has step-",
        Path("tinny"): "nor a folder .\./tinny.*No model is called 'tinny'",
        Path("original_model"): "not been imported yet.*--select original_model",
    }.items():
        with pytest.raises(ParakeetError, match=words):
            find_start(started(prepared.recipe, place), shop)
    with pytest.raises(ParakeetError, match=r"there is no release in .* yet"):
        find_start(started(prepared.recipe, "latest"), tmp_path)


def test_a_checkpoint_outside_its_run_says_what_it_lacks(shop: Path, prepared: Prepared, tmp_path: Path) -> None:
    saved = checkpoints(shop / "training_runs" / "aaaa")[-1]
    copy = shutil.copytree(saved, tmp_path / "mine" / saved.name)
    with pytest.raises(ParakeetError, match=r"mine has no job\.json, .*Name the checkpoint in its run's folder"):
        find_start(started(prepared.recipe, copy), shop)
    shutil.copy2(saved.parent / "job.json", copy.parent)
    assert found(started(prepared.recipe, copy), shop).weights_sha256 == read_start(saved, shop).weights_sha256


def test_a_folder_that_is_called_like_a_model_names_both(
    shop: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ParakeetError) as refusal:
        find_start(with_changes(prepared.recipe, ["training.start=tiny"]), shop)
    assert f"{tmp_path / 'tiny'} holds no model" in str(refusal.value)
    assert f"A model is called tiny too: to start from that, set training.start to {shop / 'releases' / 'aaaa-0'}" in (
        str(refusal.value)
    )


def test_a_model_whose_tokenizer_is_not_its_own_is_refused(tmp_path: Path, trained: Path, prepared: Prepared) -> None:
    folder = release(tmp_path / "releases" / "mine", trained, prepared)
    weights = load_file(folder / "model.safetensors")
    weights["embedding.weight" if "embedding.weight" in weights else next(iter(weights))] = torch.zeros(64, 32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocabulary_rows": 64}))
    save_file(weights, folder / "model.safetensors")
    write_sums(folder)
    with pytest.raises(ParakeetError, match=f"needs {prepared.tokenizer.rows} embedding rows, and its weights have 64"):
        read_start(folder, tmp_path)


def test_latest_is_not_trained_for_ever(tmp_path: Path, trained: Path, prepared: Prepared) -> None:
    """Once the latest release was trained by a recipe that starts from `latest`, that recipe finds it again."""
    first = release(tmp_path / "releases" / "first-0", trained, prepared, "first")
    latest = latest_release(tmp_path)
    latest.symlink_to("first-0")
    recipe = started(prepared.recipe, "latest")
    begun = found(recipe, tmp_path)
    assert begun.folder == first

    made = {"recipe": pinned(recipe, tmp_path).model_dump(mode="json"), "start": begun.lineage()}
    second = release(tmp_path / "releases" / "second-0", trained, prepared, "second", **made)
    latest.unlink()
    latest.symlink_to("second-0")
    assert found(recipe, tmp_path).folder == first
    assert found(started(recipe, "latest", training={"checkpoint_steps": 7}), tmp_path).folder == first
    for changed in ({"training": {"tokens": 10_240}}, {"deduplication": {"held_out_fraction": 0.001}}):
        onward = found(started(recipe, "latest", **changed), tmp_path)
        assert onward.folder == second
        assert [facts["model"] for facts in onward.earlier] == ["first"]
        assert onward.tokens == 2 * (begun.tokens or 0)

    (tmp_path / "promoted").mkdir()
    (tmp_path / "releases" / "promoted").mkdir()
    (tmp_path / "releases" / "promoted" / recipe.name).symlink_to("../first-0")
    assert found(started(recipe, "latest", training={"tokens": 10_240}), tmp_path).folder == first
    shutil.rmtree(first)
    with pytest.raises(ParakeetError, match=r"there is no .*first-0\. .*second-0 was trained from it .*chat --model"):
        find_start(started(recipe, first), tmp_path)


def test_a_run_begins_with_the_weights_and_resumes_to_the_same_bits(
    shop: Path, prepared: Prepared, make_job: MakeJob, trainers: ForkServer
) -> None:
    start = found(started(prepared.recipe, "tiny"), shop)
    whole, killed = (make_job(name, **begun_with(start), tokens=32 * 8 * 40) for name in ("whole", "killed"))
    assert f"Training starts from the weights of tiny (release), {start.folder}" in trainers.finish(whole)
    assert history(whole)[0][1] < RANDOM_LOSS
    losses = [step[1] for step in history(whole)]
    some = len(losses) // 20
    assert some == 2
    summary = json.loads((TrainingJob.load(whole).output / SUMMARY_FILE).read_text())
    assert summary["first_loss"] == pytest.approx(sum(losses[:some]) / some)
    assert events(whole, "started")[0]["text"].startswith("Training started from the weights of tiny")
    moments = random.Random(5)
    for _ in range(3):
        running = trainers.start(killed)
        until(lambda: bool(events(killed, "started")), running)
        time.sleep(moments.uniform(0.0, 0.3))
        running.send(signal.SIGKILL)
        if running.wait() == 0:
            break
    trainers.finish(killed)
    assert result(killed) == result(whole)


def test_a_rollback_to_the_beginning_returns_to_the_weights(
    shop: Path, prepared: Prepared, make_job: MakeJob, trainers: ForkServer
) -> None:
    start = found(started(prepared.recipe, "tiny"), shop)
    job = make_job(
        "named", learning_rate=1.0, gradient_clip=1e30, warmup_steps=0, weight_decay=1e6, start=start.lineage()
    )
    assert trainers.start(job).wait() == 1
    assert [event["to"] for event in events(job, "rolled_back")] == [0, 0, 0]
    assert history(job)[0][1] < RANDOM_LOSS


def test_weights_that_are_not_as_they_were_are_one_message_and_a_run_under_way_needs_none(
    shop: Path, prepared: Prepared, make_job: MakeJob, trainers: ForkServer, tmp_path: Path
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(shop / "releases" / "aaaa-0", folder)
    start = read_start(folder, shop)
    under_way, fresh = (make_job(name, **begun_with(start)) for name in ("under-way", "fresh"))
    running = trainers.start(under_way)
    until(lambda: bool(checkpoints(under_way.parent)), running)
    running.send(signal.SIGTERM)
    running.wait()
    for harm in (damaged("model.safetensors"), shutil.rmtree):
        harm(folder)
        running = trainers.start(fresh)
        assert running.wait() == 1
        assert "Training has to start from these weights (training.start" in failure(fresh)
        assert "Traceback" not in running.printed()
    trainers.finish(under_way)
