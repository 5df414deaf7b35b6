"""datatrove steps for tests, in a module of their own because worker processes import what they run."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datatrove.data import Document

from parakeet.errors import ParakeetError


@dataclass(frozen=True)
class Square:
    """Writes the square of each task's number, and adds a line with its process to `runs/<task>` whenever it runs.

    `faults` names what happens to a task instead, until the folder has a file `repaired`.
    """

    folder: Path
    faults: dict[int, str] = field(default_factory=dict)

    def __call__(self, data: object, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        (self.folder / "runs").mkdir(exist_ok=True)
        with (self.folder / "runs" / str(rank)).open("a") as file:
            file.write(f"{os.getpid()}\n")
        repaired = self.folder / "repaired"
        fault = None if repaired.exists() else self.faults.get(rank)
        if fault == "message":
            raise ParakeetError(f"Task {rank} met a broken record in row 7.")
        if fault == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard.arrow")
        if fault == "bug":
            raise ZeroDivisionError("a bug")
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        while fault == "slow" and not repaired.exists():
            time.sleep(0.05)
        (self.folder / f"{rank}.txt").write_text(str(rank * rank))
        yield Document(text="", id=str(rank))
