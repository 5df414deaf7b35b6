"""Measurements in processes of their own: one that runs out of memory costs its own row and no other.

`python -m parakeet.benchmarks.process MODULE:FUNCTION` is such a process.
"""

import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import click

import parakeet
from parakeet.errors import ParakeetError

OUT_OF_MEMORY = "out of memory"
KILLED = -9
"""Exit status of a process that the system killed because the machine ran out of memory."""

Answer = dict[str, Any]
"""The measured values, or `{"refused": reason}`."""


class AnsweringProcess:
    """A process that gets one request as a line of JSON, and then answers each further line with one. Use it in a
    `with` statement.

    An error in the process is an answer as well, so a benchmark keeps its other rows. A process that takes longer than
    `seconds` for an answer is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        request: Mapping[str, Any],
        environment: Mapping[str, str],
        seconds: float | None = None,
    ) -> None:
        self._seconds = seconds
        self._refusal = ""
        self._errors = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            command, env=dict(environment), encoding="utf-8", errors="replace", stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.pid = self._process.pid
        self._write(json.dumps(request))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()  # waits, and closes the pipes
        self._errors.close()

    def ask(self) -> Answer:
        """Wait for the next answer. The first includes all preparation. A refusal is repeated from then on."""
        if self._refusal:
            return {"refused": self._refusal}
        overdue = threading.Event()
        timer = threading.Timer(self._seconds or threading.TIMEOUT_MAX, self._kill, [overdue])
        timer.daemon = True
        timer.start()
        self._write("")
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        timer.cancel()
        answer: Answer = json.loads(line) if line else {"refused": self._ending(overdue.is_set())}
        self._refusal = answer.get("refused", "")
        return answer

    def finish(self) -> None:
        """Let the process end by itself, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdin = None  # communicate() would flush it

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; the reading end reports how
            print(line, file=self._process.stdin, flush=True)

    def _kill(self, overdue: threading.Event) -> None:
        overdue.set()
        self._process.kill()

    def _ending(self, overdue: bool) -> str:
        status = self._process.wait()
        if overdue:
            return f"stopped after {self._seconds:.0f} seconds"
        if status == KILLED:
            return f"{OUT_OF_MEMORY} (killed by signal 9)"
        if status < 0:
            return f"the process was killed by signal {-status}"
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"the process ended with status {status}" + (f" ({lines[-1][:300]})" if lines else "")


class MeasuringProcess(AnsweringProcess):
    """A process that calls `function` ("module:name") with the request.

    The function returns one answer or an iterator of them. `threads` 0 leaves the choice to torch. `environment` is
    added to this process's.
    """

    def __init__(
        self,
        function: str,
        request: Mapping[str, Any],
        threads: int = 0,
        seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # -P: the current folder may hold a file called torch.py.
        command = [sys.executable, "-P", "-m", __name__, function]
        super().__init__(command, request, _environment(function, threads) | dict(environment or {}), seconds)


def ask_once(
    function: str,
    request: Mapping[str, Any],
    threads: int = 0,
    seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """The answer of a process that has only one."""
    with MeasuringProcess(function, request, threads, seconds, environment) as process:
        return process.ask()


class MemorySampler:
    """The most memory that this process, or `pid` and its descendants, hold during a `with` block; in bytes.

    Anonymous memory, so without the files that a process maps: on Linux exactly, elsewhere all that is resident.
    """

    def __init__(self, pid: int | None = None) -> None:
        self.main = 0
        """Of the process itself."""
        self.workers = 0
        """Of its descendants together."""
        self.peak = 0
        """Of all of them together."""
        import psutil  # not at the top: what is measured on a GPU needs none of it

        self._process = psutil.Process(pid)
        self._ended = psutil.Error
        # To list descendants takes milliseconds.
        self._descendants, self._interval = (False, 0.005) if pid is None else (True, 0.05)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemorySampler":
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.sample()

    def sample(self) -> int:
        """What is held now."""
        main, workers = self._anonymous(self._process), 0
        if self._descendants:
            with suppress(self._ended):
                workers = sum(map(self._anonymous, self._process.children(recursive=True)))
        self.main, self.workers = max(self.main, main), max(self.workers, workers)
        self.peak = max(self.peak, main + workers)
        return main + workers

    def _anonymous(self, process: Any) -> int:
        try:
            memory = process.memory_info()
        except self._ended:
            return 0
        return int(memory.rss - getattr(memory, "shared", 0))

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            self.sample()


def print_result(values: Mapping[str, Any], threads: int = 0) -> None:
    """The last line of a benchmark: what was measured and on what machine, as JSON."""
    facts = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    if (torch := sys.modules.get("torch")) is not None:
        facts |= {"threads": threads or torch.get_num_threads(), "torch": torch.__version__}
    click.echo(json.dumps({**values, **facts}))


def _environment(function: str, threads: int) -> dict[str, str]:
    """With the packages of parakeet and of `function` on the path, whatever the current folder is."""
    package = find_spec(function.partition(":")[0].partition(".")[0])
    places = [Path(parakeet.__file__).parents[1]]
    if package is not None and package.submodule_search_locations:
        places += [Path(folder).parent for folder in package.submodule_search_locations]
    paths = [*dict.fromkeys(map(str, places)), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The allocator as the trainer sets it. TQDM_DISABLE: datatrove's progress bars.
    defaults = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "TQDM_DISABLE": "1"}
    return {
        **defaults,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
    }


def main(function: str) -> None:
    """Answer once for every line on standard input after the first, which is the request."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    answers = _answers(function, json.loads(sys.stdin.readline()))
    for _ in sys.stdin:
        try:
            answer = next(answers, None)
        except ParakeetError as error:
            answer = {"refused": str(error)}
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            answer = {"refused": OUT_OF_MEMORY}
        if answer is None:
            break
        torch = sys.modules.get("torch")
        threads = {} if torch is None else {"threads": torch.get_num_threads()}
        print(json.dumps(answer | threads), file=out, flush=True)
        if "refused" in answer:
            break


def _answers(function: str, request: dict[str, Any]) -> Iterator[Answer]:
    module, _, name = function.partition(":")
    found = getattr(import_module(module), name)(request)
    yield from [found] if isinstance(found, dict) else found


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:  # which stages of the data do without
        return isinstance(error, MemoryError)
    from parakeet.training.device import is_out_of_memory

    return is_out_of_memory(error)


if __name__ == "__main__":
    main(sys.argv[1])
