"""Untrusted models: every broken file is refused with one message, before it costs memory or time."""

import hashlib
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.model.config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig
from parakeet.model.transformer import Parakeet, load_model, save_model
from parakeet.release.verify import GENERATION_FILE, open_release, write_sums
from parakeet.tokenizer import SETTINGS_FILE, VOCABULARY_FILE, Tokenizer, train_tokenizer

CONFIG = ModelConfig(layers=3, heads=2, width=8, context=32, vocabulary_rows=64)
NORM = "final_norm.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model = Parakeet(CONFIG)
    model.initialise(torch.Generator().manual_seed(1))
    save_model(model, folder)
    train_tokenizer(["hello world"] * 9, 300).save(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Copies, because a loaded model's tensors are the file's own pages, and the tests write to the file."""
    return {name: tensor.clone() for name, tensor in load_model(folder, "cpu").state_dict().items()}


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: bytes | dict[str, Any], body: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def spoil(content: bytes) -> bytes:
        header, body = parts(content)
        change(header)
        return joined(header, body)

    return spoil


def with_raw_header(raw: bytes) -> Callable[[bytes], bytes]:
    return lambda content: joined(raw, parts(content)[1])


def with_length(length: int) -> Callable[[bytes], bytes]:
    return lambda content: struct.pack("<Q", length) + content[8:]


def setting(key: str, value: object) -> Callable[[bytes], bytes]:
    return with_header(lambda header: header[NORM].__setitem__(key, value))


TORN = {
    "empty": lambda content: b"",
    "three bytes": lambda content: content[:3],
    "one byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "trailing bytes": lambda content: content + bytes(64),
    "a web page": lambda content: b"<!DOCTYPE html><html>quota exceeded</html>",
    "header of 2^63 bytes": with_length(1 << 63),
    "header of 2^64 - 1 bytes": with_length((1 << 64) - 1),
    "header of 0 bytes": with_length(0),
    "header beyond the file": with_length(1 << 20),
    "header that is not UTF-8": with_raw_header(b'{"\xff\xfe": 1}'),
    "header that is not JSON": with_raw_header(b"weights"),
    "header that is a list": with_raw_header(b"[]"),
    "header nested deep": with_raw_header(b'{"a":' * 100_000),
    "overlapping offsets": setting("data_offsets", [0, 32]),
    "reversed offsets": setting("data_offsets", [32, 0]),
    "negative offsets": setting("data_offsets", [-32, 0]),
    "offsets beyond the file": setting("data_offsets", [1 << 40, (1 << 40) + 32]),
    "shape that overflows": setting("shape", [1 << 62, 1 << 62]),
    "negative shape": setting("shape", [-8]),
    "unknown dtype": setting("dtype", "Q3"),
    "metadata that is not text": with_header(lambda header: header.update(__metadata__={"a": 1})),
    "metadata of 101 MiB": with_header(lambda header: header.update(__metadata__={"a": "x" * (101 << 20)})),
}


@pytest.mark.parametrize("fault", TORN)
def test_a_broken_safetensors_file_is_refused(folder: Path, fault: str) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(TORN[fault](path.read_bytes()))
    with pytest.raises(ParakeetError, match=r"model\.safetensors cannot be read as safetensors") as caught:
        load_model(folder, "cpu")
    assert len(str(caught.value)) < 500


def test_long_metadata_and_a_repeated_name_change_nothing(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    content, before = path.read_bytes(), weights_of(folder)
    header, body = parts(content)
    twice = json.dumps(header)[:-1] + f', "{NORM}": {json.dumps(header[NORM])}}}'
    for spoilt in (joined({**header, "__metadata__": {"a": "x" * (20 << 20)}}, body), joined(twice.encode(), body)):
        path.write_bytes(spoilt)
        after = load_model(folder, "cpu").state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int8,
    torch.int32,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("names", [[NORM], None], ids=["one tensor", "all tensors"])
def test_another_dtype_is_named(folder: Path, dtype: torch.dtype, names: list[str] | None) -> None:
    state = weights_of(folder)
    other = {name: tensor.to(dtype) if names is None or name in names else tensor for name, tensor in state.items()}
    save_file(other, folder / WEIGHTS_FILE)
    with pytest.raises(ParakeetError, match=rf"has dtype {dtype}; Parakeet's weights are torch\.float32"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [NORM, "embedding.weight", "key_values.1.weight"])
def test_a_weight_that_is_not_finite_is_named(folder: Path, value: float, name: str) -> None:
    state = weights_of(folder)
    state[name].view(-1)[-1] = value
    save_file(state, folder / WEIGHTS_FILE)
    with pytest.raises(ParakeetError, match=f"{name} holds NaN or infinite"):
        load_model(folder, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 10**9}, "layers is 1000000000; it must be a whole number from 1 to 1,024"),
        ({"layers": 10**6}, "layers is 1000000"),
        ({"layers": 0}, "layers is 0"),
        ({"layers": 3.0}, r"layers is 3\.0"),
        ({"layers": True}, "layers is True"),
        ({"layers": "3"}, "layers is '3'"),
        ({"layers": None}, "layers is None"),
        ({"layers": math.nan}, "layers is nan"),
        ({"layers": math.inf}, "layers is inf"),
        ({"layers": 4}, r"does not match its config\.json"),
        ({"layers": 1024}, r"does not match its config\.json"),
        ({"heads": 3}, "width 8 is not a multiple of heads 3"),
        ({"heads": -2}, "heads is -2"),
        ({"width": 1 << 40}, "width is"),
        ({"width": 65536}, r"does not match its config\.json"),
        ({"vocabulary_rows": 0}, "vocabulary_rows is 0"),
        ({"vocabulary_rows": -64}, "vocabulary_rows is -64"),
        ({"vocabulary_rows": 1 << 20}, r"does not match its config\.json"),
        ({"context": [8]}, "context is"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"dropout": "0.1"}, "dropout is '0.1'"),
        ({"dropout": 1}, "dropout is 1"),
        ({"dropout": None}, "dropout is None"),
    ],
)
def test_an_impossible_size_is_named(folder: Path, changes: dict[str, object], message: str) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    with pytest.raises(ParakeetError, match=message):
        load_model(folder, "cpu")


BROKEN_JSON = [
    b"",
    b"null",
    b"3",
    b'"text"',
    b"[]",
    b"{}",
    b"\xff\xfe\x00",
    bytes(100),
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 100_000,
    b'{"layers": ' + b"9" * 10_000 + b"}",
]


@pytest.mark.parametrize("content", BROKEN_JSON, ids=lambda content: repr(content[:12]))
def test_a_broken_configuration_is_refused(folder: Path, content: bytes) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(ParakeetError, match=r"config\.json is not a model configuration"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("content", [*BROKEN_JSON, b'{"name": "x", "temperature": NaN}'], ids=lambda c: repr(c[:12]))
def test_broken_generation_settings_are_refused(folder: Path, content: bytes) -> None:
    (folder / GENERATION_FILE).write_bytes(content)
    write_sums(folder)
    with pytest.raises(ParakeetError, match=r"generation_config\.json cannot be read"):
        open_release(folder)


@pytest.mark.parametrize("content", BROKEN_JSON, ids=lambda content: repr(content[:12]))
def test_a_broken_tokenizer_is_refused(folder: Path, content: bytes) -> None:
    (folder / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(ParakeetError, match=r"tokenizer\.json is not a Parakeet tokenizer"):
        Tokenizer.load(folder)


def change_tokenizer(folder: Path, changes: dict[str, object], controls: dict[str, object] | None = None) -> None:
    path = folder / SETTINGS_FILE
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    values["controls"] |= controls or {}
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize("token_id", [-1, 3, 264, 1 << 31, 1 << 40, 1.5, True, "300", None, math.nan, [1]])
def test_a_control_token_with_a_wrong_id_is_named(folder: Path, token_id: object) -> None:
    change_tokenizer(folder, {}, {"<|padding|>": token_id})
    with pytest.raises(ParakeetError, match=r"'<\|padding\|>' has the id"):
        Tokenizer.load(folder)


def test_two_control_tokens_with_one_id_are_refused(folder: Path) -> None:
    change_tokenizer(folder, {}, {"<|padding|>": Tokenizer.load(folder).end_of_text})
    with pytest.raises(ParakeetError, match="two of its control tokens have one id"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("changes", [{"controls": {}}, {"controls": {"<|endoftext|>": 300}}])
def test_a_missing_control_token_is_named(folder: Path, changes: dict[str, object]) -> None:
    change_tokenizer(folder, changes)
    with pytest.raises(ParakeetError, match="it lacks the control token"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("pattern", ["", "((((", "(a+)+$", 3, None, [1], {}])
def test_an_unknown_pattern_is_refused(folder: Path, pattern: object) -> None:
    change_tokenizer(folder, {"pattern": pattern})
    with pytest.raises(ParakeetError, match="its pattern is not one of"):
        Tokenizer.load(folder)


EXTRA = b"aGVsbG8gd29ybGQgaGVsbG8= "  # "hello world hello", and a rank to follow


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: b"", "lacks the single byte 0"),
        (lambda v: b"\xff\xfe\x00", "not enough values"),
        (lambda v: b"@@@@ 0\n" + v, "base64"),
        (lambda v: b"\n".join(v.splitlines()[5:]), "without gaps"),
        (lambda v: v.replace(b"IQ== 0\n", b"AAAA 0\n"), "lacks the single byte 33"),
        (lambda v: v + EXTRA + b"3\n", "without gaps"),
        (lambda v: v + EXTRA + b"-3\n", "without gaps"),
        (lambda v: v + EXTRA + b"99999999999\n", "without gaps"),
        (lambda v: v + EXTRA + b"x\n", "invalid literal"),
        (lambda v: v + EXTRA + str(len(v.splitlines())).encode() + b"\n", "has the id 265, not one from 266"),
    ],
)
def test_a_vocabulary_that_could_not_encode_every_text_is_refused(
    folder: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    vocabulary = change((folder / VOCABULARY_FILE).read_bytes())
    (folder / VOCABULARY_FILE).write_bytes(vocabulary)
    change_tokenizer(folder, {"vocabulary_sha256": hashlib.sha256(vocabulary).hexdigest()})
    with pytest.raises(ParakeetError, match=message):
        Tokenizer.load(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_is_refused_or_loads(folder: Path, whole: Path, data: st.DataObject) -> None:
    content = bytearray((whole / WEIGHTS_FILE).read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    position = data.draw(st.integers(0, header - 1) | st.integers(header, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    (folder / WEIGHTS_FILE).write_bytes(content)
    try:
        model = load_model(folder, "cpu")
    except ParakeetError:
        return
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
