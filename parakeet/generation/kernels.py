"""The kernels of kernels.c: compiled on first use where a C compiler is, then loaded from the user's cache folder."""

import ctypes
import hashlib
import os
import platform
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
FLAGS = ("-O2", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
"""-O3 compiles three times as long and is no faster: the loops are vectors already."""

KINDS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}
"""The kinds of weights; the first three also of caches."""

GROUP = 32
"""Columns of int8 and int4 are padded to a multiple of this."""

_CAPABILITIES = {"avx2": "x86-64-v3", "default": "x86-64"}
"""Instruction sets by torch's ATEN_CPU_CAPABILITY, which limits its own kernels."""

_int, _long, _pointer = ctypes.c_int, ctypes.c_long, ctypes.c_void_p


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
        self._convert.argtypes = [_int, _pointer, _pointer, _long, _long, _int, _pointer, _int]
        self._convert.restype = None
        self._attend = library.attend
        self._attend.argtypes = [
            *(_int, _long, _long, _long, _pointer, _pointer, _pointer, _pointer),
            *(_long, _pointer, _pointer, _pointer, _pointer, _pointer, _long, _pointer, _pointer, _int),
        ]

    def multiply(self, kind: int, weight: Tensor, scales: Tensor | None, columns: int, x: Tensor) -> Tensor:
        """x (n, width) fp32 times the transposed weight: (n, rows) fp32. `columns` is the weight's padded width."""
        x = x.contiguous()
        y = x.new_empty(x.shape[0], weight.shape[0])
        failed = self._multiply(
            kind, weight.shape[0], columns, weight.data_ptr(), None if scales is None else scales.data_ptr(),
            x.data_ptr(), x.shape[1], x.shape[0], y.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        _check_memory(failed)
        return y

    def quantise(self, kind: int, x: Tensor, weight: Tensor, scales: Tensor, columns: int) -> None:
        """Round x (rows, width) fp32 to a weight of int8 or int4, of `columns` columns, and its scales."""
        x = x.contiguous()
        sizes = *x.shape, columns
        self._quantise(kind, x.data_ptr(), *sizes, weight.data_ptr(), scales.data_ptr(), torch.get_num_threads())

    def convert(self, kind: int, weight: Tensor, scales: Tensor | None, to: Tensor) -> None:
        """A weight's rows as `to` (rows, padded width), fp32 or bf16. int8 comes without its scales."""
        self._convert(
            kind, weight.data_ptr(), None if scales is None else scales.data_ptr(), *to.shape,
            int(to.dtype == torch.bfloat16), to.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip

    def attend(
        self,
        kind: int,
        keys: Tensor,
        values: Tensor,
        scales: tuple[Tensor, Tensor] | None,
        rows: Tensor,
        positions: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        slopes: Tensor,
    ) -> Tensor:
        """Append n keys and values to a layer's cache and attend to it: (n, heads, width) fp32.

        `keys` and `values` (batch, heads, capacity, width), with scales (batch, heads, capacity) if they are int8. The
        query, key and value (n, heads, width) fp32 of one stride belong to the cache's row rows[i] at positions[i].
        Several positions of one row must not pass the capacity.
        """
        _, heads, capacity, width = keys.shape
        stride = query.stride(0)
        assert query.dtype == torch.float32
        assert {part.stride() for part in (query, key, value)} == {(stride, width, 1)}
        mixed = query.new_empty(query.shape)
        key_scales, value_scales = (part.data_ptr() for part in scales) if scales else (None, None)
        failed = self._attend(
            kind, heads, capacity, width, keys.data_ptr(), values.data_ptr(), key_scales, value_scales,
            query.shape[0], rows.data_ptr(), positions.data_ptr(), query.data_ptr(), key.data_ptr(), value.data_ptr(),
            stride, slopes.data_ptr(), mixed.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        _check_memory(failed)
        return mixed


def _check_memory(failed: int) -> None:
    if failed:
        raise ParakeetError("There is no memory left to generate with: close other programs, or use a smaller model.")


@cache
def library() -> Library | None:
    """The kernels for this processor, or None where they cannot be compiled: torch's own serve then.

    The compiler is $CC or `cc`. It takes a second, once for each version of the source and each kind of processor.
    """
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        return None
    limit = os.environ.get("ATEN_CPU_CAPABILITY", "")
    command = [compiler, *FLAGS, f"-march={_CAPABILITIES.get(limit, 'native')}"]
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
