"""The check of a checkpoint's archive against what torch really writes, and against damage anywhere."""

import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parakeet.download.archive import fault_of_archive, fault_of_head


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model.pth"
    torch.save({"a": torch.randn(100), "b": torch.randn(7, 9)}, path)
    return path.read_bytes()


def test_what_torch_saves_is_whole(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(saved)
    seen: list[int] = []
    assert fault_of_archive(path, seen.append) is None
    assert 0 < sum(seen) <= len(saved)


def test_what_torch_saved_before_1_6_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert "before version 1.6" in str(fault_of_archive(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_anywhere_is_found(saved: bytes, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(saved[: data.draw(st.integers(0, len(saved) - 1))])
    assert fault_of_archive(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_raises_and_what_passes_has_its_tensors(saved: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Alignment bytes belong to no member, so damage to them may pass; the tensors are then still the same."""
    content = bytearray(saved)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    if fault_of_archive(path) is None:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(BytesIO(saved)) as sound:
            found = sorted(archive.read(name) for name in archive.namelist())
            assert found == sorted(sound.read(name) for name in sound.namelist())


@given(st.binary(max_size=600))
def test_heads_are_judged_without_an_error(head: bytes) -> None:
    assert (fault_of_head(head) is None) == head.startswith(b"PK\x03\x04")
