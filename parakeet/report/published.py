"""Scores of published models of about the same size, from `published.yaml`."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PUBLISHED_FILE = "published.yaml"


@dataclass(frozen=True)
class Published:
    """A model's scores as shares of 1 by task, where they stand, and the program that measured them."""

    name: str
    scores: dict[str, float]
    source: str
    harness: str


@cache
def published_models() -> tuple[Published, ...]:
    """Every model of the package's file, in its order."""
    import yaml

    text = files(__package__).joinpath(PUBLISHED_FILE).read_text(encoding="utf-8")
    return tuple(
        Published(
            model["name"],
            {task: percent / 100 for task, percent in model["scores"].items()},
            group["source"],
            group["harness"],
        )
        for group in yaml.safe_load(text)
        for model in group["models"]
    )


def published_for(tasks: Collection[str]) -> tuple[Published, ...]:
    """Those with a score of one of these tasks."""
    return tuple(model for model in published_models() if model.scores.keys() & set(tasks))
