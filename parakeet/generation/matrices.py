"""Weight matrices in the precision in which they are read. A decoded token reads each of them once.

On a CPU with a C compiler, the products of a few rows are Parakeet's own (`CompiledMatrix`), else torch's. The share
of memory bandwidth that each reaches is in docs/benchmarks/generation.md.
"""

import contextlib
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.errors import ParakeetError
from parakeet.generation.kernels import GROUP, GROUP_BYTES, KINDS, Library, Weight

COMPILED_ROWS = 16
"""Up to this many rows of x, the compiled kernels are used. More are products of large matrices, as in a prompt."""

PIECES = {torch.float32: 1 << 22, torch.bfloat16: 1 << 20}
"""Weights that are converted together for a prompt, by the dtype that they get: few enough to stay in the last cache
until they are multiplied, many enough that x is rarely laid out anew for the product. In fp32, prompts of 512 tokens
had 0.92 to 0.98 of fp32 weights' speed with 2^22 and 0.85 to 0.96 with 2^20 (AVX2, 32 MiB of cache)."""

BLOCK = 64
"""Rows and columns of a matrix that torch quantises must be multiples of this. It packs up to 64 rows of int4
together, and its int8 kernel reads past the end of rows that are not a multiple of 16 (a segmentation fault at widths
24 and 40)."""

ROWS_PER_BLOCK = 2048
"""Rows that are quantised together; a multiple of BLOCK."""

DEQUANTISED_ROWS = 24
"""From this many rows of x, converting the weights to bf16 and multiplying is faster than the int8 kernel (4,608 ×
1,152 on 2 cores with AMX: 16 rows take 1.1 ms by the kernel and 1.3 by conversion, 64 rows 4.4 and 1.2)."""

UNPACKED_ROWS = 192
"""The same for int4, whose kernel takes 66 µs a row and whose conversion takes 10 ms."""


class Matrix(Protocol):
    """A weight (rows, columns)."""

    n_bytes: int

    @property
    def dense(self) -> Tensor | None:
        """The weight itself, (rows, columns), unless it is quantised."""

    def product(self, x: Tensor) -> Tensor:
        """x (n, columns) in any floating dtype, times the transposed weight: (n, rows) in the dtype of the sums."""

    def part(self, begin: int, end: int) -> "Matrix":
        """Some of the rows, in the same memory."""


class Arena:
    """Memory for weights, in huge pages if the system has them: the int8 kernel reads those a tenth faster.

    Pages that are never written cost nothing, so `n_bytes` may be generous.
    """

    def __init__(self, n_bytes: int, device: torch.device) -> None:
        self._device = device
        self._used = 0
        if device.type == "cpu":
            self._room = torch.frombuffer(fresh_memory(max(n_bytes, mmap.PAGESIZE), huge=True), dtype=torch.uint8)

    def place(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of the tensor in `dtype`: in the arena on the CPU, in torch's own memory on another device."""
        return self.empty(tensor.shape, dtype or tensor.dtype).copy_(tensor)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self._device.type != "cpu":
            return torch.empty(tuple(shape), dtype=dtype, device=self._device)
        begin = -(-self._used // 64) * 64
        self._used = begin + math.prod(shape) * dtype.itemsize
        return self._room[begin : self._used].view(dtype).view(tuple(shape))


def fresh_memory(n_bytes: int, huge: bool) -> mmap.mmap:
    """Zeros that take no memory until they are written, in huge pages if wanted and the system has them."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, n_bytes)
    # Private: huge pages of shared memory have a switch of their own, which is mostly off.
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return memory


@cache
def prompt_dtype() -> torch.dtype:
    """The faster dtype for products of large matrices on this CPU, where the weights' own is not fp32.

    bf16 takes units for it: without them it takes 17 times as long as fp32. The question is put to the processor, not
    to a clock, so that the same prompt gives the same bits each time. Only x86 can be asked: others take fp32.
    """
    limited = not torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AVX10"))
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if units and not limited else torch.float32


def in_pieces(x: Tensor, rows: int, columns: int, convert: Callable[[slice, Tensor], object]) -> Tensor:
    """x (n, width) times a weight (rows, columns >= width) that is converted to `prompt_dtype` in pieces: (n, rows).

    `convert` writes some of the weight's rows into a tensor of that dtype. All pieces use the same memory, since new
    memory costs as much as the conversion.
    """
    x = x.to(prompt_dtype())
    step = max(1, PIECES[x.dtype] // columns)
    product, room = x.new_empty(x.shape[0], rows), x.new_empty(min(step, rows), columns)
    for begin in range(0, rows, step):
        piece = room[: rows - begin]
        convert(slice(begin, begin + len(piece)), piece)
        torch.mm(x, piece[:, : x.shape[1]].t(), out=product[:, begin : begin + len(piece)])
    return product


class DenseMatrix:
    """fp32 or bf16, multiplied by torch."""

    dense: Tensor

    def __init__(self, weight: Tensor) -> None:
        self.dense = weight
        self.n_bytes = weight.numel() * weight.element_size()
        self._on_cpu = weight.device.type == "cpu"

    def product(self, x: Tensor) -> Tensor:
        # For a single row in bf16, F.linear reaches 58 % of the memory bandwidth, mv 77 %.
        if self._on_cpu and x.shape[0] == 1:
            return torch.mv(self.dense, x[0].to(self.dense.dtype))[None]
        if self._on_cpu and self.dense.dtype not in (torch.float32, prompt_dtype()):
            rows, columns = self.dense.shape
            return in_pieces(x, rows, columns, lambda some, to: to.copy_(self.dense[some]))
        return F.linear(x.to(self.dense.dtype), self.dense)

    def part(self, begin: int, end: int) -> "DenseMatrix":
        return DenseMatrix(self.dense[begin:end])


class CompiledMatrix:
    """Any precision, with the compiled kernels for a few rows of x. CPU only.

    int8: symmetric, w ≈ q · scale with an fp32 scale a row. int4: w ≈ (q − 8) · scale with a bf16 scale for every 32
    weights of a row; kernels.c describes the order of their bytes. For a few rows, x is rounded: to 8 bits in groups of
    32 for int4, to 14 bits in segments of at most 1,280 columns for int8. For many, the weights are converted in pieces
    to fp32 or bf16, whichever this CPU multiplies faster.
    """

    def __init__(self, library: Library, dtype: str, weight: Tensor, scales: Tensor | None, width: int) -> None:
        """weight (rows, padded width) fp32, bf16 or int8, or (rows, bytes) uint8 for int4; scales (rows,) of int8."""
        self._library = library
        self._dtype = dtype
        self._weight = weight
        self._scales = scales
        self._width = width
        self._columns = weight.shape[1] // GROUP_BYTES * GROUP if dtype == "int4" else weight.shape[1]
        self.dense: Tensor | None = weight if weight.is_floating_point() else None
        parts = [weight] if scales is None else [weight, scales]
        self.n_bytes = sum(part.numel() * part.element_size() for part in parts)

    @classmethod
    def of(cls, library: Library, dtype: str, weight: Tensor, arena: Arena) -> "CompiledMatrix":
        """Round fp32 (rows, width) to `dtype`."""
        rows, width = weight.shape
        if dtype in ("fp32", "bf16"):
            return cls(
                library, dtype, arena.place(weight, torch.float32 if dtype == "fp32" else torch.bfloat16), None, width
            )
        columns = -(-width // GROUP) * GROUP
        if dtype == "int8":
            packed = arena.empty((rows, columns), torch.int8)
            scales: Tensor | None = arena.empty((rows,), torch.float32)
        else:
            packed, scales = arena.empty((rows, columns // GROUP * GROUP_BYTES), torch.uint8), None
        library.quantise(KINDS[dtype], weight, packed, scales, columns)
        return cls(library, dtype, packed, scales, width)

    def product(self, x: Tensor) -> Tensor:
        if x.shape[0] <= COMPILED_ROWS:
            return self._library.multiply(KINDS[self._dtype], self._weight, self._scales, self._columns, x.float())
        if self._dtype == "fp32" or self._weight.dtype == prompt_dtype():
            return F.linear(x.to(self._weight.dtype), self._weight)
        product = in_pieces(x, self._weight.shape[0], self._columns, self._convert)
        # int8 is converted without its scales: they are applied to the sums.
        return product if self._scales is None else product.mul_(self._scales)

    def described(self) -> Weight:
        """For the kernels. The matrix must outlive it."""
        scales = None if self._scales is None else self._scales.data_ptr()
        return Weight(KINDS[self._dtype], self._weight.shape[0], self._columns, self._weight.data_ptr(), scales)

    def _convert(self, some: slice, to: Tensor) -> None:
        self._library.convert(KINDS[self._dtype], self._weight[some], to)

    def part(self, begin: int, end: int) -> "CompiledMatrix":
        scales = None if self._scales is None else self._scales[begin:end]
        return CompiledMatrix(self._library, self._dtype, self._weight[begin:end], scales, self._width)


class Int8Matrix:
    """torch's: 8 bits a weight, weight int8 (rows, columns), scales bf16 (rows,), activations bf16. CPU only."""

    dense: Tensor | None = None

    def __init__(self, weight: Tensor, scales: Tensor) -> None:
        self._weight = weight
        self._scales = scales
        self.n_bytes = weight.numel() + 2 * scales.numel()

    @classmethod
    def quantised(cls, weight: Tensor, arena: Arena) -> "Int8Matrix":
        """Quantise fp32 (rows, columns): w ≈ q · scale, with scale = max |w| / 127 of the row."""
        _check_blocks(weight)
        quantised = arena.empty(weight.shape, torch.int8)
        scales = arena.empty(weight.shape[:1], torch.bfloat16)
        for rows in _row_blocks(weight):
            block = weight[rows]
            scales[rows] = (block.abs().amax(1) / 127).clamp_min_(1e-12)
            quantised[rows] = (block / scales[rows].float()[:, None]).round_().clamp_(-127, 127)
        return cls(quantised, scales)

    def product(self, x: Tensor) -> Tensor:
        if x.shape[0] < DEQUANTISED_ROWS:
            return torch._weight_int8pack_mm(x.bfloat16(), self._weight, self._scales)
        rows, columns = self._weight.shape
        product = in_pieces(x, rows, columns, lambda some, to: to.copy_(self._weight[some]))
        return product.mul_(self._scales)

    def part(self, begin: int, end: int) -> "Int8Matrix":
        return Int8Matrix(self._weight[begin:end], self._scales[begin:end])


@dataclass(frozen=True)
class PackedLayout:
    """How torch packs int4 on this CPU: in blocks of rows, each with one line a column; a byte holds two rows.

    The layout differs between AVX-512, AVX2 and neither, and torch cannot unpack. So it is found by packing known
    numbers. `low` and `high` are the rows of a block that the low and high halves of a line's bytes hold.
    """

    block: int
    low: slice
    high: slice

    @classmethod
    def probed(cls) -> "PackedLayout":
        rows = torch.arange(BLOCK, dtype=torch.int32)[:, None].expand(BLOCK, GROUP)
        # A row's number has six bits, a packed number four: pack the low bits and the high bits apart.
        ones, sixteens = (torch._convert_weight_to_int4pack_for_cpu(part.contiguous(), 1).flatten().int()
                          for part in (rows % 16, rows // 16))  # fmt: skip
        low = ((ones & 15) + 16 * (sixteens & 15)).tolist()
        high = ((ones >> 4) + 16 * (sixteens >> 4)).tolist()
        half = low.index(low[0], 1)
        return cls(2 * half, *(slice(rows[0], rows[half - 1] + 1, rows[1] - rows[0]) for rows in (low, high)))

    def unpack(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        """(rows, columns / 2) packed bytes to (columns, rows) numbers from 0 to 15, the transposed weight."""
        rows, half_columns = packed.shape
        # (columns, blocks, block / 2) bytes: the lines of a column in all blocks.
        lines = packed.view(rows // self.block, 2 * half_columns, self.block // 2).transpose(0, 1)
        numbers = torch.empty(2 * half_columns, rows, dtype=dtype)
        blocks = numbers.view(2 * half_columns, rows // self.block, self.block)
        blocks[:, :, self.low] = (lines & 15).to(dtype)
        blocks[:, :, self.high] = (lines >> 4).to(dtype)
        return numbers


class Int4Matrix:
    """torch's: 4 bits a weight, in groups of 32 along a row that share a bf16 scale and zero point. Like Int8Matrix."""

    dense: Tensor | None = None

    def __init__(self, packed: Tensor, scales_and_zeros: Tensor, layout: PackedLayout) -> None:
        self._packed = packed
        self._scales_and_zeros = scales_and_zeros
        self._layout = layout
        self.n_bytes = packed.numel() + 2 * scales_and_zeros.numel()

    @classmethod
    def quantised(cls, weight: Tensor, arena: Arena) -> "Int4Matrix":
        """Quantise fp32 (rows, columns): w ≈ (q − 8) · scale + zero, with q from 0 to 15 over the group's range."""
        rows, columns = weight.shape
        _check_blocks(weight)
        packed = arena.empty((rows, columns // 2), torch.uint8)
        scales_and_zeros = arena.empty((columns // GROUP, rows, 2), torch.bfloat16)
        for some in _row_blocks(weight):
            groups = weight[some].view(-1, columns // GROUP, GROUP)
            low, high = groups.amin(-1), groups.amax(-1)  # (rows, groups)
            scales = ((high - low) / 15).clamp_min_(1e-12).bfloat16()
            zeros = (low + 8 * scales.float()).bfloat16()
            scales_and_zeros[:, some] = torch.stack([scales, zeros], -1).transpose(0, 1)
            q = (groups - zeros.float()[..., None]).div_(scales.float()[..., None]).add_(8).round_().clamp_(0, 15)
            packed[some] = torch._convert_weight_to_int4pack_for_cpu(q.view(-1, columns).to(torch.int32), 1)
        return cls(packed, scales_and_zeros, PackedLayout.probed())

    def product(self, x: Tensor) -> Tensor:
        if x.shape[0] < UNPACKED_ROWS:
            return torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self._packed, GROUP, self._scales_and_zeros)
        x = x.to(prompt_dtype())
        scales, zeros = self._scales_and_zeros.to(x.dtype).unbind(-1)  # (groups, rows) each
        numbers = self._layout.unpack(self._packed, x.dtype)  # (columns, rows)
        groups = numbers.view(-1, GROUP, numbers.shape[1])  # (groups, GROUP, rows)
        # (q − 8) · scale + zero as q · scale + (zero − 8 · scale): one fused operation.
        weight = torch.addcmul((zeros - 8 * scales)[:, None], groups, scales[:, None])
        return x @ weight.view(numbers.shape)

    def part(self, begin: int, end: int) -> "Int4Matrix":
        scales_and_zeros = self._scales_and_zeros[:, begin:end].contiguous()
        return Int4Matrix(self._packed[begin:end], scales_and_zeros, self._layout)


def _check_blocks(weight: Tensor) -> None:
    if any(size % BLOCK for size in weight.shape):
        rows, columns = weight.shape
        raise ParakeetError(
            f"Without compiled kernels, int8 and int4 need matrices whose sizes are multiples of {BLOCK}, but this "
            f"model has one of {rows:,} × {columns:,}: use bf16 instead, or install a C compiler."
        )


def _row_blocks(weight: Tensor) -> Iterator[slice]:
    """Blocks of rows to quantise one after the other: intermediate values take 9 MB at a width of 1,152, instead of 462
    MB for a whole embedding."""
    return (slice(begin, begin + ROWS_PER_BLOCK) for begin in range(0, len(weight), ROWS_PER_BLOCK))
