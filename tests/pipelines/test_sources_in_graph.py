"""Local sources in the graph: what becomes out of date when a file changes, and what is said of it."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest

from assets_defs.sources import changes, last_version
from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.stages import stages_of, use_recipe
from pipelines.automation import source_files_seen
from pipelines.definitions import make_definitions
from pipelines.source_files import Snapshot, look


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe with a local source and a local evaluation set."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "notes").mkdir()
    for note in range(3):
        lines = [f"Note {note}.{line}: {line * note + 3} cats sat on {line * line + note} mats." for line in range(6)]
        (folder / "notes" / f"{note}.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "test.jsonl").write_text('{"text": "A question that nobody may have read before the test."}\n')
    path = folder / "mine.yaml"
    path.write_text(
        "extends: demo\nname: mine\nclean: {repetition: null}\nsources: [{name: notes, path: notes}]\n"
        "decontamination: {sets: [{name: test, path: test.jsonl}]}\n",
        encoding="utf-8",
    )
    return load_recipe(str(path))


def notes_of(recipe: Recipe) -> Path:
    return Path(recipe.sources[0].path)  # type: ignore[union-attr]


def materialise(instance: dg.DagsterInstance, recipe: Recipe, *names: str) -> dg.ExecuteInProcessResult:
    job = make_definitions(recipe).resolve_job_def("prepare_data")
    keys = [dg.AssetKey(name) for name in names]
    return job.execute_in_process(instance=instance, asset_selection=keys, raise_on_error=False)


def read_version(instance: dg.DagsterInstance, asset: str, source: str) -> str:
    """The version of a source that an asset's last materialization was made from."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return (event.asset_materialization.tags or {})[f"dagster/input_data_version/source_files/{source}"]


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    failed = next(event for event in result.all_events if event.is_step_failure)
    return failed.step_failure_data.user_failure_data.description  # type: ignore[union-attr, return-value]


def test_a_new_note_makes_out_of_date_what_is_made_from_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path))
    use_recipe(tmp_path, recipe)
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialise(instance, recipe, "documents", "clean_documents").success
        for asset, source in (("documents", "notes"), ("clean_documents", "test")):
            assert read_version(instance, asset, source) == last_version(instance, source)
        assert isinstance(source_files_seen(dg.build_sensor_context(instance=instance)), dg.SkipReason)

        (notes_of(recipe) / "new.txt").write_text("A new note about parakeets and the colour of their feathers.")
        seen = source_files_seen(dg.build_sensor_context(instance=instance))
        assert isinstance(seen, dg.SensorResult)
        assert not seen.run_requests
        for event in seen.asset_events:
            instance.report_runless_asset_event(event)
        assert read_version(instance, "documents", "notes") != last_version(instance, "notes")
        assert read_version(instance, "clean_documents", "test") == last_version(instance, "test")

        told = failure_of(materialise(instance, recipe, "clean_documents"))
        assert "documents is out of date for recipe mine: its settings or its files have changed" in told
        assert '+key:"clean_documents"' in told  # in the UI
        assert "--select clean_documents" in told  # in a shell

        assert materialise(instance, recipe, "documents").success
        assert read_version(instance, "documents", "notes") == last_version(instance, "notes")


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def copied_with_its_time(folder: Path) -> None:
    """As `rsync -t` and `cp -p` do with a text of the same length."""
    before = (folder / "1.txt").stat()
    write(folder / "1.txt", "y" * before.st_size)
    os.utime(folder / "1.txt", ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda folder: write(folder / "another.txt", "Another note."),
    "added in a folder": lambda folder: ((folder / "deep").mkdir(), write(folder / "deep" / "a.txt", "A deep note.")),
    "changed": lambda folder: write(folder / "0.txt", "It says something else now."),
    "of the same length": lambda folder: write(folder / "1.txt", "x" * (folder / "1.txt").stat().st_size),
    "of the same length, with its old time": copied_with_its_time,
    "renamed": lambda folder: (folder / "1.txt").rename(folder / "one.txt"),
    "removed": lambda folder: (folder / "2.txt").unlink(),
    "all gone": shutil.rmtree,
    "there again": lambda folder: (folder.mkdir(), write(folder / "0.txt", "A note of a restored folder.")),
    "no file that is read": lambda folder: (write(folder / "0.exe", ""), (folder / "0.txt").unlink()),
}


def test_every_kind_of_change_is_a_new_version_and_nothing_else_is(recipe: Recipe, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    shutil.copytree(notes_of(recipe), notes)
    source = recipe.sources[0].model_copy(update={"path": str(notes)})
    recipe = recipe.model_copy(update={"sources": (source,)})

    looks: list[Snapshot | None] = [None]
    with dg.DagsterInstance.ephemeral() as instance:

        def changed() -> list[str]:
            """Both detectors have to agree."""
            found = list(changes(recipe, instance))
            with suppress(ParakeetError):  # a source without files
                looks.append(look(recipe))
                assert (looks[-1] != looks[-2]) == ("notes" in [one.asset_key.path[-1] for one in found])
            for change in found:
                instance.report_runless_asset_event(change)
            return [change.asset_key.path[-1] for change in found]

        assert changed() == ["notes", "test"]
        for kind, change in CHANGES.items():
            assert changed() == [], f"before: {kind}"
            time.sleep(0.02)
            change(notes)
            assert changed() == ["notes"], kind
        os.utime(notes)  # the folder itself, as a backup does
        write(notes / ".hidden.txt", "not read")
        assert changed() == []


def load_recipe_path(recipe: Recipe) -> str:
    return recipe.sources[0].path  # type: ignore[union-attr]


def test_twenty_thousand_files_take_a_tick_less_than_a_second(recipe: Recipe, tmp_path: Path) -> None:
    for number in range(20_000):
        os.close(os.open(tmp_path / f"{number:05}.txt", os.O_CREAT))
    source = recipe.sources[0].model_copy(update={"path": str(tmp_path)})
    many = recipe.model_copy(update={"sources": (source,)})
    seconds = []
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):  # the faster one: others may use the machine
            began = time.process_time()
            found = list(changes(many, instance))
            seconds.append(time.process_time() - began)
    began = time.process_time()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    # A slow machine needs longer to look at the files at all; measured 6 to 9 times of that.
    assert min(seconds) < max(1.0, 15 * (time.process_time() - began)), seconds
    assert found[0].metadata["files"].value == 20_000


def test_each_stage_depends_on_the_sources_whose_files_it_reads(recipe: Recipe, tmp_path: Path) -> None:
    graph = make_definitions(recipe).get_repository_def().asset_graph
    for stage in stages_of(recipe):
        labels = [] if stage.name == "original_model" else list(stage.files(recipe, tmp_path))
        read = {label.split("/")[0] for label in labels}
        assert read == set(stage.local_sources(recipe)), stage.name
        parents = graph.get(dg.AssetKey(stage.name)).parent_keys
        assert {key.path[1] for key in parents if len(key.path) == 2} == read
