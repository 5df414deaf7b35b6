"""Work in the form of a stage in a process of its own: how long it takes with its start, and how much memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any

import parakeet
from parakeet.errors import ParakeetError
from parakeet.progress import Progress, Task
from parakeet.recipe import Recipe

SAMPLE_SECONDS = 0.05
_PROCESSES = Path("/proc")


@dataclass
class Memory:
    """The most anonymous memory that was held at once, in bytes; zeros where the system does not tell."""

    peak: int = 0
    """Of the process and all its descendants together."""
    main: int = 0
    """Of the process itself, which holds what a stage knows of every document."""
    workers: int = 0
    """Of its descendants together."""


@dataclass(frozen=True)
class Ran:
    """`seconds` from the process's start to its end, `starting` of them before the work began."""

    seconds: float
    starting: float
    counts: dict[str, Any]
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds of each task that the work showed the progress of."""
    memory: Memory = field(default_factory=Memory)


def run_apart(make: str, recipe: Recipe, inputs: Mapping[str, Path], output: Path) -> Ran:
    """Call `module:function` of the form that stages have, and wait for it. `output` is made.

    Raises ParakeetError where it does, or where the process ends without an answer.
    """
    output.mkdir(parents=True)
    request = {
        "make": make,
        "recipe": recipe.model_dump(mode="json"),
        "inputs": {name: str(path) for name, path in inputs.items()},
        "output": str(output),
    }
    began, began_at = time.perf_counter(), time.time()
    process = subprocess.Popen(
        # -P: a folder that a person stands in may hold a file called random.py.
        [sys.executable, "-P", "-m", __name__],
        env=_environment(),
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        with _watched(process.pid) as memory:
            said, _ = process.communicate(json.dumps(request))
    finally:
        process.kill()
    seconds = time.perf_counter() - began
    if not said:
        raise ParakeetError(f"{make} ended with status {process.returncode} and without a result.")
    answer = json.loads(said)
    if "refused" in answer:
        raise ParakeetError(answer["refused"])
    return Ran(seconds, answer["began_at"] - began_at, answer["counts"], answer["steps"], memory)


class Stopwatch(Progress):
    """Keeps the seconds of every task."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        began = time.perf_counter()
        with super().task(name, total, unit) as task:
            yield task
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def answer() -> None:
    """What the process does: the work that standard input asks for, and its answer as one JSON line."""
    # What libraries print goes elsewhere.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.read())
    recipe = Recipe.model_validate(request["recipe"])
    inputs = {name: Path(path) for name, path in request["inputs"].items()}
    module, function = request["make"].split(":")
    work = getattr(import_module(module), function)
    progress = Stopwatch()
    began_at = time.time()
    try:
        counts = work(recipe, inputs, Path(request["output"]), progress)
        found = {"counts": counts, "steps": progress.seconds, "began_at": began_at}
    except ParakeetError as error:
        found = {"refused": str(error)}
    print(json.dumps(found), file=out, flush=True)


@contextmanager
def _watched(pid: int) -> Iterator[Memory]:
    """Memory of a process and its descendants, looked at every 50 ms while the block runs."""
    memory, over = Memory(), Event()

    def look() -> None:
        while not over.wait(SAMPLE_SECONDS):
            main, workers = _anonymous(pid)
            memory.main, memory.workers = max(memory.main, main), max(memory.workers, workers)
            memory.peak = max(memory.peak, main + workers)

    thread = Thread(target=look, daemon=True)
    if _PROCESSES.is_dir():
        thread.start()
    try:
        yield memory
    finally:
        over.set()
        if thread.is_alive():
            thread.join()


def _anonymous(pid: int) -> tuple[int, int]:
    """Bytes of RssAnon of a process, and of all its descendants together."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for folder in _PROCESSES.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = (folder / "status").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue  # it has ended
        lines = dict(line.split(":", 1) for line in status.splitlines())
        parents[int(folder.name)] = int(lines["PPid"])
        # A process that has ended and was not waited for has no such line.
        sizes[int(folder.name)] = 1024 * int(lines.get("RssAnon", "0").split()[0])
    family, added = {pid}, True
    while added:
        more = {child for child, parent in parents.items() if parent in family} - family
        family |= more
        added = bool(more)
    return sizes.get(pid, 0), sum(sizes.get(member, 0) for member in family - {pid})


def _environment() -> dict[str, str]:
    places = [str(Path(parakeet.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # datatrove's bars would stand among our own lines of progress.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "TQDM_DISABLE": "1"}


if __name__ == "__main__":
    answer()
