"""llama.cpp's side of `benchmarks.llama_cpp`: a process of a Python that has `xllamacpp` and `gguf`, but not Parakeet.

It speaks as `parakeet.benchmarks.process` does: one request, then an answer for every line on standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

HELD = {"cache_ram_mib": 0, "cache_idle_slots": False, "n_ctx_checkpoints": 0, "kv_unified": False, "verbosity": -1}
"""Settings of the server: nothing of a prompt is copied aside, and each slot has a cache of its own."""
TILE = 4096
"""Rows of random weights; larger matrices repeat them, which costs nothing in quantising and is read as slowly."""


def check(request: dict[str, Any]) -> dict[str, Any]:
    del request
    import gguf
    import xllamacpp

    del gguf  # its absence is an error here, before anything is written
    facts = dict(
        part.strip().split(" = ") for part in xllamacpp.get_system_info().removeprefix("CPU : ").split("|")[:-1]
    )
    built_with = " ".join(name for name, value in facts.items() if value != "0")
    return {"xllamacpp": version("xllamacpp"), "llama_cpp": built_with}


def write(request: dict[str, Any]) -> dict[str, Any]:
    """A GGUF file of the architecture `bloom` (ALiBi, LayerNorm, GELU) with random weights in `request["type"]`."""
    import gguf
    import numpy

    rows, layers, heads, width = (request[key] for key in ("vocabulary_rows", "layers", "heads", "width"))
    kind = gguf.GGMLQuantizationType[request["type"]]
    file_type = gguf.LlamaFileType["ALL_F32" if request["type"] == "F32" else f"MOSTLY_{request['type']}"]
    random = numpy.random.default_rng(0)
    writer = gguf.GGUFWriter(request["path"], "bloom")
    writer.add_context_length(request["context"])
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(file_type)
    _add_tokens(writer, rows)

    def matrix(outputs: int, inputs: int) -> Any:
        tile = random.standard_normal((min(outputs, TILE), inputs), dtype=numpy.float32) * 0.02
        quantised = tile if request["type"] == "F32" else gguf.quants.quantize(tile, kind)
        return numpy.resize(quantised, (outputs, quantised.shape[1]))

    def add(name: str, array: Any) -> None:
        writer.add_tensor(name, array, raw_dtype=None if array.ndim == 1 else kind)

    def add_norm(name: str) -> None:
        add(f"{name}.weight", numpy.ones(width, numpy.float32))
        add(f"{name}.bias", numpy.zeros(width, numpy.float32))

    add("token_embd.weight", matrix(rows, width))
    add_norm("token_embd_norm")
    add_norm("output_norm")
    shapes = {
        "attn_qkv": (3 * width, width),
        "attn_output": (width, width),
        "ffn_up": (4 * width, width),
        "ffn_down": (width, 4 * width),
    }
    matrices = {name: matrix(*shape) for name, shape in shapes.items()}  # the same in every layer, written for each
    for layer in range(layers):
        add_norm(f"blk.{layer}.attn_norm")
        add_norm(f"blk.{layer}.ffn_norm")
        for name, array in matrices.items():
            add(f"blk.{layer}.{name}.weight", array)
            add(f"blk.{layer}.{name}.bias", numpy.zeros(len(array), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"bytes": os.path.getsize(request["path"])}


def _add_tokens(writer: Any, rows: int) -> None:
    """Names for the vocabulary, in the form of GPT-2's. The first 256 are bytes, as llama.cpp asks for them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(number, f"<t{number}>") for number in range(rows)])
    writer.add_token_types([1] * rows)
    writer.add_token_merges(["t h"])
    writer.add_add_bos_token(False)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def serve(request: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Load the file and read the longest context; then one sample after the other, of the prompt and each context.

    The longest context stays in a slot of its own, read once. The other slot reads the prompt anew for each sample, and
    takes the shorter contexts from it.
    """
    import xllamacpp

    prompt, contexts, tokens = request["prompt"], request["contexts"], request["tokens"]
    ids = [number * 37 % 250 for number in range(max(*contexts, prompt))]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = request["path"]
    parameters.n_ctx = 2 * request["capacity"]
    parameters.n_parallel = 2
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = request["threads"]
    if not request["flash"]:
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.slot_save_path = os.path.join(os.path.dirname(request["path"]), "")
    for name, value in HELD.items():
        setattr(parameters, name, value)
    began = time.perf_counter()
    server = xllamacpp.Server(parameters)
    loaded = time.perf_counter() - began
    longest = max(contexts)

    def complete(count: int, slot: int, predicted: int, kept: bool = True) -> dict[str, float]:
        """Seconds of reading the first `count` ids and of a step after them, and CPU seconds of all of it."""
        began = time.process_time()
        answer = server.handle_completions(
            {
                "prompt": ids[:count],
                "n_predict": predicted,
                "id_slot": slot,
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

    # Reading it takes half a minute. The cache is in fp16 whatever the weights are, so another file's serves as well.
    state = f"{request['flash']}.state"
    if os.path.exists(os.path.join(parameters.slot_save_path, state)):
        _ask_slot(server, "restore", state)
    else:
        complete(longest, 1, 1)
        _ask_slot(server, "save", state)
    yield {"seconds": loaded}
    while True:
        yield complete(prompt, 0, 1, kept=False)
        for context in contexts:
            slot = 1 if context == longest else 0
            complete(context, slot, 1)  # what the slot lacks or has too much, outside the sample
            yield complete(context, slot, tokens + 1)


def _ask_slot(server: Any, action: str, file: str) -> None:
    """Save or restore the cache of the longest context."""
    address = f"{server.listening_address}/slots/1?action={action}"
    body = json.dumps({"filename": file}).encode()
    with urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "application/json"})) as answer:
        answer.read()


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints must not mix with the answers
    request = json.loads(sys.stdin.readline())
    work = {"check": check, "write": write}.get(request["do"])
    answers = iter([work(request)]) if work else serve(request)
    for _ in sys.stdin:
        answer = next(answers, None)
        if answer is None:
            break
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
