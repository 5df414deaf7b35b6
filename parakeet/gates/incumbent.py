"""Which release a new one is compared with, and whether what the gates say of it still counts."""

import math
from pathlib import Path

from parakeet.artifact import Artifact
from parakeet.release.history import ADOPTED, FORCED, PROMOTED, Decision, decision_on, decisions
from parakeet.release.pointers import incumbent
from parakeet.release.promotion import compared_with


def compared_release(root: Path, recipe: str, release: Artifact) -> str | None:
    """Name of the folder of the release to compare with. None without one.

    The release's own name if it is the promoted one and was never compared: there were no gates then.
    """
    name, promoted, decision = release.path.name, incumbent(root, recipe), decision_on(root, release.path.name)
    if promoted is not None and promoted.name == name and (decision is None or set(ADOPTED) & set(decision.reasons)):
        return name
    before = compared_with(root, release, recipe)
    return None if before is None else before.name


def standing_promotion(root: Path, release: str) -> Decision | None:
    """The decision by which a release was promoted, if that is the last one on it. No gate takes it back."""
    decision = decision_on(root, release)
    return decision if decision is not None and decision.action in (PROMOTED, FORCED) else None


def lost_since_best(root: Path, recipe: str, release: str) -> float:
    """Share of its bits per byte by which a promoted release is worse than the best of those before it, at least 0.

    The differences that the comparisons of the promotions found, added up along the chain of releases that replaced
    each other: their texts may differ. Promoted by hand, a release counts as the best one.
    """
    lost: dict[str, float] = {}
    weights: dict[str, str | None] = {}
    for decision in decisions(root)[0]:
        if decision.recipe != recipe or decision.action not in (PROMOTED, FORCED):
            continue
        name, before = decision.release, decision.previous
        is_same = before is not None and decision.weights is not None and weights.get(before) == decision.weights
        if decision.action == PROMOTED and before is not None:
            lost[name] = max(0.0, lost.get(before, 0.0) + (0.0 if is_same else _more(decision)))
        else:
            lost[name] = 0.0
        weights[name] = decision.weights
    return lost.get(release, 0.0)


def _more(decision: Decision) -> float:
    """Share of the bits that a release needs more than the one that it replaced; 0 if no figure says so."""
    difference, bits = (decision.figures.get(key) for key in ("difference", "incumbent_bits_per_byte"))
    if not (isinstance(difference, float) and isinstance(bits, float) and bits > 0 and math.isfinite(difference)):
        return 0.0
    return difference / bits
