"""How the data stages run: a datatrove pipeline over numbered tasks, on this machine, with Slurm or with Ray.

A task's output depends on its number alone, never on who runs it or how many run at once. A finished task leaves
datatrove's empty file `completions/<task>`, and is not run again; so a stage that was killed goes on with the tasks
that it had not finished. Only the stage functions import this module: it brings datatrove with it.
"""

import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from copy import deepcopy
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
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

# datatrove re-adds its handler on standard error for every task, so only its name can be silenced. At import,
# because a worker process reaches this module by unpickling the steps, and no earlier.
logger.disable("datatrove")

POLL_SECONDS = 0.5
WORKER_KILLED = (
    "A worker process was killed, most likely because memory ran out. Free some, or lower executor.workers in the "
    "recipe; the same command goes on from here."
)


def worker_count(executor: Executor, tasks: int) -> int:
    """How many tasks run at once: what the recipe says, else one a core, or on a cluster all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = executor.workers or (cores if executor.kind == "local" else tasks)
    return max(1, min(wanted, tasks))


def run_tasks(steps: Sequence[PipelineStep], tasks: int, executor: Executor, logs: Path) -> None:
    """Run the tasks of a pipeline that have not been finished, and return when all have been.

    `logs` belongs to this pipeline alone, and says what is finished. Raises ParakeetError or OSError as the first task
    that failed did.
    """
    failures = logs / "failures"
    failures.mkdir(parents=True, exist_ok=True)
    for old in failures.iterdir():
        old.unlink()
    pipeline = [*steps, Report(failures)]
    workers = worker_count(executor, tasks)
    error: BaseException | None = None
    try:
        if executor.kind == "local":
            LocalTasks(pipeline, tasks, workers, logging_dir=str(logs)).run()
        elif executor.kind == "ray":
            _run_with_ray(pipeline, tasks, executor, logs)
        else:
            _run_with_slurm(pipeline, tasks, executor, logs)
    # Whatever went wrong in a task, its own words are in `failures`.
    except Exception as caught:
        error = caught
    unfinished = [rank for rank in range(tasks) if not (logs / "completions" / f"{rank:05d}").is_file()]
    if unfinished or error is not None:
        raise _failure(failures, unfinished, logs, error)


class Report(PipelineStep):
    """The last step: exhausts the others, and leaves what went wrong in `failures/<task>`."""

    name = "Report"
    type = "Guard"

    def __init__(self, failures: Path) -> None:
        super().__init__()
        self.failures = failures

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        try:
            yield from data or ()
        except Exception as error:
            told = {"error": type(error).__name__, "message": str(error), "known": isinstance(error, ParakeetError)}
            if isinstance(error, OSError) and error.errno is not None:
                told |= {"errno": error.errno, "strerror": error.strerror, "filename": str(error.filename or "")}
            # On a disk that is full there may be no room for the message either.
            with suppress(OSError):
                replace_file(self.failures / f"{rank:05d}", json.dumps(told))
            raise


def _failure(failures: Path, unfinished: list[int], logs: Path, error: BaseException | None) -> BaseException:
    for path in sorted(path for path in failures.iterdir() if not path.name.startswith(".")):
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["known"]:
            return ParakeetError(told["message"])
        if "errno" in told:
            return OSError(told["errno"], told["strerror"], told["filename"] or None)
        if error is None or isinstance(error, ParakeetError):
            return RuntimeError(f"task {int(path.name)}: {told['error']}: {told['message']}")
    if error is not None:
        return error
    return ParakeetError(
        f"Task {unfinished[0]} ended without a result, and {len(unfinished) - 1:,} more have none. What they said is "
        f"in {logs}. The same command goes on with what is missing."
    )


class LocalTasks(LocalPipelineExecutor):
    """datatrove's local executor over another pool.

    multiprocessing's waits for ever for the task of a worker that was killed (by the kernel, when memory runs out);
    this one is told. It also does without datatrove's manager process, 2 s for every pipeline.
    """

    def run(self) -> None:
        ranks = self.get_incomplete_ranks(range(self.local_rank_offset, self.local_rank_offset + self.local_tasks))
        if not ranks:
            return
        if self.workers == 1:
            for rank in ranks:
                deepcopy(self)._run_for_rank(rank, local_rank=1)
            return
        file = _write_pipeline(self)
        # Never by fork: a forked worker inherits Dagster's signal handlers, and datatrove then hangs.
        context = get_context("spawn" if os.name == "nt" else "forkserver")
        pool = ProcessPoolExecutor(min(self.workers, len(ranks)), context, initializer=end_with_parent)
        try:
            for future in as_completed([pool.submit(_run_rank, file, rank) for rank in ranks]):
                future.result()
        except BaseException as error:
            # Not to wait for tasks that take minutes: they will be run again.
            for process in list((pool._processes or {}).values()):
                process.kill()
            if isinstance(error, BrokenProcessPool):
                raise ParakeetError(WORKER_KILLED) from None
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_pipeline(executor: PipelineExecutor) -> str:
    """The pipeline in a file for the workers: with thousands of parts it is too long for the pipe of a pool's calls."""
    name: str = executor.logging_dir.resolve_paths("pipeline")
    Path(name).write_bytes(dill.dumps(executor))
    return name


def _run_rank(file: str, rank: int) -> None:
    dill.loads(Path(file).read_bytes())._run_for_rank(rank, local_rank=1)


def end_with_parent() -> None:
    """Let this worker end with the process that works for the build: it would go on writing what its successor writes.

    Its parent by number is the fork server, which lives as long as its workers, so PR_SET_PDEATHSIG would not do.
    Ctrl-C is the build's to handle: on a terminal it reaches the whole group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    build = parent_process()
    assert build is not None

    def follow() -> None:
        build.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _run_with_ray(pipeline: list[PipelineStep], tasks: int, executor: Executor, logs: Path) -> None:
    try:
        import ray

        from parakeet.data.ray_tasks import RayTasks
    except ImportError:
        raise ParakeetError("executor.kind ray needs Ray: pip install 'parakeet-lm[ray]'") from None
    if not ray.is_initialized():
        address = executor.ray_address or "local"
        with _own_signals():
            try:
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ParakeetError(
                    f"Ray at {address!r} cannot be reached: {error}. Set executor.ray_address."
                ) from None
    # It is left running for the next pipeline (5 s each time); Ray ends it with this process.
    RayTasks(pipeline, tasks, worker_count(executor, tasks), logging_dir=str(logs)).run()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in the place of Dagster's, which ends a run in order."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, handler)


def _run_with_slurm(pipeline: list[PipelineStep], tasks: int, executor: Executor, logs: Path) -> None:
    from parakeet.data.slurm_tasks import SlurmTasks

    assert executor.slurm is not None
    SlurmTasks(pipeline, tasks, executor.workers or -1, executor.slurm, logs).run()


def count(folder: Path, rank: int, number: float) -> None:
    """Say that a task has done `number` units, for `watch`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{rank:05d}").write_text(str(number))


@contextmanager
def watch(task: Task, counts: Path) -> Iterator[None]:
    """Advance `task` to the sum of the numbers in the files of `counts` while the block runs, and at its end."""
    over = Event()
    task.skip(counted(counts))

    def poll() -> None:
        while True:
            last = over.wait(POLL_SECONDS)
            done = counted(counts)
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


def counted(counts: Path) -> float:
    # A file that is being written anew reads as empty for an instant.
    return sum(float(path.read_text() or 0) for path in counts.glob("*"))
