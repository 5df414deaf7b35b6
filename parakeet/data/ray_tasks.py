"""Tasks on a Ray cluster. Imported only when a recipe asks for Ray, which is an optional dependency."""

import logging
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import ray
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from ray.exceptions import RayTaskError, WorkerCrashedError

from parakeet.errors import ParakeetError


class RayTasks(RayPipelineExecutor):
    """datatrove's Ray executor, but each task is a Ray task.

    datatrove's actors fork a pool for every task. If the kernel kills such a child, the build waits forever; if the
    build is killed, the child keeps writing. A Ray task ends with its build.
    """

    def __init__(self, pipeline: list[PipelineStep], tasks: int, workers: int, address: str, logs: Path) -> None:
        super().__init__(pipeline, tasks, workers, logging_dir=str(logs))
        self.address = address or "local"

    def run(self) -> None:
        """Run the unfinished tasks; BrokenProcessPool if a worker was killed, else a failed task's own exception."""
        _connect(self.address)
        ranks = self.get_incomplete_ranks(range(self.world_size))
        if not ranks:
            return
        executor = ray.put(self)
        # No retries: a task that was killed would most likely be killed again.
        remote = ray.remote(num_cpus=self.cpus_per_task, max_retries=0)(_run_rank)
        running: list[Any] = []
        try:
            while ranks or running:
                while ranks and len(running) < self.workers:
                    running.append(remote.remote(executor, ranks.pop(0)))
                finished, running = ray.wait(running, num_returns=1)
                ray.get(finished)
        except WorkerCrashedError as error:
            raise BrokenProcessPool(str(error)) from None
        except RayTaskError as error:
            raise error.cause from None
        finally:
            for task in running:
                ray.cancel(task, force=True)


def _run_rank(executor: RayPipelineExecutor, rank: int) -> None:
    executor._run_for_rank(rank, 1)


def _connect(address: str) -> None:
    """Start or reach Ray, which then serves every later pipeline too (a start takes 5 s) and ends with this process."""
    if ray.is_initialized():
        return
    # Ray replaces Dagster's handler, which ends a run in an orderly way.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ParakeetError(f"Ray at {address!r} cannot be reached: {error}. Set executor.ray_address.") from None
    finally:
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, handler)
