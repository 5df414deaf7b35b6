"""The figures of study `size`: JSON values from its records, which `size_answer` tells and draws."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parakeet.evaluation.base import Metric
from parakeet.intervals import wilson_interval
from parakeet.studies.comparison import BITS_PER_BYTE, by_seed, difference, is_above
from parakeet.studies.forecast import (
    forecast_of,
    is_forecast,
    is_of_the_law,
    point_name,
    trained_run,
    trained_runs,
)
from parakeet.studies.measures import MEASURES
from parakeet.studies.records import Record
from parakeet.studies.scaling_law import FORMS, Law, TrainedRun, fit_law, left_out, left_out_error, residuals
from parakeet.studies.seeds import mean_of
from parakeet.studies.study import StudyFile

TASKS_ARM, TEXT_ARM, COMPUTE_ARM = "tasks", "equal_tokens", "equal_compute"
TEXT_MEASURES = ("minimal_pairs", "probes", "benchmarks")
PASSES = {"exact": 0.8}
"""A task without chance is passed if the lower end of the interval is above this; others if it is above chance."""
STEPS_OF_SIZE = 400


def size_figures(
    records: Sequence[Record], file: StudyFile, forecast: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that the study says in numbers. What there are too few records for is None, or has a `reason`."""
    of_text = [record for record in records if is_of_the_law(record, file)]
    runs = trained_runs(records, file)
    law, reason = fit_law(runs)
    figures: dict[str, Any] = {
        "confidence": 0.95,
        "sizes": _sizes(records),
        "arms": {arm: _arm(found) for arm, found in _by_arm(of_text).items()},
        "seeds": sorted({record.seed for record in of_text}),
        "control": _control(of_text),
        "law": None,
        "law_reason": reason,
        "optimum": _optimum(records, law),
        "forecast": _forecast(of_text, file, law, forecast),
        "passes": PASSES,
        "tasks": _tasks(records),
        "gold": _gold([record for record in of_text if record.arm == TEXT_ARM]),
    }
    if law is not None:
        figures["law"] = _law(law, runs)
    return figures


def _by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.arm, []).append(record)
    return found


def _by_size(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The smallest first."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.training["parameters"], record.seed)):
        found.setdefault(point_name(record.points), []).append(record)
    return found


def _sizes(records: Sequence[Record]) -> dict[str, Any]:
    """By size; the arm of tasks has another vocabulary, so its models of a size have other embeddings."""
    found: dict[str, Any] = {}
    for size, members in _by_size(records).items():
        by_kind = {}
        for record in members:
            by_kind["tasks" if record.arm == TASKS_ARM else "text"] = record.training["parameters"]
        first = members[0].training
        found[size] = {
            "parameters": by_kind.get("text", first["parameters"]),
            "parameters_of_tasks": by_kind.get("tasks"),
            "without_embedding": first["parameters"] - first["embedding_parameters"],
            "width": first["width"],
            "layers": first["layers"],
        }
    return found


def _bits(records: Iterable[Record]) -> list[float]:
    return [bits for record in records if (bits := record.bits_per_byte) is not None]


def _arm(records: Sequence[Record]) -> dict[str, Any]:
    return {
        size: {
            **mean_of(_bits(members)),
            "parameters": members[0].training["parameters"],
            "tokens": members[0].training["tokens"],
            "flops": members[0].training["flops"],
        }
        for size, members in _by_size(records).items()
    }


def _control(records: Sequence[Record]) -> dict[str, float] | None:
    """Bits per byte of the same held-out text by xz and by the frequencies of tokens."""
    if not records:
        return None
    return {kind: bits for kind in ("unigram", "xz") if (bits := records[0].bits_per_byte_of(kind)) is not None}


def _law(law: Law, runs: Sequence[TrainedRun]) -> dict[str, Any]:
    errors = {form.name: left_out_error(runs, form) for form in FORMS}
    predicted = {(one["size"], one["tokens"]): one for one in left_out(runs, law.form)}
    cells = residuals(law, runs)
    for cell in cells:
        other = predicted.get((cell["size"], cell["tokens"]))
        cell["relative"] = cell["residual"] / cell["law"]
        cell["left_out"] = other["forecast"] if other else None
        cell["left_out_interval"] = other["interval"] if other else None
        cell["inside"] = _is_inside(cell["measured"], other["interval"]) if other else None
    judged = [cell for cell in cells if cell["inside"] is not None]
    return {
        **law.as_dict(),
        "runs": len(runs),
        "left_out_errors": errors,
        "cells": cells,
        "inside": sum(cell["inside"] for cell in judged),
        "judged": len(judged),
        "largest_residual": max(abs(cell["relative"]) for cell in cells),
    }


def _optimum(records: Sequence[Record], law: Law | None) -> dict[str, Any] | None:
    """The size of the least loss at the compute of the arm of equal compute: as measured, and by the law.

    The law is asked between the smallest and the largest size; FLOPs a token go by the power law between two sizes.
    """
    members = [record for record in records if record.arm == COMPUTE_ARM]
    if len(_by_size(members)) < 2:
        return None
    arm = _arm(members)
    best = min(arm, key=lambda size: arm[size]["value"])
    by_size = {size: by_seed(runs, BITS_PER_BYTE) for size, runs in _by_size(members).items()}
    rises = {size: difference(values, by_size[best]) for size, values in by_size.items()}
    budget = float(np.median([one["flops"] for one in arm.values()]))
    found: dict[str, Any] = {
        "flops": budget,
        "size": best,
        "parameters": arm[best]["parameters"],
        "value": arm[best]["value"],
        "interval": arm[best]["interval"],
        "as_good": [size for size, found in rises.items() if size != best and not is_above(found)],
        "at_edge": best in (next(iter(arm)), list(arm)[-1]),
        "law": None,
    }
    if law is not None:
        runs = {run.size: run for run in map(trained_run, members)}
        counted = np.log([runs[size].counted(law.form.counted) for size in arm])
        grid = np.linspace(counted[0], counted[-1], STEPS_OF_SIZE)
        a_token = np.interp(grid, counted, np.log([one["flops"] / one["tokens"] for one in arm.values()]))
        n, tokens = np.exp(grid), budget / np.exp(a_token)
        totals = np.exp(np.interp(grid, counted, np.log([one["parameters"] for one in arm.values()])))
        place = int(np.argmin(law.loss(n, tokens)))
        drawn = np.argmin(law.drawn_losses(n, tokens), axis=1)
        low, high = (int(place) for place in np.quantile(drawn, (0.025, 0.975)))
        found["law"] = {
            "parameters": float(totals[place]),
            "tokens": float(tokens[place]),
            "interval": [float(totals[low]), float(totals[high])],
            "at_edge": [low == 0, high == STEPS_OF_SIZE - 1],
        }
    return found


def _forecast(
    records: Sequence[Record], file: StudyFile, law: Law | None, written: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What was forecast beside what was measured. Without the file of the forecast the law says it afterwards."""
    members = _by_arm(record for record in records if is_forecast(record, file))
    measured = {(arm, size): runs for arm, found in members.items() for size, runs in _by_size(found).items()}
    if written is not None:
        points = [dict(point) for point in written["points"]]
    elif law is not None:
        points = [{"arm": arm, **forecast_of(law, trained_run(runs[0]))} for (arm, _), runs in measured.items()]
    else:
        points = []
    for point in points:
        values = _bits(measured.get((point["arm"], point["size"]), []))
        point["runs"] = len(values)
        point["inside"] = sum(_is_inside(value, point["interval"]) for value in values)
        point["measured"] = mean_of(values) if values else None
        point["off"] = point["measured"]["value"] / point["bits_per_byte"] - 1 if values else None
    if not points:
        return None
    made_before = written is not None and not written.get("made_afterwards")
    return {"made": written["made"] if written else None, "made_before": made_before, "points": points}


def _is_inside(value: float, interval: Sequence[float]) -> bool:
    return bool(interval[0] <= value <= interval[1])


def _tasks(records: Sequence[Record]) -> dict[str, Any]:
    """By measure and task: {"chance", "threshold", "sizes": {size: {"n", "share", "interval", "passes"}}, "smallest",
    "steady"}. `steady`: every larger size passes too."""
    by_arm = _by_arm(records)
    wanted = [("exact_match", TASKS_ARM), *((name, TEXT_ARM) for name in TEXT_MEASURES)]
    found: dict[str, Any] = {}
    for name, arm in wanted:
        tasks: dict[str, Any] = {}
        for size, members in _by_size(by_arm.get(arm, [])).items():
            scores = [shares for record in members if (shares := _shares(name, record.measured.get(name)))]
            for task in scores[0] if scores else ():
                seeds = [shares[task] for shares in scores if task in shares]
                n, chance = seeds[0]["n"], seeds[0]["chance"]
                share = float(np.mean([one["share"] for one in seeds]))
                entry = tasks.setdefault(task, {"chance": chance, "threshold": chance or PASSES["exact"], "sizes": {}})
                # All seeds answer the same questions: more seeds do not make more questions.
                interval = list(wilson_interval(share * n, n))
                passes = interval[0] > entry["threshold"]
                entry["sizes"][size] = {"n": n, "share": share, "interval": interval, "passes": passes}
        for entry in tasks.values():
            passed = [one["passes"] for one in entry["sizes"].values()]
            entry["smallest"] = next((size for size, one in entry["sizes"].items() if one["passes"]), None)
            entry["steady"] = any(passed) and all(passed[passed.index(True) :])
        if tasks:
            found[name] = tasks
    return found


def _shares(name: str, measured: Any) -> dict[str, dict[str, Any]] | None:
    """{"n", "share", "chance"} by task, of what the measure recorded; None if the model cannot do it."""
    metric = MEASURES[name]
    if not isinstance(metric, Metric) or not isinstance(measured, Mapping):
        return None
    found = {
        score.name: {"n": score.n, "share": score.value, "chance": score.chance} for score in metric.scores(measured)
    }
    if name == "minimal_pairs":
        chance = next(iter(found.values()))["chance"]
        for phenomenon, figures in measured["phenomena"].items():
            found[phenomenon] = {"n": figures["n"], "share": figures["share"], "chance": chance}
    return found


def _gold(records: Sequence[Record]) -> dict[str, Any] | None:
    """Bits per byte of the right answers: the mean over the tasks, and each task, by size."""
    found: dict[str, Any] = {}
    for size, members in _by_size(records).items():
        measured = [one["tasks"] for record in members if isinstance(one := record.measured.get("benchmarks"), Mapping)]
        seeds = [
            {task: figures["bits_per_byte"]["value"] for task, figures in tasks.items() if figures["bits_per_byte"]}
            for tasks in measured
        ]
        if seeds:
            tasks = {task: mean_of([one[task] for one in seeds if task in one]) for task in seeds[0]}
            found[size] = {"mean": mean_of([float(np.mean(list(one.values()))) for one in seeds]), "tasks": tasks}
    return found or None
