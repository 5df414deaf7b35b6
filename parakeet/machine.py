"""The cores and the memory that this process may use. Imports nothing heavy.

Both are limited by control groups, as in containers: `root` is where both versions of them are mounted, `membership`
the process's /proc/…/cgroup. A group's limit applies to all groups below it.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
PROCESSORS, MEMORY = Path("/sys/devices/system/cpu"), Path("/proc/meminfo")
NO_LIMIT = 1 << 60
"""More than any machine has. (Version 1 of cgroups writes 2^63 less a page for no limit.)"""


def usable_cores(root: Path = ROOT, membership: Path = MEMBERSHIP, processors: Path = PROCESSORS) -> int:
    """Physical cores that this process may keep busy: those of its affinity, or fewer by a quota; at least 1."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    # Two hardware threads of a core name the same siblings.
    cores = {_siblings(processors / f"cpu{number}") for number in os.sched_getaffinity(0)}
    # Rounded down: a process that uses up its quota is stopped for the rest of a tenth of a second.
    return max(1, int(min([len(cores), *_quotas(root, membership)])))


def _siblings(processor: Path) -> str:
    try:
        return (processor / "topology" / "thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return processor.name


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """CPU seconds a second that each group of this process may use."""
    for folder, version in _groups("cpu", root, membership):
        try:
            if version == 2:
                quota, period = map(float, (folder / "cpu.max").read_text(encoding="ascii").split())
            else:
                quota, period = (
                    float((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
                )
        except (OSError, ValueError):
            continue  # no such file, or "max"
        if quota > 0 and period > 0:
            yield quota / period


def available_memory(root: Path = ROOT, membership: Path = MEMBERSHIP, memory: Path = MEMORY) -> int:
    """Bytes that this process can still take without swapping, as far as the system and its groups tell.

    Memory that holds copies of files counts as available: the system gives it back.
    """
    return min([_free_in_system(memory), *_free_in_groups(root, membership)])


def _free_in_system(memory: Path) -> int:
    try:
        lines = memory.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        import psutil  # not Linux

        return int(psutil.virtual_memory().available)


def _free_in_groups(root: Path, membership: Path) -> Iterator[int]:
    for folder, version in _groups("memory", root, membership):
        limit, used, cached = _LIMIT[version], _USED[version], _CACHED[version]
        most, taken = _number(folder / limit), _number(folder / used)
        if most is None or taken is None or most >= NO_LIMIT:
            continue
        try:
            counts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            files = sum(int(counts.get(name, 0)) for name in cached)
        except (OSError, ValueError):
            files = 0
        yield max(0, most - taken + files)


_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_USED = {1: "memory.usage_in_bytes", 2: "memory.current"}
_CACHED = {1: ("total_active_file", "total_inactive_file"), 2: ("active_file", "inactive_file")}


def group_limits(root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[int]:
    """Memory limits of this process's control groups, in bytes."""
    limits = [_number(folder / _LIMIT[version]) for folder, version in _groups("memory", root, membership)]
    return [limit for limit in limits if limit is not None and limit < NO_LIMIT]


def _groups(controller: str, root: Path, membership: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's groups that limit a controller, and the version of control groups of each."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        group = base / path.lstrip("/")
        # Inside a container the path may be the host's; then only the visible root counts.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                yield folder, 1 if controllers else 2


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # no such file, or "max"


def give_back_freed_memory() -> None:
    """Return the memory that this process has freed to the system. On other systems than Linux nothing happens.

    glibc keeps it for new blocks. Tensors whose sizes change from step to step leave gaps that fit no later one, so the
    resident memory would grow although what is in use does not.
    """
    # musl has no malloc_trim.
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
