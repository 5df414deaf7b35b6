"""The processor of this machine, by name and by what matters to the speed of products."""

import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimddp", "bf16", "i8mm", "sve")
"""Flags of x86-64 and of ARM. A processor without them computes products of bf16 or of 8 bits slowly."""

ISA_LIMITS: dict[str, Mapping[str, str]] = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
}
"""Environment in which torch and its libraries use no newer instructions, as on an older processor."""


@dataclass(frozen=True)
class Processor:
    name: str
    flags: tuple[str, ...]
    """Those of FLAGS that it has; none where the system does not list them."""

    def __str__(self) -> str:
        return f"{self.name} ({' '.join(self.flags) or 'no flags known'})"


def this_processor(cpu_info: Path = CPU_INFO) -> Processor:
    """As the system describes it; `cpu_info` is Linux's file. What is unknown is left out."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        text = cpu_info.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = facts.get("flags", facts.get("Features", "")).split()
    name = facts.get("model name") or _name_on_macos() or platform.processor() or platform.machine()
    return Processor(name, tuple(flag for flag in FLAGS if flag in flags))


def _name_on_macos() -> str:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    return ""
