"""Which release a new one is compared with, and whether what the gates say of it still counts."""

from pathlib import Path

from parakeet.artifact import Artifact
from parakeet.release.history import FORCED, PROMOTED, Decision, decision_on
from parakeet.release.promotion import BEFORE_GATES, compared_with, incumbent


def compared_release(root: Path, recipe: str, release: Artifact) -> str | None:
    """Name of the folder of the release to compare with. None without one.

    The release's own name if it is the promoted one and was never compared: there were no gates then.
    """
    name, promoted, decision = release.path.name, incumbent(root, recipe), decision_on(root, release.path.name)
    if promoted is not None and promoted.name == name and (decision is None or BEFORE_GATES in decision.reasons):
        return name
    before = compared_with(root, release, recipe)
    return None if before is None else before.name


def standing_promotion(root: Path, release: str) -> Decision | None:
    """The decision by which a release was promoted, if that is the last one on it. No gate takes it back."""
    decision = decision_on(root, release)
    return decision if decision is not None and decision.action in (PROMOTED, FORCED) else None
