"""What is new since a release, and the recipe that trains on it."""

import datetime
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import HubSource
from parakeet.release.history import Decision, record
from parakeet.retraining import due_sources, plan_retraining, training_now, with_latest_look

from .released import RELEASE, RUN, SHARDS, recipe_of, train_run, write_release


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """4,000 bytes, 1,000 tokens, in two files that a release was trained on."""
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("word " * 600, encoding="utf-8")
    (folder / "b.txt").write_text("text " * 200, encoding="utf-8")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_without_a_release_the_recipe_is_trained_as_it_is(home: Path, text: Path) -> None:
    recipe = recipe_of(text)
    planned = plan_retraining(home, recipe)
    assert planned.recipe == recipe
    assert "There is no promoted release of recipe notes yet" in planned.reason


def test_nothing_new_is_said_with_the_files(home: Path, text: Path) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe)
    planned = plan_retraining(home, recipe)
    assert planned.recipe is None
    assert planned.reason == f"Nothing is new since release {RELEASE}: 2 files, none new or changed."


def add(text: Path) -> None:
    (text / "c.txt").write_text("more " * 200, encoding="utf-8")


def append(text: Path) -> None:
    with (text / "a.txt").open("a", encoding="utf-8") as file:
        file.write("more " * 200)


def edit(text: Path) -> None:
    """A typo in b.txt: without reading both, all 1,000 bytes of it may be new."""
    (text / "b.txt").write_text("text " * 100 + "tixt " + "text " * 99, encoding="utf-8")


def shorten(text: Path) -> None:
    (text / "a.txt").write_text("word " * 200, encoding="utf-8")


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [(add, "1 file new"), (append, "1 file changed"), (edit, "1 file changed"), (shorten, "1 file changed")],
)
def test_new_tokens_are_counted_by_bytes(
    home: Path, text: Path, change: Callable[[Path], None], words: str, sizes: bool
) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe, sizes=sizes)
    change(text)
    planned = plan_retraining(home, recipe)
    tokens = 1_000 if change is append and not sizes else 250
    assert f"About {tokens:,} tokens are new since release {RELEASE} ({words})" in planned.reason
    assert f"{tokens / 10:.1f}% of the 1,000" in planned.reason


@pytest.mark.parametrize(
    "change",
    [
        lambda text: (text / "a.txt").rename(text / "z.txt"),
        lambda text: os.utime(text / "a.txt"),
        lambda text: (text / "b.txt").unlink(),
        lambda text: shutil.copy(text / "a.txt", text / "copy.txt"),
    ],
    ids=["renamed", "touched", "removed", "copied"],
)
def test_what_holds_no_new_text_starts_nothing(home: Path, text: Path, change: Callable[[Path], Any]) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe)
    change(text)
    planned = plan_retraining(home, recipe)
    assert planned.recipe is None
    assert "Nothing is new" in planned.reason


def test_a_removed_file_is_told(home: Path, text: Path) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe)
    (text / "b.txt").unlink()
    assert plan_retraining(home, recipe).reason.endswith("1 file is gone.")


@pytest.mark.parametrize(("settings", "least"), [({"least_new_tokens": 251}, 251), ({"least_new_share": 0.3}, 300)])
def test_too_little_that_is_new_is_said_with_the_bounds(
    home: Path, text: Path, settings: dict[str, Any], least: int
) -> None:
    recipe = recipe_of(text, **settings)
    write_release(home, recipe)
    add(text)
    planned = plan_retraining(home, recipe)
    assert planned.recipe is None
    assert f"Retraining starts at {least}: retraining.least_new_tokens is" in planned.reason
    assert plan_retraining(home, recipe, anyway=True).recipe is not None


def test_a_long_retraining_continues_from_the_last_stable_checkpoint(home: Path, text: Path) -> None:
    recipe = recipe_of(text, passes=4, replay=0.5, warmup_fraction=0.25)
    write_release(home, recipe)
    (text / "c.txt").write_text("more " * 6400, encoding="utf-8")
    planned = plan_retraining(home, recipe)
    derived = planned.recipe
    assert derived is not None
    assert derived.name == recipe.name
    assert derived.training.start == str(home / "training_runs" / RUN / "step-00000080")
    # 8,000 new tokens and all 1,000 old ones, four times: 71 steps of 512.
    assert derived.training.tokens == 71 * 512
    assert derived.training.warmup_steps == 18
    # The decay takes as many tokens as the 20 steps that followed the checkpoint.
    assert derived.training.decay_fraction == pytest.approx(20 / 71, abs=1e-4)
    assert derived.packing.replay is not None
    assert derived.packing.replay.model_dump() == {"share": 0.5, "of": SHARDS, "passes": 4}
    assert "the last stable checkpoint of run bbbbbbbb (step 80 of 100)" in planned.reason
    again = plan_retraining(home, recipe)
    assert again == planned, "a second try finds the run of the first"
    written = text.parent / "derived.yaml"
    written.write_text(derived.to_yaml(), encoding="utf-8")
    assert load_recipe(str(written)) == derived


@pytest.mark.parametrize(
    ("steps", "saved"),
    [
        (20, (10, 20)),  # a short trial
        (90, (72, 90)),
        (200, (120, 160, 200)),  # a longer one: it left the course of the release after step 80
    ],
)
def test_it_continues_from_what_the_release_was_made_of_whatever_was_trained_in_that_run_since(
    home: Path, text: Path, steps: int, saved: tuple[int, ...]
) -> None:
    recipe = recipe_of(text, passes=4, replay=0.5)
    write_release(home, recipe)
    train_run(home, recipe, 100)
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"tokens": steps * 512})})
    train_run(home, other, *saved)
    (text / "d.txt").write_text("more " * 6400, encoding="utf-8")
    planned = plan_retraining(home, recipe)
    assert planned.recipe is not None
    assert planned.recipe.training.start == str(home / "training_runs" / RUN / "step-00000080")
    assert "(step 80 of 100)" in planned.reason


def test_the_release_of_a_retraining_has_the_steps_of_its_plan(home: Path, text: Path) -> None:
    """Its training.tokens was an estimate, here of 300 steps."""
    recipe = recipe_of(text, passes=4, replay=0.5)
    release = write_release(home, recipe)
    manifest = json.loads((release / "training_manifest.json").read_text(encoding="utf-8"))
    manifest["recipe"]["training"]["tokens"] = 300 * 512
    manifest["recipe"]["packing"]["replay"] = {"share": 0.5, "of": SHARDS, "passes": 4}
    manifest["stages"]["packing_plan"] = {"counts": {"rows": 50, "row_tokens": 256}}
    (release / "training_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (text / "d.txt").write_text("more " * 6400, encoding="utf-8")
    assert "(step 80 of 100)" in plan_retraining(home, recipe).reason


def test_without_replay_the_new_text_is_all(home: Path, text: Path) -> None:
    recipe = recipe_of(text, passes=1, replay=0)
    write_release(home, recipe)
    add(text)
    derived = plan_retraining(home, recipe).recipe
    assert derived is not None
    assert derived.packing.replay is not None
    assert derived.packing.replay.share == 0.0
    # 250 tokens: one step.
    assert derived.training.tokens == 512


@pytest.mark.parametrize(
    ("stable", "why"),
    [
        (None, "its training run is gone"),
        (30, "its run was decaying from step 30 of 100 on"),
        (80, "less than 2 times the 10,240 tokens that followed its last stable checkpoint"),
    ],
)
def test_a_short_one_or_one_without_that_checkpoint_continues_from_the_release(
    home: Path, text: Path, stable: int | None, why: str
) -> None:
    recipe = recipe_of(text)
    release = write_release(home, recipe, stable)
    add(text)
    planned = plan_retraining(home, recipe)
    assert planned.recipe is not None
    assert planned.recipe.training.start == str(release)
    assert planned.recipe.training.decay_fraction == 0.95
    assert why in planned.reason


def test_from_scratch_trains_the_recipe_as_it_is(home: Path, text: Path) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe)
    add(text)
    assert plan_retraining(home, recipe, from_scratch=True).recipe == recipe
    scratch = recipe_of(text, start_from="scratch")
    assert plan_retraining(home, scratch).recipe == scratch


def wider(recipe: Recipe, home: Path) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"width": 128})})


def more_held_out(recipe: Recipe, home: Path) -> Recipe:
    more = recipe.deduplication.model_copy(update={"held_out_fraction": 0.3})
    return recipe.model_copy(update={"deduplication": more})


def without_shards(recipe: Recipe, home: Path) -> Recipe:
    shutil.rmtree(home / "token_shards")
    return recipe


def without_text(recipe: Recipe, home: Path) -> Recipe:
    shutil.rmtree(recipe.sources[0].path)  # type: ignore[union-attr]
    return recipe


def torn(recipe: Recipe, home: Path) -> Recipe:
    (home / "releases" / RELEASE / "training_manifest.json").write_text('{"recipe": {}, "sour', encoding="utf-8")
    return recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wider, r"model.width of recipe notes is 128.*is 64.*--from-scratch"),
        (
            more_held_out,
            r"held_out_fraction of recipe notes is 0.3, .* trained on text of source notes.*--from-scratch",
        ),
        (without_shards, "no longer in .*token_shards, so new text cannot be told from old.*--from-scratch"),
        (without_text, "Source notes: .* does not exist"),
        (torn, "does not say what the promoted release was trained on"),
    ],
)
def test_what_cannot_be_built_is_an_error(
    home: Path, text: Path, change: Callable[[Recipe, Path], Recipe], message: str
) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe)
    add(text)
    changed = change(recipe, home)
    with pytest.raises(ParakeetError, match=message):
        plan_retraining(home, changed)


def refused(home: Path, recipe: Recipe, text: Path, action: str = "refused", previous: str = RELEASE) -> None:
    """Record that a release of this recipe, made of the present text, was refused."""
    name = "eeeeeeeeeeeeeeee-0"
    write_release(text.parent / "elsewhere", recipe)
    shutil.copytree(text.parent / "elsewhere" / "releases" / RELEASE, home / "releases" / name)
    record(home, Decision(action, name, "0" * 64, recipe.name, previous, ("It is worse by 0.2 bits per byte.",)))


@pytest.mark.parametrize("action", ["refused", "rolled_back"])
def test_what_was_refused_is_not_tried_again_until_something_changes(home: Path, text: Path, action: str) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe)
    add(text)
    derived = plan_retraining(home, recipe).recipe
    assert derived is not None
    refused(home, derived, text, action)
    planned = plan_retraining(home, recipe)
    assert planned.recipe is None
    assert "The same text was tried on 20" in planned.reason
    assert "It is worse by 0.2 bits per byte." in planned.reason
    assert plan_retraining(home, recipe, anyway=True).recipe == derived
    assert plan_retraining(home, recipe, from_scratch=True).recipe == recipe
    (text / "d.txt").write_text("even more " * 100, encoding="utf-8")
    assert plan_retraining(home, recipe).recipe is not None


def test_a_refusal_beside_an_earlier_release_does_not_count(home: Path, text: Path) -> None:
    recipe = recipe_of(text)
    write_release(home, recipe)
    add(text)
    derived = plan_retraining(home, recipe).recipe
    assert derived is not None
    refused(home, derived, text, previous="ffffffffffffffff-0")
    assert plan_retraining(home, recipe).recipe == derived


def test_a_run_in_training_is_found_by_its_lock(home: Path) -> None:
    from filelock import FileLock

    run = home / "training_runs" / RUN
    run.mkdir(parents=True)
    assert training_now(home) == []
    with FileLock(run / "run.lock"):
        assert training_now(home) == [RUN]


def test_twenty_thousand_files_take_less_than_a_second(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20_000):
        (folder / f"{number}.txt").write_text(f"note {number}", encoding="utf-8")
    recipe = recipe_of(folder)
    write_release(home, recipe)
    plan_retraining(home, recipe)  # The data stages have hashed the files before any tick.
    began = time.process_time()
    assert "20,000 files, none new" in plan_retraining(home, recipe).reason
    spent = time.process_time() - began
    began = time.process_time()
    assert sum(path.stat().st_size for path in folder.iterdir()) > 0
    # On a quiet core 0.9 s. A slow or busy machine needs longer to look at the files at all.
    assert spent < max(2.0, 15 * (time.process_time() - began))


# --- Sources that are downloaded.

TODAY = datetime.date(2026, 11, 22)


def hub(revision: str = "main") -> HubSource:
    return HubSource(kind="hub", name="far", dataset="me/set", files=["*.jsonl"], revision=revision)


def with_hub(text: Path, revision: str = "main", days: int = 7) -> Recipe:
    recipe = recipe_of(text, check_sources_days=days)
    return recipe.model_copy(update={"sources": [*recipe.sources, hub(revision)]})


def fetched(home: Path, number: int, made: str, as_of: str = "", n_bytes: int = 400) -> None:
    """What a fetch of the source left in the store."""
    folder = home / "source_files" / "far" / f"{number:016x}-0"
    folder.mkdir(parents=True)
    entry = {"name": "x.jsonl", "bytes": n_bytes, "sha256": f"{number:064x}", "origin": "hf://"}
    source = {**hub().fetch_settings(), **({"as_of": as_of} if as_of else {})}
    manifest = {
        "schema": 1, "stage": "source_files/far", "fingerprint": folder.name[:16], "content": "0" * 64, "version": 2,
        "settings": {"source": source, "limit": 1.0}, "inputs": {}, "source_files": {}, "made": made, "seconds": 0.0,
        "counts": {"entries": [entry]}, "files": {},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_look_is_due_after_so_many_days(home: Path, text: Path) -> None:
    recipe = with_hub(text)
    assert "far not fetched yet" in due_sources(home, recipe, TODAY).reason
    fetched(home, 1, "2026-11-16T10:00:00+00:00")
    early = due_sources(home, recipe, TODAY)
    assert early.recipe is None
    assert "Last looks: far 2026-11-16; retraining.check_sources_days is 7" in early.reason
    due = due_sources(home, recipe, TODAY + datetime.timedelta(days=1))
    assert due.recipe is not None
    assert due.recipe.sources[1].as_of == "2026-11-23"  # type: ignore[union-attr]
    assert due_sources(home, with_hub(text, days=3), TODAY).recipe is not None


def test_a_pinned_source_is_not_looked_at_again(home: Path, text: Path) -> None:
    planned = due_sources(home, with_hub(text, revision="a" * 40), TODAY)
    assert planned.reason == "No source of recipe notes can change on its server."


def test_new_files_of_the_last_look_count_and_are_built(home: Path, text: Path) -> None:
    recipe = with_hub(text)
    fetched(home, 1, "2026-11-16T10:00:00+00:00")
    assert with_latest_look(home, recipe) == recipe
    fetched(home, 2, "2026-11-22T10:00:00+00:00", as_of="2026-11-22", n_bytes=2_000)
    write_release(home, recipe)
    planned = plan_retraining(home, recipe)
    assert "About 500 tokens are new" in planned.reason
    assert planned.recipe is not None
    assert planned.recipe.sources[1].as_of == "2026-11-22"  # type: ignore[union-attr]
