"""Which release a new one is compared with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, Store
from parakeet.release.history import decision_on
from parakeet.release.promotion import incumbent


def compared_release(root: Path, recipe_name: str, release: Artifact, settings: Mapping[str, Any]) -> str | None:
    """Name of the folder of the release to compare with. None: there is none. Its own name: it is promoted already.

    Once the release is decided, it is the one of the comparison that decided it under these `settings`, so that a later
    build finds that comparison.
    """
    if decision_on(root, release.path.name) is not None:
        for made in reversed(Store(root).artifacts("comparison", release=release.content)):
            compared = dict(made.manifest["settings"])
            before = compared.pop("incumbent", None)
            if made.counts["release"] == release.path.name and compared == settings:
                return None if before is None else str(before)
    promoted = incumbent(root, recipe_name)
    return None if promoted is None else promoted.resolve().name
