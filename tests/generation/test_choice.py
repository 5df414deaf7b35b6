"""Which device, dtype and number of threads an engine runs with."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from parakeet.errors import ParakeetError
from parakeet.generation.choice import (
    CLEARLY,
    SMALL,
    automatic_device,
    cache_bytes,
    candidates,
    clearly_fastest,
    seconds_per_token,
    slow_note,
    weight_bytes,
)
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.generation.kernels import library
from parakeet.machine import available_memory, usable_cores
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, best_device
from parakeet.training.device import choose_device

TINY = ModelConfig(layers=2, heads=2, width=64, context=64, vocabulary_rows=256)
LARGE = ModelConfig(layers=24, heads=16, width=1024, context=64, vocabulary_rows=32_000)


def of_bytes(n_bytes: float, context: int = 64) -> ModelConfig:
    """A shape whose fp32 weights take about `n_bytes`."""
    return ModelConfig(1, 8, 4096, context, max(64, round((n_bytes / 4 - 12 * 4096**2) / 4096 / 64) * 64))


@pytest.mark.parametrize(
    ("seconds", "dtype"),
    [
        ({"fp32": 100, "bf16": 50, "int8": 25}, "int8"),
        ({"fp32": 100, "bf16": 50, "int8": 45}, "bf16"),
        ({"fp32": 100, "bf16": 50, "int8": 51}, "bf16"),
        ({"fp32": 100, "bf16": 99, "int8": 101}, "fp32"),
        ({"fp32": 100, "bf16": 500, "int8": 60}, "int8"),
        ({"fp32": 100, "bf16": 90, "int8": 78}, "int8"),
        ({"fp32": 100, "int8": 100 / CLEARLY}, "fp32"),
        ({"bf16": 3.0}, "bf16"),
    ],
)
def test_a_lower_precision_must_be_clearly_faster(seconds: dict[str, float], dtype: str) -> None:
    assert clearly_fastest(seconds) == dtype


@pytest.mark.parametrize(
    ("dtype", "seconds", "note"),
    [
        ("bf16", {"fp32": 10, "bf16": 30}, "bf16 is slow on this processor, about 3.0 times a token of fp32"),
        ("int8", {"fp32": 30, "bf16": 10, "int8": 15}, "about 1.5 times a token of bf16: use --dtype bf16."),
        ("int8", {"fp32": 30, "bf16": 10, "int8": 14}, ""),
        ("bf16", {"fp32": 10, "bf16": 5}, ""),
        ("int4", {}, ""),
    ],
)
def test_a_dtype_that_is_slower_than_a_more_accurate_one_is_reported(
    dtype: str, seconds: dict[str, float], note: str
) -> None:
    notes = slow_note(dtype, seconds)
    assert note in notes[0] if note else notes == ()


@pytest.mark.parametrize(
    ("config", "asked", "recorded", "expected"),
    [
        (TINY, {}, {}, ("fp32", 1)),
        (TINY, {"dtype": "int8", "threads": 3}, {}, ("int8", 3)),
        (TINY, {}, {"dtype": "int8", "threads": 3}, ("int8", 3)),
        (TINY, {}, {"dtype": "int4", "device": "cpu"}, ("int4", 1)),
        (TINY, {"dtype": "bf16"}, {"dtype": "int4", "threads": 2}, ("bf16", 2)),
        (TINY, {"threads": 1}, {"dtype": "int4", "threads": 2}, ("int4", 1)),
        (TINY, {}, {"dtype": "fp8", "device": "cuda:77", "threads": 0}, ("fp32", 1)),
        (TINY, {}, {"dtype": ["fp32"], "device": {}, "threads": True}, ("fp32", 1)),
        (TINY, {}, {"dtype": None, "device": None, "threads": "2"}, ("fp32", 1)),
        (TINY, {}, {"dtype": "bf16", "threads": 10**12}, ("bf16", 1)),
    ],
)
def test_what_was_asked_for_comes_before_what_was_recorded(
    config: ModelConfig, asked: dict[str, Any], recorded: Mapping[str, Any], expected: tuple[str, int]
) -> None:
    choice = candidates(config, **{"device": "cpu", **asked}, recorded=recorded).choose(Parakeet(config))
    assert (choice.dtype, choice.threads) == expected
    assert torch.get_num_threads() == choice.threads
    assert choice.reason.startswith(f"{choice.dtype} (")


def test_threads_are_one_a_core_and_more_are_slower() -> None:
    torch.set_num_threads(500)
    cores = usable_cores()
    assert candidates(LARGE, "cpu", "fp32").threads == cores
    more = candidates(LARGE, "cpu", "fp32", threads=cores + 1)
    assert more.threads == cores + 1
    assert f"{cores + 1} threads on {cores} core" in more.notes[0]
    assert candidates(LARGE, "cpu", "fp32", threads=1).notes == ()


def test_auto_measures_models_that_the_memory_limits_and_no_smaller_ones() -> None:
    assert weight_bytes(LARGE, "fp32") > SMALL
    assert candidates(LARGE, "cpu").dtypes == ("fp32", "bf16", "int8")
    assert candidates(of_bytes(900e6), "cpu").dtypes == ("fp32", "bf16", "int8")


def test_a_dtype_that_does_not_support_the_shape_is_no_candidate() -> None:
    odd = ModelConfig(24, 8, 1000, 64, 32_001)
    try:
        Decoder(Parakeet(replace(odd, layers=1, vocabulary_rows=321)), "int8")
        supported = ("fp32", "bf16", "int8")
    except ParakeetError:
        supported = ("fp32", "bf16")
    assert candidates(odd, "cpu").dtypes == supported
    again = candidates(odd, "cpu", recorded={"dtype": "int8", "kernels": True}).dtypes
    assert again == (supported if len(supported) < 3 else ("int8",))
    # A session of an earlier version, which had no kernels.
    assert candidates(odd, "cpu", recorded={"dtype": "int8"}).dtypes == ("fp32", "bf16")


@pytest.mark.parametrize(
    ("share", "dtypes"),
    [
        (1.5, ("bf16", "int8")),
        (3.0, ("int8",)),
        (5.2, ("int4",)),
    ],
)
def test_auto_takes_what_fits_into_the_memory(share: float, dtypes: tuple[str, ...]) -> None:
    """`share`: of the fp32 weights, in the free memory. A context of one token, so that the cache is nothing."""
    found = candidates(of_bytes(share * available_memory(), context=1), "cpu")
    assert found.dtypes == dtypes


def test_weights_that_fit_without_the_cache_of_a_whole_context_are_still_taken() -> None:
    free = available_memory()
    wide = ModelConfig(16, 8, 4096, 1 << 20, 64)
    assert cache_bytes(wide, "bf16") > free > weight_bytes(wide, "int8")
    assert candidates(wide, "cpu").dtypes == ("int8",)


@pytest.mark.parametrize(
    ("share", "dtype", "message"),
    [
        (
            1.5,
            "fp32",
            r"take .* GiB in fp32, but this machine has only .* of free memory: in bf16 they take .*\(--dtype bf16\)",
        ),
        (3.0, "fp32", r"in int8 they take"),
        (3.0, "bf16", r"in int8 they take"),
        (5.2, "int8", r"in int4 they take"),
        (9.0, "auto", r"in int4, but this machine has only .*: close other programs, or use a smaller model"),
        (9.0, "int4", r"close other programs"),
    ],
)
def test_weights_beyond_the_memory_are_refused_before_they_are_loaded(share: float, dtype: str, message: str) -> None:
    with pytest.raises(ParakeetError, match=message):
        candidates(of_bytes(share * available_memory()), "cpu", dtype)
    # What a session recorded and does not fit any more is left to `auto`.
    if share < 6:
        assert candidates(of_bytes(share * available_memory()), "cpu", recorded={"dtype": dtype}).dtypes[0] != dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_memory_that_is_expected_is_what_the_weights_take(dtype: str) -> None:
    decoder = Decoder(Parakeet(ModelConfig(2, 4, 256, 64, 1024)), dtype)
    # The decoder counts shared projections twice, as it reads them twice, and no norms.
    assert decoder.bytes_per_token == pytest.approx(weight_bytes(decoder.config, dtype), rel=0.1)


@pytest.mark.parametrize("width", [24, 64, 128])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_shape_can_be_measured(width: int, threads: int) -> None:
    config = ModelConfig(1, 2, width, 64, 250 if width == 24 else 256)
    dtypes = ("fp32", "bf16") if width == 24 else DTYPES
    seconds = seconds_per_token(Parakeet(config), dtypes, threads, None if width == 24 else library())
    assert list(seconds) == list(dtypes)
    assert all(0 < value < 1 for value in seconds.values())
    assert torch.get_num_threads() == threads


def test_auto_says_what_it_measured() -> None:
    possible = candidates(ModelConfig(1, 2, 2048, 64, 4096), "cpu")
    assert possible.dtypes == ("fp32", "bf16", "int8")
    choice = possible.choose(Parakeet(possible.config))
    assert choice.dtype in possible.dtypes
    assert "estimated ms a token: " in choice.reason
    assert all(f" in {dtype}" in choice.reason for dtype in possible.dtypes)


@pytest.mark.parametrize(
    ("capability", "asked", "dtype", "notes"),
    [
        ((7, 5), "auto", "fp32", 0),
        ((8, 0), "auto", "bf16", 0),
        ((8, 6), "auto", "bf16", 0),
        ((7, 5), "bf16", "bf16", 1),
        ((8, 0), "bf16", "bf16", 0),
    ],
)
def test_bf16_is_for_gpus_that_have_units_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], asked: str, dtype: str, notes: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    found = candidates(TINY, "cuda:0", asked)
    assert (found.device, found.dtypes, len(found.notes)) == ("cuda:0", (dtype,), notes)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1 << 30))
    with pytest.raises(ParakeetError, match="cuda:0 has only 1000 B of free memory: use --device cpu"):
        candidates(TINY, "cuda:0", asked)


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [(["cpu"], "cpu"), (["cpu", "mps"], "mps"), (["cpu", "cuda", "cuda:0"], "cuda"), (["cpu", "mps", "cuda"], "cuda")],
)
def test_auto_is_a_gpu_where_there_is_one(devices: list[str], chosen: str) -> None:
    assert automatic_device(devices) == chosen


def test_apples_gpu_is_chosen_for_a_chat_and_said_to_be_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such machine was there: what torch reports of one is set, and nothing is computed on it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 8 << 30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1 << 30)
    found = candidates(TINY)
    assert (found.device, found.dtypes) == ("mps", ("fp32",))
    assert "never tried" in found.notes[0]
    assert "--device cpu" in found.notes[0]
    assert candidates(TINY, dtype="bf16").notes == found.notes
    assert candidates(TINY, dtype="int8").device == "cpu", "whose kernels alone know int8"
    with pytest.raises(ParakeetError, match="int4 runs on the CPU only"):
        candidates(TINY, "mps", "int4")
    with pytest.raises(ParakeetError, match=r"mps has only 7\.0 GiB of free memory: in bf16 they take"):
        candidates(of_bytes(9e9))
    assert candidates(TINY, "cpu").notes == ()
    assert candidates(TINY, recorded={"device": "cpu"}).device == "cpu", "as the session was recorded"
    assert (best_device(), choose_device("auto", 0, 1).type) == ("cpu", "cpu"), "no training chooses it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "fp8"}, "dtype must be one of auto, fp32"),
        ({"device": "cuda:9"}, r"no device 'cuda:9'\. It has: cpu"),
        ({"device": ""}, "no device ''"),
    ],
)
def test_what_is_not_here_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ParakeetError, match=message):
        candidates(TINY, **options)
