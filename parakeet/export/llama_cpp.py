"""llama.cpp's server by `xllamacpp`, in a process of its own: it may end itself, and prints as it likes.

`python -m parakeet.export.llama_cpp FILE CONTEXT SECONDS` writes the server's address, and ends with its input.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise

LIMITS = (10, 20, 40, 80, 160)
"""Seconds that each try may take to load. xllamacpp 2026.10 hangs now and then if a model loads within milliseconds."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxy of HTTP_PROXY, which knows no server of this machine."""


@contextmanager
def llama_cpp_server(file: Path, context: int) -> Iterator[str]:
    """The address of a server of a GGUF file with room for `context` tokens. ParakeetError if it cannot be read."""
    with tempfile.TemporaryFile() as log:
        for limit in LIMITS:
            command = [sys.executable, "-m", "parakeet.export.llama_cpp", str(file), str(context), str(limit)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process:
                assert process.stdout is not None
                if address := process.stdout.readline().decode().strip():
                    yield address
                    return
            if process.returncode != -signal.SIGALRM:
                break
        log.seek(0)
        last = log.read().decode(errors="replace").strip().splitlines()[-1:] or ["it gave no reason"]
    raise ParakeetError(f"llama.cpp cannot read the exported file: {sanitise(last[0])}")


def ask(address: str, path: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a server to a request."""
    body = urllib.request.Request(address + path, json.dumps(request).encode(), {"Content-Type": "application/json"})
    with _OPENER.open(body) as answer:
        values: dict[str, Any] = json.load(answer)
        return values


def token_ids(address: str, text: str) -> list[int]:
    """Ids of ordinary text."""
    ids: list[int] = ask(address, "/tokenize", {"content": text, "parse_special": False})["tokens"]
    return ids


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints must not mix with the address
    signal.alarm(int(sys.argv[3]))
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx = sys.argv[1], int(sys.argv[2])
    # As little memory as possible: no copy of the weights, and no prompts kept.
    parameters.n_parallel, parameters.cache_ram_mib, parameters.no_extra_bufts = 1, 0, True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    signal.alarm(0)
    print(server.listening_address, file=out, flush=True)
    sys.stdin.read()
    os._exit(0)  # the server's threads would keep the process waiting


if __name__ == "__main__":
    main()
