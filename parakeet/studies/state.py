"""What has become of the runs of a study in this home: from records, locks and noted failures. Imports no torch."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from parakeet.artifact import replace_file
from parakeet.failures import explain
from parakeet.locking import exclusive, is_held
from parakeet.progress import Progress
from parakeet.stage import Launch
from parakeet.studies.records import FOLDER, Record, find_record, make_run, noted_study, study_folder
from parakeet.studies.study import SCALES, Study, StudyRun, make_study, shipped_studies

LOCKS = Path(".locks") / FOLDER
FINISHED, RUNNING, FAILED, MISSING = "finished", "running", "failed", "missing"


@dataclass(frozen=True)
class RunState:
    """A run and where it stands: FINISHED, RUNNING, FAILED (with its reason) or MISSING."""

    run: StudyRun
    state: str
    reason: str = ""
    record: Record | None = None


def lock_file(root: Path, study: Study, run: StudyRun) -> Path:
    """Held by the process that makes the run."""
    return root / LOCKS / f"{study.name}.{study.scale_name}.{run.name}.lock"


def is_being_run(root: Path, study: Study) -> bool:
    """Whether any process makes a run of the study at this scale."""
    return any(is_held(lock) for lock in (root / LOCKS).glob(f"{study.name}.{study.scale_name}.*.lock"))


def states(root: Path, study: Study) -> list[RunState]:
    """Every run of the study, in the order of training. Raises ParakeetError as `Study.runs`."""
    return [_state(root, study, run) for run in study.runs()]


def _state(root: Path, study: Study, run: StudyRun) -> RunState:
    record = find_record(root, study, run)
    if record is not None:
        return RunState(run, FINISHED, record=record)
    if is_held(lock_file(root, study, run)):
        return RunState(run, RUNNING)
    with suppress(OSError, ValueError):
        return RunState(run, FAILED, _failure_file(root, study, run).read_text(encoding="utf-8").strip())
    return RunState(run, MISSING)


def _failure_file(root: Path, study: Study, run: StudyRun) -> Path:
    return study_folder(root, study) / "failures" / f"{run.name}.txt"


def perform_run(root: Path, study: Study, run: StudyRun, progress: Progress, launch: Launch) -> tuple[Record, bool]:
    """`make_run` by one process at a time: a second one waits, and finds what the first made.

    Why it failed is kept until it succeeds. Raises ParakeetError.
    """
    lock, failure = lock_file(root, study, run), _failure_file(root, study, run)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock, f"run {run.name} of study {study.name} is being made", progress):
            try:
                result = make_run(root, study, run, progress, launch)
            except Exception as error:
                told = explain(error, f"making run {run.name}", root)
                note_failure(root, study, run, str(told))
                raise told from None
            failure.unlink(missing_ok=True)
            return result
    except OSError as error:
        raise explain(error, f"making run {run.name}", root) from None


def note_failure(root: Path, study: Study, run: StudyRun, reason: str) -> None:
    """Keep why a run failed, for `states`. On a full disk it is kept nowhere: whoever asked for the run is told."""
    file = _failure_file(root, study, run)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, f"{reason}\n")


def forget_failures(root: Path, study: Study) -> None:
    """Those of runs that are to be made again: the text or the settings may be others now."""
    for run in study.names():
        with suppress(OSError):
            (study_folder(root, study) / "failures" / f"{run}.txt").unlink(missing_ok=True)


def begun_studies(root: Path) -> Iterator[tuple[str, str]]:
    """Names and scales of the studies that were begun in this home: shipped ones first."""
    names = [path.name for path in sorted((root / FOLDER).glob("*")) if path.is_dir()]
    shipped = [name for name in shipped_studies() if name in names]
    for name in (*shipped, *(name for name in names if name not in shipped)):
        for scale in SCALES:
            if (root / FOLDER / name / scale / "study.yaml").is_file():
                yield name, scale


def study_of_home(root: Path, name: str, scale: str) -> Study:
    """The study as it was last run in this home, else as it is shipped. Raises ParakeetError."""
    return noted_study(root, name, scale) or make_study(name, scale)


@dataclass(frozen=True)
class Claims:
    """What the studies of a home need, while their folders are there.

    `recipes` are the names of their runs' recipes; `contents` those of the checkpoints in their records.
    """

    recipes: frozenset[str]
    contents: frozenset[str]


def claims(root: Path) -> Claims:
    """What `clean` must keep. Raises ParakeetError if a study's files cannot be read: its needs are then unknown."""
    recipes, contents = set[str](), set[str]()
    for name, scale in begun_studies(root):
        study = noted_study(root, name, scale)
        if study is not None:
            recipes |= {f"{study.name}.{run}" for run in study.names()}
            contents.update(_contents(study_folder(root, study)))
    return Claims(frozenset(recipes), frozenset(contents))


def studies_kept(root: Path) -> list[str]:
    """What `clean` says of the studies whose runs it keeps."""
    return [
        f"Kept: the runs of study {name}, scale {scale}. To let go of them, remove {root / FOLDER / name / scale}"
        for name, scale in begun_studies(root)
    ]


def _contents(folder: Path) -> Iterator[str]:
    for file in (folder / "records").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            yield str(json.loads(file.read_text(encoding="utf-8"))["checkpoint"])
