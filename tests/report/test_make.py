"""The stage's work on small real artefacts: earlier checkpoints, and the release that the report compares with."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import Artifact, sha256_of
from parakeet.evaluation.replies import replies_to
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, save_model
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.report.gather import Gathered, gather
from parakeet.report.make import make_report, markdown_page
from parakeet.report.previous import previous_release
from parakeet.tokenizer import Tokenizer
from parakeet.training.checkpoint import HostCopy, RunState, write_checkpoint
from parakeet.training.optimizer import make_optimizer
from parakeet.training.schedule import Schedule

from ..conftest import Prepared
from .reports import evaluation, report

FILES = ("report.html", "report.md", "report.json", "report.png")


@dataclass(frozen=True)
class Made:
    """A store with what a report is made from, and one earlier checkpoint of the run."""

    root: Path
    recipe: Recipe
    inputs: Mapping[str, Artifact]
    earlier: Parakeet

    def gathered(self) -> Gathered:
        return gather(self.recipe, self.root, self.inputs, Progress())

    def report(self, output: Path) -> dict[str, Any]:
        """The report's record; its counts are `counts`."""
        output.mkdir()
        counts = make_report(self.recipe, self.root, self.inputs, output, Progress())
        record = json.loads((output / "report.json").read_text(encoding="utf-8"))
        return {**record, "counts": counts}


@pytest.fixture(scope="module")
def made(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("store")
    recipe, tokenizer, template = prepared.recipe, prepared.tokenizer, report(prepared)
    config = ModelConfig.from_recipe(recipe.model, tokenizer.rows)
    schedule = Schedule.from_recipe(recipe.training, recipe.packing)
    checkpoint, run = root / "checkpoint" / "0-0", root / "training_runs" / "abc"
    for folder in (checkpoint, run, root / "evaluation" / "0-0"):
        folder.mkdir(parents=True)
    save_model(Parakeet(config), checkpoint)
    earlier = Parakeet(config)
    state = RunState(3, 768, {}, schedule, {}, 0, 0, None, 1, 3)
    write_checkpoint(run, HostCopy.of(earlier, make_optimizer(earlier, recipe.training), state))
    lines = "".join(json.dumps(record) + "\n" for record in template.metrics)
    (checkpoint / "metrics.jsonl").write_text(lines, encoding="utf-8")
    pairs = [{"prompt": prompt, "reply": "Hello."} for prompt in recipe.evaluation.prompts]
    measured = evaluation() | {"replies": pairs}
    (root / "evaluation" / "0-0" / "evaluation.json").write_text(json.dumps(measured), encoding="utf-8")
    tally = {name: {"documents": 3, "tokens": 90, "bytes": 120} for name in ("talk", "text")}
    split = {"documents": 6, "tokens": 180, "bytes": 240, "sources": tally}
    weights = {"model.safetensors": {"sha256": sha256_of(checkpoint / "model.safetensors")}}
    manifests: dict[str, tuple[Path, dict[str, Any]]] = {
        "documents": (prepared.documents, {"counts": {"sources": {"talk": {"licence": "MIT"}}}}),
        "tokenizer": (prepared.tokenizer_folder, {"counts": {}}),
        "token_shards": (prepared.shards, {"counts": {"train": split, "held_out": split}}),
        "packing_plan": (prepared.plan, {"counts": {"mix": {"talk": {"epochs": 2.0, "tokens": 180}}}}),
        "checkpoint": (
            checkpoint,
            {"counts": template.training, "files": weights, "made": "2026-11-28T05:01:56+00:00"},
        ),
        "evaluation": (root / "evaluation" / "0-0", {"counts": measured}),
    }
    inputs = {name: Artifact(path, {"content": name, **more}) for name, (path, more) in manifests.items()}
    return Made(root, recipe, inputs, earlier)


@pytest.fixture
def promoted(made: Made, tmp_path: Path) -> Path:
    """A copy of the store's root for a test, whose promoted release has other weights, parameters and scores."""
    folder = tmp_path / "home" / "releases" / "0123-0"
    folder.mkdir(parents=True)
    shutil.copytree(made.root / "training_runs", tmp_path / "home" / "training_runs")
    (folder.parent / "latest").symlink_to("0123-0")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  model.safetensors\n", encoding="utf-8")
    before = evaluation()
    before["bits_per_byte"]["talk"]["model"] = 1.5
    before["exact_match"]["sums"] |= {"accuracy": 0.125, "interval": [0.0625, 0.1875]}
    (folder / "evaluation.json").write_text(json.dumps(before), encoding="utf-8")
    counts = {"parameters": 1_000, "tokens": 5_120}
    stages = {"checkpoint": {"made": "2026-01-02", "counts": counts}, "token_shards": {"content": "token_shards"}}
    lineage = {"recipe": {"name": "older"}, "stages": stages}
    (folder / "training_manifest.json").write_text(json.dumps(lineage), encoding="utf-8")
    manifest = {"schema": 1, "counts": {"name": made.recipe.name}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_canaries_are_ours(made: Made) -> None:
    """Their licence is no unknown one, although no source of the recipe has it."""
    counts = made.inputs["token_shards"].counts
    tally = counts["train"]["sources"] | {"canaries": {"documents": 2, "tokens": 30, "bytes": 60}}
    planted = {"documents": 2, "copies": {"1": 2}}
    changed = counts | {"train": counts["train"] | {"sources": tally}, "canaries": planted}
    shards = made.inputs["token_shards"]
    shards = Artifact(shards.path, shards.manifest | {"counts": changed})
    found = replace(made, inputs={**made.inputs, "token_shards": shards}).gathered()
    assert {source["name"]: source["licence"] for source in found.text["sources"]}["canaries"] == "GPL-3.0-or-later"
    assert "2 of these documents are copies of 2 made-up texts" in markdown_page(found)


def in_store(made: Made, release: Path) -> Made:
    return Made(release.parents[1], made.recipe, made.inputs, made.earlier)


def test_the_report_has_the_replies_of_earlier_checkpoints_and_the_same_bytes_again(made: Made, tmp_path: Path) -> None:
    record = made.report(tmp_path / "one")
    tokenizer = made.inputs["tokenizer"].path
    assert [(sample["step"], sample["tokens"]) for sample in record["samples"]] == [(3, 768)]
    engine = Engine(Decoder(made.earlier.eval(), "fp32", compiled=False), Tokenizer.load(tokenizer))
    assert record["samples"][0]["replies"] == replies_to(engine, made.recipe.evaluation.prompts)
    assert record["previous"] is None
    assert record["counts"]["checkpoints"] == 2
    again = made.report(tmp_path / "two")
    assert again == record
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    markdown = (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    assert "| talk | MIT | 3 | 90 | 90 | 2 | 66.7% |" in markdown


def markdown_of(found: Gathered) -> str:
    """The page without its escapes."""
    return re.sub(r"\\(.)", r"\1", markdown_page(found))


def test_the_promoted_release_is_what_it_is_compared_with(made: Made, promoted: Path, tmp_path: Path) -> None:
    store = in_store(made, promoted)
    record = store.report(tmp_path / "report")
    assert record["counts"]["compared_with"] == "0123-0"
    markdown = markdown_of(store.gathered())
    assert "| size and training | parameters | 1,000 | 34,567 | +33,567 |  |" in markdown
    assert "tokens trained on |" not in markdown  # the same
    assert "| Held-out bits per byte | talk | 1.500 | 1.250 | -0.250 |  |" in markdown
    assert "| Exact answers to held-out questions | sums | 12.5% | 50.0% | +37.5 points | better |" in markdown

    # Once this model is the promoted release itself, its report is compared with the same one.
    weights = made.inputs["checkpoint"].manifest["files"]["model.safetensors"]["sha256"]
    (promoted / "SHA256SUMS").write_text(f"{weights}  model.safetensors\n", encoding="utf-8")
    assert store.gathered().previous is None
    shutil.copy(tmp_path / "report" / "report.json", promoted / "report.json")
    assert markdown_of(store.gathered()) == markdown


@pytest.mark.parametrize("same", [True, False])
def test_bits_per_byte_of_other_text_are_not_compared(made: Made, promoted: Path, same: bool) -> None:
    path = promoted / "training_manifest.json"
    content = "token_shards" if same else "other"
    text = path.read_text(encoding="utf-8").replace('"content": "token_shards"', f'"content": "{content}"')
    path.write_text(text, encoding="utf-8")
    markdown = markdown_of(in_store(made, promoted).gathered())
    assert ("bits per byte cannot be compared" in markdown) != same
    assert ("Held-out bits per byte | talk" in markdown) == same
    assert "+37.5 points" in markdown


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: (folder / "evaluation.json").unlink(),
        lambda folder: (folder / "evaluation.json").write_text('{"bits_per_byte": {"a": {}}}', encoding="utf-8"),
        lambda folder: (folder / "training_manifest.json").write_text("[]", encoding="utf-8"),
        lambda folder: (folder / "training_manifest.json").write_text("{", encoding="utf-8"),
        lambda folder: (folder / "training_manifest.json").write_text('{"imported_from": {}}', encoding="utf-8"),
        lambda folder: (folder / "SHA256SUMS").unlink(),
        lambda folder: (folder / "SHA256SUMS").write_text("", encoding="utf-8"),
    ],
    ids=["no scores", "other scores", "no record", "half a record", "imported", "no sums", "empty sums"],
)
def test_a_promoted_release_that_cannot_be_read_is_said(
    made: Made, promoted: Path, capsys: pytest.CaptureFixture[str], break_it: Any
) -> None:
    break_it(promoted)
    assert previous_release(promoted.parents[1], made.recipe.name, "weights", Progress()) is None
    assert "compares with no earlier release" in capsys.readouterr().err


def test_damaged_and_abandoned_checkpoints_are_left_out(made: Made, promoted: Path) -> None:
    run = promoted.parents[1] / "training_runs" / "abc"
    (checkpoint,) = run.glob("step-*")
    shutil.copytree(checkpoint, run / "step-00000007")
    (run / "step-00000007" / "state.json").write_text("{", encoding="utf-8")
    assert [sample["step"] for sample in in_store(made, promoted).gathered().samples] == [3]
    (checkpoint / "model.safetensors").write_bytes(b"damaged")
    assert in_store(made, promoted).gathered().samples == []
    shutil.rmtree(run)  # `parakeet clean` removed it
    assert in_store(made, promoted).gathered().samples == []
