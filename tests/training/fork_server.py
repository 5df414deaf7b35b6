"""Starts trainers for the tests. It has already imported what they import, and forks one for each line of input.

    {"start": [arguments], "errors": FILE, "file_size": BYTES, "memory": BYTES, "environment": {}}
        answered by its process id; no file that it writes may be larger than `file_size`, and it may use `memory` of
        addresses beyond those it has; null means no limit
    {"poll": PROCESS}
        answered by its exit status, or null while it runs

Each is a process of its own like `python -m parakeet.training`, to be signalled and killed.
"""

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

# Imports that a trainer makes late, for the picture and the optimizer.
import matplotlib.figure  # noqa: F401
import torch._dynamo  # noqa: F401

import parakeet.training.trainer  # noqa: F401
from parakeet.training.__main__ import main


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request) if "start" in request else poll(request["poll"])
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any]) -> int:
    process = os.fork()
    if process:
        return process
    errors = os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, sys.stderr.fileno())
    os.environ.update(request["environment"])
    if request["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], resource.RLIM_INFINITY))
    if request["memory"]:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + request["memory"],) * 2)
    status = 1
    try:
        status = main(request["start"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def poll(process: int) -> int | None:
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal: the tests end this process
    # A test that waits for the moment to interrupt a run must not be late.
    os.nice(10)
    serve()
