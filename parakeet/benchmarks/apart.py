"""A measurement in a process of its own: its memory is its own, and where that does not suffice, it ends alone."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

import torch

import parakeet
from parakeet.benchmarks.loading import ending
from parakeet.errors import ParakeetError
from parakeet.training.device import is_out_of_memory

OUT_OF_MEMORY = "out of memory"
KILLED = -9
"""Status of a process that the system ended because the machine's memory was full."""

Answer = dict[str, Any]
"""What was measured, or `{"refused": why}`."""


class Apart:
    """A process of `module`, which calls `answer` or `answer_each`, for one request. To be used in a `with`.

    What goes wrong over there is an answer too: a benchmark does not lose its other rows for it. `threads` 0 is
    torch's choice. A process that takes longer than `seconds` for an answer is ended.
    """

    def __init__(self, module: str, request: dict[str, Any], threads: int, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._refusal = ""
        self._said = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            # -P: a folder that a person stands in may hold a file called torch.py.
            [sys.executable, "-P", "-m", module], env=_environment(threads), encoding="utf-8", errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
        )  # fmt: skip
        self._tell(json.dumps(request))

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        # Waits for it, and closes the pipes.
        self._process.communicate()
        self._said.close()

    def ask(self) -> Answer:
        """The next answer; the first takes the preparations. After a refusal always the same."""
        if self._refusal:
            return {"refused": self._refusal}
        overdue = threading.Event()
        timer = threading.Timer(self._seconds or threading.TIMEOUT_MAX, self._end, [overdue])
        timer.daemon = True
        timer.start()
        self._tell("")
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        timer.cancel()
        found: Answer = json.loads(line) if line else {"refused": self._ending(overdue.is_set())}
        self._refusal = found.get("refused", "")
        return found

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; how is told where its answer is read
            print(line, file=self._process.stdin, flush=True)

    def _end(self, overdue: threading.Event) -> None:
        overdue.set()
        self._process.kill()

    def _ending(self, overdue: bool) -> str:
        status = self._process.wait()
        if overdue:
            return f"given up after {self._seconds:.0f} seconds"
        if status == KILLED:
            return f"{OUT_OF_MEMORY} (stopped by signal 9)"
        self._said.seek(0)
        return f"the process {ending(status, self._said.read())}"


def ask_apart(module: str, request: dict[str, Any], threads: int, seconds: float | None = None) -> Answer:
    """The one answer of a process that has only one."""
    with Apart(module, request, threads, seconds) as process:
        return process.ask()


def answer(measure: Callable[[dict[str, Any]], Answer]) -> None:
    """Measure what standard input asks for."""
    answer_each(lambda request: map(measure, [request]))


def answer_each(measure: Callable[[dict[str, Any]], Iterator[Answer]]) -> None:
    """Measure again for every line on standard input after the request; each time one JSON line."""
    # What libraries print goes elsewhere.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers = measure(json.loads(sys.stdin.readline()))
    for _ in sys.stdin:
        if not _answer_next(answers, out):
            break


def _answer_next(answers: Iterator[Answer], out: TextIO) -> bool:
    try:
        found: Answer | None = next(answers, None)
    except ParakeetError as error:
        found = {"refused": str(error)}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        found = {"refused": OUT_OF_MEMORY}
    if found is not None:
        print(json.dumps(found | {"threads": torch.get_num_threads()}), file=out, flush=True)
    return found is not None and "refused" not in found


def _environment(threads: int) -> dict[str, str]:
    places = [str(Path(parakeet.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The allocator as the trainer has it.
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", **os.environ}
    return (
        environment | {"PYTHONPATH": os.pathsep.join(places)} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    )
