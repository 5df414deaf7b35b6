"""NVIDIA GPUs: their speed, memory and power. Imports no torch."""

import difflib
import re
from dataclasses import dataclass

from parakeet.errors import ParakeetError


@dataclass(frozen=True)
class Gpu:
    """Public specifications of one GPU.

    tflops_bf16           dense bf16 products with fp32 sums at the boost clock, in 10^12 operations a second
    gigabytes_per_second  memory bandwidth, in 10^9 bytes a second
    memory_gib            what the driver shows: with ECC on, less than the name says
    watts                 the default power limit
    """

    name: str
    tflops_bf16: float
    gigabytes_per_second: float
    memory_gib: float
    watts: int


# On GeForce GPUs the tensor cores accumulate in fp32 at half rate: SMs · 512 FLOP · boost clock. For the 3090 that is
# the 71 TFLOPS of NVIDIA's GA102 white paper. (The "34 TFLOPS" of a 3080 Ti is the fp32 rate of its shaders.) RTX A
# and data-centre GPUs have the full rate; their numbers come from the data sheets.
GPUS = (
    Gpu("RTX 3060", 25.5, 360, 12, 170),
    Gpu("RTX 3060 Ti", 32.4, 448, 8, 200),
    Gpu("RTX 3070", 40.6, 448, 8, 220),
    Gpu("RTX 3070 Ti", 43.5, 608, 8, 290),
    Gpu("RTX 3080", 59.5, 760, 10, 320),
    Gpu("RTX 3080 Ti", 68.2, 912, 12, 350),
    Gpu("RTX 3090", 71.0, 936, 24, 350),
    Gpu("RTX 3090 Ti", 80.0, 1008, 24, 450),
    Gpu("RTX 4060", 30.2, 272, 8, 115),
    Gpu("RTX 4060 Ti", 44.1, 288, 8, 160),
    Gpu("RTX 4060 Ti 16GB", 44.1, 288, 16, 165),
    Gpu("RTX 4070", 58.3, 504, 12, 200),
    Gpu("RTX 4070 SUPER", 71.0, 504, 12, 220),
    Gpu("RTX 4070 Ti", 80.2, 504, 12, 285),
    Gpu("RTX 4070 Ti SUPER", 88.2, 672, 16, 285),
    Gpu("RTX 4080", 97.5, 717, 16, 320),
    Gpu("RTX 4080 SUPER", 104.4, 736, 16, 320),
    Gpu("RTX 4090", 165.2, 1008, 24, 450),
    Gpu("RTX 5070", 61.7, 672, 12, 250),
    Gpu("RTX 5070 Ti", 87.9, 896, 16, 300),
    Gpu("RTX 5080", 112.6, 960, 16, 360),
    Gpu("RTX 5090", 209.5, 1792, 32, 575),
    Gpu("RTX A6000", 154.8, 768, 48, 300),
    Gpu("L4", 121.0, 300, 22.5, 72),
    Gpu("L40S", 362.0, 864, 45, 350),
    Gpu("A10", 125.0, 600, 22.5, 150),
    Gpu("A10G", 70.0, 600, 22.5, 300),
    Gpu("A100 40GB", 312.0, 1555, 40, 400),
    Gpu("A100 80GB", 312.0, 2039, 80, 400),
    Gpu("A100 PCIe 40GB", 312.0, 1555, 40, 250),
    Gpu("A100 PCIe 80GB", 312.0, 1935, 80, 300),
    Gpu("H100 SXM", 989.0, 3350, 79.6, 700),
    Gpu("H100 PCIe", 756.0, 2039, 79.6, 350),
    Gpu("H200", 989.0, 4800, 140.4, 700),
)

_IGNORED_WORDS = {"nvidia", "geforce", "rtx", "tesla", "sxm", "sxm2", "sxm4", "sxm5", "hbm2", "hbm2e", "hbm3", "hbm3e"}
"""Words in a device's name that tell no two GPUs of the table apart. Others do, such as Laptop, D or MIG."""
_SIZE_TOLERANCE = 0.13
"""A 24 GB GPU shows 22.5 GiB with ECC on; 10 and 12 GB must not match each other."""


def find_gpu(name: str) -> Gpu | None:
    """The GPU with this device name, such as torch's "NVIDIA GeForce RTX 3080 Ti" or "NVIDIA H100 80GB HBM3".

    Every word has to match, so "RTX 3080 Laptop GPU" is not an RTX 3080. If several match, the first in the table
    wins. None if no GPU matches: an unknown speed is better than a guessed one.
    """
    words, size = _words(name)
    for gpu in GPUS:
        if words == _words(gpu.name)[0] and (size is None or abs(size - gpu.memory_gib) <= _SIZE_TOLERANCE * size):
            return gpu
    return None


def gpu_named(name: str, advice: str = "") -> Gpu:
    """Like `find_gpu`, for a name that a user typed.

    ParakeetError with similar names, the advice and the list if it is unknown.
    """
    gpu = find_gpu(name)
    if gpu is not None:
        return gpu
    names = {known.name.lower(): known.name for known in GPUS}
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.55)
    hint = f" Did you mean {', '.join(names[key] for key in close)}?" if close else ""
    raise ParakeetError(
        f"Unknown GPU {name!r}.{hint}{f' {advice}' if advice else ''} The table has {', '.join(names.values())}."
    )


def _words(name: str) -> tuple[frozenset[str], int | None]:
    """The words that tell GPUs apart, and the memory in GB if the name has it."""
    spaced = re.sub(r"(rtx)(?=\d)|(\d{4})(?=ti|super)|(ti)(?=super)", r"\1\2\3 ", name.lower())
    words = re.findall(r"[a-z0-9]+", re.sub(r"(\d) gb\b", r"\1gb", spaced))
    sizes = [int(word[:-2]) for word in words if re.fullmatch(r"\d+gb", word)]
    kept = (word for word in words if word not in _IGNORED_WORDS and not re.fullmatch(r"\d+gb", word))
    return frozenset(kept), sizes[0] if sizes else None
