"""What is kept of each run of a study: one JSON file, written when all of it is measured.

studies/<study>/<scale>/recipe.yaml      the recipe that the runs are made from, with --data and --set
studies/<study>/<scale>/study.yaml       the study, as it was when it was last run
studies/<study>/<scale>/records/*.json   one record for each run
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, replace_file
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.progress import Progress
from parakeet.recipe_file import parse_recipe
from parakeet.stage import Launch
from parakeet.stages import Build
from parakeet.studies.stage import MeasurementsStage
from parakeet.studies.study import Study, StudyRun, parse_study_file

FOLDER = "studies"
MACHINE_KEYS = ("seconds", "tokens_per_second", "device")


@dataclass(frozen=True)
class Record:
    """A finished run: what was set, what it cost, and what was measured."""

    values: Mapping[str, Any]

    @property
    def arm(self) -> str:
        return str(self.values["arm"])

    @property
    def points(self) -> dict[str, str]:
        return dict(self.values["points"])

    @property
    def seed(self) -> int:
        return int(self.values["seed"])

    @property
    def training(self) -> dict[str, Any]:
        """parameters, embedding_parameters, tokens, steps, flops (causal count), final_loss (nats a token), seconds."""
        return dict(self.values["training"])

    @property
    def bits_per_byte(self) -> float | None:
        """Of all held-out text; None if none was measured."""
        return self.bits_per_byte_of("model")

    def bits_per_byte_of(self, kind: str) -> float | None:
        """The same of the model, or of `xz` or `unigram` on the same text."""
        sources = [one for one in (self.measured.get("bits_per_byte") or {}).values() if one]
        n_bytes = sum(one["n_bytes"] for one in sources)
        return float(sum(one[kind] * one["n_bytes"] for one in sources) / n_bytes) if n_bytes else None

    @property
    def measured(self) -> dict[str, Any]:
        """Figures by measure, and by stage that the study asked for."""
        return dict(self.values["measured"])


def study_folder(root: Path, study: Study) -> Path:
    return root / FOLDER / study.name / study.scale_name


def record_file(root: Path, study: Study, run: StudyRun) -> Path:
    return study_folder(root, study) / "records" / f"{run.name}.json"


def find_record(root: Path, study: Study, run: StudyRun) -> Record | None:
    """The record of a run, if it is there and was made with the same settings and measures."""
    try:
        values = json.loads(record_file(root, study, run).read_text(encoding="utf-8"))
        return Record(values) if values["key"] == study.key(run) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_study(root: Path, study: Study) -> None:
    """Remember what is run, for those who look at it later."""
    folder = study_folder(root, study)
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for name, text in _notes(study).items():
        replace_file(folder / name, text)


def is_noted_otherwise(root: Path, study: Study) -> bool:
    """Whether another study or other settings are noted in the folder of this one."""
    files = {study_folder(root, study) / name: text for name, text in _notes(study).items()}
    return any(file.is_file() and file.read_text(encoding="utf-8") != text for file, text in files.items())


def _notes(study: Study) -> dict[str, str]:
    import yaml

    values = study.file.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
    return {"recipe.yaml": study.base.to_yaml(), "study.yaml": text}


def noted_study(root: Path, name: str, scale: str) -> Study | None:
    """The study as it was last run in this home; None if it never was."""
    folder = root / FOLDER / name / scale
    try:
        recipe = parse_recipe((folder / "recipe.yaml").read_text(encoding="utf-8"), str(folder / "recipe.yaml"))
        file = parse_study_file((folder / "study.yaml").read_text(encoding="utf-8"), folder / "study.yaml")
    except FileNotFoundError:
        return None
    return Study(name, file, scale, recipe)


def make_run(root: Path, study: Study, run: StudyRun, progress: Progress, launch: Launch) -> tuple[Record, bool]:
    """The record of a run, made now if it is not there, and whether anything was made.

    What an earlier run or another study has made of it is found. Raises ParakeetError if the training failed.
    """
    found = find_record(root, study, run)
    if found is not None:
        return found, False
    stage = MeasurementsStage(study.file.measures)
    build = Build(root, run.recipe, measurements=stage)
    asked = [name for name in study.file.stages if name in build.stages]
    last = [*asked, stage.name]
    needed = {*last, *(name for one in last for name in build.upstream(one))}
    artifacts: dict[str, Artifact] = {}
    for name in (one for one in build.stages if one in needed):
        artifacts[name], _ = build.ensure(name, progress, launch)
        for check in build.stage(name).checks() if name == "checkpoint" else ():
            verdict = check.run(artifacts[name], build.inputs(name), run.recipe)
            if check.blocking and not verdict.passed:
                raise ParakeetError(verdict.description)
    record = Record(_values(study, run, artifacts, asked))
    file = record_file(root, study, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(record.values, indent=1, ensure_ascii=False) + "\n")
    return record, True


def _values(study: Study, run: StudyRun, artifacts: Mapping[str, Artifact], asked: Sequence[str]) -> dict[str, Any]:
    counts = artifacts["checkpoint"].counts
    config = ModelConfig.load(artifacts["checkpoint"].path)
    length = run.recipe.packing.sequence_length
    training = {key: counts[key] for key in ("run", "parameters", "tokens", "steps", "first_loss", "final_loss")}
    training |= {key: counts[key] for key in MACHINE_KEYS if key in counts}
    training |= {
        "embedding_parameters": config.parameters()["embedding"],
        "width": config.width,
        "layers": config.layers,
        "heads": config.heads,
        "flops": config.flops_per_token(length) * counts["tokens"],
        "text_tokens": artifacts["token_shards"].counts["train"]["tokens"],
        "skipped": counts.get("skipped", 0),
    }
    return {
        "study": study.name,
        "scale": study.scale_name,
        "name": run.name,
        "key": study.key(run),
        "arm": run.arm,
        "points": dict(run.points),
        "seed": run.seed,
        "checkpoint": artifacts["checkpoint"].content,
        "training": training,
        "measured": {**artifacts["measurements"].counts, **{name: artifacts[name].counts for name in asked}},
    }
