"""A store of small releases, made of models that were trained for a second on a few dialogues."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parakeet.artifact import Artifact, Store, Work
from parakeet.conversation import Turn
from parakeet.gates.stage import judgement_of
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, save_model
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.promotion import promote
from parakeet.release.verify import write_generation_config, write_sums
from parakeet.stages import Build
from parakeet.template import render_document
from parakeet.tokenizer import Tokenizer
from parakeet.training.optimizer import make_optimizer

from ..conftest import Prepared, some_documents

WINDOW = 64


def windows_of(tokenizer: Tokenizer, change: Callable[[str], str] = str) -> torch.Tensor:
    """The training dialogues as rows of ids (n, WINDOW + 1), with their contents changed."""
    ids = [
        render_document(tokenizer, [Turn(turn.role, change(turn.content)) for turn in document.turns])[0]
        for document in some_documents()
        if document.split == "train"
    ]
    stream = np.concatenate(ids).astype(np.int64)
    n = len(stream) // (WINDOW + 1)
    return torch.from_numpy(stream[: n * (WINDOW + 1)].reshape(n, WINDOW + 1))


def shuffled(text: str) -> str:
    """The same words in another order."""
    words = text.split()
    np.random.default_rng(len(text)).shuffle(words)
    return " ".join(words)


def trained(recipe: Recipe, tokenizer: Tokenizer, windows: torch.Tensor, steps: int, seed: int = 1) -> Parakeet:
    config = ModelConfig(layers=2, heads=2, width=32, context=128, vocabulary_rows=tokenizer.rows)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(seed))
    settings = recipe.training.model_copy(update={"learning_rate": 0.02, "optimizer": "muon", "precision": "fp32"})
    optimizer, order = make_optimizer(model, settings), np.random.default_rng(seed)
    for step in range(steps):
        some = windows[order.integers(len(windows), size=8)]
        hidden = model(some[:, :-1], torch.zeros_like(some[:, :-1]))
        logits = (hidden @ model.embedding.weight.T).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, some[:, 1:].flatten())
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@dataclass(frozen=True)
class Models:
    """Of one shape: two trainings that differ in their seed, one on shuffled words, one of a few steps."""

    good: Parakeet
    other_seed: Parakeet
    poisoned: Parakeet
    few_steps: Parakeet


@pytest.fixture(scope="session")
def models(prepared: Prepared) -> Models:
    recipe, tokenizer = prepared.recipe, prepared.tokenizer
    windows = windows_of(tokenizer)
    return Models(
        trained(recipe, tokenizer, windows, 120),
        trained(recipe, tokenizer, windows, 120, seed=2),
        trained(recipe, tokenizer, windows_of(tokenizer, shuffled), 120),
        trained(recipe, tokenizer, windows, 3),
    )


def evaluation(bits_per_byte: float = 1.0, exact: int = 60) -> dict[str, Any]:
    """The parts of an evaluation.json that gates read; `exact` answers of 100 are right."""
    share = {"n": 32, "share": 0.01, "interval": [0.0, 0.02]}
    return {
        "bits_per_byte": {
            "talk": {"documents": 30, "n_bytes": 900, "n": 30, "model": bits_per_byte, "unigram": 4.0, "xz": 3.0}
        },
        "exact_match": {"sums": {"questions": 100, "accuracy": exact / 100, "interval": [0.0, 1.0], "example": {}}},
        "generation_health": {"temperatures": [{"temperature": 0.8, "repetition": share, "empty": share}]},
        "replies": [],
    }


@dataclass
class Releases:
    """A store with token shards, to which releases are added as a build makes them."""

    root: Path
    prepared: Prepared
    recipe: Recipe
    made: dict[str, Artifact] = field(default_factory=dict)

    def shards(self, folder: Path, name: str = "shards", counts: Mapping[str, Any] | None = None) -> Artifact:
        def fill(output: Path, progress: Progress) -> dict[str, Any]:
            for path in folder.glob("*.arrow"):
                shutil.copyfile(path, output / path.name)
            return dict(counts or {})

        work = Work("token_shards", 2, {"name": name})
        return Store(self.root).ensure(work, fill, Progress())[0]

    def release(
        self,
        name: str,
        model: Parakeet,
        measured: Mapping[str, Any] | None = None,
        shards: Artifact | None = None,
        tokenizer: Path | None = None,
        loss_on: str = "all",
        metrics: Mapping[str, int] | None = None,
    ) -> Artifact:
        """A release of the recipe `tiny`, whose lineage names these token shards. `metrics`: versions of metrics."""
        shards = shards or self.shards(self.prepared.shards)
        tokenizer = tokenizer or self.prepared.tokenizer_folder
        recipe = self.recipe.model_dump(mode="json")
        recipe["shards"]["loss_on"] = loss_on
        stages = {
            "token_shards": {"content": shards.content},
            "evaluation": {"content": "", "version": 4, "settings": {"metrics": dict(metrics or {})}},
        }

        def fill(output: Path, progress: Progress) -> dict[str, Any]:
            save_model(model, output)
            for path in tokenizer.iterdir():
                shutil.copyfile(path, output / path.name)
            write_generation_config(output, "tiny", self.recipe.generation, Tokenizer.load(output))
            (output / "evaluation.json").write_text(json.dumps(measured or evaluation()), encoding="utf-8")
            lineage = json.dumps({"recipe": recipe, "stages": stages})
            (output / "training_manifest.json").write_text(lineage, encoding="utf-8")
            write_sums(output)
            return {"name": "tiny", "parameters": 1}

        self.made["token_shards"] = shards
        work = Work("release", 2, {"name": name}, folder="releases", links=())
        return Store(self.root).ensure(work, fill, Progress())[0]

    def comparison(self, release: Artifact, recipe: Recipe | None = None, force: bool = False) -> Artifact:
        recipe = recipe or self.recipe
        given = {"release": release, "evaluation": release, "token_shards": self.made["token_shards"]}
        return Build(self.root, recipe, given).ensure("comparison", Progress(), lambda command: None, force)[0]

    def promoted(self, name: str, model: Parakeet, **more: Any) -> Artifact:
        release = self.release(name, model, **more)
        promote(self.root, release, judgement_of(self.comparison(release)))
        return release


def gates_of(comparison: Artifact) -> dict[str, dict[str, Any]]:
    return {gate["name"]: gate for gate in comparison.counts["gates"]}


def failed(comparison: Artifact) -> list[str]:
    return [name for name, gate in gates_of(comparison).items() if not gate["passed"]]


@pytest.fixture
def releases(prepared: Prepared, tmp_path: Path) -> Releases:
    values = prepared.recipe.model_dump()
    values["name"] = "tiny"
    values["evaluation"]["trace_index"] = False
    return Releases(tmp_path / "home", prepared, Recipe.model_validate(values))
