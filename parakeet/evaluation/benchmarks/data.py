"""The items of benchmarks: from data files on this machine, or from the Hugging Face hub."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parakeet.benchmark_files import FILES, TaskFile, find_task_files
from parakeet.errors import ParakeetError
from parakeet.evaluation.benchmarks.tasks import TASKS, BadItem, BenchmarkItem, RawItem

MOST_COPIES = 0.01
"""Share of the items of a file that may be copies of others: LAMBADA itself has 2 among 5,153."""
FEWEST_TO_VARY = 8
"""With so many items, the right answers cannot all have the same place by chance."""


@dataclass(frozen=True)
class TaskData:
    """The items of a task that are scored."""

    task: str
    split: str
    items: Sequence[BenchmarkItem]
    source: str
    """The name of the file, or of the dataset."""
    available: int
    """Items in the file; `items` may be some of them."""
    copies: int = 0
    """Items of the file that repeat another one."""


def read_tasks(folder: Path, tasks: Sequence[str], limit: int | None) -> list[TaskData]:
    """The items of tasks whose files are in a folder, at most `limit` of each.

    Raises ParakeetError as `find_task_files` does, or with the file and row of an item that cannot be scored.
    """
    return [read_task(file, limit) for file in find_task_files(folder, tasks)]


def read_task(file: TaskFile, limit: int | None) -> TaskData:
    """The same for one file."""
    from parakeet.data.reading.readers import read_records

    def records() -> Iterator[tuple[str, Any]]:
        for record in read_records(file.path):
            where = f"{file.path}, line {record.row}"
            if record.problem is not None:
                raise ParakeetError(f"{where}: {record.problem}. Correct the line: every item counts.")
            yield where, record.value

    return task_data(file.task, file.split, records(), str(file.path), file.path.name, limit)


def task_data(
    task: str, split: str, records: Iterable[tuple[str, Any]], place: str, source: str, limit: int | None
) -> TaskData:
    """Check records, each with the words that say where it is, and choose at most `limit` of them.

    Raises ParakeetError if a record cannot be scored, or if there are none, too many copies, or right answers that
    all have the same place.
    """
    items: list[BenchmarkItem] = []
    first: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    for where, value in records:
        if not isinstance(value, dict):
            raise ParakeetError(f"{where}: not a JSON object, as a record of {task} is.")
        try:
            item = TASKS[task].read(RawItem(value))
        except BadItem as fault:
            raise ParakeetError(
                f"{where}: not an item of {task}: {fault}. docs/evaluation.md lists the columns of each task."
            ) from None
        before = first.setdefault(json.dumps([item.part, item.row], sort_keys=True), where)
        if before != where:
            copies.append((where, before))
        items.append(item)
    if not items:
        raise ParakeetError(f"{place} holds no item of {task}: it is empty.")
    if len(copies) > MOST_COPIES * len(items):
        where, before = copies[0]
        raise ParakeetError(
            f"{place}: {len(copies):,} of its {len(items):,} items repeat others, and a score would count them twice: "
            f"{where} repeats {before}. Remove the copies."
        )
    _refuse_one_place(task, items, place)
    chosen = spread(items, limit)
    return TaskData(task, split, chosen, source, len(items), len(copies))


def _refuse_one_place(task: str, items: Sequence[BenchmarkItem], place: str) -> None:
    """Such a file was built wrongly, and a model that prefers that place would score 100 %."""
    by_construction = task in ("blimp", "sciq")  # upstream puts the right answer first and last; ties count as wrong
    golds = {item.gold for item in items}
    if items[0].choices and not by_construction and len(items) >= FEWEST_TO_VARY and len(golds) == 1:
        raise ParakeetError(
            f"{place}: the right answer of all its {len(items):,} items is number {golds.pop() + 1}. A score would "
            "mean nothing: check the labels of the file."
        )


def spread(items: Sequence[BenchmarkItem], limit: int | None) -> list[BenchmarkItem]:
    """At most `limit` items, evenly spread over all and over the parts of a task. The same items give the same ones."""
    if limit is None or limit >= len(items):
        return list(items)
    ordered = sorted(items, key=lambda item: item.part)  # stable: the order of the file within a part
    # The middle of each of `limit` equal stretches.
    return [ordered[(2 * number + 1) * len(items) // (2 * limit)] for number in range(limit)]


def download_tasks(tasks: Sequence[str], limit: int | None) -> list[TaskData]:
    """The items of tasks as their upstream definitions name them on the Hugging Face hub.

    Raises ParakeetError if a dataset cannot be fetched.
    """
    return [_download(task, limit) for task in tasks]


def _download(task: str, limit: int | None) -> TaskData:
    from parakeet.evaluation.benchmarks.upstream import upstream_config

    config = upstream_config(task)
    path, name = config["dataset_path"], config.get("dataset_name")
    split = str(config.get("test_split") or config.get("validation_split"))
    if task == "blimp":
        rows = [{**row, "UID": part} for part in _paradigms(path) for row in _rows(task, path, part, split)]
    else:
        rows = _rows(task, path, name, split)
    records = ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
    data = task_data(task, split, records, path, path, limit)
    return replace(data, split=FILES[task].unnamed) if task == "blimp" else data


def _rows(task: str, path: str, name: str | None, split: str) -> list[Any]:
    import datasets

    try:
        return list(datasets.load_dataset(path, name, split=split))
    except Exception as error:  # the hub's client raises many types
        raise _not_fetched(task, path, error) from None


def _paradigms(path: str) -> list[str]:
    import datasets

    try:
        return list(datasets.get_dataset_config_names(path))
    except Exception as error:
        raise _not_fetched("blimp", path, error) from None


def _not_fetched(task: str, path: str, error: Exception) -> ParakeetError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return ParakeetError(
        f"The data of {task} could not be fetched from the Hugging Face hub ({path}): {reason}. "
        "Without a network, give a folder of data files with --task-data."
    )
