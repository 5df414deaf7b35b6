"""How the data stages run: a datatrove pipeline over numbered tasks, on this machine, with Slurm or with Ray.

A task's output depends only on its number, never on who runs it or how many run at once. A finished task leaves
datatrove's empty file `completions/<task>` and is not run again, so a stage that was killed resumes with its unfinished
tasks. Only the stage functions import this module, because it imports datatrove.
"""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Event, Thread
from typing import Any

import dill
from datatrove.data import Document as Item
from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from parakeet.artifact import replace_file
from parakeet.errors import ParakeetError
from parakeet.progress import Task
from parakeet.recipe import Executor

# datatrove adds its stderr handler again for every task, so it can only be silenced by name. This must happen at
# import: a worker process reaches this module no earlier than when it unpickles the steps.
logger.disable("datatrove")

POLL_SECONDS = 0.5


def worker_count(executor: Executor, tasks: int) -> int:
    """How many tasks run at once: the recipe's number, by default one per core, or all of them on a cluster."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = executor.workers or (cores if executor.kind == "local" else tasks)
    return max(1, min(wanted, tasks))


def run_tasks(steps: Sequence[PipelineStep], tasks: int, executor: Executor, logs: Path) -> None:
    """Run the unfinished tasks of a pipeline and return when all are finished.

    `logs` belongs to this pipeline alone and records which tasks are finished. If tasks fail, the ParakeetError or
    OSError of the first one is raised here.
    """
    failures = logs / "failures"
    failures.mkdir(parents=True, exist_ok=True)
    for old in failures.iterdir():
        old.unlink()
    error: BaseException | None = None
    try:
        _executor([*steps, Report(failures)], tasks, executor, logs).run()
    except BrokenProcessPool:
        error = ParakeetError(
            "A worker process was killed, most likely because memory ran out. Free some memory, or lower "
            "executor.workers in the recipe. The same command resumes from here."
        )
    # A file in `failures` may explain it better.
    except Exception as caught:
        error = caught
    unfinished = [rank for rank in range(tasks) if not (logs / "completions" / f"{rank:05d}").is_file()]
    if unfinished or error is not None:
        raise _failure(failures, unfinished, logs, error)


def _executor(pipeline: list[PipelineStep], tasks: int, executor: Executor, logs: Path) -> PipelineExecutor:
    workers = worker_count(executor, tasks)
    if executor.kind == "local":
        return LocalTasks(pipeline, tasks, workers, logging_dir=str(logs))
    if executor.kind == "ray":
        try:
            from parakeet.data.ray_tasks import RayTasks
        except ImportError:
            raise ParakeetError("executor.kind ray needs Ray: pip install 'parakeet-lm[ray]'") from None
        return RayTasks(pipeline, tasks, workers, executor.ray_address, logs)
    from parakeet.data.slurm_tasks import SlurmTasks

    assert executor.slurm is not None
    return SlurmTasks(pipeline, tasks, executor.workers or -1, executor.slurm, logs)


@dataclass(frozen=True)
class Report:
    """The last step of a pipeline: runs the others to their end, and writes a task's error to `failures/<task>`."""

    failures: Path

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        try:
            yield from data or ()
        except Exception as error:
            report = {"error": type(error).__name__, "message": str(error), "known": isinstance(error, ParakeetError)}
            if isinstance(error, OSError) and error.errno is not None:
                report |= {"errno": error.errno, "strerror": error.strerror, "filename": str(error.filename or "")}
            # A full disk may have no room for this file either.
            with suppress(OSError):
                replace_file(self.failures / f"{rank:05d}", json.dumps(report))
            raise


def _failure(failures: Path, unfinished: list[int], logs: Path, error: BaseException | None) -> BaseException:
    """The exception to raise: what the first failed task reported, or else `error` from the executor."""
    for path in sorted(path for path in failures.iterdir() if not path.name.startswith(".")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["known"]:
            return ParakeetError(report["message"])
        if "errno" in report:
            return OSError(report["errno"], report["strerror"], report["filename"] or None)
        if error is None or isinstance(error, ParakeetError):
            return RuntimeError(f"task {int(path.name)}: {report['error']}: {report['message']}")
    if error is not None:
        return error
    return ParakeetError(
        f"Task {unfinished[0]} and {len(unfinished) - 1:,} more ended without a result. Their logs are in {logs}. "
        "The same command runs what is missing."
    )


class LocalTasks(LocalPipelineExecutor):
    """datatrove's local executor with a different process pool.

    When the kernel kills a worker because memory ran out, multiprocessing's pool waits for its task forever; this
    pool raises BrokenProcessPool. It also needs no manager process, which costs datatrove 2 s per pipeline.
    """

    def run(self) -> None:
        ranks = self.get_incomplete_ranks(range(self.local_rank_offset, self.local_rank_offset + self.local_tasks))
        if not ranks:
            return
        if self.workers == 1:
            for rank in ranks:
                deepcopy(self)._run_for_rank(rank, local_rank=1)
            return
        # The workers read the pipeline from a file: with thousands of parts it is too long for the pool's pipe.
        file = Path(self.logging_dir.resolve_paths("pipeline"))
        file.write_bytes(dill.dumps(self))
        # Never fork: a forked worker inherits Dagster's signal handlers, and then datatrove hangs.
        context = get_context("spawn" if os.name == "nt" else "forkserver")
        # Else each worker imports datatrove again: 16.9 instead of 11.2 CPU seconds for 1,040 documents, two workers.
        context.set_forkserver_preload([__name__, *sorted({type(step).__module__ for step in self.pipeline})])
        pool = ProcessPoolExecutor(min(self.workers, len(ranks)), context, initializer=_end_with_parent)
        try:
            for future in as_completed([pool.submit(_run_rank, file, rank) for rank in ranks]):
                future.result()
        except BaseException:
            # Running tasks may take minutes more. They are killed, and run again next time.
            for process in list((pool._processes or {}).values()):
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run_rank(file: Path, rank: int) -> None:
    dill.loads(file.read_bytes())._run_for_rank(rank, local_rank=1)


def _end_with_parent() -> None:
    """Make this worker exit when the build exits; otherwise both it and the next build would write the same files.

    PR_SET_PDEATHSIG does not help: this process's parent is the fork server, which lives as long as its workers.
    The build handles Ctrl-C, which a terminal sends to the whole group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    build = parent_process()
    assert build is not None

    def follow() -> None:
        build.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def count(folder: Path, rank: int, number: float) -> None:
    """Record that a task has done `number` units, for `watch`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{rank:05d}").write_text(str(number))


@contextmanager
def watch(task: Task, counts: Path) -> Iterator[None]:
    """While the block runs, and at its end, advance `task` to the sum of the numbers in the files of `counts`."""
    over = Event()
    task.skip(_counted(counts))

    def poll() -> None:
        while True:
            last = over.wait(POLL_SECONDS)
            done = _counted(counts)
            if done > task.done:
                task.advance(done - task.done)
            if last:
                return

    thread = Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _counted(counts: Path) -> float:
    # A file reads as empty for an instant while it is rewritten.
    return sum(float(path.read_text() or 0) for path in counts.glob("*"))
