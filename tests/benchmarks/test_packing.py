"""The loader's speed over shards made for it. What it loads is tested in tests/data."""

import tempfile
from pathlib import Path

import pytest

from benchmarks.packing import measure_loader


def test_the_loaders_speed_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is asserted. No shards stay behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert measure_loader(documents=20_000, mean_tokens=100, sequence_length=1024, seconds=0.3) > 0
    assert list(tmp_path.iterdir()) == []
