"""What a study forecasts of its last points, before they are trained: studies/<study>/<scale>/forecast.json.

{
  "made": "2026-11-29T01:20:03+00:00",
  "made_afterwards": false,             // true if a run that it forecasts was there: it is made from the others alone
  "from": {"equal_tokens.32x2.s1": "6b9c160963622fd2"},   // the runs that it was made from, with their keys
  "missing": [],                        // runs that it should have been made from
  "law": {"form", "counted", "parameters", "intervals", "seed_noise", "misfit"},
  "points": [{"arm", "size", "parameters", "tokens", "bits_per_byte", "interval"}]   // that of one run: 95 %
}
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.model.config import ModelConfig
from parakeet.studies.records import Record, find_record, study_folder
from parakeet.studies.scaling_law import Law, TrainedRun, fit_law
from parakeet.studies.study import Study, StudyFile

FORECAST_FILE = "forecast.json"


def write_forecast(root: Path, study: Study) -> tuple[dict[str, Any] | None, str]:
    """Forecast the study's last points from its finished other runs, and keep it. None and a reason if it cannot.

    Once one of these points is trained the forecast that was made for it stays as it is.
    """
    runs = [run for run in study.runs() if study.arms[run.arm].recipe is None]
    last = [run for run in runs if run.is_forecast]
    if not last:
        return None, f"study {study.name} has no points to forecast at scale {study.scale_name}"
    too_late = any(find_record(root, study, run) for run in last)
    kept = read_forecast(root, study)
    if kept is not None and too_late:
        return kept, ""
    found = {run.name: find_record(root, study, run) for run in runs if not run.is_forecast}
    records = [record for record in found.values() if record is not None]
    law, reason = fit_law(trained_runs(records, study.cut))
    if law is None:
        return None, reason
    some = records[0].training
    rows = some["embedding_parameters"] // some["width"]
    points = []
    for run in {(run.arm, point_name(run.points)): run for run in last}.values():
        config = ModelConfig.from_recipe(run.recipe.model, rows)
        total, tokens = config.parameter_count, run.recipe.training.tokens
        point = TrainedRun(
            point_name(run.points), total, total - config.parameters()["embedding"], tokens, float("nan")
        )
        points.append({"arm": run.arm, **forecast_of(law, point)})
    values = {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "made_afterwards": too_late,
        "from": {record.values["name"]: record.values["key"] for record in records},
        "missing": [name for name, record in found.items() if record is None],
        "law": law.as_dict(),
        "points": points,
    }
    replace_file(study_folder(root, study) / FORECAST_FILE, json.dumps(values, indent=1) + "\n")
    return values, ""


def read_forecast(root: Path, study: Study) -> dict[str, Any] | None:
    """The forecast that was written last; None if there is none, or it is damaged."""
    try:
        values = json.loads((study_folder(root, study) / FORECAST_FILE).read_text(encoding="utf-8"))
        return values if isinstance(values, dict) and {"made", "from", "law", "points"} <= values.keys() else None
    except (OSError, ValueError):
        return None


def forecast_of(law: Law, run: TrainedRun) -> dict[str, Any]:
    """{"size", "parameters", "tokens", "bits_per_byte", "interval"} of a run like this one, whatever its loss."""
    n = run.counted(law.form.counted)
    return {
        "size": run.size,
        "parameters": run.parameters,
        "tokens": run.tokens,
        "bits_per_byte": float(law.loss(n, run.tokens)[0]),
        "interval": law.prediction_interval(n, run.tokens),
    }


def trained_runs(records: Sequence[Record], file: StudyFile) -> list[TrainedRun]:
    """What a law is fitted to: the arms of the study's own recipe, without the points that it forecasts.

    A training that two arms share counts once.
    """
    found: dict[tuple[str, int, int], TrainedRun] = {}
    for record in records:
        if is_of_the_law(record, file) and not is_forecast(record, file):
            run = trained_run(record)
            found.setdefault((run.size, run.tokens, record.seed), run)
    return list(found.values())


def trained_run(record: Record) -> TrainedRun:
    """Of a record that `is_of_the_law`."""
    training, bits = record.training, record.bits_per_byte
    assert bits is not None
    return TrainedRun(
        point_name(record.points),
        training["parameters"],
        training["parameters"] - training["embedding_parameters"],
        training["tokens"],
        bits,
    )


def is_of_the_law(record: Record, file: StudyFile) -> bool:
    """Whether its arm has the study's own recipe, and so the same text as all others, of which some is held out."""
    own = record.arm in file.arms and file.arms[record.arm].recipe is None
    return own and record.bits_per_byte is not None


def is_forecast(record: Record, file: StudyFile) -> bool:
    return any(label in file.forecast.get(axis, []) for axis, label in record.points.items())


def point_name(points: Mapping[str, str]) -> str:
    """`64x2`; of several axes, `64x2, none`."""
    return ", ".join(points.values())
