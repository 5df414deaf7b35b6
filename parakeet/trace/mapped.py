"""Memory-mapped .npy files that are read at many places at once."""

import mmap
import warnings
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from parakeet.errors import ParakeetError

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows
    getrusage = None  # type: ignore[assignment]

DAMAGED = "Run the same build again with: --force trace_index"
_PROBED = 4
_COLD_READS = 64
"""After pages were missing from memory, so many reads ask for their pages beforehand."""
_AT_ONCE = 16 << 20
"""A file up to this size is asked for as a whole when it is opened, and so are those of any size that are searched."""


class Mapped:
    """An array in a file, memory-mapped. `whole`: all of it will be needed.

    Pages that are not in memory are asked for all at once, and the disk reads them side by side: 14 µs a page. Read one
    after the other they take 150 µs each, or 1,000 µs with the read-ahead of an ordinary mapping (on a virtual disk).
    """

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...], whole: bool = False) -> None:
        """Raises FileNotFoundError, or ParakeetError if the file is damaged, of another dtype or shape."""
        try:
            with warnings.catch_warnings(action="ignore"):  # of a header that is no longer what numpy writes
                array = open_memmap(path, mode="r")
        except OSError:
            raise
        except Exception as error:  # numpy parses the header as Python: SyntaxError, TokenError, TypeError and more
            raise ParakeetError(f"{path} is damaged ({error}). {DAMAGED}") from None
        if array.dtype != dtype or array.shape != shape:
            raise ParakeetError(
                f"{path} holds {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of shape {shape}: it "
                f"was changed after it was made. {DAMAGED}"
            )
        # A header of another length, still well-formed, would shift every value.
        if path.stat().st_size != array.offset + array.nbytes or not array.flags.c_contiguous:
            raise ParakeetError(f"{path} is damaged (its header does not fit its values). {DAMAGED}")
        self.path = path
        self.array = array.view(np.ndarray)
        self._bytes = self.array.reshape(-1).view(np.uint8)
        self._row_bytes = len(self._bytes) // max(1, len(self.array))
        self._first = array.offset
        self._cold = 0
        """Reads that still ask for their pages beforehand."""
        self._asked = np.zeros(0, np.bool_)
        """(pages,) those that were asked for since pages were found missing."""
        self._mapping = array.base if isinstance(array.base, mmap.mmap) else None
        if self._mapping is None or getrusage is None or not hasattr(mmap, "MADV_WILLNEED"):
            self._mapping = None
        elif whole or len(self._bytes) <= _AT_ONCE:
            self._mapping.madvise(mmap.MADV_WILLNEED)
        else:
            self._mapping.madvise(mmap.MADV_RANDOM)

    def __len__(self) -> int:
        return len(self.array)

    def items(self, numbers: np.ndarray) -> np.ndarray:
        """(n, …): the items of these numbers, (n,)."""
        self.ask(numbers)
        return self.array[numbers]

    def ask(self, numbers: np.ndarray) -> None:
        """Say that the items of these numbers are read next, if the file is not in memory."""
        self._read_ahead(numbers * self._row_bytes, self._row_bytes)

    def rows(self, begins: np.ndarray, n_bytes: int) -> np.ndarray:
        """(n, n_bytes) uint8: the bytes from each of `begins`. ParakeetError if the file ends before."""
        if len(begins) and begins.max() + n_bytes > len(self._bytes):
            raise ParakeetError(
                f"{self.path.parent} is damaged: a position is beyond the end of {self.path.name}. {DAMAGED}"
            )
        self._read_ahead(begins, n_bytes)
        return rows(self._bytes, begins, n_bytes)

    def read_in_order(self) -> None:
        """From now on the file is read from its beginning to its end."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_SEQUENTIAL)

    def _read_ahead(self, begins: np.ndarray, n_bytes: int) -> None:
        if self._mapping is None:
            return
        if not self._cold:
            missing = getrusage(RUSAGE_SELF).ru_majflt
            self._bytes[begins[:_PROBED]]
            if getrusage(RUSAGE_SELF).ru_majflt == missing:
                return
            self._cold = _COLD_READS
            self._asked = np.zeros((self._first + len(self._bytes)) // mmap.PAGESIZE + 1, np.bool_)
        self._cold -= 1
        first = begins + self._first
        pages = np.unique(np.concatenate([first // mmap.PAGESIZE, (first + n_bytes - 1) // mmap.PAGESIZE]))
        pages = pages[~self._asked[pages]]
        self._asked[pages] = True
        for page in pages.tolist():
            self._mapping.madvise(mmap.MADV_WILLNEED, page * mmap.PAGESIZE, mmap.PAGESIZE)


def rows(text: np.ndarray, begins: np.ndarray, n_bytes: int) -> np.ndarray:
    """(n, n_bytes) uint8: the bytes of `text` from each of `begins`."""
    # An array of void elements that overlap: each row is one copy, three times as fast as byte by byte.
    windows = np.ndarray((len(text) - n_bytes + 1,), f"V{n_bytes}", text, strides=(1,))
    return windows[begins].view(np.uint8).reshape(-1, n_bytes)
