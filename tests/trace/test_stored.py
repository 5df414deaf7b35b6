"""The stage, the index of a model, and `parakeet index`."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from parakeet.artifact import Artifact, Store, Work
from parakeet.clean import leftovers, remove
from parakeet.cli import main
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.stage import MakeContext
from parakeet.stages import asset_names
from parakeet.trace.index import TraceIndex
from parakeet.trace.make import repeats
from parakeet.trace.stage import TraceIndexStage
from parakeet.trace.stored import index_of_model
from parakeet.trace.tracer import Tracer

from ..conftest import Prepared
from .corpora import indexed

STAGE = TraceIndexStage()


def build_in(root: Path, prepared: Prepared, held_out: bool = True) -> None:
    """Make token shards and their index in a store; without held-out text they are another artefact."""
    store, progress = Store(root), Progress()
    sha256 = prepared.tokenizer.sha256

    def copy(output: Path, progress: Progress) -> dict[str, Any]:
        ignored = shutil.ignore_patterns(*([] if held_out else ["held_out-*"]))
        shutil.copytree(prepared.shards, output, dirs_exist_ok=True, ignore=ignored)
        shards = TokenShards(output)
        return {
            "tokenizer_sha256": sha256,
            "train": {"tokens": int(shards.lengths().sum()), "documents": len(shards)},
        }

    def tokenizer(output: Path, progress: Progress) -> dict[str, Any]:
        shutil.copytree(prepared.tokenizer_folder, output, dirs_exist_ok=True)
        return {}

    inputs: Mapping[str, Artifact] = {
        "token_shards": store.ensure(Work("token_shards", 1, {"held_out": held_out}), copy, progress)[0],
        "tokenizer": store.ensure(Work("tokenizer", 1, {}), tokenizer, progress)[0],
    }

    def make(output: Path, progress: Progress) -> dict[str, Any]:
        recipe = load_recipe("demo")
        context = MakeContext(recipe, root, inputs, dict, output, progress, lambda _: None, False, False, lambda: None)
        return STAGE.make(context)

    expected = STAGE.expected_bytes(load_recipe("demo"), inputs, 0, root)
    work = Work(STAGE.name, STAGE.version, {}, inputs, records=STAGE.records, expected_bytes=expected)
    store.ensure(work, make, progress)


@pytest.fixture(scope="module")
def built(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    build_in(root, prepared)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A store to change."""
    return Path(shutil.copytree(built, tmp_path / "home", symlinks=True))


def release_in(root: Path, **shards: Any) -> Path:
    """A release that records what it was trained on."""
    text = json.loads((root / "token_shards" / "latest" / "manifest.json").read_text(encoding="utf-8"))
    folder = root / "releases" / "0123456789abcdef-0"
    folder.mkdir(parents=True, exist_ok=True)
    stages = {"token_shards": {"content": text["content"], "counts": text["counts"]} | shards}
    values = {"recipe": {"name": "mine"}, "stages": stages}
    (folder / "training_manifest.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def run(root: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["index", *arguments], env={"PARAKEET_HOME": str(root)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_stage_indexes_the_training_text(built: Path, prepared: Prepared) -> None:
    (artifact,) = Store(built).artifacts(STAGE.name)
    shards, index = TokenShards(prepared.shards), TraceIndex.open(artifact.path)
    assert (index.tokens, index.documents) == (shards.lengths().sum(), len(shards))
    assert index.tokenizer_hash == prepared.tokenizer.sha256
    assert index.shards_content == Artifact.open(built / "token_shards" / "latest").content
    assert index.occurrences(shards.tokens(5), 1_000)[0].start == 0
    figures = STAGE.figures(artifact)
    assert list(figures)[:2] == ["tokens", "documents"]
    assert figures["repeats_plot"].path.is_file()
    assert "of 32-token passages repeat" in STAGE.headline(artifact.counts)
    assert index.tokens < artifact.n_bytes


def test_repeats_are_measured_exactly_in_a_small_text(tmp_path: Path) -> None:
    index = indexed(tmp_path, [list(range(100)), list(range(20, 40)), list(range(300, 310))], shard_tokens=50)
    found = repeats(index)
    # Passages of 8 tokens: 93 + 13 + 3, of which those within 20 to 39 stand twice.
    assert (found["8"]["n"], found["8"]["share"]) == (109, pytest.approx(26 / 109))
    assert (found["16"]["n"], found["16"]["share"]) == (90, pytest.approx(10 / 90))
    assert found["64"]["share"] == 0
    low, high = found["8"]["interval"]
    assert low < 26 / 109 < high
    assert repeats(indexed(tmp_path / "short", [[1, 2, 3]])) == {}
    assert repeats(indexed(tmp_path / "empty", [])) == {}


def test_a_recipe_can_go_without_it() -> None:
    recipe = load_recipe("demo")
    without = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"trace_index": False})})
    assert set(asset_names(recipe)) - set(asset_names(without)) >= {"trace_index"}


def test_a_model_finds_the_index_of_its_text(root: Path, prepared: Prepared) -> None:
    sha256 = prepared.tokenizer.sha256
    index = index_of_model(release_in(root), root, sha256)
    assert index.folder == Store(root).artifacts(STAGE.name)[0].path
    checkpoint = root / "checkpoint" / "aa-0"
    checkpoint.mkdir(parents=True)
    inputs = {"token_shards": {"content": index.shards_content}}
    (checkpoint / "manifest.json").write_text(json.dumps({"inputs": inputs}), encoding="utf-8")
    assert index_of_model(checkpoint, root, sha256).folder == index.folder
    step = root / "training_runs" / "k" / "step-00000001"
    step.mkdir(parents=True)
    job = {"recipe": {"name": "mine"}, "shards_content": index.shards_content}
    (step.parent / "job.json").write_text(json.dumps(job), encoding="utf-8")
    assert index_of_model(step, root, sha256).folder == index.folder


OTHER = "f" * 64


def test_a_stale_index_and_another_tokenizer_are_refused_with_both_hashes(root: Path, prepared: Prepared) -> None:
    other = f"was trained on token shards {OTHER}.*the one here was made from [0-9a-f]{{64}}"
    remedy = (
        r"with the recipe file that the model was built from \(it is called mine\): parakeet index build --recipe FILE"
    )
    with pytest.raises(ParakeetError, match=f"{other}.*Make it {remedy}$"):
        index_of_model(release_in(root, content=OTHER), root, prepared.tokenizer.sha256)
    other = f"was made with tokenizer {prepared.tokenizer.sha256}, and .* has {OTHER}"
    with pytest.raises(ParakeetError, match=f"{other}.*again {remedy} --force$"):
        index_of_model(release_in(root), root, OTHER)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, r"has no training_manifest\.json"),
        ("{", "does not tell"),
        ("[]", "does not tell"),
        ('{"stages": []}', "does not tell"),
        ('{"imported_from": {"file_name": "a.pth"}}', "is an imported model"),
    ],
)
def test_a_model_that_does_not_tell_its_text_is_refused(root: Path, manifest: str | None, message: str) -> None:
    folder = root / "imported" / "m"
    folder.mkdir(parents=True)
    if manifest is not None:
        (folder / "training_manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(ParakeetError, match=message):
        index_of_model(folder, root, OTHER)


def test_without_an_index_the_message_says_what_to_run(root: Path) -> None:
    folder = release_in(root)
    shutil.rmtree(root / "trace_index")
    with pytest.raises(ParakeetError, match=r"parakeet index build --recipe FILE$"):
        index_of_model(folder, root, OTHER)


@pytest.mark.parametrize(
    "manifest",
    [
        "{",
        "[]",
        '{"schema": 1}',
        '{"schema": 1, "stage": "trace_index", "made": "9", "content": "", "inputs": {}}',
        '{"schema": 1, "stage": "trace_index", "made": "9", "content": "", "inputs": {"token_shards": 3}}',
    ],
)
def test_an_index_whose_manifest_is_damaged_is_passed_over(root: Path, prepared: Prepared, manifest: str) -> None:
    folder = release_in(root)
    (made,) = Store(root).artifacts(STAGE.name)
    damaged = root / "trace_index" / "0000000000000000-0"
    damaged.mkdir()
    (damaged / "manifest.json").write_text(manifest, encoding="utf-8")
    assert index_of_model(folder, root, prepared.tokenizer.sha256).folder == made.path
    shutil.rmtree(made.path)
    with pytest.raises(ParakeetError, match=r"no trace index here was made from them\. Make it"):
        index_of_model(folder, root, prepared.tokenizer.sha256)
    assert damaged in [entry.path for entry in leftovers(root).unreferenced]


def test_an_index_that_was_changed_is_refused(root: Path) -> None:
    folder = release_in(root)
    with (Store(root).artifacts(STAGE.name)[0].path / "positions-00000.npy").open("r+b") as file:
        file.seek(500)
        file.write(b"\0\1\2\3")
    with pytest.raises(ParakeetError, match=r"positions-00000\.npy has sha256 .* --force trace_index"):
        index_of_model(folder, root, OTHER)
    status, output = run(root, "verify")
    assert status == 1
    assert "has sha256" in output


def test_info_and_verify(root: Path) -> None:
    release_in(root)
    status, output = run(root, "verify")
    assert (status, "all in order" in output) == (0, True), output
    status, output = run(root, "info", "--json")
    assert status == 0
    document = json.loads(output)
    assert document["tokens"] == Store(root).artifacts(STAGE.name)[0].counts["tokens"]
    assert (document["shards"], document["builder"].split()[0], document["models"]) == (1, "pydivsufsort", [])
    status, output = run(root, "info", str(root / "trace_index" / "latest"))
    assert status == 0
    assert document["tokenizer"] in output


@pytest.mark.parametrize("command", ["info", "verify"])
def test_mistakes_are_one_message(root: Path, command: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, arguments, message in (
        (tmp_path / "empty", (), "There is no trace index in"),
        (root, (str(root / "token_shards" / "latest"),), "is an artefact of token_shards, not a trace index"),
        (root, (str(tmp_path / "nowhere"),), "is not an artefact"),
    ):
        status, output = run(place, command, *arguments)
        assert (status, output.count("Error: ")) == (1, 1)
        assert message in output


def test_a_recipe_without_the_index_is_told(root: Path) -> None:
    (root / "recipe.yaml").write_text(
        "extends: demo\nname: bare\nevaluation:\n  trace_index: false\n", encoding="utf-8"
    )
    message = "Error: Recipe bare has no trace_index: set its evaluation.trace_index to true.\n"
    assert run(root, "build") == (1, message)
    for option in ("--select", "--force"):
        arguments = ["build", "--recipe", str(root / "recipe.yaml"), option, "trace_index"]
        result = CliRunner().invoke(main, arguments, env={"PARAKEET_HOME": str(root)})
        assert (result.exit_code, result.output) == (1, message)


def test_clean_keeps_the_newest_index_of_a_text_that_is_kept(root: Path, prepared: Prepared) -> None:
    """Here the latest release keeps its text; that of another text goes."""
    release = release_in(root)
    text, index = (
        json.loads((root / n / "latest" / "manifest.json").read_text(encoding="utf-8"))
        for n in ("token_shards", "trace_index")
    )
    path = index["inputs"]["token_shards"]
    inputs = {"token_shards": path}
    (release / "manifest.json").write_text(json.dumps(text | {"stage": "release", "inputs": inputs}), encoding="utf-8")
    (root / "releases" / "latest").symlink_to(release.name)
    build_in(root, prepared, held_out=False)
    removable = {entry.path.relative_to(root).as_posix() for entry in leftovers(root).unreferenced}
    kept = [made for made in Store(root).artifacts(STAGE.name) if made.manifest["inputs"]["token_shards"] == path]
    assert len(kept) == 1
    assert {name.partition("/")[0] for name in removable} >= {"trace_index", "token_shards"}
    assert kept[0].path.relative_to(root).as_posix() not in removable


def test_clean_keeps_the_index_of_a_release_whose_shards_are_not_kept(root: Path, prepared: Prepared) -> None:
    """Another recipe is active and its release is the latest; `parakeet trace --model` still works."""
    release, (index,) = release_in(root), Store(root).artifacts("trace_index")
    shards = Artifact.open(root / "token_shards" / "latest").path.resolve()
    build_in(root, prepared, held_out=False)
    (other,) = [made for made in Store(root).artifacts("trace_index") if made.path != index.path]
    removable = {entry.path.resolve() for entry in leftovers(root).unreferenced}
    assert {shards, other.path.resolve()} <= removable
    assert index.path.resolve() not in removable
    remove(leftovers(root).unreferenced)
    assert index_of_model(release, root, prepared.tokenizer.sha256).folder == index.path
    tracer = Tracer.open("mine", release, root, prepared.tokenizer)
    assert (tracer.held_out, tracer.documents) == (None, None)
    text = prepared.tokenizer.decode(tracer.index.read(0, 0, 40))
    assert tracer.trace(text).covered > 0
    shutil.rmtree(release)
    assert index.path.resolve() in {entry.path.resolve() for entry in leftovers(root).unreferenced}
