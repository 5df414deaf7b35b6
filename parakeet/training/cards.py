"""NVIDIA cards: what they compute, read, hold and draw. Imports no torch."""

import difflib
import re
from dataclasses import dataclass

from parakeet.errors import ParakeetError


@dataclass(frozen=True)
class Card:
    """Public specifications of one card.

    tflops_bf16: dense bf16 products with fp32 sums, 10^12 a second, at the boost clock. gigabytes_per_second: of the
    card's memory, 10^9 bytes. memory_gib: what the driver shows, which ECC makes less than the name says. watts: the
    limit that the card leaves the factory with.
    """

    name: str
    tflops_bf16: float
    gigabytes_per_second: float
    memory_gib: float
    watts: int


# GeForce cards sum in fp32 at half the rate of the tensor cores: SMs · 512 FLOP · boost clock, which for the 3090
# gives the 71 TFLOPS of NVIDIA's GA102 white paper. "34 TFLOPS" of a 3080 Ti is its shaders' fp32 number. RTX A and
# data-centre cards have the full rate, and their data sheets are the source.
CARDS = (
    Card("RTX 3060", 25.5, 360, 12, 170),
    Card("RTX 3060 Ti", 32.4, 448, 8, 200),
    Card("RTX 3070", 40.6, 448, 8, 220),
    Card("RTX 3070 Ti", 43.5, 608, 8, 290),
    Card("RTX 3080", 59.5, 760, 10, 320),
    Card("RTX 3080 Ti", 68.2, 912, 12, 350),
    Card("RTX 3090", 71.0, 936, 24, 350),
    Card("RTX 3090 Ti", 80.0, 1008, 24, 450),
    Card("RTX 4060", 30.2, 272, 8, 115),
    Card("RTX 4060 Ti", 44.1, 288, 8, 160),
    Card("RTX 4060 Ti 16GB", 44.1, 288, 16, 165),
    Card("RTX 4070", 58.3, 504, 12, 200),
    Card("RTX 4070 SUPER", 71.0, 504, 12, 220),
    Card("RTX 4070 Ti", 80.2, 504, 12, 285),
    Card("RTX 4070 Ti SUPER", 88.2, 672, 16, 285),
    Card("RTX 4080", 97.5, 717, 16, 320),
    Card("RTX 4080 SUPER", 104.4, 736, 16, 320),
    Card("RTX 4090", 165.2, 1008, 24, 450),
    Card("RTX 5070", 61.7, 672, 12, 250),
    Card("RTX 5070 Ti", 87.9, 896, 16, 300),
    Card("RTX 5080", 112.6, 960, 16, 360),
    Card("RTX 5090", 209.5, 1792, 32, 575),
    Card("RTX A6000", 154.8, 768, 48, 300),
    Card("L4", 121.0, 300, 22.5, 72),
    Card("L40S", 362.0, 864, 45, 350),
    Card("A10", 125.0, 600, 22.5, 150),
    Card("A10G", 70.0, 600, 22.5, 300),
    Card("A100 40GB", 312.0, 1555, 40, 400),
    Card("A100 80GB", 312.0, 2039, 80, 400),
    Card("A100 PCIe 40GB", 312.0, 1555, 40, 250),
    Card("A100 PCIe 80GB", 312.0, 1935, 80, 300),
    Card("H100 SXM", 989.0, 3350, 79.6, 700),
    Card("H100 PCIe", 756.0, 2039, 79.6, 350),
    Card("H200", 989.0, 4800, 140.4, 700),
)

_SAYS_NOTHING = {"nvidia", "geforce", "rtx", "tesla", "sxm", "sxm2", "sxm4", "sxm5", "hbm2", "hbm2e", "hbm3", "hbm3e"}
"""Words of a device's name that tell no two cards of the table apart. Others, such as Laptop, D or MIG, do."""
_NAMED_SIZE = 0.13
"""A card of 24 GB shows 22.5 GiB with ECC on; 10 and 12 GB must stay apart."""


def find_card(name: str) -> Card | None:
    """The card that a device name means, such as torch's "NVIDIA GeForce RTX 3080 Ti" or "NVIDIA H100 80GB HBM3".

    Every word has to fit, so that no "RTX 3080 Laptop GPU" passes for an RTX 3080. Of several that fit, the first of
    the table. None if there is none: a rate that would be guessed is unknown.
    """
    words, size = _words(name)
    for card in CARDS:
        if words == _words(card.name)[0] and (size is None or abs(size - card.memory_gib) <= _NAMED_SIZE * size):
            return card
    return None


def card_named(name: str) -> Card:
    """As `find_card`, for a name that a user typed; ParakeetError with close names and the list."""
    card = find_card(name)
    if card is not None:
        return card
    names = {known.name.lower(): known.name for known in CARDS}
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.55)
    hint = f"; did you mean {', '.join(names[key] for key in close)}?" if close else "."
    raise ParakeetError(
        f"There is no card {name!r} in the table: name one that it has, or give --memory{hint} "
        f"It has {', '.join(names.values())}."
    )


def _words(name: str) -> tuple[frozenset[str], int | None]:
    """The words that tell cards apart, and the memory in GB if the name says it."""
    spaced = re.sub(r"(rtx)(?=\d)|(\d{4})(?=ti|super)|(ti)(?=super)", r"\1\2\3 ", name.lower())
    words = re.findall(r"[a-z0-9]+", re.sub(r"(\d) gb\b", r"\1gb", spaced))
    sizes = [int(word[:-2]) for word in words if re.fullmatch(r"\d+gb", word)]
    kept = (word for word in words if word not in _SAYS_NOTHING and not re.fullmatch(r"\d+gb", word))
    return frozenset(kept), sizes[0] if sizes else None
