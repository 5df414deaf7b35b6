"""The cores and the memory that a process may use, in both versions of control groups."""

import os
from pathlib import Path

import pytest

from parakeet.machine import available_memory, group_limits, usable_cores

GIB = 1 << 30
V1, V2 = "7:cpu,cpuacct:/job\n4:memory:/job", "0::/job/step"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text + "\n")


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        (V2, {}, 4),
        (V2, {"job/step/cpu.max": "max 100000"}, 4),
        (V2, {"job/step/cpu.max": "200000 100000"}, 2),
        (V2, {"job/step/cpu.max": "300000 100000", "job/cpu.max": "100000 100000"}, 1),
        (V2, {"job/step/cpu.max": "190000 100000"}, 1),
        (V2, {"job/step/cpu.max": "5000 100000"}, 1),
        (V2, {"job/step/cpu.max": "9900000 100000"}, 4),
        (V2, {"job/step/cpu.max": "nonsense"}, 4),
        (V1, {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu/job/cpu.cfs_quota_us": "250000", "cpu/job/cpu.cfs_period_us": "100000"}, 2),
        ("0::/of/the/host", {}, 4),
    ],
)
def test_cores_are_physical_and_within_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict[str, str], cores: int
) -> None:
    write(tmp_path, "membership", membership)
    for path, text in files.items():
        write(tmp_path, path, text)
    for number in range(12):  # six cores of two hardware threads each
        write(tmp_path, f"processors/cpu{number}/topology/thread_siblings_list", f"{number % 6},{number % 6 + 6}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 6, 7}, raising=False)
    assert usable_cores(tmp_path, tmp_path / "membership", tmp_path / "processors") == cores


def test_processors_without_a_topology_are_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5}, raising=False)
    assert usable_cores(tmp_path, tmp_path / "missing", tmp_path) == 2
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        (V2, {}, 3 * GIB),
        (V2, {"job/memory.max": "max", "job/memory.current": f"{GIB}"}, 3 * GIB),
        (V2, {"job/memory.max": f"{2 * GIB}", "job/memory.current": f"{GIB}"}, GIB),
        (
            V2,
            {
                "job/step/memory.max": f"{2 * GIB}",
                "job/step/memory.current": f"{2 * GIB}",
                "job/step/memory.stat": "anon 5\nactive_file 1000\ninactive_file 24",
            },
            1024,
        ),
        (V2, {"job/memory.max": "1000", "job/memory.current": "5000"}, 0),
        (
            V1,
            {
                "memory/job/memory.limit_in_bytes": f"{GIB}",
                "memory/job/memory.usage_in_bytes": f"{GIB}",
                "memory/job/memory.stat": "cache 7\ntotal_active_file 4096",
            },
            4096,
        ),
        (
            V1,
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": f"{9 * GIB}"},
            3 * GIB,
        ),
    ],
)
def test_free_memory_is_the_least_of_the_system_and_the_groups(
    tmp_path: Path, membership: str, files: dict[str, str], free: int
) -> None:
    write(tmp_path, "membership", membership)
    write(tmp_path, "meminfo", f"MemTotal: {4 << 20} kB\nMemFree: 10 kB\nMemAvailable:   {3 << 20} kB")
    for path, text in files.items():
        write(tmp_path, path, text)
    assert available_memory(tmp_path, tmp_path / "membership", tmp_path / "meminfo") == free


def test_a_system_without_these_files_has_memory_too(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert available_memory(missing, missing, missing) > 0
    assert available_memory() > 0
    assert group_limits(missing, missing) == []
