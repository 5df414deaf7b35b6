"""Reads the batches of a run in order, each while the one before it is trained on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

from parakeet.data.tokens.loader import Batch, Loader, LoaderState
from parakeet.data.tokens.packing import PackingPlan
from parakeet.data.tokens.shards import TokenShards
from parakeet.training.job import TrainingJob
from parakeet.training.schedule import Schedule


class _Read(NamedTuple):
    """A batch, and the state of its phase's loader after it."""

    batch: Batch
    phase: int
    state: dict[str, Any]


class Prefetcher:
    """One loader for each phase of the schedule that has begun. Use it in a `with`, which stops the reading."""

    def __init__(self, job: TrainingJob, shards: TokenShards, padding: int, schedule: Schedule) -> None:
        self._job = job
        self._shards = shards
        self._padding = padding
        self._schedule = schedule
        self._state: dict[str, dict[str, Any]] = {}
        self._loaders: dict[int, Loader] = {}
        self._ahead: tuple[int, Future[_Read]] | None = None
        self._executor = ThreadPoolExecutor(1, "prefetch")

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """Each phase's loader state after the batches that `take` returned. Batches read ahead do not count."""
        return dict(self._state)

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Continue from `state`. ParakeetError, here or from `take`, if it belongs to other data."""
        self._discard_ahead()
        self._state = dict(state)

    def take(self, step: int) -> tuple[Batch, float]:
        """The batch of `step`, and the seconds spent waiting for it.

        A step that does not follow the last one (after a rollback) still gets the next sequences of its phase.
        """
        began = time.monotonic()
        if self._ahead is None or self._ahead[0] != step:
            self._discard_ahead()
            self._read_ahead(step)
        assert self._ahead is not None
        read = self._ahead[1].result()
        self._state[str(read.phase)] = read.state
        self._ahead = None
        if step < self._schedule.total_steps:
            self._read_ahead(step + 1)
        return read.batch, time.monotonic() - began

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _read_ahead(self, step: int) -> None:
        self._ahead = (step, self._executor.submit(self._read, step))

    def _discard_ahead(self) -> None:
        """The loaders are already past the batch that was read ahead, so they are rebuilt from `_state`."""
        if self._ahead is not None:
            self._ahead[1].exception()
            self._ahead = None
        self._loaders.clear()

    def _read(self, step: int) -> _Read:
        phase = self._schedule.phase(step)
        loader = self._loader(phase)
        batch = loader.next_batch(self._job.training.batch_tokens // self._schedule.sequence_length(step))
        return _Read(batch, phase, loader.state)

    def _loader(self, phase: int) -> Loader:
        if phase not in self._loaders:
            sequence_length = self._schedule.phases[phase].sequence_length
            # A seed of its own for each phase; otherwise two phases of one length would begin with the same sequences.
            start = LoaderState(
                self._job.shards_content, self._job.plan_digests[str(sequence_length)], self._job.packing.seed + phase
            )
            loader = Loader(
                self._shards, PackingPlan(self._job.plan, sequence_length), sequence_length, self._padding, start
            )
            if str(phase) in self._state:
                loader.restore(self._state[str(phase)])
            self._loaders[phase] = loader
        return self._loaders[phase]
