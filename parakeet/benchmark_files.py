"""The data files of standard benchmarks: which file of a folder belongs to which task.

The evaluation scores them, and cleaning drops their text from the corpus. Imports nothing heavy.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parakeet.errors import ParakeetError, os_reason
from parakeet.recipe_sources import Columns, FileSource

if TYPE_CHECKING:
    from parakeet.recipe import Benchmarks, Decontamination, Recipe

ENDINGS = (".jsonl.gz", ".jsonl")
SPLITS = {
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "train": "train",
}
"""Words of a file's name that say its split."""
TRAIN = "train"


@dataclass(frozen=True)
class FilesOfTask:
    """How the file of a task is recognised."""

    aliases: tuple[str, ...] = ()
    """Other names of the task in file names, in lower case with underscores."""
    splits: tuple[str, ...] = ("validation", "test")
    """The split to take, the first that is there. Published scores are of the first."""
    unnamed: str = "validation"
    """The split of a file whose name has none, as in shared/data/evaluation."""
    columns: Columns | None = None
    """How decontamination reads a record whose shape it does not recognise."""


TEST_FIRST = ("test", "validation")

FILES: Mapping[str, FilesOfTask] = {
    "lambada_openai": FilesOfTask(("lambada",), splits=TEST_FIRST, unnamed="test"),
    "hellaswag": FilesOfTask(columns=Columns(text="ctx")),
    "piqa": FilesOfTask(columns=Columns(human="goal", assistant="sol1")),
    "arc_easy": FilesOfTask(("ai2_arc_easy", "arc_e"), splits=TEST_FIRST),
    "arc_challenge": FilesOfTask(("ai2_arc_challenge", "arc_c"), splits=TEST_FIRST),
    "sciq": FilesOfTask(splits=TEST_FIRST),
    "winogrande": FilesOfTask(("winogrande_xl",), columns=Columns(text="sentence")),
    "boolq": FilesOfTask(("super_glue_boolq",)),
    "openbookqa": FilesOfTask(("openbookqa_main", "obqa"), splits=TEST_FIRST, columns=Columns(text="question_stem")),
    "copa": FilesOfTask(("super_glue_copa",), columns=Columns(text="premise")),
    "blimp": FilesOfTask(
        splits=("all", "test", "validation", TRAIN), unnamed="all", columns=Columns(text="sentence_good")
    ),
    "wikitext": FilesOfTask(("wikitext_2_raw_v1", "wikitext_document_level"), splits=TEST_FIRST, unnamed="test"),
}
"""Every task, in the order of tables."""

STANDARD = "standard"
STANDARD_TASKS = tuple(name for name in FILES if name != "wikitext")
"""The tasks of the suite `standard`. WikiText, which has no data file here, joins them where data is downloaded."""


class BenchmarkSet(FileSource):
    """A benchmark as an evaluation set of decontamination. Its items may all be too short to search for."""


@dataclass(frozen=True)
class TaskFile:
    """The file of a task."""

    task: str
    split: str
    path: Path


def find_task_files(folder: Path, tasks: Sequence[str]) -> list[TaskFile]:
    """The file of each task in a folder, in the order of `tasks`.

    Files are JSON Lines (.jsonl or .jsonl.gz), also in folders of the folder. A name is that of the task or an alias,
    with or without a split: hellaswag.jsonl.gz, arc_easy_test.jsonl, piqa/validation.jsonl. ParakeetError if the folder
    cannot be read, or a task has no file, or two of one split, or one that is no regular file.
    """
    found = _by_task(folder)
    chosen = []
    missing = [task for task in tasks if not found.get(task)]
    if missing:
        there = [task for task in FILES if found.get(task)]
        hint = f"It has: {', '.join(there)}." if there else "It has files of no task: they are named TASK.jsonl.gz."
        raise ParakeetError(
            f"{folder} has no file for {', '.join(missing)}. {hint} Add the missing files, or name the tasks to score."
        )
    for task in tasks:
        splits = found[task]
        split = next((split for split in FILES[task].splits if split in splits), None)
        if split is None:
            path = next(iter(splits.values()))[0]
            raise ParakeetError(f"{path} is the training split of {task}: a score needs its validation or test split.")
        if len(splits[split]) > 1:
            both = " and ".join(path.name for path in splits[split])
            raise ParakeetError(f"{folder}: {both} are both {task}, split {split}. Keep one of them.")
        if not splits[split][0].is_file():
            raise ParakeetError(f"{splits[split][0]} is no regular file: put the data of {task} there as a file.")
        chosen.append(TaskFile(task, split, splits[split][0]))
    return chosen


def _by_task(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The files in a folder by task and split."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ParakeetError(f"The folder of benchmark data, {folder}, {what}.")
    names = {name: task for task, known in FILES.items() for name in (task, *known.aliases)}
    found: dict[str, dict[str, list[Path]]] = {}

    def refuse(error: OSError) -> None:
        raise ParakeetError(f"The folder of benchmark data, {folder}, cannot be read: {os_reason(error)}.")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        for file in sorted(files):
            ending = next((ending for ending in ENDINGS if file.lower().endswith(ending)), None)
            if ending is None:
                continue
            path = Path(parent, file)
            parts = [*path.relative_to(folder).parent.parts, file[: -len(ending)]]
            for first in range(len(parts)):
                words = [word for word in re.split(r"[^a-z0-9]+", "_".join(parts[first:]).lower()) if word]
                split = next((SPLITS[word] for word in words if word in SPLITS), None)
                # Without the split, and without the numbers of a sharded export: validation-00000-of-00001.
                named = [w for w in words if w not in SPLITS and w != "of" and not re.fullmatch(r"\d{5}", w)]
                task = names.get("_".join(named))
                if task is not None:
                    found.setdefault(task, {}).setdefault(split or FILES[task].unnamed, []).append(path)
                    break
    return found


def set_name(task: str) -> str:
    """The name of a task's evaluation set; a recipe that scores the task has no other set or source of this name."""
    return f"benchmark-{task}"


def tasks_of(benchmarks: "Benchmarks") -> tuple[str, ...]:
    """The tasks that a recipe names."""
    return STANDARD_TASKS if benchmarks.tasks == STANDARD else tuple(benchmarks.tasks)


def benchmark_files(recipe: "Recipe") -> list[TaskFile]:
    """The files of the benchmarks that a recipe scores; none if it scores none. Raises as `find_task_files`."""
    benchmarks = recipe.evaluation.benchmarks
    return [] if benchmarks is None else find_task_files(Path(benchmarks.data), tasks_of(benchmarks))


def searched_sets(recipe: "Recipe", located: bool = True) -> "Decontamination":
    """What must not be trained on: the recipe's own evaluation sets, and the benchmarks that it scores.

    Raises ParakeetError as `find_task_files`. If not `located`, no file is looked for, and the benchmarks' paths are
    no files.
    """
    benchmarks = recipe.evaluation.benchmarks
    if benchmarks is None:
        return recipe.decontamination
    paths = {task: Path(benchmarks.data, task) for task in tasks_of(benchmarks)}
    if located:
        paths = {file.task: file.path for file in benchmark_files(recipe)}
    added = [
        BenchmarkSet(name=set_name(task), path=str(path), columns=FILES[task].columns) for task, path in paths.items()
    ]
    return recipe.decontamination.model_copy(update={"sets": [*recipe.decontamination.sets, *added]})
