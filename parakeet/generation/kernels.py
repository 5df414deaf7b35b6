"""The kernels of kernels.c: compiled on first use where a C compiler is, then loaded from the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from parakeet.errors import ParakeetError

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O2", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
"""-O3 compiles three times as long and is no faster: the loops are vectors already. All copies of a loop must contract
its multiplications and additions alike, or rows alone and beside others would differ in the last bit."""

SUMS = 3
"""Number of the order in which kernels.c adds. Sessions record it: a change of a bit of its results needs the next one,
or a replay could not say why a reply differs."""

KINDS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}
"""The kinds of weights; the first three also of caches."""

GROUP = 32
"""Columns of int8 and int4 are padded to a multiple of this."""

GROUP_BYTES = 18
"""What that many columns take in int4, with a scale in bf16."""

_CAPABILITIES = {"avx2": "x86-64-v3", "default": "x86-64"}
"""Instruction sets by torch's ATEN_CPU_CAPABILITY, which limits its own kernels."""

_int, _long, _pointer, _integer = ctypes.c_int, ctypes.c_long, ctypes.c_void_p, ctypes.c_int64


class Library:
    """The compiled functions, on tensors of the CPU. Numbers are summed in an order that depends only on their count:
    a row's result is the same bits alone and beside others, with one thread and with many."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._multiply = library.multiply
        self._multiply.argtypes = [_int, _long, _long, *3 * [_pointer], _long, _long, _pointer, _int]
        self._quantise = library.quantise
        self._quantise.argtypes = [_int, _pointer, _long, _long, _long, _pointer, _pointer, _int]
        self._quantise.restype = None
        self._convert = library.convert
        self._convert.argtypes = [_int, _pointer, _long, _long, _int, _pointer, _int]
        self._convert.restype = None
        self._forward = library.forward
        self._forward.argtypes = [
            *(_pointer, _long, _pointer, _pointer, _int, _long, _long, _long, _long),
            *(_pointer, _pointer, _pointer, _pointer, _int, _long, *5 * (_pointer,), _int),
        ]

    def multiply(self, kind: int, weight: Tensor, scales: Tensor | None, columns: int, x: Tensor) -> Tensor:
        """x (n, width) fp32 times the transposed weight: (n, rows) fp32. `columns` is the weight's padded width."""
        x = x.contiguous()
        assert x.shape[1] <= columns
        y = x.new_empty(x.shape[0], weight.shape[0])
        failed = self._multiply(
            kind, weight.shape[0], columns, weight.data_ptr(), None if scales is None else scales.data_ptr(),
            x.data_ptr(), x.shape[1], x.shape[0], y.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        _check_memory(failed)
        return y

    def quantise(self, kind: int, x: Tensor, weight: Tensor, scales: Tensor | None, columns: int) -> None:
        """Round x (rows, width) fp32 to a weight of `columns` columns: int8 and its scales, or int4."""
        x = x.contiguous()
        self._quantise(
            kind, x.data_ptr(), *x.shape, columns, weight.data_ptr(), None if scales is None else scales.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip

    def convert(self, kind: int, weight: Tensor, to: Tensor) -> None:
        """A weight's rows as `to` (rows, padded width), fp32 or bf16. int8 comes without its scales."""
        half = int(to.dtype == torch.bfloat16)
        self._convert(kind, weight.data_ptr(), *to.shape, half, to.data_ptr(), torch.get_num_threads())

    def forward(
        self,
        layers: "ctypes.Array[LayerWeights]",
        final_norm: Tensor,
        head: "Weight",
        kind: int,
        keys: Tensor,
        values: Tensor,
        scales: tuple[Tensor, Tensor] | None,
        softmax_one: bool,
        rows: Tensor,
        positions: Tensor,
        slopes: Tensor,
        x: Tensor,
    ) -> Tensor:
        """Logits (n, rows of the head) fp32 after n embedded ids x (n, width) fp32, which are overwritten.

        Each is appended to row rows[i] of the cache at positions[i] and sees that row up to itself. `keys` and `values`
        (layers, batch, heads, capacity, head width) are of the cache's `kind`, with scales (layers, batch, heads,
        capacity) if that is int8.
        Several positions of one row must not pass the capacity.
        """
        assert x.dtype == torch.float32 and x.is_contiguous()  # noqa: PT018
        _, batch, heads, capacity, width = keys.shape
        logits = x.new_empty(len(x), head.rows)
        key_scales, value_scales = (part.data_ptr() for part in scales) if scales else (None, None)
        failed = self._forward(
            layers, len(layers), final_norm.data_ptr(), ctypes.byref(head), kind, batch, heads, capacity, width,
            keys.data_ptr(), values.data_ptr(), key_scales, value_scales, softmax_one, len(x), rows.data_ptr(),
            positions.data_ptr(), slopes.data_ptr(), x.data_ptr(), logits.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        _check_memory(failed)
        return logits


class Weight(ctypes.Structure):
    """A weight matrix in memory, as kernels.c knows it; the tensors must outlive it."""

    _fields_ = (
        ("kind", _integer),
        ("rows", _integer),
        ("columns", _integer),
        ("weight", _pointer),
        ("scales", _pointer),
    )
    rows: int


class LayerWeights(ctypes.Structure):
    """The weights of a layer."""

    _fields_ = (
        ("attention_norm", _pointer),
        ("mlp_norm", _pointer),
        ("projections", Weight),
        ("attention_output", Weight),
        ("mlp_input", Weight),
        ("mlp_output", Weight),
        ("keys_first", _integer),
    )


def _check_memory(failed: int) -> None:
    if failed:
        raise ParakeetError("There is no memory left to generate with: close other programs, or use a smaller model.")


@cache
def library() -> Library | None:
    """The kernels for this processor, or None where they cannot be compiled: torch's own serve then.

    The compiler is $CC or `cc`. It takes a few seconds, once for each version of the source and kind of processor.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or ""]
    if not compiler[0]:
        return None
    limit = os.environ.get("ATEN_CPU_CAPABILITY", "")
    command = [*compiler, *FLAGS, f"-march={_CAPABILITIES.get(limit, 'native')}"]
    key = hashlib.sha256("\0".join([*command, _processor()]).encode() + SOURCE.read_bytes()).hexdigest()[:16]
    path = Path(platformdirs.user_cache_dir("parakeet")) / f"kernels-{key}.so"
    try:
        return Library(path)
    except (OSError, AttributeError):  # not compiled yet, or a damaged file
        pass
    try:
        _compile(command, path)
        return Library(path)
    except (OSError, subprocess.SubprocessError, AttributeError):
        return None


def _compile(command: list[str], path: Path) -> None:
    """Write the library, whole or not at all. Raises OSError or SubprocessError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        subprocess.run([*command, str(SOURCE), "-o", str(made), "-lm"], check=True, capture_output=True, timeout=120)
        with made.open("rb") as file:
            os.fsync(file.fileno())  # loading a library that a power cut shortened ends the process
        made.replace(path)


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
