"""`parakeet serve` as a process of its own, on a free port."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

import parakeet
from parakeet.errors import ParakeetError

SERVING = re.compile(r"^Serving .* at http://[^ ]*:(\d+)/")
STOP_SECONDS = 30.0


class ServerProcess:
    """Use it in a `with` statement, which waits until the server is ready, and stops it at the end."""

    def __init__(self, model: str | Path | None, options: Sequence[str], environment: Mapping[str, str]) -> None:
        """`model`: a name or folder, None for the promoted one. `environment` is added to this process's."""
        self.port = 0
        self._errors = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by __exit__
        # -P: the current folder may hold a file called torch.py.
        command = [sys.executable, "-P", "-m", "parakeet.cli", "serve", *([] if model is None else [str(model)])]
        path = os.pathsep.join(filter(None, [str(Path(parakeet.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [*command, "--port", "0", *options], env={**os.environ, "PYTHONPATH": path, **environment},
            encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not (found := SERVING.match(line)):
            self._process.kill()
            self.__exit__()
            raise ParakeetError(f"The server did not start: {self.errors or line.strip()}")
        self.port = int(found[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._process.kill()
        self._process.communicate()
        self._errors.seek(0)
        self.errors = self._errors.read().strip()
        """What the server printed to standard error, known at its end."""
        self._errors.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None
