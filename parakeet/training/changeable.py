"""Which settings identify a run of training, and which may change while it goes on. Imports no torch."""

from typing import Any

from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of

CHANGEABLE = (
    "tokens",
    "then",
    "decay_fraction",
    "decay",
    "micro_batch_tokens",
    "attention",
    "activation_checkpointing",
    "compile",
    "processes",
    "checkpoint_steps",
    "keep_checkpoints",
    "keep_every",
    "validation_tokens",
    "tensorboard",
    "threads",
    "device",
)
"""Settings that may change while a run is unfinished: they are not part of its key. Nor is packing.then, since its
sequences come last."""
PLANNED = {"tokens", "then", "decay_fraction", "decay"}
"""Those of them that decide the finished weights."""


STARTED_FROM = "start"
"""What it names decides a run by its content, not by its name or place."""


def run_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that identify a training run, by section."""
    packing = settings_of(recipe.packing, without={"sequence_length", "then"})
    return {
        "model": settings_of(recipe.model),
        "training": settings_of(recipe.training, without={*CHANGEABLE, STARTED_FROM}),
        "packing": packing | {"sequence_length": recipe.packing.sequence_length},
    }
