"""`parakeet study status`: how far the studies of a home are. From records and locks alone: no text is read."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.formatting import counted, format_duration
from parakeet.studies.records import FOLDER, noted_study
from parakeet.studies.state import FAILED, FINISHED, MISSING, RUNNING, begun_studies, states
from parakeet.studies.study import shipped_studies


def studies_document(root: Path, name: str | None, scale: str | None) -> dict[str, Any]:
    """Every study that was begun in this home, or those of this name and scale, as JSON values.

    Times are in seconds of training. A study that cannot be read has a `fault` in place of its runs. Raises
    ParakeetError if `name` was never begun.
    """
    begun = [
        (one, its)
        for one, its in begun_studies(root)
        if (name is None or one in (name, Path(name).stem)) and scale in (None, its)
    ]
    if not begun and name is not None:
        if name not in shipped_studies() and not Path(name).is_file():
            own = dict.fromkeys(one for one, _ in begun_studies(root) if one not in shipped_studies())
            if name not in own:
                known = ", ".join([*shipped_studies(), *own])
                raise ParakeetError(f"There is no study {name!r}. Give a file, or one of: {known}.")
        at = f" at scale {scale}" if scale else ""
        raise ParakeetError(
            f"Study {name} was never begun{at} in {root}. Begin it with: parakeet study run {name}"
            + (f" --scale {scale}" if scale else "")
        )
    return {"home": str(root), "studies": [_study(root, one, its) for one, its in begun]}


def _study(root: Path, name: str, scale: str) -> dict[str, Any]:
    values: dict[str, Any] = {"name": name, "scale": scale, "folder": str(root / FOLDER / name / scale)}
    try:
        study = noted_study(root, name, scale)
        if study is None:
            raise ParakeetError("It was removed meanwhile.")
        found = states(root, study)
    except ParakeetError as error:
        return values | {"fault": str(error)}
    count = Counter(state.state for state in found)
    trained = [float(state.record.training.get("seconds", 0.0)) for state in found if state.record is not None]
    return values | {
        "title": study.file.title,
        "runs": len(found),
        **{state: count[state] for state in (FINISHED, RUNNING, FAILED, MISSING)},
        "training_seconds": sum(trained),
        "failures": {state.run.name: state.reason for state in found if state.state == FAILED},
        "under_way": [state.run.name for state in found if state.state == RUNNING],
    }


def render_studies(document: Mapping[str, Any]) -> str:
    """The document as text: a paragraph for each study."""
    if not document["studies"]:
        return "No study was begun in this home. Begin one with: parakeet study run size --scale smoke"
    return "\n\n".join(_paragraph(one) for one in document["studies"])


def _paragraph(one: Mapping[str, Any]) -> str:
    head = f"{one['name']}, scale {one['scale']}"
    if "fault" in one:
        return f"{head}: {one['fault']}"
    lines = [
        f"{head}: {one['title']}",
        f"  {progress_in_words(one)}, {format_duration(one['training_seconds'])} of training",
        *(f"  running: {name}" for name in one["under_way"]),
        *(f"  failed: {words}" for words in failures_in_words(one["failures"])),
        f"  {_next(one)}",
    ]
    return "\n".join(lines)


def failures_in_words(failures: Mapping[str, str]) -> list[str]:
    """`wide.s1 and 3 more: the reason`, once for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in failures.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in by_reason.items()
    ]


def progress_in_words(one: Mapping[str, Any]) -> str:
    """`12 of 42 runs finished, 2 running, 28 missing`."""
    words = [f"{one[FINISHED]} of {counted(one['runs'], 'run')} finished"]
    return ", ".join([*words, *(f"{one[state]} {state}" for state in (RUNNING, FAILED, MISSING) if one[state])])


def _next(one: Mapping[str, Any]) -> str:
    command = f"parakeet study run {one['name']} --scale {one['scale']}"
    if one[FINISHED] == one["runs"]:
        return f"complete; its answer: parakeet study report {one['name']} --scale {one['scale']}"
    if one[RUNNING]:
        return "being run now"
    return f"go on with: {command}"


def studies_under_way(root: Path) -> list[str]:
    """A line for each study that was begun and is not complete, for the one screen of `parakeet status`."""
    lines = []
    for one in studies_document(root, None, None)["studies"]:
        if "fault" in one:
            lines.append(f"{one['name']}, scale {one['scale']}, cannot be read: parakeet study status")
        elif one[FINISHED] < one["runs"]:
            lines.append(f"{one['name']}, scale {one['scale']}: {progress_in_words(one)}")
    return lines
