"""Starts `parakeet` for the tests. It has already imported what a build imports, and forks one for each line of input.

    {"start": [arguments], "environment": {}, "stdin": TEXT, "stdout": FILE, "stderr": FILE}
        answered by its process id; standard input is a pipe with the text, one character a byte
    {"poll": PROCESS}
        answered by its exit status, or null while it runs

Each is a process of its own like `python -m parakeet.cli`, to be signalled and killed. That saves
importing Dagster and torch: 1.3 s for a chat, 3 s for a build. A program that reads its environment while it imports
(HF_ENDPOINT) needs a real start. `Programs` is the tests' side.
"""

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 900
"""Seconds after which a process counts as hanging: a busy machine may be ten times slower than a quiet one."""
POLL_SECONDS = 0.01


class Program:
    """A `parakeet` that was started; what a test uses of subprocess.Popen."""

    def __init__(self, programs: "Programs", pid: int, files: Path, arguments: tuple[str, ...]) -> None:
        self._programs = programs
        self._files = files
        self.args = arguments
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or the negative signal that ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._programs.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(POLL_SECONDS)
        return status

    def communicate(self, timeout: float = PATIENCE) -> tuple[bytes, bytes]:
        self.wait(timeout)
        return (self._files / "stdout").read_bytes(), (self._files / "stderr").read_bytes()

    def errors(self) -> str:
        """What it has written to standard error so far."""
        path = self._files / "stderr"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Programs:
    """Starts programs through one server, which ends with this process."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="programs-")
        self._started = 0
        pipe = subprocess.PIPE
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen([sys.executable, __file__], env=environment, stdin=pipe, stdout=pipe, text=True)

    def start(self, arguments: tuple[str, ...], environment: Mapping[str, str], stdin: bytes = b"") -> Program:
        """At most 64 KiB of `stdin`, which nobody may have to wait for."""
        self._started += 1
        files = Path(self._folder.name, str(self._started))
        files.mkdir()
        outputs = {name: str(files / name) for name in ("stdout", "stderr")}
        text = stdin.decode("latin-1")
        pid = self.ask({"start": arguments, "environment": dict(environment), "stdin": text, **outputs})
        return Program(self, pid, files, arguments)

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


@cache
def programs() -> Programs:
    return Programs()


def become_the_program(request: dict[str, Any]) -> None:
    """In the fork: its environment, and its files under the numbers of this process's."""
    os.environ.clear()
    os.environ.update(request["environment"])
    reading, writing = os.pipe()
    os.write(writing, request["stdin"].encode("latin-1"))
    os.close(writing)
    os.dup2(reading, 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # one that nothing has been read from
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["parakeet", *request["start"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def serve() -> bool:
    """Answer until the input ends; True in a fork, which has become a program."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            found, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if found else None
        elif (answer := os.fork()) == 0:
            become_the_program(request)
            return True
        print(json.dumps(answer), flush=True)
    return False


def import_all() -> None:
    """What a build imports late. Not at this module's top: the workers of a build import their main module again."""
    import matplotlib.figure  # noqa: F401
    import pyarrow
    import torch  # noqa: F401

    import pipelines.build  # noqa: F401

    pyarrow.array([0])  # imports pandas, where it is


def run_and_end() -> NoReturn:
    """Run the program and end as the interpreter does, but for taking down all its modules: that takes 1.5 s here."""
    from parakeet.cli import main

    status: object = 1
    try:
        main()
    except SystemExit as leaving:
        status = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal: the tests end this process
    import_all()
    gc.collect()
    gc.freeze()  # or every fork copies what its collections touch
    if serve():
        run_and_end()
