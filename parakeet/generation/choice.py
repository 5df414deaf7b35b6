"""Which device, precision and number of threads an engine uses: as asked, as recorded, or by `auto`."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes
from parakeet.generation.cache import CACHE_DTYPES
from parakeet.generation.decoder import AUTO_CACHE, DTYPES, Decoder, matrix_maker
from parakeet.generation.kernels import Library, library
from parakeet.generation.matrices import BLOCK, Arena
from parakeet.machine import available_memory, usable_cores
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet

BF16_CAPABILITY = (8, 0)
"""Oldest CUDA compute capability with units for bf16. An older GPU computes it slowly, with every score in memory."""

BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.625}
"""With the scales of int4, in torch's layout also zero points. The kernels' is a tenth smaller."""

ACCURATE = ("fp32", "bf16", "int8")
"""What `auto` chooses from on a CPU: held-out bits per byte are within 0.5 % of fp32's. int4 may cost more, so it is
taken only if nothing else fits into the memory."""

SMALL = 64 << 20
"""Bytes of fp32 weights up to which `auto` is fp32. Such weights lie in the processor's cache, and reading them is a
small part of a token, so fewer bits gain little."""

TINY = 16 << 20
"""Bytes of fp32 weights up to which one thread is used. A second one has little to do, and each product waits until it
is awake: beside another program on 2 cores, the demo generated 403 tokens a second on one thread and 12 on two."""

CLEARLY = 1.25
"""How much faster a lower precision must be to be taken. Real gains are 1.5 and more. A lower limit could give another
precision, and so another text, from one start to the next."""
USELESS = 1.5
"""A lower precision that is so much slower than a higher one is reported."""

CORES_READ = 1.5
"""Several cores read so many times as much of the memory as one (2 cores of an EPYC: 27 and 18 GB/s)."""

PROBE_WEIGHTS = 1 << 19
"""Weights of the matrix that is multiplied in each precision: they stay in the cache."""
PROBE_CALLS = 6
READ_WEIGHTS, READINGS = 1 << 20, 6
"""Weights that one product reads from memory, and the number of such products."""

MOST_THREADS = 1024

UNTRIED = (
    "Apple's GPU (mps) is used, which Parakeet was never tried on. If replies are wrong or slow, use --device cpu, and "
    "report it."
)


@dataclass(frozen=True)
class Choice:
    """What an engine runs with. `kernels` is whether the compiled kernels are used, if they are there; `cache_dtype`
    may still be auto; `reason` is one line that says how `auto` was resolved; `notes` are warnings."""

    device: str
    dtype: str
    threads: int
    kernels: bool
    cache_dtype: str
    reason: str
    notes: tuple[str, ...] = ()

    def decoder(self, model: Parakeet) -> Decoder:
        return Decoder(model, self.dtype, self.device, self.cache_dtype, self.kernels)


@dataclass(frozen=True)
class Candidates:
    """A choice as far as it can be made without the weights.

    `dtypes` are supported by the device and fit into its memory, the most accurate first. `why` is why there is only
    one; if it is "", the fastest is to be taken. `asked` is whether the user asked for the dtype.
    """

    config: ModelConfig
    device: str
    dtypes: tuple[str, ...]
    why: str
    asked: bool
    threads: int
    why_threads: str
    kernels: bool
    cache_dtype: str
    notes: tuple[str, ...]

    def choose(self, model: Parakeet) -> Choice:
        """Measure the dtypes with some of the model's weights and take the fastest, in about 15 ms.

        A dtype that was asked for is taken, and compared with more accurate ones for a warning. Nothing is measured if
        there is nothing to compare.
        """
        dtype, why, notes, compared = self.dtypes[0], self.why, self.notes, self.dtypes
        kernels = library() if self.kernels and self.device == "cpu" else None
        if self.asked and self.device == "cpu" and _supports(self.config, dtype, self.kernels):
            better, free = DTYPES[: DTYPES.index(dtype)], _free_memory(self.device)
            compared = (*(name for name in better if weight_bytes(self.config, name) <= free), dtype)
        seconds = seconds_per_token(model, compared, self.threads, kernels) if len(compared) > 1 else {}
        if self.asked:
            notes += slow_note(dtype, seconds)
        elif seconds:
            dtype = clearly_fastest(seconds)
            times = ", ".join(f"{1e3 * value:.3g} in {name}" for name, value in seconds.items())
            why = f"estimated ms a token: {times}"
        reason = f"{dtype} ({why}), {self.threads} thread{'s' * (self.threads != 1)} ({self.why_threads})"
        if self.device == "cpu":
            reason += "" if kernels else ", torch's products instead of compiled ones"
        return Choice(self.device, dtype, self.threads, self.kernels, self.cache_dtype, reason, notes)


def candidates(
    config: ModelConfig,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
    cache_dtype: str = "auto",
    recorded: Mapping[str, Any] | None = None,
) -> Candidates:
    """What a model of this shape can run with here. Sets the number of torch's threads.

    What is `auto`, or 0 threads, is as in `recorded` (`device`, `dtype` and `threads` of a session) where that is
    possible here. Else the device is that of `automatic_device` if it supports the dtype, and the threads are one for
    each core that this process may use, or one for tiny weights.

    Raises ParakeetError for a missing device, a dtype that it does not support, or too little memory for the weights.
    """
    recorded, cores, notes = recorded or {}, usable_cores(), list[str]()
    threads, why_threads = _threads(config, threads, recorded.get("threads"), cores)
    torch.set_num_threads(threads)
    if threads > cores:
        notes.append(
            f"{threads} threads on {cores} core{'s' * (cores != 1)} are slower than {cores} (--threads {cores})."
        )
    if dtype not in ("auto", *DTYPES):
        raise ParakeetError(f"dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}.")
    if device == "auto" and dtype.startswith("int"):
        device = "cpu"
    elif device == "auto" and recorded.get("device") in _devices():
        device = str(recorded["device"])
    device = _checked_device(device)
    if dtype.startswith("int") and device != "cpu":
        raise ParakeetError(f"{dtype} runs on the CPU only: use bf16 on {device}, or --device cpu.")
    if device == "mps":
        notes.append(UNTRIED)
    # Sessions of earlier versions name no kernels: they were recorded without, and sums differ in the last bit.
    kernels = not recorded or recorded.get("kernels") is True
    free, asked, why = _free_memory(device), dtype != "auto", "as asked"
    if asked:
        _check_memory(config, dtype, device, free, kernels)
        if dtype == "bf16" and device.startswith("cuda") and not _has_bf16_units(device):
            notes.append(f"bf16 is slow on {device}, which has no units for it: use --dtype fp32.")
        dtypes: tuple[str, ...] = (dtype,)
    elif _can_repeat(recorded.get("dtype"), config, device, free, kernels):
        dtypes, why = (str(recorded["dtype"]),), "as recorded"
    else:
        dtypes, why = _automatic(config, device, free, kernels)
    if cache_dtype == "auto" and why == "as recorded":
        found = recorded.get("cache_dtype")
        possible = isinstance(found, str) and found in CACHE_DTYPES and (device == "cpu" or found != "int8")
        cache_dtype = str(found) if possible else "auto"
    if cache_dtype not in ("auto", *CACHE_DTYPES):
        raise ParakeetError(
            f"The dtype of the cache must be one of auto, {', '.join(CACHE_DTYPES)}, not {cache_dtype!r}."
        )
    if cache_dtype == "int8" and device != "cpu":
        raise ParakeetError(f"A cache in int8 is for the CPU only: use bf16 on {device}, or --device cpu.")
    return Candidates(config, device, dtypes, why, asked, threads, why_threads, kernels, cache_dtype, tuple(notes))


def clearly_fastest(seconds: Mapping[str, float]) -> str:
    """The dtype to take, of several with the most accurate first: a less accurate one must be clearly faster."""
    best = next(iter(seconds))
    for dtype, value in seconds.items():
        if CLEARLY * value < seconds[best]:
            best = dtype
    return best


def weight_bytes(config: ModelConfig, dtype: str) -> int:
    return int(BYTES_PER_WEIGHT[dtype] * config.parameter_count)


def cache_bytes(config: ModelConfig, dtype: str) -> int:
    """Keys and values of a whole context."""
    return 2 * config.layers * config.width * config.context * CACHE_DTYPES[AUTO_CACHE[dtype]].itemsize


def seconds_per_token(
    model: Parakeet, dtypes: Sequence[str], threads: int, kernels: Library | None
) -> dict[str, float]:
    """An estimate of what decoding a token costs in each dtype on this CPU, counting the weights alone.

    A product waits either for the arithmetic, which is measured on a matrix that lies in the cache, or for the memory,
    which is measured by reading weights that do not. All is measured on one thread: on a busy machine, threads that
    wait for each other take a hundred times as long.
    """
    matrices = [parameter.detach() for parameter in model.parameters() if parameter.dim() == 2]
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            per_byte = _seconds_per_byte(matrices) / (CORES_READ if threads > 1 else 1)
            weight = model.get_parameter("blocks.0.mlp_input.weight").detach()
            per_weight = _seconds_per_weight(weight, dtypes, kernels)
    finally:
        torch.set_num_threads(threads)
    n_weights = model.config.flops_per_token(0) // 6
    return {dtype: n_weights * max(per_weight[dtype] / threads, BYTES_PER_WEIGHT[dtype] * per_byte) for dtype in dtypes}


def _seconds_per_byte(matrices: Sequence[Tensor]) -> float:
    """The least time for which a product waits for a byte of memory: of several matrices, each read once."""
    found = []
    for matrix in matrices[:: max(1, len(matrices) // READINGS)][:READINGS]:
        piece = matrix[: max(1, READ_WEIGHTS // matrix.shape[1])]
        x = torch.ones(matrix.shape[1])
        piece.flatten()[::1024].sum()  # maps the pages of a file, which takes longer than reading them
        found.append(_seconds(partial(torch.mv, piece, x)) / (4 * piece.numel()))
    return min(found)


def _seconds_per_weight(weight: Tensor, dtypes: Sequence[str], kernels: Library | None) -> dict[str, float]:
    """The least time of a product of one row with some rows of a weight, for each dtype."""
    rows, columns = weight.shape
    rows = min(rows, max(BLOCK, PROBE_WEIGHTS // columns))
    piece = weight[: rows // BLOCK * BLOCK or rows]
    calls = {dtype: _product(piece, dtype, kernels) for dtype in dtypes}
    # In turns, so that a pause of the machine meets one call of each.
    rounds = [{dtype: _seconds(call) for dtype, call in calls.items()} for _ in range(PROBE_CALLS)]
    return {dtype: min(times[dtype] for times in rounds) / piece.numel() for dtype in dtypes}


def _product(weight: Tensor, dtype: str, kernels: Library | None) -> Callable[[], Tensor]:
    """The product of a weight (rows, columns), as the decoder holds it, with one row."""
    matrix = matrix_maker(dtype, kernels)(weight, Arena(40 * weight.numel() + (1 << 16), torch.device("cpu")))
    return partial(matrix.product, torch.ones(1, weight.shape[1]))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def slow_note(dtype: str, seconds: Mapping[str, float]) -> tuple[str, ...]:
    """The warning that a dtype is slower than a more accurate one."""
    if not seconds:
        return ()
    best = min(seconds, key=lambda name: seconds[name])
    ratio = seconds[dtype] / seconds[best]
    if ratio < USELESS:
        return ()
    return (f"{dtype} is slow on this processor, about {ratio:.1f} times a token of {best}: use --dtype {best}.",)


def _threads(config: ModelConfig, asked: int, recorded: object, cores: int) -> tuple[int, str]:
    """The number of threads, and why."""
    if asked:
        return asked, "as asked"
    if type(recorded) is int and 1 <= recorded <= MOST_THREADS:
        return recorded, "as recorded"
    if weight_bytes(config, "fp32") <= TINY:
        return 1, "the weights are tiny"
    # Fewer if OMP_NUM_THREADS says so.
    threads = min(cores, torch.get_num_threads())
    return threads, "one a core" if threads == cores else "torch's default"


def _automatic(config: ModelConfig, device: str, free: int, kernels: bool) -> tuple[tuple[str, ...], str]:
    """The dtypes to choose from, and why if it is one."""
    if device == "mps":
        # Older versions of macOS have no bf16 there.
        _check_memory(config, "fp32", device, free, kernels)
        return ("fp32",), "what every Apple GPU computes in"
    if device != "cpu":
        dtype = "bf16" if _has_bf16_units(device) else "fp32"
        _check_memory(config, dtype, device, free, kernels)
        return (dtype,), f"the GPU has {'' if dtype == 'bf16' else 'no '}units for bf16"
    if weight_bytes(config, "fp32") <= min(SMALL, free):
        return ("fp32",), "the weights are small"
    fitting = [name for name in DTYPES if _supports(config, name, kernels) and weight_bytes(config, name) <= free]
    if not fitting:
        _check_memory(config, DTYPES[-1], device, free, kernels)
    # With the cache of a whole context if possible, else enough for a short conversation.
    accurate = [name for name in fitting if name in ACCURATE]
    roomy = [name for name in accurate if weight_bytes(config, name) + cache_bytes(config, name) <= free]
    chosen = tuple(roomy or accurate[-1:] or fitting[-1:])
    return chosen, "" if len(chosen) > 1 else "what fits into the memory"


def _can_repeat(dtype: object, config: ModelConfig, device: str, free: int, kernels: bool) -> bool:
    if dtype not in DTYPES:
        return False
    name = str(dtype)
    runs = _supports(config, name, kernels) if device == "cpu" else not name.startswith("int")
    return runs and weight_bytes(config, name) <= free


def _supports(config: ModelConfig, dtype: str, kernels: bool) -> bool:
    """Whether a CPU multiplies all matrices of this shape in the dtype."""
    if not dtype.startswith("int") or (kernels and library()):
        return True
    return not (config.width % BLOCK or config.vocabulary_rows % BLOCK)


def _check_memory(config: ModelConfig, dtype: str, device: str, free: int, kernels: bool) -> None:
    """Raise ParakeetError if the weights do not fit, before anything is loaded."""
    needed = weight_bytes(config, dtype)
    if needed <= free:
        return
    on_cpu = device == "cpu"
    others = [n for n in DTYPES if (_supports(config, n, kernels) if on_cpu else not n.startswith("int"))]
    smaller = next((name for name in others if weight_bytes(config, name) <= free), None)
    help = "close other programs, or use a smaller model"
    if smaller is not None:
        help = f"in {smaller} they take {format_bytes(weight_bytes(config, smaller))} (--dtype {smaller})"
    elif device != "cpu":
        help = "use --device cpu"
    where = "this machine" if device == "cpu" else device
    raise ParakeetError(
        f"The model's weights take {format_bytes(needed)} in {dtype}, but {where} has only {format_bytes(free)} of "
        f"free memory: {help}."
    )


def _free_memory(device: str) -> int:
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return available_memory() if device == "cpu" else torch.cuda.mem_get_info(device)[0]


def _has_bf16_units(device: str) -> bool:
    return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY


def _devices() -> list[str]:
    known = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(["cuda"] if known else []), *known, *apple]


def automatic_device(devices: Collection[str]) -> str:
    """Of the devices of a machine, the one that `auto` means for generation: CUDA, else Apple's GPU, else the CPU.

    What trains or measures takes no Apple GPU: see `best_device`.
    """
    return next(device for device in ("cuda", "mps", "cpu") if device in devices)


def _checked_device(name: str) -> str:
    if name == "auto":
        return automatic_device(_devices())
    if name not in _devices():
        there = ", ".join(device for device in _devices() if device != "cuda")
        raise ParakeetError(f"This machine has no device {name!r}. It has: {there}.")
    return name
