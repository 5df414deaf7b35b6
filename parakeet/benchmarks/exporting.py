"""What the measured process of `parakeet bench export` does. It imports no more than the command does."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parakeet.benchmarks.process import Answer
from parakeet.export.formats import export_release
from parakeet.progress import Progress


def export(request: dict[str, Any]) -> Iterator[Answer]:
    """Export as the command does, from the check of the release's hashes to the last byte on disk."""
    folder = Path(request["folder"])
    began, cpu = time.perf_counter(), time.process_time()
    export_release(
        Path(request["release"]), folder / f"made.{request['format']}", request["format"], request["dtype"], Progress()
    )
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield {"seconds": seconds, "cpu_seconds": cpu, "written_bytes": written}
