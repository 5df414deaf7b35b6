"""The models that a model was trained from, in words."""

from collections.abc import Mapping
from typing import Any

from parakeet.formatting import format_count

MOST_SHOWN = 3
"""A model that is trained every week has a long line behind it."""


def began_with(start: Mapping[str, Any]) -> str:
    """A model's start, and the last ones before it: `demo (release, weights 3fa9c2d81b04, 1.30 M tokens)`.

    `start` is the lineage that `training_manifest.json` has.
    """
    models = [start, *start.get("earlier", ())]
    more = f", after {len(models) - MOST_SHOWN} earlier" if len(models) > MOST_SHOWN else ""
    return ", which began with ".join(map(_one, models[:MOST_SHOWN])) + more


def _one(facts: Mapping[str, Any]) -> str:
    tokens = facts.get("tokens")
    read = f", {format_count(tokens)} tokens" if isinstance(tokens, int) else ""
    return f"{facts.get('model')} ({facts.get('kind')}, weights {str(facts.get('weights_sha256'))[:12]}{read})"
