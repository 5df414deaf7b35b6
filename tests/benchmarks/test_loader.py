"""The loader's rate, over shards made for it; tests of what it loads are in tests/data."""

import tempfile
from pathlib import Path

import pytest

from parakeet.benchmarks.loader import measure_loader


def test_documents_of_a_hundred_tokens_are_laid_out_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of what a quiet core reaches: other processes may be at work on this one. No shards stay behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert measure_loader(documents=20_000, mean_tokens=100, row_tokens=1024, seconds=0.3) > 5e6
    assert list(tmp_path.iterdir()) == []
