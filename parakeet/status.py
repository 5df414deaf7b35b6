"""`parakeet status`: what is released, what is going on, what waits, and what happens next. Imports no torch."""

import re
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parakeet.dagster_history import History, read_history
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_count, format_duration, format_percent, format_time
from parakeet.home import runs_folder
from parakeet.locking import is_held, named_holder
from parakeet.notify import describe
from parakeet.recipe import Recipe
from parakeet.release.history import REFUSED, Decision, decisions
from parakeet.release.listing import ListedModel, list_models
from parakeet.release.pointers import about_promoted, find_incumbent, find_opened, promoted_recipes
from parakeet.sanitise import sanitise
from parakeet.space import space_for, training_space
from parakeet.stages import active_recipe, chosen_recipe_name
from parakeet.studies.records import FOLDER
from parakeet.studies.status import studies_under_way
from parakeet.training.runs import Run, list_runs

LOCKS = ".locks"
LABEL = 12
"""Columns of the names at the left."""
MOST_OF_A_REASON = 200
"""Characters: the status is one screen."""


def status_document(root: Path, now: float) -> dict[str, Any]:
    """Everything that `parakeet status` shows, as JSON values: sizes in bytes, times in ISO 8601 or Unix seconds.

    Whatever cannot be read is left out, and `faults` say so.
    """
    faults: list[str] = []
    recipe = _try(lambda: active_recipe(root), faults)
    history = read_history(root, now)
    faults += history.faults
    return {
        "home": str(root),
        "recipe": {"name": recipe.name if recipe else None, "in_use": chosen_recipe_name(root) is not None},
        "released": _try(lambda: _released(root, faults), faults) or [],
        "refused": _try(lambda: _last_refused(root), faults) or [],
        "training": _try(lambda: [_training(run) for run in _running(root, faults)], faults) or [],
        "studies": _try(lambda: studies_under_way(root), faults) or [],
        "making": _try(lambda: list(_making(root)), faults) or [],
        "dagster": _dagster(history),
        "disk": _try(lambda: _disk(root, recipe), faults),
        "notices": describe(recipe.notify) if recipe is not None and recipe.notify is not None else [],
        "faults": list(dict.fromkeys(faults)),
    }


def render_status(document: Mapping[str, Any], now: float) -> str:
    """The document on one screen."""
    recipe, disk = document["recipe"], document["disk"]
    rows: list[tuple[str, str]] = []
    for one in document["released"]:
        rows += _labelled("released", _released_words(one))
    if not document["released"]:
        rows.append(("released", "nothing yet. Make a model with: parakeet build"))
    rows += _labelled(
        "refused",
        [
            f"{one['release']} of {one['recipe']}, {format_time(one['time'])}. {_short(' '.join(one['reasons']))} In "
            f"full: parakeet release show {one['release']}"
            for one in document["refused"]
        ],
    )
    if recipe["name"]:
        chosen = "" if recipe["in_use"] else ", since `parakeet use` has chosen none"
        rows.append(("recipe", f"{recipe['name']} is in use{chosen}"))
    rows += _labelled("training", [_training_words(one) for one in document["training"]])
    rows += _labelled("studies", document["studies"])
    rows += _labelled("making", [f"{one['stage']}, by {one['by']}" for one in document["making"]])
    if not (document["training"] or document["making"] or document["dagster"]["runs"]):
        rows.append(("running", "nothing"))
    refusals = {reason for one in document["refused"] for reason in one["reasons"]}
    rows += _dagster_rows(document["dagster"], refusals, now)
    if disk:
        words = f"{format_bytes(disk['free'])} free, {format_bytes(disk['needed'])} needed for {disk['purpose']}"
        rows.append(("disk", f"{'LOW: ' if disk['is_low'] else ''}{words}"))
    rows += _labelled("notices", document["notices"])
    rows += _labelled("unreadable", document["faults"])
    return "\n".join(f"{label:<{LABEL}}{sanitise(words)}".rstrip() for label, words in rows)


def _short(reason: str) -> str:
    return textwrap.shorten(reason, MOST_OF_A_REASON, placeholder=" …")


def _dagster_rows(dagster: Mapping[str, Any], refusals: Collection[str], now: float) -> list[tuple[str, str]]:
    waiting = [run for run in dagster["runs"] if run["status"] in ("QUEUED", "NOT_STARTED")]
    running = [run for run in dagster["runs"] if run not in waiting]
    last, state = dagster["last_run"], "runs"
    if not dagster["is_running"]:
        state = "dagster dev is not running: nothing starts by itself"
    rows = _labelled(
        "running", [f"{_run(run)}, since {_when(run['started'] or run['created'], now)}" for run in running]
    )
    rows += _labelled("waiting", [f"{_run(run)}, since {_when(run['created'], now)}" for run in waiting])
    if last is not None and last["was_interrupted"]:
        when = _when(last["ended"] or last["created"], now)
        rows.append(("interrupted", f"{_run(last)}, {when}. What was made is kept: the same command continues it"))
    elif last is not None and last["status"] == "FAILURE" and not any(one in last["reason"] for one in refusals):
        when, why = _when(last["ended"] or last["created"], now), _short(str(last["reason"]))
        rows.append(("failed", f"{_run(last)}, {when}. {why}"))
    rows.append(("dagster", state))
    unused = [one["name"] for one in dagster["schedules"] if not one["is_on"] and one["ticked"] is None]
    used = [one for one in dagster["schedules"] if one["name"] not in unused]
    lines = [_schedule_words(one, dagster["is_running"], now) for one in used]
    if unused:
        are, them = ("are", "them") if len(unused) > 1 else ("is", "it")
        lines.append(f"{', '.join(unused)} {are} off (turn {them} on under Automation)")
    rows += _labelled("next", lines)
    failed = [one for one in dagster["sensors"] if one["is_on"] and one["seen"] == "failure"]
    faulty = [f"{one['name']} fails: {one['words']}" for one in failed]
    return rows + _labelled("sensors", faulty)


def _run(run: Mapping[str, Any]) -> str:
    return f"run {run['run_id'][:8]} ({run['job']}, {run['recipe'] or 'recipe unknown'})"


def _try(read: Callable[[], Any], faults: list[str]) -> Any:
    """What `read` returns; None, with a fault, if something of it cannot be read."""
    try:
        return read()
    except ParakeetError as error:
        faults.append(str(error))
    except OSError as error:
        faults.append(f"{error.filename or 'A file'}: {error.strerror or error}")
    return None


def _labelled(label: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    """The label before the first line only."""
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]


def _when(seconds: float, now: float) -> str:
    """`12:05 (3 h 5 min ago)`, or `2026-11-29 03:00 (in 13 h 4 min)`."""
    here = time.localtime(seconds)
    day = "%H:%M" if time.localtime(now)[:3] == here[:3] else "%Y-%m-%d %H:%M"
    distance = format_duration(abs(now - seconds))
    return f"{time.strftime(day, here)} ({f'{distance} ago' if seconds <= now else f'in {distance}'})"


def _released(root: Path, faults: list[str]) -> list[dict[str, Any]]:
    """The promoted release of each recipe, that which `parakeet chat` opens first."""
    models = {model.directory.name: model for model in list_models(root)[0]}
    history, torn = decisions(root)
    opened, about = find_opened(root)
    faults += [*torn, *about, *about_promoted(root)]
    found = []
    for recipe in promoted_recipes(root):
        release, messages = find_incumbent(root, recipe)
        faults += messages
        if release is not None:
            last = next((one for one in reversed(history) if one.release == release.name), None)
            found.append(_release(recipe, release, models.get(release.name), last, opened))
    if opened is not None and opened.name not in [one["release"] for one in found]:
        found.append(_release(None, opened, models.get(opened.name), None, opened))
    return sorted(found, key=lambda one: not one["opened"])


def _release(
    recipe: str | None, release: Path, model: ListedModel | None, decision: Decision | None, opened: Path | None
) -> dict[str, Any]:
    figures = decision.figures if decision is not None else {}
    measured = [bits for bits in model.bits_per_byte.values() if bits is not None] if model is not None else []
    return {
        "recipe": recipe,
        "release": release.name,
        "opened": opened is not None and opened.resolve() == release.resolve(),
        "made": model.made if model is not None else None,
        "decision": decision.action if decision is not None else None,
        "decided": decision.time if decision is not None else None,
        "bits_per_byte": _number(figures, "bits_per_byte") or (max(measured) if measured else None),
        "previous": decision.previous if decision is not None else None,
        "previous_bits_per_byte": _number(figures, "incumbent_bits_per_byte"),
    }


def _number(figures: Mapping[str, Any], name: str) -> float | None:
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _released_words(one: Mapping[str, Any]) -> list[str]:
    bits, before = one["bits_per_byte"], one["previous_bits_per_byte"]
    words = f"{one['release']} of {one['recipe'] or 'an unknown recipe'}"
    words += f", {bits:.3f} bits per byte" if bits is not None else ""
    if one["decided"]:
        words += f", {one['decision'].replace('_', ' ')} {format_time(one['decided'])}"
    elif one["made"]:
        words += f", made {format_time(one['made'])}"
    lines = [words + (" (parakeet chat)" if one["opened"] else "")]
    if one["previous"]:
        beside = f", {before:.3f} bits per byte on the same text" if before is not None else ""
        lines.append(f"in place of {one['previous']}{beside}")
    return lines


def _last_refused(root: Path) -> list[dict[str, Any]]:
    """The last decision on each recipe, if it refused a release: a later promotion makes it uninteresting."""
    last = {decision.recipe: decision for decision in decisions(root)[0]}
    return [asdict(decision) for decision in last.values() if decision.action == REFUSED]


def _running(root: Path, faults: list[str]) -> list[Run]:
    runs, unread = list_runs(runs_folder(root))
    faults += unread
    return [run for run in runs if run.state == "training"]


def _training(run: Run) -> dict[str, Any]:
    left = run.total_tokens - run.tokens
    return {
        "run": run.key,
        "step": run.step,
        "total_steps": run.total_steps,
        "loss": run.loss,
        "tokens_per_second": run.tokens_per_second,
        "seconds_left": left / run.tokens_per_second if run.tokens_per_second else None,
    }


def _training_words(one: Mapping[str, Any]) -> str:
    words = f"run {one['run'][:8]}, step {one['step']:,} of {one['total_steps']:,}"
    words += f" ({format_percent(one['step'] / one['total_steps'], 0)})"
    words += f", loss {one['loss']:.3f}" if one["loss"] is not None else ""
    if one["tokens_per_second"]:
        words += f", {format_count(one['tokens_per_second'])} tokens/s, ETA {format_duration(one['seconds_left'])}"
    return words


def _making(root: Path) -> Iterator[dict[str, str]]:
    """The stages that are being made now, and by which process. Training has its own line."""
    folder = root / LOCKS
    told = set[tuple[str, str]]()
    for lock in sorted(folder.rglob("*.lock")):
        name = lock.relative_to(folder).with_suffix("").as_posix()
        if not name.startswith(("runs/", f"{FOLDER}/")) and is_held(lock):
            # A build holds two: one of the stage, and one of the artefact, which has its fingerprint.
            stage, by = re.sub("-[0-9a-f]{16}$", "", name), named_holder(lock)
            if (one := (stage, by.partition(" since ")[0])) not in told:
                told.add(one)
                yield {"stage": stage, "by": by}


def _dagster(history: History) -> dict[str, Any]:
    instigators = [asdict(one) for one in history.instigators]
    return {
        "folder": str(history.folder),
        "is_running": history.is_running,
        "runs": [asdict(run) for run in history.runs],
        "last_run": asdict(history.last) if history.last is not None else None,
        "schedules": [one for one in instigators if one["is_schedule"]],
        "sensors": [one for one in instigators if not one["is_schedule"]],
    }


def _schedule_words(one: Mapping[str, Any], is_running: bool, now: float) -> str:
    if not one["is_on"]:
        words = f"{one['name']} is off (turn it on under Automation)"
    else:
        words = f"{one['name']} {_when(one['next'], now)}" + ("" if is_running else ", if dagster dev runs then")
    if one["ticked"] is not None:
        said = {"success": "it started a run", "skipped": "it skipped", "failure": "it failed"}
        words += f"; last {_when(one['ticked'], now)}: {said.get(one['seen'], one['seen'])}"
        words += f". {one['words']}" if one["words"] else ""
    return words


def _disk(root: Path, recipe: Recipe | None) -> dict[str, Any]:
    space = training_space(root, recipe) if recipe is not None else space_for(root, 0, "")
    return {"free": space.free, "needed": space.needed, "purpose": space.purpose, "is_low": space.is_low}
