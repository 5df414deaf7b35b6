"""Promotion, refusal, rollback and removal of releases: how the pointers of `parakeet.release.pointers` move.

A pointer moves in three steps: the new link is written beside it, the decision is appended to the history, and one
rename replaces the pointer. So a crash or a full disk leaves the old state or the new one.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, explain_os_error, point_link, sync_directory
from parakeet.errors import ParakeetError
from parakeet.formatting import format_time
from parakeet.home import latest_release, release_folder
from parakeet.model.config import WEIGHTS_FILE
from parakeet.release.history import (
    BEFORE_GATES,
    FORCED,
    HISTORY_LOST,
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    Decision,
    decision_on,
    decisions,
    record,
)
from parakeet.release.pointers import (
    incumbent,
    latest_leads_somewhere,
    move_away,
    opened_recipe,
    pointer,
    prepared_link,
    promoted_link,
    promoted_recipes,
    promotions,
    recipe_of,
    upcoming,
    was_removed,
)
from parakeet.release.verify import open_release, recorded_sum, verify_release


@dataclass(frozen=True)
class Judgement:
    """The verdict of the gates on a release: why it is refused, if it is, and the figures that they compared."""

    release: str
    """The folder's name."""
    incumbent: str | None
    """Folder name of the release that it was compared with."""
    reasons: tuple[str, ...]
    """Empty if it passed."""
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a release that was to be promoted: the last decision on it, and what a person should know."""

    decision: Decision
    is_promoted: bool
    """Whether it is the promoted release of its recipe now."""
    messages: tuple[str, ...] = ()


def compared_with(root: Path, release: Artifact, recipe: str) -> Path | None:
    """The release that the gates compare this one with; it may be gone. None if there is none.

    That of the last judgement for a release that was promoted once, so that a later build finds the same comparison;
    for one of the same weights too. Else the promoted release. None for one that was promoted before there were gates.
    """
    about = _about(root, release, recipe)
    if about and about[-1].action != REFUSED:
        judged = [decision for decision in about if decision.action in (PROMOTED, REFUSED)] or about
        return None if judged[-1].previous is None else release_folder(root) / judged[-1].previous
    now = incumbent(root, recipe)
    return None if now is None or now.name == release.path.name else now


def promote(
    root: Path, release: Artifact, judgement: Judgement, *, takes_chat: bool = False, run: str | None = None
) -> Outcome:
    """Promote a release that passed its gates, unless it was decided before: then that stands.

    `takes_chat` lets `parakeet chat` open it although it opens another recipe's model now, if the pointer moves.
    Raises ParakeetError, and moves nothing, if a gate refused the release, if it was compared with another release
    than the promoted one, and if it does not verify or load from its own files.
    """
    name, recipe = release.path.name, recipe_of(release.path)
    about = _about(root, release, recipe)
    if judgement.release not in (name, *(decision.release for decision in about)):
        raise ParakeetError(
            f"The comparison is of release {judgement.release}, and {name} is to be promoted. Run the same build again "
            "with: --force comparison"
        )
    with _locked(root):
        _finish_interrupted(root, recipe)
        _refuse_unknown(root, name)
        decision, now = decision_on(root, name), incumbent(root, recipe)
        if decision is None and now is not None and now.name == name:
            decision = _adopt(root, now, recipe)
        if decision is not None and decision.action != REFUSED:
            return _as_decided(root, decision, now)
        twin = about[-1] if decision is None and about and about[-1].action != REFUSED else None
        again = twin is not None and now is not None and twin.release == now.name
        if twin is not None and not again:
            return _as_decided(root, twin, now)
        if judgement.reasons:
            decision = _refuse(root, release, judgement, run)
            raise ParakeetError(
                f"{begins_refusal(decision.release)}{format_time(decision.time)}. {' '.join(decision.reasons)} "
                f"{kept_all_the_same(root, decision)}"
            )
        if again and now is not None:
            judgement = replace(judgement, incumbent=now.name)
        if judgement.incumbent != (now.name if now else None):
            raise ParakeetError(
                f"{name} was compared with {judgement.incumbent or 'no earlier release'}, and "
                f"{now.name if now else 'none'} is the promoted release of {recipe} now. Run the same build again: it "
                "compares the two."
            )
        _verify(release)
        reasons = (f"It has the weights of {judgement.incumbent}, released again.",) if again else ()
        decision = _decision(PROMOTED, release, recipe, judgement.incumbent, reasons, judgement.figures, run)
        _move(root, decision, name, takes_chat)
        return Outcome(decision, True, _about_chat(root, recipe, name))


def refuse(root: Path, release: Artifact, judgement: Judgement) -> Decision:
    """Record that the gates refused a release, once; the last decision if that was another one, which stands."""
    with _locked(root):
        return _refuse(root, release, judgement, None)


def promote_by_hand(root: Path, release: Artifact, reason: str) -> Decision:
    """Promote a release whatever the gates say, and let `parakeet chat` open it. The reason is recorded.

    Raises ParakeetError, and moves nothing, if it does not verify or load from its own files.
    """
    name, recipe = release.path.name, recipe_of(release.path)
    with _locked(root):
        _finish_interrupted(root, recipe)
        _verify(release)
        now = incumbent(root, recipe)
        judged = decision_on(root, name)
        figures = judged.figures if judged is not None else {}
        previous = now.name if now is not None and now.name != name else None
        decision = _decision(FORCED, release, recipe, previous, (reason,), figures)
        _move(root, decision, name, takes_chat=True)
        return decision


def open_in_chat(root: Path, recipe: str) -> None:
    """Let `parakeet chat` open the promoted release of this recipe."""
    with _locked(root):
        now = incumbent(root, recipe)
        if now is None:
            raise ParakeetError(f"No release of recipe {recipe} is promoted.")
        link = promoted_link(root, recipe)
        _refuse_folders(latest_release(root), link, link.parent)
        with _explained("moving the pointer"):
            _convert(root)
            if not promoted_link(root, recipe).is_symlink():
                _prepare(root, recipe, now.name).replace(promoted_link(root, recipe))
            point_link(latest_release(root), f"promoted/{recipe}")


def rollback(root: Path, recipe: str, reason: str) -> Decision:
    """Take the promoted release of a recipe back: the newest one promoted before it that verifies takes its place.

    Raises ParakeetError, and moves nothing, if there is none.
    """
    if recipe not in promoted_recipes(root):
        names = ", ".join(promoted_recipes(root)) or "none yet"
        raise ParakeetError(f"No release of recipe {recipe} is promoted. Recipes with a promoted release: {names}.")
    with _locked(root):
        _finish_interrupted(root, recipe)
        now = pointer(root, recipe)
        if now is None or not (now.is_dir() or decision_on(root, now.name)):  # edited by hand: the history counts
            now = incumbent(root, recipe)
        if now is None:
            raise ParakeetError(f"No release of recipe {recipe} is promoted: none of its releases is left.")
        skipped = []
        for name in reversed([name for name in promotions(root, recipe) if name != now.name]):
            try:
                open_release(release_folder(root) / name)
            except (ParakeetError, OSError) as error:
                skipped.append(f"{name} was passed over: {error}")
                continue
            decision = _taken_back(root, now, recipe, name, (reason, *skipped))
            _move(root, decision, name, takes_chat=False)
            return decision
        raise ParakeetError(
            " ".join(
                [
                    f"{now.name} is the only release of {recipe} that was promoted and verifies: there is none to roll "
                    "back to.",
                    *skipped,
                    "Promote another by hand with: parakeet release promote ID --force REASON",
                ]
            )
        )


def remove_promoted(root: Path, release: Path, recipe: str, reason: str) -> Path | None:
    """Move the pointer of a recipe away from a release that is about to be removed. Returns what it points at then."""
    with _locked(root):
        _finish_interrupted(root, recipe)
        for name in reversed([name for name in promotions(root, recipe) if name != release.name]):
            try:
                open_release(release_folder(root) / name)
            except (ParakeetError, OSError):
                continue
            _move(root, _taken_back(root, release, recipe, name, (reason,)), name, takes_chat=False)
            return release_folder(root) / name
        record(root, _taken_back(root, release, recipe, None, (reason,)))
        with _explained("moving the pointer"):
            _remove_pointer(root, recipe)
        return None


def _remove_pointer(root: Path, recipe: str) -> None:
    opened = opened_recipe(root)
    promoted_link(root, recipe).unlink(missing_ok=True)
    others = [other for other in promoted_recipes(root) if other != recipe and incumbent(root, other)]
    if opened == recipe and others:
        point_link(latest_release(root), f"promoted/{others[-1]}")
    elif opened == recipe:
        latest_release(root).unlink(missing_ok=True)


def begins_refusal(release: str) -> str:
    """How the text of every refusal of a release begins."""
    return f"{release} was refused on "


def kept_all_the_same(root: Path, decision: Decision) -> str:
    """Where a refused release is, and what can be done with it."""
    now = incumbent(root, decision.recipe)
    stays = f"{now.name} stays the promoted release of {decision.recipe}. " if now else ""
    return (
        f"{stays}The refused one is kept in {release_folder(root) / decision.release}. Talk to it with: parakeet chat "
        f"--model {decision.release}. To promote it all the same: parakeet release promote {decision.release} "
        "--force REASON"
    )


def _refuse_unknown(root: Path, name: str) -> None:
    """Raise ParakeetError if `latest` of an earlier Parakeet is a release of which nothing says whose it is.

    The next release of its recipe would count as the first one, and replace it without a comparison.
    """
    latest = latest_release(root)
    if not latest.is_symlink() or Path(os.readlink(latest)).parent != Path(".") or not latest.is_dir():
        return
    try:
        recipe_of(latest.resolve())
    except ParakeetError as error:
        raise ParakeetError(
            f"{name} is not promoted: {latest.resolve()}, which `parakeet chat` opens, is damaged, so nothing says "
            f"whether it would replace it. {error} Put that file back, or remove the folder and build again, or "
            f"promote by hand: parakeet release promote {name} --force REASON"
        ) from None


def _about(root: Path, release: Artifact, recipe: str) -> list[Decision]:
    """The decisions on a release; if there is none, those on releases of the recipe with the same weights."""
    history = decisions(root)[0]
    own = [decision for decision in history if decision.release == release.path.name]
    weights = _weights(release.path)
    twins = [one for one in history if one.recipe == recipe and one.weights == weights]
    return own or (twins if weights is not None else [])


def _weights(release: Path) -> str | None:
    try:
        return recorded_sum(release, WEIGHTS_FILE)
    except (OSError, ValueError, StopIteration):
        return None


def _decision(
    action: str,
    release: Artifact,
    recipe: str,
    previous: str | None,
    reasons: Sequence[str],
    figures: Mapping[str, Any] | None = None,
    run: str | None = None,
) -> Decision:
    return Decision(
        action,
        release.path.name,
        release.content,
        recipe,
        previous,
        tuple(reasons),
        figures or {},
        run,
        _weights(release.path),
    )


def _as_decided(root: Path, decision: Decision, now: Path | None) -> Outcome:
    recipe, name, when = decision.recipe, decision.release, format_time(decision.time)
    if now is not None and now.name == name:
        return Outcome(decision, True, _about_chat(root, recipe, name))
    by_hand = f"To promote it again: parakeet release promote {name} --force REASON"
    if decision.action == ROLLED_BACK:
        why = " ".join(decision.reasons)
        return Outcome(decision, False, (f"{name} was rolled back on {when} ({why}) and stays so. {by_hand}",))
    stays = f"{now.name} is the promoted release of {recipe} since." if now else ""
    return Outcome(decision, False, (f"{name} was promoted on {when}. {stays} {by_hand}",))


def _about_chat(root: Path, recipe: str, name: str) -> tuple[str, ...]:
    opened = opened_recipe(root)
    if opened in (recipe, None):
        return ()
    return (
        f"{name} is the promoted release of {recipe}. `parakeet chat` goes on with {opened}; to let it open {recipe}: "
        f"parakeet release promote {name}",
    )


def _refuse(root: Path, release: Artifact, judgement: Judgement, run: str | None) -> Decision:
    name, recipe = release.path.name, recipe_of(release.path)
    now = incumbent(root, recipe)
    before = decision_on(root, name)
    if before is None and now is not None and now.name == name:
        return _adopt(root, now, recipe)
    decision = _decision(REFUSED, release, recipe, judgement.incumbent, judgement.reasons, judgement.figures, run)
    if before is not None and before.action != REFUSED:
        return before
    # The checks of a release and the gates refuse the same one for different reasons, at each build.
    for one in decisions(root)[0]:
        if one.release == name and (one.previous, one.reasons) == (judgement.incumbent, judgement.reasons):
            return one
    record(root, decision)
    return decision


def _adopt(root: Path, release: Path, recipe: str) -> Decision:
    """Record the promoted release of an earlier Parakeet, which kept no history, or of one whose history is lost."""
    # Whoever made this link wrote a decision first.
    reason = HISTORY_LOST if promoted_link(root, recipe).is_symlink() else BEFORE_GATES
    decision = _decision(PROMOTED, Artifact.open(release), recipe, None, (reason,))
    record(root, decision)
    return decision


def _taken_back(root: Path, release: Path, recipe: str, successor: str | None, reasons: Sequence[str]) -> Decision:
    before = decision_on(root, release.name)
    if before is None:
        return _decision(ROLLED_BACK, Artifact.open(release), recipe, successor, reasons)
    return Decision(
        ROLLED_BACK, release.name, before.content, recipe, successor, tuple(reasons), weights=before.weights
    )


def _verify(release: Artifact) -> None:
    """Raise ParakeetError unless the files are as they were made, and the model loads from them alone."""
    release.check(thorough=True)
    verify_release(release.path)
    from parakeet.model.transformer import load_model  # with torch
    from parakeet.tokenizer import Tokenizer

    Tokenizer.load(release.path)
    load_model(release.path, "cpu")


def _move(root: Path, decision: Decision, target: str, takes_chat: bool) -> None:
    """Record a decision and let its recipe's pointer lead to `target`, both or neither."""
    recipe, link, latest = decision.recipe, promoted_link(root, decision.recipe), latest_release(root)
    with _explained("moving the pointer"):
        link.parent.mkdir(parents=True, exist_ok=True)
        _convert(root)
        prepared = _prepare(root, recipe, target)
    try:
        record(root, decision)
    except ParakeetError:
        prepared.unlink(missing_ok=True)
        raise
    with _explained("moving the pointer"):
        prepared.replace(link)
        sync_directory(link.parent)
        if takes_chat or not latest_leads_somewhere(root):
            point_link(latest, f"promoted/{recipe}")


def _convert(root: Path) -> None:
    """Let `latest` of an earlier Parakeet, a link to a release, be a link to its recipe's pointer."""
    latest = latest_release(root)
    if not latest.is_symlink() or Path(os.readlink(latest)).parent != Path("."):
        return
    release = release_folder(root) / os.readlink(latest)
    try:
        recipe = recipe_of(release)
    except ParakeetError:
        return
    if not promoted_link(root, recipe).is_symlink():
        if decision_on(root, release.name) is None:
            _adopt(root, release, recipe)
        _prepare(root, recipe, release.name).replace(promoted_link(root, recipe))
    point_link(latest, f"promoted/{recipe}")


def _prepare(root: Path, recipe: str, target: str) -> Path:
    """Write the recipe's new pointer beside the old one."""
    prepared = prepared_link(root, recipe)
    prepared.parent.mkdir(parents=True, exist_ok=True)
    prepared.unlink(missing_ok=True)
    prepared.symlink_to(f"../{target}")
    sync_directory(prepared.parent)
    return prepared


def _finish_interrupted(root: Path, recipe: str) -> None:
    """Complete a move or a removal whose decision was recorded; forget one whose decision was not."""
    prepared, link, latest = prepared_link(root, recipe), promoted_link(root, recipe), latest_release(root)
    _refuse_folders(latest, link, link.parent)
    with _explained("moving the pointer"):
        if upcoming(root, recipe) is not None:
            prepared.replace(link)
        else:
            prepared.unlink(missing_ok=True)
        if link.is_symlink() and was_removed(root, recipe):
            _remove_pointer(root, recipe)
        elif link.is_symlink() and not latest_leads_somewhere(root):
            point_link(latest, f"promoted/{recipe}")


def _refuse_folders(latest: Path, link: Path, folder: Path) -> None:
    """Raise ParakeetError if no link can be put in place of what is there."""
    for path in (latest, link):
        if path.is_dir() and not path.is_symlink():
            raise ParakeetError(f"{path} is a folder. {move_away(path)}, then run the same command again.")
    if folder.exists() and not folder.is_dir():
        raise ParakeetError(f"{folder} is no folder. Move it away, then run the same command again.")


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, doing) from None


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the lock of the pointers and the history."""
    from parakeet.locking import exclusive
    from parakeet.progress import Progress

    path = root / ".locks" / "promotion.lock"
    with _explained("preparing the assets folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path, "a release is being promoted", Progress()):
        yield
