"""The release that a new model is compared with: the promoted one of its recipe, if it has other weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.evaluation.base import Score
from parakeet.evaluation.metrics import EVALUATION_FILE, scores_of
from parakeet.model.config import WEIGHTS_FILE
from parakeet.progress import Progress
from parakeet.release.pointers import find_incumbent
from parakeet.release.report_files import RECORD_FILE
from parakeet.release.verify import TRAINING_MANIFEST_FILE, recorded_sum


@dataclass(frozen=True)
class Measured:
    """What a report compares of a model.

    `text` is the content of the token shards that it was trained and measured on. `scores` has its scores by the name
    of the metric.
    """

    name: str
    made: str
    text: str
    parameters: int
    tokens: int
    scores: dict[str, list[Score]]
    release: str = ""
    """The folder's name."""


def previous_release(root: Path, recipe: str, weights_sha256: str, progress: Progress) -> Measured | None:
    """The promoted release of a recipe; if it has these weights, the one that its own report compares with.

    None if there is none. One that cannot be read is reported.
    """
    folder, messages = find_incumbent(root, recipe)
    for message in messages:
        progress.say(message)
    if folder is None:
        return None
    try:
        if recorded_sum(folder, WEIGHTS_FILE) != weights_sha256:
            return _read(folder)
        path = folder / RECORD_FILE
        record = _json(path)["previous"] if path.is_file() else None
        return _from_record(record) if record else None
    except (OSError, ValueError, KeyError, TypeError, StopIteration, AttributeError, ParakeetError) as error:
        progress.say(f"The report compares with no earlier release: {folder} cannot be read ({error!r}).")
        return None


def _from_record(record: Mapping[str, Any]) -> Measured:
    scores = {
        metric: [Score(**{**score, "interval": score["interval"] and tuple(score["interval"])}) for score in found]
        for metric, found in record["scores"].items()
    }
    return Measured(**{**record, "scores": scores})


def _read(folder: Path) -> Measured:
    lineage = _json(folder / TRAINING_MANIFEST_FILE)
    checkpoint, shards = (lineage["stages"][name] for name in ("checkpoint", "token_shards"))
    return Measured(
        name=lineage["recipe"]["name"],
        made=checkpoint["made"],
        text=shards["content"],
        parameters=checkpoint["counts"]["parameters"],
        tokens=checkpoint["counts"]["tokens"],
        scores=scores_of(_json(folder / EVALUATION_FILE)),
        release=folder.name,
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
