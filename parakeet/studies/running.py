"""`parakeet study run`: trains the runs of a study side by side, each worker a process of its own.

A worker's imports cost seconds, so it lives on for the next run. It reads the name of a run from its standard input and
answers with lines of JSON. When its input ends, because this process ended or was killed, it saves what it trains and
ends: so no signal has to reach it.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.formatting import counted, format_duration
from parakeet.locking import is_held
from parakeet.machine import usable_cores
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.sanitise import sanitise
from parakeet.studies.records import Record, find_record, is_noted_otherwise, note_study, study_folder
from parakeet.studies.state import forget_failures, is_being_run, lock_file, note_failure
from parakeet.studies.study import Study, StudyRun

LOG_FILE = "workers.log"
"""In the study's folder: what workers and trainers print."""
TRAINING, DONE, FAILED, STOPPED = "training", "done", "failed", "stopped"
"""What a worker says of its run: its text is ready, or how it ended."""
SECONDS_BETWEEN_LOOKS = 1.0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    run: StudyRun | None = None
    since: float = 0.0
    unread: bytes = b""

    @property
    def input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout


@dataclass
class _Tally:
    """How far the study is. Work is in multiply-adds, roughly."""

    total: int
    found: int = 0
    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    work_done: float = 0.0
    work_left: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def describe(self, running: int) -> str:
        """`12 of 42 runs, 2 running, 1 failed, 3.1 runs/min, ETA 9 min`."""
        words = [f"{self.found + self.made} of {counted(self.total, 'run')}", f"{running} running"]
        words += [f"{len(self.failed)} failed"] if self.failed else []
        seconds = time.monotonic() - self.began
        if self.made:
            words.append(f"{60 * self.made / seconds:.2g} runs/min")
            words.append(f"ETA {format_duration(self.work_left * seconds / self.work_done)}")
        return ", ".join(words)


class _Screen:
    """Lines, and on a terminal one more that is kept up to date."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def say(self, text: str) -> None:
        self.show("")
        self._progress.say(text)

    def show(self, text: str) -> None:
        if self._progress.live:
            columns = os.get_terminal_size(self._progress.stream.fileno()).columns
            self._progress.stream.write(f"\r\x1b[K{sanitise(text)[: columns - 1]}")
            self._progress.stream.flush()


def default_workers(runs: Sequence[StudyRun]) -> int:
    """As many as there are cores for: one if a training takes all of them, or a GPU."""
    trainings = [run.recipe.training for run in runs]
    has_gpu = Path("/proc/driver/nvidia/version").exists()
    if any(not one.threads or (has_gpu and one.device != "cpu") for one in trainings):
        return 1
    return max(1, usable_cores() // max(one.threads for one in trainings))


def run_study(root: Path, study: Study, workers: int | None, command: Sequence[str], progress: Progress) -> int:
    """Make every run of the study that is not there. Returns the exit status for the shell.

    `workers` None is as many as there are cores for. `command` starts one; the root, the study's name and the scale are
    added to it. Raises ParakeetError if a setting does not fit, or if the study is being run with other settings.
    """
    runs = study.runs()
    _note(root, study)
    return _Runner(root, study, runs, workers or default_workers(runs), command, _Screen(progress)).run()


def _note(root: Path, study: Study) -> None:
    """Note what is run. Raises ParakeetError if that would change the study under a run that is being made."""
    if is_noted_otherwise(root, study) and is_being_run(root, study):
        raise ParakeetError(
            f"Study {study.name} is being run at scale {study.scale_name} with other text or settings "
            f"({study_folder(root, study)} has them). Wait until that has ended, or give the same file, --data and "
            "--set."
        )
    note_study(root, study)
    forget_failures(root, study)


class _Runner:
    def __init__(
        self,
        root: Path,
        study: Study,
        runs: Sequence[StudyRun],
        workers: int,
        command: Sequence[str],
        screen: _Screen,
    ) -> None:
        self._root, self._study, self._screen = root, study, screen
        self._waiting = [run for run in runs if find_record(root, study, run) is None]
        self._tally = _Tally(len(runs), found=len(runs) - len(self._waiting))
        self._tally.work_left = sum(_work(run.recipe) for run in self._waiting)
        self._most, self._command = workers, [*command, str(root), study.name, study.scale_name]
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._is_prepared = False
        """Whether the text is ready: until then only one run is made."""

    def run(self) -> int:
        self._say_begin()
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for is_forecast in (False, True):
                batch = [run for run in self._waiting if run.is_forecast == is_forecast]
                if batch and is_forecast:
                    self._forecast()
                self._make(batch)
        except KeyboardInterrupt:
            return self._stop()
        finally:
            signal.signal(signal.SIGTERM, before)
            self._end()
        return self._conclude()

    def _say_begin(self) -> None:
        study, found = self._study, self._tally.found
        there = f", {found} of them finished" if found else ""
        most = min(self._most, len(self._waiting))
        side = f", {most} side by side" if most > 1 else ""
        self._screen.say(
            f"Study {study.name}, scale {study.scale_name}: {counted(self._tally.total, 'run')}{there}{side}."
        )

    def _make(self, batch: list[StudyRun]) -> None:
        while batch or self._busy:
            most = self._most if self._is_prepared else 1
            while batch and len(self._busy) < most:
                run = self._next_of(batch)
                batch.remove(run)
                self._give(run)
            self._screen.show(self._tally.describe(len(self._busy)))
            for key, _ in self._selector.select(SECONDS_BETWEEN_LOOKS):
                self._read(key.data)

    @property
    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.run is not None]

    def _next_of(self, batch: Sequence[StudyRun]) -> StudyRun:
        """The first that has not to wait: for another shell that makes it, or for a training in the same folder.

        If all have to, the first.
        """
        busy = [_but_tokens(worker.run.recipe) for worker in self._busy if worker.run is not None]
        free = [run for run in batch if not is_held(lock_file(self._root, self._study, run))]
        apart = (run for run in free if not busy or _but_tokens(run.recipe) not in busy)
        return next(apart, (free or batch)[0])

    def _give(self, run: StudyRun) -> None:
        worker = next((one for one in self._workers if one.run is None), None) or self._begin_worker(run.recipe)
        worker.run, worker.since = run, time.monotonic()
        with suppress(BrokenPipeError):  # it has died: `_read` finds out
            worker.input.write(f"{run.name}\n".encode())
            worker.input.flush()

    def _begin_worker(self, recipe: Recipe) -> _Worker:
        threads = str(recipe.training.threads or max(1, usable_cores() // self._most))
        # A session of its own: Ctrl-C reaches this process alone, and the end of its input reaches the worker.
        with (study_folder(self._root, self._study) / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={"OMP_NUM_THREADS": threads, **os.environ},
            )
        worker = _Worker(process)
        self._workers.append(worker)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        return worker

    def _read(self, worker: _Worker) -> None:
        data = os.read(worker.output.fileno(), 65536)
        if not data:
            self._bury(worker)
            return
        *lines, worker.unread = (worker.unread + data).split(b"\n")
        for line in lines:
            self._take(worker, json.loads(line))

    def _bury(self, worker: _Worker) -> None:
        """A worker has ended although it was not asked to."""
        status = self._retire(worker)
        if worker.run is not None:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            log = study_folder(self._root, self._study) / LOG_FILE
            reason = f"Its process ended early ({how}). What it trained is saved; {log} has what it printed."
            note_failure(self._root, self._study, worker.run, reason)
            self._fail(worker.run, reason)
            worker.run = None

    def _retire(self, worker: _Worker) -> int:
        """Give no more runs to a worker that ends or has ended; its exit status."""
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        with suppress(BrokenPipeError):
            worker.input.close()
        return worker.process.wait()

    def _take(self, worker: _Worker, said: dict[str, Any]) -> None:
        run = worker.run
        if run is None:
            return
        if said["state"] == TRAINING:
            self._is_prepared = True
            return
        worker.run = None
        if said["state"] == STOPPED or said.get("is_last"):
            self._retire(worker)
        if said["state"] == DONE:
            self._is_prepared = True
            self._finish(run, bool(said["made"]), time.monotonic() - worker.since)
        elif said["state"] == STOPPED:
            # Somebody ended the worker or its trainer: the rest goes on.
            self._fail(run, "It was stopped from outside, and has saved what it trained.")
        else:
            self._fail(run, str(said["reason"]))

    def _finish(self, run: StudyRun, made: bool, seconds: float) -> None:
        record = find_record(self._root, self._study, run)
        if record is None:
            self._fail(run, "Its record is gone: somebody removed it, or changed the study meanwhile.")
            return
        work = _work(run.recipe)
        self._tally.made += 1
        self._tally.work_done += work
        self._tally.work_left -= work
        how = format_duration(seconds) if made else "found"
        self._screen.say(f"{run.name}  {figures_in_words(record)}, {how}")

    def _fail(self, run: StudyRun, reason: str) -> None:
        self._tally.failed[run.name] = reason
        self._tally.work_left -= _work(run.recipe)
        self._screen.say(f"{run.name} failed: {reason}")

    def _forecast(self) -> None:
        from parakeet.studies.forecast import write_forecast

        made, reason = write_forecast(self._root, self._study)
        self._screen.say("The last points are forecast before they are trained." if made else f"No forecast: {reason}.")

    def _stop(self) -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._busy:
            self._screen.say(f"Stopping: {counted(len(self._busy), 'run')} being saved.")
        self._end()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        finished = self._tally.found + self._tally.made
        self._screen.say(
            f"Interrupted. {finished} of {counted(self._tally.total, 'run')} are finished and kept. Run the same "
            "command to go on."
        )
        return INTERRUPTED

    def _end(self) -> None:
        """Tell every worker to save and end, and wait for them."""
        for worker in self._workers:
            with suppress(BrokenPipeError):
                worker.input.close()
        for worker in self._workers:
            worker.process.wait()
            worker.output.close()
        self._workers.clear()

    def _conclude(self) -> int:
        tally = self._tally
        if not tally.failed:
            took = format_duration(time.monotonic() - tally.began)
            made = f"{counted(tally.made, 'run')} made in {took}" if tally.made else "nothing was left to do"
            name, scale = self._study.name, self._study.scale_name
            self._screen.say(f"Study {name} is complete at scale {scale}: {made}.")
            self._screen.say(f"Its answer: parakeet study report {name} --scale {scale}")
            return 0
        kept = " The others are kept." if tally.found + tally.made else ""
        self._screen.say(
            f"{counted(len(tally.failed), 'run')} of {tally.total} failed: {', '.join(tally.failed)}.{kept} Correct "
            "the reason and run the same command again: it makes these alone."
        )
        return 1


def figures_in_words(record: Record) -> str:
    """`loss 3.214, 2.105 bits per byte`: the mean over the held-out sources where several are measured."""
    words = [f"loss {record.training['final_loss']:.3f}"]
    bits = record.bits_per_byte
    return ", ".join([*words, *([f"{bits:.3f} bits per byte"] if bits is not None else [])])


def _but_tokens(recipe: Recipe) -> dict[str, Any]:
    """What runs have in common that train in one folder, one after the other."""
    return recipe.model_dump(exclude={"name": True, "description": True, "training": {"tokens"}})


def _work(recipe: Recipe) -> float:
    """Roughly the multiply-adds of a training: for shares of the time left, not for a forecast of it."""
    model = recipe.model
    rows = recipe.tokenizer.vocabulary
    return float(recipe.training.tokens * model.width * (12 * model.layers * model.width + rows))
