"""Tasks on a Ray cluster. Only `parakeet.data.tasks` imports this module, and only where a recipe asks for Ray."""

from typing import Any

import ray
from datatrove.executor.ray import RayPipelineExecutor
from ray.exceptions import RayTaskError, WorkerCrashedError

from parakeet.data.tasks import WORKER_KILLED
from parakeet.errors import ParakeetError


class RayTasks(RayPipelineExecutor):
    """datatrove's Ray executor with one Ray task for each of its own.

    datatrove's actors fork a pool for every task: where the kernel kills such a child, the build waits for ever, and
    where the build is killed, the child goes on writing. A Ray task ends with the build that it is for.
    """

    def run(self) -> None:
        ranks = self.get_incomplete_ranks(range(self.world_size))
        if not ranks:
            return
        executor = ray.put(self)
        # A task that died is told, not tried again unasked: it would die of the same.
        remote = ray.remote(num_cpus=self.cpus_per_task, max_retries=0)(_run_rank)
        running: list[Any] = []
        try:
            while ranks or running:
                while ranks and len(running) < self.workers:
                    running.append(remote.remote(executor, ranks.pop(0)))
                finished, running = ray.wait(running, num_returns=1)
                ray.get(finished)
        except WorkerCrashedError:
            raise ParakeetError(WORKER_KILLED) from None
        except RayTaskError as error:
            raise error.cause from None
        finally:
            for task in running:
                ray.cancel(task, force=True)


def _run_rank(executor: RayPipelineExecutor, rank: int) -> None:
    executor._run_for_rank(rank, 1)
