"""Notices that a release was promoted or refused."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from parakeet.errors import ParakeetError
from parakeet.notify import tell
from parakeet.recipe import Recipe
from parakeet.release.history import ADOPTED, PROMOTED, REFUSED, Decision, decisions
from parakeet.stage import Stage
from parakeet.stages import Build, who_is_told


@contextmanager
def decisions_told(
    root: Path, recipe: Recipe, release: Callable[[], str | None], run: str | None = None
) -> Iterator[None]:
    """Send a notice of each decision on a release within the block that promotes or refuses it, also if that raises.

    `release` returns the folder's name after the block, and None if the release was not made. Another run may decide
    on another release meanwhile, or on the same one: a decision that names another run than `run` is left to that.
    Nothing else is raised here: a history that cannot be read is reported by those who need it.
    """
    known = len(_decisions(root))
    try:
        yield
    finally:
        settings = who_is_told(root, recipe)
        new = [
            decision
            for decision in (_decisions(root)[known:] if settings is not None else ())
            if decision.action in (PROMOTED, REFUSED) and not set(ADOPTED) & set(decision.reasons)
        ]
        name = release() if new else None
        for decision in new:
            if decision.release == name and (decision.run is None or decision.run == run):
                facts = {
                    "recipe": decision.recipe,
                    "release": decision.release,
                    "previous": decision.previous,
                    "reasons": decision.reasons,
                    "figures": decision.figures,
                }
                tell(settings, decision.action, _words(decision), facts)


def decisions_of(stage: Stage, build: Build, run: str) -> AbstractContextManager[None]:
    """`decisions_told` around the making, or a check, of a stage that may decide on the build's release."""
    if stage.group != "release":
        return nullcontext()
    return decisions_told(build.store.root, build.recipe, partial(release_of, build), run)


def release_of(build: Build) -> str | None:
    """The name of the folder of a build's release; None if it was not made."""
    with suppress(ParakeetError, OSError):
        release = build.find("release")
        return release.path.name if release is not None else None
    return None


def _decisions(root: Path) -> list[Decision]:
    with suppress(ParakeetError):
        return decisions(root)[0]
    return []


def _words(decision: Decision) -> str:
    if decision.action == REFUSED:
        stays = f" {decision.previous} stays the promoted release." if decision.previous else ""
        return f"Release {decision.release} of {decision.recipe} was refused. {' '.join(decision.reasons)}{stays}"
    instead = f" in place of {decision.previous}" if decision.previous else ""
    bits, before = (decision.figures.get(name) for name in ("bits_per_byte", "incumbent_bits_per_byte"))
    beside = f": {bits:.3f} bits per byte, before {before:.3f}" if _are_numbers(bits, before) else ""
    return f"{decision.release} is now the promoted release of {decision.recipe}{instead}{beside}."


def _are_numbers(*values: object) -> bool:
    return all(isinstance(value, float) for value in values)
