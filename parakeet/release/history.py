"""The history of releases: what was promoted, refused or rolled back, when and why. Imports neither torch nor pydantic.

It is one file of JSON lines under `releases/`, and only ever grows. The order of the lines counts, and not their times:
a clock may be set back.
"""

import datetime
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parakeet.artifact import explain_os_error, sync_directory
from parakeet.home import release_folder

HISTORY_FILE = "history.jsonl"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of a recipe, as recipes allow it, and of a release's folder: both become parts of paths."""
PROMOTED, REFUSED, ROLLED_BACK, FORCED = ACTIONS = ("promoted", "refused", "rolled_back", "forced")

BEFORE_GATES = "It was promoted before there were gates."
HISTORY_LOST = "The history was lost: when, why and by whom it was promoted is not known."
ADOPTED = (BEFORE_GATES, HISTORY_LOST)
"""Reasons of the decision on a release that was found promoted, and not in the history."""


@dataclass(frozen=True)
class Decision:
    """One line of the history."""

    action: str
    """`promoted`, `refused`, `rolled_back`, or `forced`: promoted by hand, whatever the gates say."""
    release: str
    """Its folder's name; of `rolled_back`, the release that was taken back."""
    content: str
    """The release's content digest."""
    recipe: str
    previous: str | None = None
    """Folder name of the recipe's promoted release before that; of `rolled_back`, the one that is promoted since."""
    reasons: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    """Id of Dagster's run, if the asset `promotion` decided; None if a check, a gate or a command did."""
    weights: str | None = None
    """sha256 of the release's weights: a release that is made again has the same."""
    time: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    """ISO 8601, UTC."""


def history_file(root: Path) -> Path:
    return release_folder(root) / HISTORY_FILE


def decisions(root: Path) -> tuple[list[Decision], list[str]]:
    """All decisions, the oldest first, and a message for each line that cannot be read and is ignored."""
    path = history_file(root)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise explain_os_error(error, "reading the history of releases") from None
    found, faults = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip(b" \r\0"):
            continue
        try:
            found.append(_parse(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            how = "is torn, as after a power cut" if number == len(lines) else "cannot be read"
            faults.append(f"{path}, line {number} {how}, and is ignored.")
    return found, faults


def decision_on(root: Path, release: str) -> Decision | None:
    """The last decision on a release, by its folder's name."""
    return next((decision for decision in reversed(decisions(root)[0]) if decision.release == release), None)


def record(root: Path, decision: Decision) -> None:
    """Append a decision, whole or not at all. ParakeetError if the disk is full or the file cannot be written."""
    path = history_file(root)
    line = json.dumps(asdict(decision), ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            # What a power cut left of a line stays as a line of its own.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = ("\n" * torn + line).encode()
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            except OSError as error:
                os.ftruncate(descriptor, size)
                error.filename = str(path)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            sync_directory(path.parent)
    except OSError as error:
        raise explain_os_error(error, "writing the history of releases") from None


def _parse(line: bytes) -> Decision:
    values = json.loads(line.decode("utf-8"))
    if values["action"] not in ACTIONS:
        raise ValueError("an action of a later Parakeet")
    texts = {key: values[key] for key in ("action", "release", "content", "recipe", "time")}
    others = {key: values.get(key) for key in ("previous", "run", "weights")}
    previous = others["previous"]
    if not all(isinstance(text, str) for text in (*texts.values(), *(other or "" for other in others.values()))):
        raise TypeError("not text")
    if not all(NAME.fullmatch(name) for name in (values["release"], values["recipe"], previous or "none")):
        raise ValueError("not the name of a folder")
    return Decision(
        **texts,
        **others,
        reasons=tuple(str(reason) for reason in values.get("reasons", ())),
        figures=dict(values.get("figures", {})),
    )
