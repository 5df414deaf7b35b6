"""A worker of `parakeet study run`: `python -m pipelines.study_worker ROOT STUDY SCALE`.

It reads names of runs from its standard input, one a line, and makes each through Dagster as the study's job does. On
its standard output it says in lines of JSON when a run's text is ready and how the run ended. When its input ends, it
saves what it trains and ends.
"""

import json
import os
import queue
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg

from assets_defs.resources import SHELL_TAG, release_run_lock
from assets_defs.studies import partition_of, study_job
from parakeet.errors import INTERRUPTED
from parakeet.failures import explain
from parakeet.progress import Progress
from parakeet.studies.running import DONE, FAILED, STOPPED, TRAINING
from parakeet.studies.state import study_of_home
from pipelines.build import raise_database_error, reasons_of, was_interrupted
from pipelines.instance import open_instance
from pipelines.lost_runs import fail_lost_runs

Answer = Callable[..., None]


def main(root: Path, name: str, scale: str) -> int:
    """Returns the exit status: INTERRUPTED if the input ended while a run was made, 1 after an error, else 0."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what stages and trainers print goes to the log

    def answer(state: str, **values: Any) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more
            os.write(answers, (json.dumps({"state": state, **values}) + "\n").encode())

    runs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(runs,), daemon=True).start()
    try:
        return _work(root, name, scale, runs, answer)
    except KeyboardInterrupt:
        answer(STOPPED)
        return INTERRUPTED
    except Exception as error:
        answer(FAILED, reason=str(explain(error, f"making a run of study {name}", root)), is_last=True)
        return 1


def _read(runs: "queue.SimpleQueue[str | None]") -> None:
    """Pass on the names of runs. After the last one, interrupt the run that is being made."""
    for line in sys.stdin:
        runs.put(line.strip())
    runs.put(None)
    os.kill(os.getpid(), signal.SIGINT)


def _work(root: Path, name: str, scale: str, runs: "queue.SimpleQueue[str | None]", answer: Answer) -> int:
    run = runs.get()
    if run is None:
        return 0
    progress = Progress()
    partitions = [partition_of(scale, one) for one in study_of_home(root, name, scale).names()]
    job = study_job(name, partitions, root, lambda: answer(TRAINING))
    with open_instance(root, progress) as instance:
        fail_lost_runs(instance, root)
        while run is not None:
            if not _make(root, job, partition_of(scale, run), instance, answer):
                return INTERRUPTED
            run = runs.get()
    return 0


def _make(root: Path, job: dg.JobDefinition, partition: str, instance: dg.DagsterInstance, answer: Answer) -> bool:
    """Make a run and say what came of it. False if it was interrupted."""
    run_id = str(uuid.uuid4())
    try:
        result = job.execute_in_process(
            run_id=run_id,
            instance=instance,
            partition_key=partition,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
            tags=SHELL_TAG,
        )
    finally:
        release_run_lock(root, run_id)
    raise_database_error(result.all_events)
    if result.success:
        answer(DONE, made=_was_made(result))
    elif was_interrupted(result.all_events):
        answer(STOPPED)
        return False
    else:
        answer(FAILED, reason=" ".join(reasons_of(result.all_events, root)) or "It ended, and no reason is recorded.")
    return True


def _was_made(result: dg.ExecuteInProcessResult) -> bool:
    events = (event for event in result.all_events if event.is_step_materialization)
    made = [event.step_materialization_data.materialization.metadata["made"].value for event in events]
    return bool(made and made[-1])


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
