"""Stage `release`: the model as a directory that needs nothing else and no network."""

import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.evaluation.metrics import EVALUATION_FILE, measured_metrics
from parakeet.evaluation.replies import replies_to
from parakeet.generation.engine import load_engine
from parakeet.model.config import CONFIG_FILE, WEIGHTS_FILE
from parakeet.model.transformer import best_device
from parakeet.progress import Progress
from parakeet.provenance import git_state, package_versions
from parakeet.recipe import Recipe
from parakeet.recipe_sources import SOURCE_FILES
from parakeet.release.card import render_card
from parakeet.release.report_files import HTML_FILE, MARKDOWN_FILE, RECORD_FILE
from parakeet.release.verify import (
    TRAINING_MANIFEST_FILE,
    verify_release,
    write_generation_config,
    write_json,
    write_sums,
)
from parakeet.tokenizer import SETTINGS_FILE, VOCABULARY_FILE, Tokenizer
from parakeet.training.job import CURVE_FILE

FILES = {
    "checkpoint": (WEIGHTS_FILE, CONFIG_FILE, CURVE_FILE),
    "tokenizer": (VOCABULARY_FILE, SETTINGS_FILE),
    "evaluation": (EVALUATION_FILE,),
    "report": (HTML_FILE, MARKDOWN_FILE, RECORD_FILE),
}


def make_release(
    recipe: Recipe,
    inputs: Mapping[str, Artifact],
    lineage: Mapping[str, Mapping[str, Any]],
    output: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Collect the files, write card, lineage and hashes, then check that the directory works on its own.

    `lineage` holds the manifest of every earlier stage. Raises ParakeetError if the packed model does not load, or
    gives other replies than in the evaluation.
    """
    for stage, names in FILES.items():
        for name in names:
            shutil.copy2(inputs[stage].path / name, output / name)
    evaluation = json.loads((output / EVALUATION_FILE).read_text(encoding="utf-8"))
    for metric in measured_metrics(evaluation):
        if metric.plot_file:
            shutil.copy2(inputs["evaluation"].path / metric.plot_file, output / metric.plot_file)
    training = inputs["checkpoint"].counts
    write_generation_config(output, recipe.name, recipe.generation, Tokenizer.load(output))
    write_json(output / TRAINING_MANIFEST_FILE, _training_manifest(recipe, lineage))
    card = render_card(recipe, training, evaluation, lineage["token_shards"]["counts"])
    (output / "README.md").write_text(card, encoding="utf-8")
    write_sums(output)
    verify_release(output)
    _check_replies(output, evaluation)
    progress.say(f"{recipe.name} loads from the release and gives the same replies as in the evaluation.")
    return {
        "name": recipe.name,
        "parameters": training["parameters"],
        "bytes": sum(path.stat().st_size for path in output.iterdir()),
        "bits_per_byte": {name: bits and bits["model"] for name, bits in evaluation["bits_per_byte"].items()},
    }


def _check_replies(output: Path, evaluation: Mapping[str, Any]) -> None:
    """The packed model must repeat the replies that the evaluation recorded (same weights, same machine)."""
    recorded = evaluation["replies"][:2]
    # As in the evaluation, whose device and threads are torch's choice too, and which torch computes.
    engine = load_engine(output, best_device(), "fp32", threads=torch.get_num_threads(), recorded={"kernels": False})
    replies = replies_to(engine, [pair["prompt"] for pair in recorded])
    for pair, reply in zip(recorded, replies, strict=True):
        if reply != pair["reply"]:
            raise ParakeetError(
                f"The packed model answers {pair['prompt']!r} with {reply!r}, but it answered {pair['reply']!r} in the "
                "evaluation. The release was not made. Run the same build again with: --force evaluation"
            )


def _training_manifest(recipe: Recipe, lineage: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The lineage of the model, back to the hash of every source file."""
    kept = ("fingerprint", "content", "version", "settings", "inputs", "counts", "made", "seconds")
    start = lineage["checkpoint"]["counts"].get("start")
    return {
        "recipe": recipe.model_dump(mode="json"),
        **({} if start is None else {"start": start}),
        "source_files": _source_files(lineage),
        "stages": {name: {key: manifest[key] for key in kept} for name, manifest in lineage.items()},
        "seeds": {"training": recipe.training.seed, "order": recipe.packing.seed},
        "git": git_state(),
        "packages": package_versions(),
        "hardware": {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
    }


def _source_files(lineage: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """sha256 of every source file, local or downloaded, by `<source>/<name>`."""
    fetched = {
        f"{stage.removeprefix(f'{SOURCE_FILES}/')}/{name}": entry["sha256"]
        for stage, manifest in lineage.items()
        if stage.startswith(f"{SOURCE_FILES}/")
        for name, entry in manifest["files"].items()
    }
    return {**lineage["documents"]["source_files"], **fetched}
