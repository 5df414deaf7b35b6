"""Files from strangers: each fault is named in a few words, and nothing in the file is executed."""

import io
import os
import pickle
import pkgutil
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parakeet.torch_archive import MAX_PICKLE_BYTES, fault_of_archive, fault_of_head

STATE = OrderedDict((f"layer.{i}.weight", torch.arange(6.0).reshape(2, 3) + i) for i in range(4))
MARKER = "executed-by-a-pickle"


def saved(value: object = STATE, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


WHOLE = saved()


def check(path: Path, content: bytes) -> int:
    """The bytes of members that were read of a file without a fault."""
    path.write_bytes(content)
    read = 0

    def advance(n: int) -> None:
        nonlocal read
        read += n

    assert fault_of_archive(path, advance) is None
    return read


def refusal(path: Path, content: bytes) -> str:
    """The words that a file is refused with: of one line, and to stand between a colon and a full stop."""
    path.write_bytes(content)
    fault = fault_of_archive(path, lambda n: None)
    assert fault is not None
    assert fault.startswith("it ")
    assert fault.isprintable()
    assert not fault.endswith(".")
    assert str(path) not in fault
    return fault


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED, before: bytes = b"") -> bytes:
    stream = io.BytesIO()
    stream.write(before)
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def encrypted(content: bytes) -> bytes:
    """The same file with its last member marked as encrypted."""
    flags = content.rindex(b"PK\x01\x02") + 8
    return content[:flags] + bytes([content[flags] | 1]) + content[flags + 1 :]


def torch_archive(pickled: bytes, **more: bytes) -> bytes:
    return archive({"archive/data.pkl": pickled, "archive/version": b"3\n", **more})


def test_what_torch_save_writes_is_accepted(tmp_path: Path) -> None:
    assert sum(tensor.nbytes for tensor in STATE.values()) <= check(tmp_path / "a.pth", WHOLE) <= len(WHOLE)
    path = tmp_path / "with a name.pth"
    torch.save(STATE, path)
    assert fault_of_archive(path, lambda n: None) is None
    for value in (dict(STATE), torch.nn.Linear(2, 3).state_dict(), {"half": torch.ones(3).half(), "n": 3, "s": "é"}):
        check(path, saved(value))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded", "is a web page"),
        (b"\xef\xbb\xbf\n <HTML>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page or other markup"),
        (b'{"error": 404}', "is not a checkpoint that torch.save wrote: it begins with 7b 22"),
        (b"PK", "is not a checkpoint that torch.save wrote"),
        (bytes(600), "begins with nothing but zeros"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(64), "is a 7z archive: unpack it"),
        (b"\x1f\x8b\x08\x00" + bytes(64), "is a gzip file"),
        (b"\x28\xb5\x2f\xfd" + bytes(64), "is a zstandard file"),
        (b"Rar!\x1a\x07" + bytes(64), "is a RAR archive"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "is a GGUF file"),
        (struct.pack("<Q", 2) + b"{}", "is a safetensors file under another name"),
        (struct.pack("<Q", 0x180) + b"{" + b" " * 0x17F, "is a safetensors file under another name"),
        (WHOLE[:-1], "is a cut-off archive"),
        (WHOLE[: len(WHOLE) // 2], "is a cut-off archive"),
        (WHOLE[:5], "is a cut-off archive"),
        (WHOLE + b"\0", "has more bytes after the end"),
        (WHOLE + pickle.dumps({}), "has more bytes after the end"),
        (saved(_use_new_zipfile_serialization=False), "is a bare pickle, as torch wrote before version 1.6"),
        (pickle.dumps({"a": 1}), "is a bare pickle, not an archive"),
        (pickle.dumps({"a": 1}) + WHOLE, "is a bare pickle, not an archive"),
        (WHOLE + WHOLE, "records at its end do not match"),
        (b"PK\x03\x04" + WHOLE, "records at its end do not match"),
        (
            archive({"archive/data.pkl": pickle.dumps({}, 2)}, before=b"PK\x03\x04junk"),
            "before its archive begins",
        ),
        (archive({"a/data.pkl": b"PK\x06\x06" + bytes(16)}), "is a damaged archive"),
        (archive({}), "is not a checkpoint that torch.save wrote: it begins with 50 4b 05 06"),
        (archive({"a/b.txt": b"x"}), "none that torch.save wrote: it has no data.pkl"),
        (archive({"../../etc/data.pkl": pickle.dumps({}, 2)}), "none that torch.save wrote: it has no data.pkl"),
        (torch_archive(pickle.dumps({}, 2), **{"archive/code/__torch__.py": b""}), "is a TorchScript program"),
        (torch_archive(pickle.dumps({}, 2), **{"archive/constants.pkl": b""}), "is a TorchScript program"),
        (torch_archive(pickle.dumps({}, 2), **{"archive/DATA.PKL": b""}), "torch.save does not write"),
        (archive({"archive/data.pkl": b"", "archive/data.pkm": b""}).replace(b".pkm", b".pkl"), "of the same name"),
        (torch_archive(pickle.dumps({}, 2), **{"archive/data/../x": b""}), "torch.save does not write"),
        (torch_archive(pickle.dumps({}, 2), **{"other/data/0": b""}), "torch.save does not write"),
        (
            torch_archive(pickle.dumps({}, 2), **{"archive/data/0#": b""}).replace(b"0#", b"0\0"),
            "torch.save does not write",
        ),
        (torch_archive(b"\x80\x02}"), "has a broken pickle"),
        (torch_archive(b""), "has a broken pickle"),
        (torch_archive(b"\x80\x02ctorch._utils\n_rebuild_qtensor\n."), "which no state dict of plain tensors needs"),
        (torch_archive(b"\x80\x02ctorch\nQInt8Storage\n"), "which no state dict of plain tensors needs"),
        (torch_archive(b"\x80\x02ctorch.hub\nload\n"), "names torch.hub.load in its pickle, which no state dict"),
        (torch_archive(b"\x80\x04\x8c\x01o\x8c\x04a\nb\x07\x93."), "names o.a b in its pickle"),
        (torch_archive(b"\x80\x02c" + b"long" * 999 + b"\nname\n."), f"names {'long' * 50} in its pickle, which"),
        (torch_archive(bytes(MAX_PICKLE_BYTES + 1)), "has a pickle of more than"),
        (archive({"archive/data.pkl": bytes(99)}, zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        (encrypted(WHOLE), "compressed or encrypted"),
    ],
)
def test_every_other_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refusal(tmp_path / "a.pth", content)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.nn.Parameter(torch.ones(2)), "torch._utils._rebuild_parameter"),
        (torch.ones(2, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
        (torch.ones(2, 2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.ones(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (torch.ones(2).to(torch.float8_e4m3fn), "torch._utils._rebuild_tensor_v3"),
        (torch.nn.Buffer(torch.ones(2)), "torch._tensor._rebuild_from_type_v2"),
    ],
)
def test_tensors_that_are_not_plain_are_refused(tmp_path: Path, value: object, name: str) -> None:
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        fault = refusal(tmp_path / "a.pth", saved({"a": torch.ones(2), "b": value}, **options))
        if not options:
            assert f"names {name}" in fault
            assert "save model.state_dict()" in fault
        else:
            assert "bare pickle" in fault


def test_a_program_behind_a_parameter_is_named(tmp_path: Path) -> None:
    state = {"a": torch.nn.Parameter(torch.ones(2)), "b": Calls(os.system, "true")}
    fault = refusal(tmp_path / "a.pth", saved(state))
    assert "names torch._utils._rebuild_parameter, posix.system in its pickle, which no state dict" in fault


def test_old_tar_checkpoints_are_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    assert "is a tar archive" in refusal(tmp_path / "a.pth", stream.getvalue())


def test_ends_that_tell_of_two_directories_are_refused(tmp_path: Path) -> None:
    for position in (-18, -16, -14, -12, -10, -6, -2, -94, -80, -76, -72, -66, -58, -50, -38, -34, -26):
        content = bytearray(WHOLE)
        content[position] ^= 1
        refusal(tmp_path / "a.pth", bytes(content))


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path: Path) -> None:
    start = WHOLE.index(STATE["layer.2.weight"].numpy().tobytes())
    content = bytearray(WHOLE)
    content[start + 5] ^= 1
    assert "is a damaged archive (Bad CRC-32 for file 'archive/data/2')" in refusal(tmp_path / "a.pth", bytes(content))


@pytest.mark.parametrize("offset", [1 << 20, (1 << 63) - 1, (1 << 64) - 1])
def test_members_beyond_the_end_are_damage(tmp_path: Path, offset: int) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(8))
        file.filelist[1].header_offset = offset
    assert "is a damaged archive" in refusal(tmp_path / "a.pth", stream.getvalue())


BRIEF = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@BRIEF
@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_anywhere_is_found(tmp_path: Path, n_bytes: int) -> None:
    refusal(tmp_path / "a.pth", WHOLE[:n_bytes])


def test_an_entry_that_swallows_those_behind_it_is_found(tmp_path: Path) -> None:
    """Its comment's length, two bytes at 32 of an entry, reaches to the end of the directory."""
    content = bytearray(WHOLE)
    first, end = content.index(b"PK\x01\x02"), content.rfind(b"PK\x05\x06")
    name, extra = (int.from_bytes(content[first + at : first + at + 2], "little") for at in (28, 30))
    content[first + 32 : first + 34] = (end - first - 46 - name - extra).to_bytes(2, "little")
    assert "records at its end do not match" in refusal(tmp_path / "a.pth", bytes(content))


@given(st.binary(max_size=600))
def test_heads_are_judged_without_an_error(head: bytes) -> None:
    assert (fault_of_head(head) is None) == head.startswith(b"PK\x03\x04")


class Calls:
    """A pickle of it calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


EVIL = [
    (Calls(os.system, f"touch {MARKER}"), "posix.system"),
    (Calls(eval, f"open({MARKER!r}, 'w')"), "builtins.eval"),
    (Calls(pkgutil.resolve_name, "os:system"), "pkgutil.resolve_name"),
    (Calls(torch.load, MARKER), "torch.serialization.load"),
    (Calls(torch.storage._load_from_bytes, b""), "torch.storage._load_from_bytes"),
    (Calls(getattr, "a", "upper"), "builtins.getattr"),
    ({"deep": [{"inside": Calls(exec, "1")}]}, "builtins.exec"),
]
# Protocol 2 calls builtins by the name that they had in Python 2.
OLD_NAMES = {"builtins": "__builtin__"}


@pytest.mark.parametrize(("value", "name"), EVIL, ids=[name for _, name in EVIL])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_a_pickle_would_call_is_named_and_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    module, _, function = name.rpartition(".")
    expected = name if protocol == 4 else f"{OLD_NAMES.get(module, module)}.{function}"
    pickled = pickle.dumps({"weight": value}, protocol)
    for content in (torch_archive(pickled), saved({"weight": value}, pickle_protocol=protocol)):
        fault = refusal(tmp_path / "a.pth", content)
        assert f"names {expected} " in fault or f"names {expected}, " in fault
    for content in (pickled, saved({"weight": value}, _use_new_zipfile_serialization=False)):
        assert "is a bare pickle" in refusal(tmp_path / "a.pth", content)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    ("pickled", "name"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "os.system"),
        (b"\x80\x02\x82\x07.", "7"),
        (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94K\x01h\x00h\x01\x93.", "posix.system"),
        (b"\x80\x04\x93.", "STACK_GLOBAL"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ccollections\nOrderedDict\ncos\nsystem\n.", "os.system"),
    ],
)
def test_every_way_to_name_a_function_is_seen(tmp_path: Path, pickled: bytes, name: str) -> None:
    assert f"names {name} in its pickle" in refusal(tmp_path / "a.pth", torch_archive(pickled))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_pickles(tmp_path_factory: pytest.TempPathFactory, pickled: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "pickled.pth"
    path.write_bytes(torch_archive(pickled))
    fault = fault_of_archive(path, lambda n: None)
    assert fault is None or "pickle" in fault


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """A thousand entries of the directory point to the same member: 1 MB of file claims to hold 1 GB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(1_000_000))
        first = file.filelist[1]
        for number in range(1, 1000):
            copy = zipfile.ZipInfo(f"archive/data/{number}")
            copy.header_offset, copy.CRC = first.header_offset, first.CRC
            copy.file_size = copy.compress_size = first.file_size
            file.filelist.append(copy)
    assert "whose members overlap" in refusal(tmp_path / "a.pth", stream.getvalue())
