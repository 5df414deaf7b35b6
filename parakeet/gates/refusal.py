"""A refusal in the history of releases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.recipe import Recipe
from parakeet.release.history import REFUSED, Decision, decision_on, record


def record_refusal(root: Path, recipe: Recipe, comparison: Artifact, gates: Sequence[Mapping[str, Any]]) -> None:
    """Record that these gates refused the release, unless that is recorded, or a person has decided otherwise."""
    counts = comparison.counts
    reasons = tuple(str(gate["reason"]) for gate in gates)
    last = decision_on(root, counts["release"])
    if last is not None and (last.action != REFUSED or last.reasons == reasons):
        return
    decision = Decision(
        action=REFUSED,
        release=counts["release"],
        content=str(comparison.manifest["inputs"]["release"]["content"]),
        recipe=recipe.name,
        previous=counts["incumbent"],
        reasons=reasons,
        figures={name: value for name, value in counts["figures"].items() if isinstance(value, float)},
    )
    record(root, decision)
