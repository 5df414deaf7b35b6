"""The work of `parakeet evaluate`: a model that stands in the store, or is being trained, in benchmarks."""

import difflib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parakeet.benchmark_files import FILES, STANDARD, STANDARD_TASKS
from parakeet.chat.models import ModelOpener
from parakeet.errors import ParakeetError
from parakeet.evaluation.benchmarks.data import TaskData, download_tasks, read_tasks
from parakeet.evaluation.benchmarks.harness import score_tasks
from parakeet.evaluation.benchmarks.upstream import check_installed
from parakeet.home import home
from parakeet.progress import Progress


def named_tasks(suite: str, online: bool) -> tuple[str, ...]:
    """The tasks that `--suite` names: standard, or tasks with commas between. ParakeetError if one is unknown."""
    names = [name.strip() for name in suite.split(",") if name.strip()]
    if not names:
        raise ParakeetError(f"--suite names no task. Name some of: {', '.join(FILES)}; or {STANDARD} for all.")
    tasks: list[str] = []
    for name in names:
        if name == STANDARD:
            tasks += FILES if online else STANDARD_TASKS
            continue
        task = name.lower().replace("-", "_")
        task = next((known for known, files in FILES.items() if task in (known, *files.aliases)), "")
        if not task:
            close = difflib.get_close_matches(name, FILES, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ParakeetError(f"There is no task {name}.{hint} The tasks: {', '.join(FILES)}; {STANDARD} names all.")
        tasks.append(task)
    return tuple(dict.fromkeys(tasks))


def score_model(name: str | None, suite: str, folder: Path | None, items: int | None) -> dict[str, Any]:
    """{"model", "folder", "weights_sha256", "lm_eval", "notes"} and the figures of the metric `benchmarks`.

    `folder` holds the data; without it, it is downloaded. Raises ParakeetError if a task, the model, the data or
    lm-evaluation-harness is not there, or the model cannot be scored.
    """
    tasks = named_tasks(suite, online=folder is None)
    check_installed()
    root = home()
    data = _data(tasks, folder, items)
    loaded = ModelOpener(root).load_any(name)
    # After the model, which imports torch as a chat does.
    from parakeet.evaluation.benchmarks.scorer import ModelScorer
    from parakeet.trace.stored import index_of_model

    index, no_index = None, None
    try:
        index = index_of_model(loaded.release.directory, root, loaded.tokenizer.sha256)
    except ParakeetError as error:
        no_index = str(error)
    scorer = ModelScorer(loaded.model, loaded.tokenizer)
    found = score_tasks(scorer, data, Progress(), index, loaded.tokenizer)
    return {
        "model": loaded.release.name,
        "folder": str(loaded.release.directory),
        "weights_sha256": loaded.release.weights_sha256,
        "lm_eval": version("lm_eval"),
        "notes": loaded.notes,
        "items": items,
        "tasks": found,
        "no_index": no_index,
    }


def _data(tasks: tuple[str, ...], folder: Path | None, items: int | None) -> list[TaskData]:
    return download_tasks(tasks, items) if folder is None else read_tasks(folder, tasks, items)
