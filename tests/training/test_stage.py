"""Which changes of a recipe go on with the same run, and which begin another."""

from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import Artifact
from parakeet.recipe import LaterRows, Recipe
from parakeet.training.stage import run_key

from ..conftest import Prepared


def inputs(**digests: str) -> dict[str, Artifact]:
    def artifact(name: str, files: dict[str, Any]) -> Artifact:
        return Artifact(Path(name), {"stage": name, "content": name, "files": files})

    plans = {f"plan-{length}.arrow": {"sha256": digest} for length, digest in {"32": "a", "64": "b", **digests}.items()}
    return {"token_shards": artifact("s", {}), "tokenizer": artifact("t", {}), "packing_plan": artifact("p", plans)}


def changed(recipe: Recipe, section: str, **values: object) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


@pytest.mark.parametrize(
    ("section", "values", "same"),
    [
        ("training", {"tokens": 1 << 20, "decay_fraction": 0.5}, True),
        ("training", {"micro_batch_tokens": 64, "attention": "fused", "recompute": "block", "compile": True}, True),
        ("training", {"processes": 2, "keep_every": 10, "validation_tokens": 0, "tensorboard": True}, True),
        ("training", {"checkpoint_steps": 7, "keep_checkpoints": 1, "threads": 2, "device": "cuda"}, True),
        ("packing", {"then": [LaterRows(row_tokens=64, share=0.1)]}, True),
        ("packing", {"row_tokens": 64}, False),
        ("packing", {"seed": 2}, False),
        ("training", {"learning_rate": 0.5}, False),
        ("training", {"optimizer": "muon"}, False),
        ("training", {"residual": "bf16"}, False),
        ("training", {"z_loss": 1e-4}, False),
        ("model", {"dropout": 0.2}, False),
    ],
)
def test_changes_that_go_on_with_a_run(prepared: Prepared, section: str, values: dict[str, Any], same: bool) -> None:
    before = run_key(prepared.recipe, inputs())
    assert (run_key(changed(prepared.recipe, section, **values), inputs()) == before) is same


def test_a_run_is_of_the_plan_of_its_first_rows(prepared: Prepared) -> None:
    before = run_key(prepared.recipe, inputs())
    assert run_key(prepared.recipe, inputs(**{"64": "other"})) == before
    assert run_key(prepared.recipe, inputs(**{"32": "other"})) != before
