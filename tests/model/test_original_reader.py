"""The tensors of a checkpoint are taken as they are, or refused by name."""

import io
import json
import math
import os
import re
import runpy
import struct
import subprocess
import sys
import tomllib
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.model.original import layout
from parakeet.model.original_reader import checked_tensors, load_state
from parakeet.torch_archive import fault_of_archive

generator = runpy.run_path(str(Path(__file__).parents[1] / "original_checkpoint.py"))
original_state = generator["original_state"]
State = OrderedDict[str, Tensor]
WIDTH = 8


def tensors_of(state: State, layers: int = 3) -> dict[str, Tensor]:
    return checked_tensors(state, layout(layers, WIDTH))


def test_each_tensor_is_taken_once_as_it_is() -> None:
    state = original_state(3, WIDTH)
    tensors = tensors_of(state)
    assert {name: tensor.data_ptr() for name, tensor in tensors.items()} == {
        entry.name: state[entry.key].data_ptr() for entry in layout(3, WIDTH)
    }
    assert sum(tensor.numel() for tensor in tensors.values()) == generator["parameter_count"](state)


def test_copies_of_tied_tensors_are_as_good_as_the_same() -> None:
    state = original_state(2, WIDTH)
    copied = OrderedDict((key, tensor.clone()) for key, tensor in state.items())
    assert all(
        torch.equal(a, b) for a, b in zip(tensors_of(copied, 2).values(), tensors_of(state, 2).values(), strict=True)
    )


def changed(key: str, change: Callable[[Tensor], Tensor]) -> State:
    state: State = original_state(3, WIDTH)
    state[key] = change(state[key].clone())
    return state


def set_number(value: float, at: int) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[at] = value
        return tensor

    return change


HEAD, SECOND, QUERY = "lm_head.weight", "transformer.h.1.attn.c_kv.weight", "transformer.h.2.attn.c_query.weight"


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (QUERY, set_number(math.nan, -1), f"{QUERY} holds NaN"),
        ("transformer.ln_f.weight", set_number(-math.inf, 0), "transformer.ln_f.weight holds NaN or infinite"),
        ("transformer.wte.weight", set_number(math.inf, -1), "transformer.wte.weight holds NaN"),
        (HEAD, set_number(0.5, -1), f"{HEAD} differs from transformer.wte.weight"),
        (HEAD, set_number(math.nan, 3), f"{HEAD} differs"),
        (SECOND, set_number(0.5, 0), f"{SECOND} differs from transformer.h.0.attn.c_kv.weight"),
        (QUERY, Tensor.half, f"{QUERY} has dtype float16"),
        (QUERY, Tensor.bfloat16, f"{QUERY} has dtype bfloat16"),
        (QUERY, Tensor.double, f"{QUERY} has dtype float64"),
        (QUERY, Tensor.int, f"{QUERY} has dtype int32"),
        (HEAD, Tensor.half, f"{HEAD} has dtype float16"),
        (QUERY, Tensor.t, f"{QUERY} is not stored as one plain block"),
        (QUERY, lambda t: torch.zeros(()).expand(t.shape), f"{QUERY} is not stored as one plain block"),
        (QUERY, torch._neg_view, f"{QUERY} is not stored as one plain block"),
        (QUERY, lambda t: t.to("meta"), f"{QUERY} is not stored as one plain block"),
        (QUERY, Tensor.to_sparse, f"{QUERY} is not stored as one plain block"),
    ],
)
def test_a_wrong_tensor_is_named(key: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ParakeetError, match=message):
        tensors_of(changed(key, change))


def test_minus_zero_is_not_zero() -> None:
    state = original_state(1, WIDTH)
    state["transformer.wte.weight"].view(-1)[7] = 0.0
    state[HEAD] = state["transformer.wte.weight"].clone()
    assert tensors_of(state, 1)
    state[HEAD].view(-1)[7] = -0.0
    with pytest.raises(ParakeetError, match="lm_head"):
        tensors_of(state, 1)


def test_tensors_that_share_their_numbers_are_larger_than_their_file(tmp_path: Path) -> None:
    state = original_state(8, 64)
    for layer in range(1, 8):
        for name in ("mlp.c_fc", "mlp.c_proj"):
            key = f"transformer.h.{layer}.{name}.weight"
            state[key] = state[key.replace(f".{layer}.", ".0.")]
    torch.save(state, tmp_path / "a.pth")
    status, report = converted(tmp_path / "a.pth")
    assert status == 1
    assert "Its tensors are larger than the file: they share their numbers" in str(report["refused"])


def test_files_map_to_the_state_dict_they_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"a": torch.arange(5.0), "b": torch.ones(2, 2)}
    torch.save({f"module._orig_mod.{key}": tensor for key, tensor in state.items()}, tmp_path / "a.pth")
    loaded = load_state(tmp_path / "a.pth")
    assert list(loaded) == ["a", "b"]
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert "The prefix module._orig_mod. was removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(1)], "holds a list, not a state dict"),
        (torch.ones(1), "holds a Tensor, not a state dict"),
        (
            {"model": {"a": torch.ones(1)}, "step": 3},
            "holds a dict under model.*save the state dict of the model",
        ),
        ({3: torch.ones(1)}, "holds a Tensor under 3"),
        ({"a": torch.nn.Linear(1, 1)}, "torch cannot read it as plain weights: Unsupported global: GLOBAL torch.nn"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, value: object, message: str) -> None:
    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(ParakeetError, match=message):
        load_state(tmp_path / "a.pth")


def test_the_required_torch_is_one_that_reads_files_safely() -> None:
    """torch.load(weights_only=True) before 2.10 can be made to corrupt memory (CVE-2026-24747)."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    bound = re.search(r"\btorch>=(\d+)\.(\d+)", " ".join(project["project"]["dependencies"]))
    assert bound is not None
    assert (int(bound[1]), int(bound[2])) >= (2, 10)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports how much memory a process has")
def test_memory_has_a_limit_that_can_be_raised() -> None:
    program = (
        "from parakeet.model.original_reader import limit_memory\n"
        "limit_memory(64 << 20)\n"
        "held = bytearray(16 << 20)\n"
        "try:\n"
        "    bytearray(256 << 20)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
        "limit_memory(512 << 20)\n"
        "print(len(bytearray(256 << 20)))\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ})
    assert finished.stdout.split() == ["refused", str(256 << 20)], finished.stderr


def converted(path: Path) -> tuple[int, dict[str, object]]:
    """Exit status and last report of the process that reads a checkpoint; it must leave no file."""
    output = path.parent / "output"
    output.mkdir()
    job = {"path": str(path), "output": str(output), "heads": 2, "context": 64}
    finished = subprocess.run(
        [sys.executable, "-m", "parakeet.model.original_reader", json.dumps(job)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert list(output.iterdir()) == []
    return finished.returncode, json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports how much memory a process has")
def test_an_archive_whose_directory_fills_the_memory_is_refused(tmp_path: Path) -> None:
    """A file with a hole that says that its directory is 640 MiB long: zipfile reads directories in one piece."""
    n_bytes = 640 << 20
    path = tmp_path / "a.pth"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(n_bytes)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, n_bytes, 0, 0))
    status, report = converted(path)
    assert status == 1
    assert "a.pth was refused: reading it takes more than 512 MiB beside the file" in str(report["refused"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux reports how much memory a process has")
def test_a_pickle_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    """Nothing but what a state dict names: a dictionary of 1,000 entries, copied into 12,000 OrderedDicts."""
    path = tmp_path / "a.pth"
    entries = b"".join(b"M" + struct.pack("<H", number) + b"N" for number in range(1000))
    pickled = b"\x80\x02ccollections\nOrderedDict\nq\x00}q\x01(" + entries + b"u" + b"h\x00h\x01\x85R" * 12_000 + b"."
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
    assert fault_of_archive(path, lambda n: None) is None
    status, report = converted(path)
    assert status == 1
    assert "a.pth was refused: reading it takes more than 512 MiB beside the file" in str(report["refused"])


STATE = OrderedDict((f"layer.{i}.weight", torch.arange(6.0).reshape(2, 3) + i) for i in range(4))


def saved() -> bytes:
    stream = io.BytesIO()
    torch.save(STATE, stream)
    return stream.getvalue()


WHOLE = saved()


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """WHOLE with every member changed, or left out where `change` gives None."""
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as there, zipfile.ZipFile(path, "w") as here:
        for name in there.namelist():
            if (content := change(name, there.read(name))) is not None:
                here.writestr(name, content)
    assert fault_of_archive(path, lambda n: None) is None
    return path


def test_a_file_of_a_big_endian_machine_holds_the_same_numbers(tmp_path: Path) -> None:
    def swapped(name: str, content: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        return np.frombuffer(content, "<f4").astype(">f4").tobytes() if "/data/" in name else content

    loaded = load_state(rewritten(tmp_path / "a.pth", swapped))
    assert all(torch.equal(loaded[key], STATE[key]) for key in STATE)


def test_a_file_of_an_older_torch_with_a_gpu_is_read_on_the_cpu(tmp_path: Path) -> None:
    def older(name: str, content: bytes) -> bytes | None:
        known = name.endswith(("data.pkl", "/version")) or "/data/" in name
        return content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0") if known else None

    path = rewritten(tmp_path / "a.pth", older)
    assert b"cuda:0" in path.read_bytes()
    loaded = load_state(path)
    assert all(torch.equal(loaded[key], STATE[key]) and loaded[key].device.type == "cpu" for key in STATE)


def test_a_shape_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    """(2, 3) becomes (2, 2³¹ − 1)."""
    huge = b"K\x02J\xff\xff\xff\x7f"
    path = rewritten(tmp_path / "a.pth", lambda name, content: content.replace(b"K\x02K\x03", huge))
    with pytest.raises(ParakeetError, match=r"as plain weights: (Trying to resize storage|.* out of bounds)"):
        load_state(path)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    content = bytearray(WHOLE)
    content[position] ^= change
    path = tmp_path_factory.getbasetemp() / "changed.pth"
    path.write_bytes(content)
    if fault_of_archive(path, lambda n: None):
        return
    try:
        loaded = load_state(path)
    except ParakeetError:
        return
    assert list(loaded) == list(STATE)
    assert all(torch.equal(loaded[key], STATE[key]) for key in STATE)
