"""Which release a recipe has promoted, and which one `parakeet chat` opens: where the pointers lead. Moves nothing.

`releases/promoted/<recipe>` is a link to the promoted release of a recipe, and `releases/latest` a link to one of those
links. In a store of an earlier Parakeet, `latest` is a link to a release, which is then the promoted one of its own
recipe. `parakeet.release.promotion` moves them.
"""

import os
import shlex
from pathlib import Path

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.home import latest_release, release_folder
from parakeet.release.history import HISTORY_LOST, NAME, REFUSED, ROLLED_BACK, decision_on, decisions, history_file
from parakeet.release.verify import SUMS_FILE, open_release


def recipe_of(release: Path) -> str:
    """The name of the recipe that a release was made by. ParakeetError if its manifest cannot be read."""
    name = str(Artifact.open(release).counts.get("name", ""))
    if not NAME.fullmatch(name):
        raise ParakeetError(f"{release} does not say by which recipe it was made: its manifest was changed.")
    return name


def incumbent(root: Path, recipe: str) -> Path | None:
    """The promoted release of a recipe; if it is gone, the newest earlier one that verifies. None without any."""
    return find_incumbent(root, recipe)[0]


def find_incumbent(root: Path, recipe: str) -> tuple[Path | None, list[str]]:
    """The same, and a message if the pointer leads to a release that is gone."""
    target = pointer(root, recipe)
    if target is None and not promotions(root, recipe):
        return None, []
    if target is not None and target.is_dir():
        return target, []
    for name in reversed(promotions(root, recipe)):
        folder = release_folder(root) / name
        if target is not None and name == target.name:
            continue
        try:
            open_release(folder)
        except (ParakeetError, OSError):
            continue
        gone = target or promoted_link(root, recipe)
        return folder, [f"{gone}, the promoted release of {recipe}, is gone. {name}, promoted before it, is used."]
    return None, [f"{target or promoted_link(root, recipe)}, the promoted release of {recipe}, is gone."]


def find_opened(root: Path) -> tuple[Path | None, list[str]]:
    """The release that `parakeet chat` opens without a name, and messages on pointers that lead nowhere."""
    found, _, messages = _find_opened(root)
    return found, messages


def find_opened_recipe(root: Path) -> str:
    """The recipe of the release that `parakeet chat` opens without a name. Raises ParakeetError if there is none."""
    found, recipe, messages = _find_opened(root)
    if found is None:
        raise ParakeetError(" ".join([*messages, "There is no promoted release yet. Make one with: parakeet build"]))
    return recipe if recipe is not None else recipe_of(found)


def _find_opened(root: Path) -> tuple[Path | None, str | None, list[str]]:
    """The release that `parakeet chat` opens, its recipe if a pointer or the history names it, and messages."""
    latest = latest_release(root)
    recipe = opened_recipe(root)
    if recipe is not None:
        found, messages = find_incumbent(root, recipe)
        if found is not None:
            return found, recipe, messages
    elif latest.is_symlink() and latest.is_dir():
        return latest.resolve(), None, []
    elif not latest.is_symlink() and latest.exists():
        messages = [f"{latest} is no link. {move_away(latest)}"]
    else:
        messages = [f"{latest}, which `parakeet chat` opens, is gone."]
    for other in reversed(promoted_recipes(root)):
        if other != recipe and (found := incumbent(root, other)) is not None:
            return found, other, [*messages, f"{found.name}, the promoted release of {other}, is used."]
    if (latest / SUMS_FILE).is_file():  # a copy of the store that followed links
        return latest, None, messages
    return None, None, messages if latest.is_symlink() or latest.exists() else []


def move_away(path: Path) -> str:
    place = shlex.quote(str(path))
    return f"Parakeet keeps a link of that name there. Move it away: mv {place} {place}.old"


def about_promoted(root: Path) -> list[str]:
    """Messages on promoted releases that are not in the history, and on those whose files have other sizes now."""
    messages = []
    for recipe in promoted_recipes(root):
        now = incumbent(root, recipe)
        if now is None:
            continue
        if decision_on(root, now.name) is None and promoted_link(root, recipe).is_symlink():
            messages.append(
                f"{now.name} is the promoted release of {recipe}, and {history_file(root)} does not have it. "
                f"{HISTORY_LOST} Which releases were refused is not known either. Put the file back from a backup."
            )
        if (fault := size_fault(now)) is not None:
            messages.append(f"{now.name}, the promoted release of {recipe}, is damaged. {fault} {_way_back(root, now)}")
    return messages


def size_fault(release: Path) -> str | None:
    """What of a release is missing or has another size than it was made with; None if nothing. Reads no file of it."""
    try:
        for name, entry in Artifact.open(release).manifest["files"].items():
            path = release / name
            found = path.stat().st_size if path.is_file() else None
            if found != entry["bytes"]:
                how = "is missing" if found is None else f"has {found:,} bytes, expected {entry['bytes']:,}"
                return f"{path} {how}."
    except ParakeetError as error:
        return str(error)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        return f"{release} cannot be read ({error})."
    return None


def way_back(root: Path, release: Path) -> str | None:
    """The command that takes back a release that is damaged; None if it is not promoted, or the only one."""
    for recipe in promoted_recipes(root):
        now = incumbent(root, recipe)
        if now is not None and now.resolve() == release.resolve():
            others = [name for name in promotions(root, recipe) if name != now.name]
            if any(size_fault(release_folder(root) / name) is None for name in others):
                return f"parakeet release rollback {recipe} --reason damaged"
    return None


def _way_back(root: Path, release: Path) -> str:
    command = way_back(root, release)
    return f"To go back to the one before it: {command}" if command else "Run the same build again."


def opened_recipe(root: Path) -> str | None:
    """The recipe whose promoted release `parakeet chat` opens. None if there is none, or if nothing says which."""
    latest = latest_release(root)
    if not latest.is_symlink():
        return None
    target = Path(os.readlink(latest))
    if target.parent == Path("promoted"):
        return target.name
    if latest.is_dir():
        try:
            return recipe_of(latest.resolve())
        except ParakeetError:
            return None
    decision = decision_on(root, target.name)
    return decision.recipe if decision is not None else None


def promoted_recipes(root: Path) -> list[str]:
    """The recipes that have a pointer or a decision, in the order of their last decision; those without any first.

    What they promoted may be gone, and of some nothing was promoted but only refused: `incumbent` says so.
    """
    links = [
        link.name
        for link in sorted((release_folder(root) / "promoted").glob("*"))
        if link.is_symlink() and NAME.fullmatch(link.name)  # a crash may leave a prepared pointer
    ]
    if (opened := opened_recipe(root)) is not None and opened not in links:
        links.append(opened)
    decided = {decision.recipe: number for number, decision in enumerate(decisions(root)[0])}
    return sorted({*links, *decided}, key=lambda recipe: decided.get(recipe, -1))


def promoted_link(root: Path, recipe: str) -> Path:
    return release_folder(root) / "promoted" / recipe


def pointer(root: Path, recipe: str) -> Path | None:
    """Where the pointer of a recipe leads, there or gone: the last decision's release if its move was interrupted."""
    link, meant = promoted_link(root, recipe), upcoming(root, recipe)
    if meant is not None:
        return release_folder(root) / meant
    if link.is_symlink():
        if was_removed(root, recipe):
            return None
        target = Path(os.readlink(link))
        return release_folder(root) / target.name if target.parent == Path("..") else Path(os.path.realpath(link))
    latest = latest_release(root)
    if latest.is_symlink() and Path(os.readlink(latest)).parent == Path("."):  # of an earlier Parakeet
        folder = release_folder(root) / os.readlink(latest)
        try:
            return folder if recipe_of(folder) == recipe else None
        except ParakeetError:
            return None
    return None


def upcoming(root: Path, recipe: str) -> str | None:
    """The release that an interrupted move was to promote, if its decision had been recorded."""
    prepared = prepared_link(root, recipe)
    if not prepared.is_symlink():
        return None
    moves = [d for d in decisions(root)[0] if d.recipe == recipe and d.action != REFUSED]
    meant = None
    if moves:
        meant = moves[-1].previous if moves[-1].action == ROLLED_BACK else moves[-1].release
    name = Path(os.readlink(prepared)).name
    return name if name == meant else None


def was_removed(root: Path, recipe: str) -> bool:
    """Whether a pointer leads to a release that was taken back without a successor: its removal was interrupted."""
    target = Path(os.readlink(promoted_link(root, recipe))).name
    moves = [d for d in decisions(root)[0] if d.recipe == recipe and d.action != REFUSED]
    return bool(moves) and (moves[-1].action, moves[-1].previous, moves[-1].release) == (ROLLED_BACK, None, target)


def promotions(root: Path, recipe: str) -> list[str]:
    """Folder names of the releases of a recipe that were promoted and not taken back, in order, each once."""
    names: list[str] = []
    for decision in decisions(root)[0]:
        if decision.recipe == recipe and decision.action != REFUSED:
            # The one that was promoted before is among them even if its own line is lost.
            before = [decision.previous] if decision.previous and decision.previous not in names else []
            names = [name for name in (*names, *before) if name != decision.release]
            if decision.action != ROLLED_BACK:
                names.append(decision.release)
    return names


def prepared_link(root: Path, recipe: str) -> Path:
    return release_folder(root) / "promoted" / f".{recipe}.next"


def latest_leads_somewhere(root: Path) -> bool:
    """Whether `latest` is a link to a release, or to the pointer of a recipe that has one."""
    latest = latest_release(root)
    known = opened_recipe(root) is not None or latest.is_dir()
    return latest.is_symlink() and known and find_opened(root)[0] is not None
