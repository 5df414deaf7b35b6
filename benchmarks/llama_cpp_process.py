"""llama.cpp's side of `benchmarks.llama_cpp`: a process of a Python that has `xllamacpp`, but perhaps not Parakeet.

It speaks as `parakeet.benchmarks.process` does: one request, then an answer for every line on standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

HELD = {"cache_ram_mib": 0, "cache_idle_slots": False, "n_ctx_checkpoints": 0, "kv_unified": False, "verbosity": -1}
"""Settings of the server: nothing of a prompt is copied aside, and the slot has a cache of its own."""
ATTEMPTS = 300
"""To reach the server, a tenth of a second apart."""


def check() -> dict[str, Any]:
    import xllamacpp

    facts = dict(
        part.strip().split(" = ") for part in xllamacpp.get_system_info().removeprefix("CPU : ").split("|")[:-1]
    )
    built_with = " ".join(name for name, value in facts.items() if value != "0")
    return {"xllamacpp": version("xllamacpp"), "llama_cpp": built_with}


def serve(request: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Load the file and read the longest context; then one sample after the other: of the prompt if `prompts`, and of
    each context.

    What was read is saved at each context, and restored before a sample.
    """
    import xllamacpp

    prompt, contexts, tokens = request["prompt"], request["contexts"], request["tokens"]
    ids = [number * 37 % 250 for number in range(max(*contexts, prompt))]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = request["path"]
    parameters.n_ctx = request["capacity"]
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = request["threads"]
    if not request["flash"]:
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.slot_save_path = os.path.join(os.path.dirname(request["path"]), "")
    for name, value in HELD.items():
        setattr(parameters, name, value)
    began = time.perf_counter()
    server = xllamacpp.Server(parameters)
    loaded = time.perf_counter() - began

    def complete(count: int, predicted: int, kept: bool = True) -> dict[str, float]:
        """Seconds of reading the first `count` ids and of a step after them, and CPU seconds of all of it."""
        began = time.process_time()
        answer = server.handle_completions(
            {
                "prompt": ids[:count],
                "n_predict": predicted,
                "id_slot": 0,
                "cache_prompt": kept,
                "ignore_eos": True,
                "temperature": 0.0,
                "samplers": ["top_k"],
                "top_k": 1,
            }
        )
        cpu = time.process_time() - began
        # The first token comes from the prompt's logits, so `predicted` tokens are one step less.
        times, steps = answer["timings"], predicted - 1
        seconds = times["predicted_ms"] / 1e3 / steps if steps else times["prompt_ms"] / 1e3
        return {"seconds": seconds, "cpu_seconds": cpu / predicted}

    # Reading the longest takes half a minute. The cache is in fp16 whatever the weights are, so another file's serves.
    states = {context: f"{request['flash']}-{context}.state" for context in contexts}
    for context, state in states.items():
        if not os.path.exists(os.path.join(parameters.slot_save_path, state)):
            complete(context, 1)
            _ask_slot(server, "save", state)
    yield {"seconds": loaded}
    while True:
        if request["prompts"]:
            yield complete(prompt, 1, kept=False)
        for context, state in states.items():
            _ask_slot(server, "restore", state)
            yield complete(context, tokens + 1)


def listen(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Load the file and serve it to `streams` requests at once, each with `capacity` tokens; the port is the answer."""
    import xllamacpp

    streams, capacity = request["streams"], request["capacity"]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = request["path"]
    parameters.n_ctx = streams * capacity
    parameters.n_parallel = streams
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = request["threads"]
    if not request["flash"]:
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    for name, value in HELD.items():
        setattr(parameters, name, value)
    server = xllamacpp.Server(parameters)
    # It serves as long as this generator is kept: until the process is ended.
    yield {"port": int(server.listening_address.rpartition(":")[2])}


def _ask_slot(server: Any, action: str, file: str) -> None:
    """Save or restore the cache. The server may not listen yet when it is made."""
    address = f"{server.listening_address}/slots/0?action={action}"
    body = json.dumps({"filename": file}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    for _ in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request) as answer:
                answer.read()
                return
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(f"llama.cpp does not listen at {address}")


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints must not mix with the answers
    request = json.loads(sys.stdin.readline())
    answers = {"check": lambda _: iter([check()]), "serve": serve, "listen": listen}[request["do"]](request)
    for _ in sys.stdin:
        answer = next(answers, None)
        if answer is None:
            break
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
