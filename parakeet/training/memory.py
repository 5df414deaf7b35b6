"""How much memory training may take: of a card, of this machine, or as a user says it. Imports no torch."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from parakeet.errors import ParakeetError

MIB = 1 << 20
GIB = 1 << 30
CARD_RESERVE = round(0.8 * GIB)
"""What the CUDA context, its libraries and a display take of a card before anything is allocated."""
CPU_SHARE = 0.8
"""Share of the machine's memory that training may take. Not of what is free just now: a resumed run has to choose
the same micro-batches as the run did that it goes on with."""

UNKNOWN_BUDGET = 1 << 60
"""More than any machine has, where nobody says how much there is: nothing is refused. Version 1 of cgroups writes
2^63 less a page where there is no limit."""

_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}


def parse_memory(text: str) -> int:
    """Bytes of "11.2GiB", "12GB", "11500MiB": K, M, G and T by 1,000, with an i by 1,024. ParakeetError on nonsense."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(I?)B\s*", text.upper())
    n_bytes = round(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2]]) if match else 0
    if not 0 < n_bytes < UNKNOWN_BUDGET:
        raise ParakeetError(f"{text!r} is no amount of memory: write it like 11.2GiB, 12GB or 11500MiB.")
    return n_bytes


def size(n_bytes: int) -> str:
    """An amount of memory for people: in GiB or MiB, and to the byte where it is less than one of these."""
    if n_bytes == UNKNOWN_BUDGET:
        return "an unknown amount"
    if n_bytes >= GIB:
        return f"{n_bytes / GIB:,.2f} GiB"
    return f"{n_bytes / MIB:,.1f} MiB" if n_bytes >= MIB else f"{n_bytes:,} bytes"


def card_budget(n_bytes: int) -> int:
    """What can be allocated on a card of `n_bytes` in all."""
    return max(0, n_bytes - CARD_RESERVE)


def machine_budget() -> int:
    """What training may take of this machine's memory, or of what its container is allowed, in bytes.

    UNKNOWN_BUDGET where the system tells neither.
    """
    return share_of([physical_memory(), *group_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def share_of(limits: Iterable[int | None]) -> int:
    """What training may take where all of these limits hold, in bytes; None is one that nobody knows."""
    known = [limit for limit in limits if limit is not None]
    return int(CPU_SHARE * min(known)) if known else UNKNOWN_BUDGET


def physical_memory() -> int | None:
    """Bytes of memory in this machine; None where the system does not say, as Windows does not."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return page * pages if page > 0 and pages > 0 else None


def group_limits(root: Path, membership: Path) -> list[int]:
    """Limits of a process's control groups, in bytes; a group's limit binds all below it.

    root: where both versions of them are mounted; membership: the process's /proc/…/cgroup.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []  # no Linux
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's; then only the root that it sees counts.
        limits += [_limit(folder / file) for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return [limit for limit in limits if limit is not None and limit < UNKNOWN_BUDGET]


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # no such file, or the word max
