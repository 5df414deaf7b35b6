"""A study's records in one file, with what a page tells of how they were made: docs/article/records/<study>.json.

The file has what is measured and shown. It leaves out what differs between two machines that make the same models, but
for the seconds and the device, and holds floats to six digits. Pages are always written from this form, so that those
that were written from a home can be written again from the file.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, Store
from parakeet.errors import ParakeetError, os_reason
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.studies.forecast import read_forecast
from parakeet.studies.records import FOLDER, Record, noted_study
from parakeet.studies.state import begun_studies, states
from parakeet.studies.study import SCALES, Study, StudyFile, load_study_file, make_study, shipped_studies
from parakeet.training.record import read_record

DIGITS = 6
LEFT_OUT = ("key", "checkpoint", "study", "scale")
LEFT_OUT_OF_TRAINING = ("run", "tokens_per_second")
LEFT_OUT_OF_BENCHMARKS = ("parts", "lm_eval", "contamination")
"""Three quarters of a record: BLiMP's 67 parts, and the same scores in the form of another program."""


@dataclass(frozen=True)
class Results:
    """What a study found at one scale, and how it was run."""

    name: str
    scale: str
    file: StudyFile
    """With the arms and points of this scale alone."""
    records: tuple[Record, ...]
    """In the order of the study's runs."""
    missing: tuple[tuple[str, str], ...] = ()
    """Runs without a record: their names, and why, as far as that is known."""
    texts: tuple[Mapping[str, Any], ...] = ()
    """{"arms", "sources": [{"name", "licence"}]} of each recipe that runs were made from."""
    setup: Mapping[str, Any] = field(default_factory=dict)
    """Of the study's recipe: vocabulary, sequence_length, batch_tokens, optimizer; default_sources are the names of
    those in place of which the runs read others; benchmark_items are those of each benchmark, if any were scored."""
    dates: tuple[str, ...] = ()
    """The first and the last day of training in ISO 8601; none if the store does not have the models any more."""
    machines: tuple[str, ...] = ()
    """Names of processors or GPUs."""
    forecast: Mapping[str, Any] | None = None
    """What the study forecast of its last runs: parakeet.studies.forecast."""

    @property
    def seeds(self) -> list[int]:
        return sorted({record.seed for record in self.records})

    @property
    def seconds(self) -> float:
        """Of training, one run after the other."""
        return sum(record.training.get("seconds", 0.0) for record in self.records)

    @property
    def digest(self) -> str:
        """First 12 hex digits of a sha256 over all of it. Pictures keep it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """One record on each line."""
        head = {
            "study": self.name,
            "scale": self.scale,
            "file": self.file.model_dump(mode="json", exclude_defaults=True),
            "setup": dict(self.setup),
            "texts": list(self.texts),
            "dates": list(self.dates),
            "machines": list(self.machines),
            "missing": [list(one) for one in self.missing],
            "forecast": self.forecast,
        }
        lines = [f"{json.dumps(key)}: {_dumped(value)}," for key, value in head.items()]
        records = ",\n".join(_dumped(record.values) for record in self.records)
        return "\n".join(["{", *lines, f'"records": [\n{records}\n]', "}\n"])


def _dumped(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def read_results(path: Path) -> Results:
    """Results that `to_json` wrote. Raises ParakeetError if the file is none of these."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        file = StudyFile.model_validate(values["file"])
        return Results(
            values["study"],
            values["scale"],
            file,
            tuple(Record(one) for one in values["records"]),
            tuple((name, reason) for name, reason in values["missing"]),
            tuple(values["texts"]),
            values["setup"],
            tuple(values["dates"]),
            tuple(values["machines"]),
            values["forecast"],
        )
    except OSError as error:
        raise ParakeetError(f"{path}: cannot be read: {os_reason(error)}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParakeetError(f"{path} has no records of a study ({error}). `parakeet study report` makes it.") from None


def results_in(folder: Path, names: Sequence[str] = ()) -> list[Results]:
    """The results in a folder of such files, shipped studies first. Raises ParakeetError if there are none."""
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    for name in names:
        if name not in found:
            known = f" It has: {', '.join(found)}." if found else ""
            raise ParakeetError(f"{folder} has no records of a study {name!r}.{known}")
    if not found:
        raise ParakeetError(f"{folder} has no records of studies: no file NAME.json.")
    return [read_results(found[name]) for name in in_order(names or found)]


def in_order(names: Collection[str]) -> list[str]:
    """The shipped studies in the order of their questions, then the others."""
    shipped = [name for name in shipped_studies() if name in names]
    return [*shipped, *sorted(set(names) - set(shipped))]


def studies_run(root: Path) -> list[str]:
    """The studies that were begun in this home at any scale, shipped ones first."""
    return list(dict.fromkeys(name for name, _ in begun_studies(root)))


def scales_run(root: Path, name: str) -> list[str]:
    """The scales at which a study has records, the largest last."""
    return [scale for scale in SCALES if any((root / FOLDER / name / scale / "records").glob("*.json"))]


def gather_results(root: Path, name_or_path: str, scale: str | None = None) -> Results:
    """What this home has of a study, at the largest scale with records if none is given.

    Raises ParakeetError if there is no such study, or if none of its runs has finished.
    """
    name = name_or_path if name_or_path in studies_run(root) else load_study_file(name_or_path)[0]
    scales = scales_run(root, name)
    chosen = scale or (scales[-1] if scales else "cpu")
    study = noted_study(root, name, chosen)
    if study is None or chosen not in scales:
        others = f" There are records at the scale {' and '.join(scales)}." if scales else ""
        raise ParakeetError(
            f"No run of study {name} has finished at the scale {chosen} in {root}.{others} "
            f"This makes them: parakeet study run {name_or_path} --scale {chosen}"
        )
    return _results(root, study)


def gather_all(root: Path, scale: str | None = None) -> list[Results]:
    """Of every shipped study, with or without records, and of every other one that has some at this scale."""
    found = []
    for name in in_order({*shipped_studies(), *studies_run(root)}):
        scales = scales_run(root, name)
        if scales if scale is None else scale in scales:
            found.append(gather_results(root, name, scale))
        elif name in shipped_studies():
            found.append(no_results(name, scale or "cpu"))
    return found


def _results(root: Path, study: Study) -> Results:
    runs = states(root, study)
    records = [one.record for one in runs if one.record is not None]
    texts: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(record.arm for record in records):
        recipe = study.arms[arm].recipe
        text = texts.setdefault(recipe or "", {"arms": [], "sources": _sources(_recipe_of(study, recipe))})
        text["arms"].append(arm)
    dates, machines = _circumstances(root, records)
    return Results(
        study.name,
        study.scale_name,
        study.cut,
        tuple(Record(compact(record.values)) for record in records),
        tuple((one.run.name, one.reason) for one in runs if one.record is None),
        tuple(texts.values()),
        _setup(study),
        dates,
        machines,
        dict(_rounded(forecast)) if (forecast := read_forecast(root, study)) else None,
    )


def _setup(study: Study) -> dict[str, Any]:
    base, default = study.base, load_recipe(study.file.recipe)
    setup: dict[str, Any] = {
        "vocabulary": base.tokenizer.vocabulary,
        "sequence_length": base.packing.sequence_length,
        "batch_tokens": base.training.batch_tokens,
        "optimizer": base.training.optimizer,
    }
    if base.evaluation.benchmarks is not None:
        setup["benchmark_items"] = base.evaluation.benchmarks.items
    if _sources(base) != _sources(default):
        setup["default_sources"] = [source.name for source in default.sources]
    return setup


def no_results(name: str, scale: str) -> Results:
    """Of a shipped study that was not run."""
    return Results(name, scale, make_study(name, scale).cut, ())


def _recipe_of(study: Study, name: str | None) -> Recipe:
    return load_recipe(name) if name else study.base


def _sources(recipe: Recipe) -> list[dict[str, str]]:
    return [{"name": source.name, "licence": source.licence} for source in recipe.sources]


def _circumstances(root: Path, records: Sequence[Record]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and last day, and machines, as far as the store still has the models."""
    made: dict[str, Artifact] = {one.content: one for one in Store(root).artifacts("checkpoint")}
    days, machines = set(), set()
    for record in records:
        artifact = made.get(record.values["checkpoint"])
        run = read_record(artifact.path) if artifact else None
        for process in run["processes"] if run else ():
            hardware = process["hardware"]
            on_gpu = hardware.get("device") == "cuda"
            machines.add(str(hardware["name"] if on_gpu else hardware["processor"]["name"]))
            days.add(str(process.get("started", ""))[:10])
    days.discard("")
    return (min(days), max(days)) if days else (), tuple(sorted(machines))


def compact(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what no page shows, its floats to DIGITS digits."""
    kept = {key: value for key, value in values.items() if key not in LEFT_OUT}
    kept["training"] = {key: value for key, value in kept["training"].items() if key not in LEFT_OUT_OF_TRAINING}
    benchmarks = kept["measured"].get("benchmarks")
    if isinstance(benchmarks, Mapping) and "tasks" in benchmarks:
        tasks = {
            task: {key: value for key, value in figures.items() if key not in LEFT_OUT_OF_BENCHMARKS}
            for task, figures in benchmarks["tasks"].items()
        }
        kept["measured"] = {**kept["measured"], "benchmarks": {**benchmarks, "tasks": tasks}}
    return dict(_rounded(kept))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
