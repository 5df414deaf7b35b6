"""Reads a checkpoint of the original project into a safetensors file, in a process of its own.

The file comes from strangers, and torch parses it in C++. So `read_checkpoint` starts
`python -m parakeet.model.original_reader` with limited memory, no input and few environment variables; whatever
happens to that process, the command that started it carries on. It reports in JSON, one object a line on standard
output: {"read": bytes}, {"note": text}, and last {"result": …}, {"refused": message} if the file is at fault, or
{"error": message} if something else is.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import parakeet
from parakeet.artifact import explain_os_error
from parakeet.errors import ParakeetError
from parakeet.model.config import WEIGHTS_FILE
from parakeet.model.original import Entry, checked_layout, recovered_config, unwrapped
from parakeet.progress import Progress
from parakeet.torch_archive import fault_of_archive

if TYPE_CHECKING:
    from torch import Tensor

ALLOWANCE_BYTES = 512 << 20
"""Memory beyond torch itself and the mapped file. Reading the 378M model takes 0.05 GiB of it."""
CHUNK_NUMBERS = 1 << 20
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "SYSTEMROOT")
"""What Python with torch may need. Tokens and passwords in other variables are not passed on."""


class RefusedCheckpoint(ParakeetError):
    """The file is at fault: it is not an intact, plain checkpoint in the original's layout."""


def read_checkpoint(
    path: Path,
    output: Path,
    heads: int | None,
    context: int | None,
    progress: Progress,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Write model.safetensors and config.json of the checkpoint at `path` into the folder `output`.

    `heads` and `context` are for files whose name does not give them; `advance` receives the number of bytes after
    each read. Returns parameters, tensors and versions. Raises RefusedCheckpoint if the file is at fault, else
    ParakeetError.
    """
    job = {"path": str(path), "output": str(output.absolute()), "heads": heads, "context": context}
    # -P: the working directory may hold a file called torch.py.
    command = [sys.executable, "-P", "-m", "parakeet.model.original_reader", json.dumps(job)]
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    # One thread, because the work is bound by memory. No CUDA, because a driver's context takes gigabytes.
    limits = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**kept, "PYTHONPATH": str(Path(parakeet.__file__).parents[1]), **limits}
    with tempfile.TemporaryFile() as errors:
        reader = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            assert reader.stdout is not None
            result = _listen(reader.stdout, progress, advance)
            status = reader.wait()
        finally:
            # Ctrl-C reaches only this process: the reader has its own session.
            reader.kill()
            reader.wait()
        if result is None:
            raise ParakeetError(f"{path} cannot be read: the process that reads it {_ending(status, errors)}.")
        return result


def _listen(lines: IO[str], progress: Progress, advance: Callable[[int], None]) -> dict[str, Any] | None:
    """Follow what the reader reports; None if it ended without a result."""
    for line in lines:
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if "read" in report:
            advance(report["read"])
        elif "note" in report:
            progress.say(report["note"])
        elif "refused" in report:
            raise RefusedCheckpoint(report["refused"])
        elif "error" in report:
            raise ParakeetError(report["error"])
        elif "result" in report:
            return dict(report["result"])
    return None


def _ending(status: int, errors: IO[bytes]) -> str:
    if status < 0:
        return f"was stopped by signal {-status} (9 may mean that the machine ran out of memory)"
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return f"ended with status {status}" + (f" ({lines[-1][:300]})" if lines else "")


# Everything below runs in the reader's process.


def convert(path: Path, output: Path, heads: int | None, context: int | None) -> dict[str, Any]:
    """`read_checkpoint`, without a process of its own."""
    import safetensors
    import torch

    from parakeet.model.transformer import save_tensors

    torch.set_num_threads(1)
    limit_memory(ALLOWANCE_BYTES)
    if fault := fault_of_archive(path, lambda n: _report(read=n)):
        raise RefusedCheckpoint(
            f"{path} cannot be imported: {fault}. Give the .pth file as it was published (download or copy it again), "
            "or as torch.save of torch 1.6 or newer writes a state dict."
        )
    limit_memory(path.stat().st_size + ALLOWANCE_BYTES)
    try:
        state = load_state(path)
        entries = checked_layout({key: tuple(tensor.shape) for key, tensor in state.items()})
        config = recovered_config(entries, path.name, heads, context)
        tensors = checked_tensors(state, entries)
        if sum(tensor.nbytes for tensor in tensors.values()) > path.stat().st_size:
            raise ParakeetError("Its tensors are larger than the file: they share their numbers.")
    except ParakeetError as error:
        raise RefusedCheckpoint(f"{path}: {error}") from None
    save_tensors(tensors, output / WEIGHTS_FILE)
    config.save(output)
    return {
        "parameters": config.parameter_count,
        "tensors": len(state),
        "versions": {"torch": torch.__version__, "safetensors": safetensors.__version__},
    }


def limit_memory(more: int) -> None:
    """Let this process allocate at most `more` bytes of private memory from now on.

    The limit is RLIMIT_DATA, because the address space includes torch's libraries, several GB of them with CUDA. A
    file that torch maps counts in full, although its pages belong to the page cache. Only Linux reports how much memory
    a process has; elsewhere there is no limit.
    """
    try:
        import resource

        status = Path("/proc/self/status").read_text(encoding="utf-8")
        allocated = re.search(r"^VmData:\s+(\d+) kB", status, re.MULTILINE)
    except (ImportError, OSError):
        return
    if allocated is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = (int(allocated[1]) << 10) + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def load_state(path: Path) -> "dict[str, Tensor]":
    """The file's state dict on the CPU, mapped rather than read, without the key prefixes of wrappers."""
    import torch

    try:
        # Safe since torch 2.10 (CVE-2026-24747); this project requires a newer one.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    # torch raises any kind of exception, depending on the bytes. Its advice to load with weights_only=False is cut off.
    except Exception as error:
        text = str(error).rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
        raise ParakeetError(f"torch cannot read it as plain weights: {text.splitlines()[0][:300]}") from None
    if not isinstance(state, dict):
        raise ParakeetError(f"It holds a {type(state).__name__}, not a state dict of tensors.")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ParakeetError(
                f"It holds a {type(value).__name__} under {str(key)[:100]}, where a state dict has a tensor. If it is "
                "a training checkpoint, save the state dict of the model alone."
            )
    prefix, keys = unwrapped(state)
    if prefix:
        _report(note=f"The prefix {prefix} was removed from every key.")
    return dict(zip(keys, state.values(), strict=True))


def checked_tensors(state: "Mapping[str, Tensor]", entries: list[Entry]) -> "dict[str, Tensor]":
    """Tensors by our names, each once. They must be plain, fp32 and finite; shared ones must be equal bit for bit."""
    import torch

    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for entry in entries:
        tensor = state[entry.key]
        if tensor.dtype != torch.float32:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ParakeetError(f"{entry.key} has dtype {dtype}; the original's weights are float32.")
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.is_contiguous()
        # A negated view keeps the positive numbers in memory, and safetensors writes the memory.
        if not plain or tensor.is_neg():
            raise ParakeetError(f"{entry.key} is not stored as one plain block of numbers.")
        first = tensors.get(entry.name)
        if first is None:
            _check_finite(tensor, entry.key)
            tensors[entry.name], keys[entry.name] = tensor, entry.key
        elif not _same_bits(first, tensor):
            raise ParakeetError(
                f"{entry.key} differs from {keys[entry.name]}; in the original's model they are one matrix."
            )
    return tensors


def _check_finite(tensor: "Tensor", key: str) -> None:
    # In pieces: isfinite takes twice the memory of its argument.
    for piece in tensor.view(-1).split(CHUNK_NUMBERS):
        if not piece.isfinite().all():
            raise ParakeetError(f"{key} holds NaN or infinite values; the model is unusable.")
        _report(read=piece.nbytes)


def _same_bits(first: "Tensor", second: "Tensor") -> bool:
    """Whether two fp32 tensors of the same shape are equal bit for bit: as bits, −0 differs from 0."""
    import torch

    if first.data_ptr() == second.data_ptr():
        return True
    pieces = zip(*(tensor.view(-1).view(torch.int32).split(CHUNK_NUMBERS) for tensor in (first, second)), strict=True)
    return all(torch.equal(a, b) for a, b in pieces)


def _report(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def main(job: dict[str, Any]) -> int:
    """Report the result of `convert`, called with the values of `job`."""
    path = Path(job["path"])
    try:
        _report(result=convert(path, Path(job["output"]), job["heads"], job["context"]))
        return 0
    except RefusedCheckpoint as error:
        _report(refused=str(error))
    except ParakeetError as error:
        _report(error=str(error))
    except OSError as error:
        _report(error=str(explain_os_error(error, f"importing {path.name}")))
    except MemoryError:
        _report(refused=f"{path} was refused: reading it takes more than {ALLOWANCE_BYTES >> 20} MiB beside the file.")
    return 1


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
