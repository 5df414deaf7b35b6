"""`parakeet bench trace` on little text."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.cli import main


@pytest.mark.slow
def test_builds_and_look_ups_are_measured(tmp_path: Path) -> None:
    finished = CliRunner().invoke(main, ["bench", "trace", "--tokens", "40000"], env={"TMPDIR": str(tmp_path)})
    assert finished.exit_code == 0, finished.output
    result = json.loads(finished.stdout.splitlines()[-1])
    assert [build["text"] for build in result["builds"]] == ["natural", "equal tokens", "Fibonacci", "natural"]
    assert all(build["tokens_per_cpu_second"] > 0 and build["disk_bytes_per_token"] > 7 for build in result["builds"])
    replies = result["replies"]
    assert replies["tokens"] == 40_000
    assert replies["spans"] > 3
    assert 0 < replies["warm"]["p50_ms"] <= replies["warm"]["p95_ms"]
    assert list(tmp_path.iterdir()) == []
