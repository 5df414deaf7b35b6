"""Reads a checkpoint of the original project into a safetensors file: `python -m parakeet.model.original_reader`.

A process of its own, because the file comes from strangers and torch parses it in C++: its memory is limited, it
has no input and little environment, and whatever happens to it, the command that started it goes on. It speaks in
JSON, one object a line on standard output: {"read": bytes}, {"note": text}, and last {"result": …},
{"refused": message} where the file is at fault, or {"error": message} where something else is.
"""

import json
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.errors import ParakeetError
from parakeet.model.config import WEIGHTS_FILE
from parakeet.model.original import Entry, checked_layout, recovered_config, unwrapped
from parakeet.torch_archive import fault_of_archive

if TYPE_CHECKING:
    from torch import Tensor

SAFE_TORCH = (2, 10)
"""torch.load(weights_only=True) of older versions can be made to corrupt memory (CVE-2026-24747)."""

ALLOWANCE_BYTES = 512 << 20
"""Memory beyond what torch itself takes and the file's own map. Reading the 378M model takes 0.05 GiB of it."""
CHUNK_NUMBERS = 1 << 20


class RefusedCheckpoint(ParakeetError):
    """Another file is needed: this one is no whole, plain checkpoint in the original's layout."""


def require_safe_torch(version: str) -> None:
    """Refuse a torch whose restricted unpickler is not safe; ParakeetError names both versions."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < SAFE_TORCH:
        needed = ".".join(map(str, SAFE_TORCH))
        raise ParakeetError(
            f"torch {version} is installed; reading a .pth file safely needs torch {needed} or newer "
            "(CVE-2026-24747). Upgrade it: pip install --upgrade torch"
        )


def convert(path: Path, output: Path, heads: int | None, context: int | None) -> dict[str, Any]:
    """Check a checkpoint and write model.safetensors and config.json into the folder `output`.

    `heads` and `context` are for files whose name does not say them. Returns facts for the record;
    RefusedCheckpoint says what is wrong with the file and names the tensor, ParakeetError that torch is too old.
    """
    limit_memory(ALLOWANCE_BYTES)
    if fault := fault_of_archive(path, lambda n: _say(read=n)):
        raise RefusedCheckpoint(
            f"{path} cannot be imported: {fault}. Give the .pth file whole and as it was published (download or copy "
            "it again), or as torch.save of torch 1.6 or newer writes a state dict."
        )
    limit_memory(None)
    import safetensors
    import torch

    from parakeet.model.transformer import save_tensors

    require_safe_torch(torch.__version__)
    torch.set_num_threads(1)
    limit_memory(path.stat().st_size + ALLOWANCE_BYTES)
    try:
        state = load_state(path)
        entries = checked_layout({key: tuple(tensor.shape) for key, tensor in state.items()})
        config = recovered_config(entries, path.name, heads, context)
        tensors = checked_tensors(state, entries)
        if sum(tensor.nbytes for tensor in tensors.values()) > path.stat().st_size:
            raise ParakeetError("Its tensors take more room than the file has: they share their numbers.")
    except ParakeetError as error:
        raise RefusedCheckpoint(f"{path}: {error}") from None
    save_tensors(tensors, output / WEIGHTS_FILE)
    config.save(output)
    return {
        "parameters": config.parameter_count,
        "tensors": len(state),
        "versions": {"torch": torch.__version__, "safetensors": safetensors.__version__},
    }


def load_state(path: Path) -> "OrderedDict[str, Tensor]":
    """The file's state dict on the CPU, mapped rather than read, without the prefixes of wrappers."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    # The restricted unpickler and the reader of archives raise whatever the bytes lead them to.
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ParakeetError(f"torch cannot read it as plain weights: {first[0][:300]}") from None
    if not isinstance(state, dict):
        raise ParakeetError(f"It holds a {type(state).__name__}, not a state dict of tensors.")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ParakeetError(
                f"It holds a {type(value).__name__} under {str(key)[:100]}, where a state dict has a tensor: from a "
                "training checkpoint, save the state dict of the model alone."
            )
    prefix, keys = unwrapped(state)
    if prefix:
        _say(note=f"The prefix {prefix} was taken off every key.")
    return OrderedDict(zip(keys, state.values(), strict=True))


def checked_tensors(state: "Mapping[str, Tensor]", entries: list[Entry]) -> "dict[str, Tensor]":
    """Tensors by our names, each once. They must be plain, fp32 and finite, and shared ones equal bit for bit."""
    import torch

    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    starts: dict[int, str] = {}
    for entry in entries:
        tensor = state[entry.key]
        if tensor.dtype != torch.float32:
            raise ParakeetError(
                f"{entry.key} has dtype {str(tensor.dtype).removeprefix('torch.')}; the original's weights are float32."
            )
        if tensor.layout != torch.strided or not tensor.is_contiguous():
            raise ParakeetError(f"{entry.key} is not stored as one plain block of numbers.")
        first = tensors.get(entry.name)
        if first is None:
            _check_finite(tensor, entry.key)
            tensors[entry.name], keys[entry.name] = tensor, entry.key
            other = starts.setdefault(tensor.data_ptr(), entry.key)
            if other != entry.key:
                raise ParakeetError(f"{entry.key} and {other} are one tensor; in the original's they are two.")
        elif not _same_bits(first, tensor):
            raise ParakeetError(
                f"{entry.key} differs from {keys[entry.name]}; in the original's model they are one matrix."
            )
    return tensors


def _check_finite(tensor: "Tensor", key: str) -> None:
    import torch

    # In pieces: torch.isfinite takes twice the memory of what it looks at.
    for piece in tensor.view(-1).split(CHUNK_NUMBERS):
        if not torch.isfinite(piece).all():
            raise ParakeetError(f"{key} holds NaN or infinite values; the model is unusable.")
        _say(read=piece.nbytes)


def _same_bits(first: "Tensor", second: "Tensor") -> bool:
    """Whether two fp32 tensors of one shape are equal bit for bit: unlike numbers, −0 is not 0."""
    import torch

    if first.data_ptr() == second.data_ptr():
        return True
    pieces = zip(*(tensor.view(-1).view(torch.int32).split(CHUNK_NUMBERS) for tensor in (first, second)), strict=True)
    return all(torch.equal(a, b) for a, b in pieces)


def limit_memory(more: int | None) -> None:
    """Let this process take at most `more` bytes of private memory beyond what it has; None lifts the limit again.

    The limit is RLIMIT_DATA: address space would count torch's libraries, several GB of them with CUDA. A file
    that torch maps counts in full, although its pages belong to the page cache. Only Linux says how much a
    process has; elsewhere there is no limit.
    """
    try:
        import resource

        status = Path("/proc/self/status").read_text(encoding="utf-8")
        taken = re.search(r"^VmData:\s+(\d+) kB", status, re.MULTILINE)
    except (ImportError, OSError):
        return
    if taken is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = hard if more is None else (int(taken[1]) << 10) + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def main(arguments: list[str]) -> int:
    """One argument: a JSON object with the parameters of `convert`."""
    job = json.loads(arguments[0])
    try:
        _say(result=convert(Path(job["path"]), Path(job["output"]), job["heads"], job["context"]))
    except RefusedCheckpoint as error:
        _say(refused=str(error))
        return 1
    except ParakeetError as error:
        _say(error=str(error))
        return 1
    except OSError as error:
        from parakeet.artifact import explain_os_error

        _say(error=str(explain_os_error(error, f"importing {Path(job['path']).name}")))
        return 1
    except MemoryError:
        _say(refused=f"{job['path']} takes more than {ALLOWANCE_BYTES >> 20} MiB of memory beside itself. Refused.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
