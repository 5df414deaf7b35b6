"""The original's layout, against a generator that was written from the table of facts and shares no code with it."""

import math
import runpy
from pathlib import Path

import pytest

from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.model.original import checked_layout, layout, recovered_config, unwrapped
from parakeet.recipe import OriginalCheckpoint

generator = runpy.run_path(str(Path(__file__).parents[1] / "original_checkpoint.py"))
original_state, original_name = generator["original_state"], generator["original_name"]
PUBLISHED = OriginalCheckpoint().file_name


def shapes(layers: int, width: int = 8) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in original_state(layers, width).items()}


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_the_layout_has_the_originals_keys_in_its_order(layers: int) -> None:
    expected = shapes(layers)
    entries = checked_layout(expected)
    assert [(entry.key, entry.shape) for entry in entries] == list(expected.items())


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_what_is_one_tensor_there_has_one_name_here(layers: int) -> None:
    state = original_state(layers, 8)
    names: dict[int, set[str]] = {}
    for entry in layout(layers, 8):
        names.setdefault(state[entry.key].data_ptr(), set()).add(entry.name)
    assert all(len(group) == 1 for group in names.values())
    assert len(set.union(*names.values())) == len(names)


def test_the_published_model_has_its_parameter_count() -> None:
    sizes = {entry.name: math.prod(entry.shape) for entry in layout(18, 1152)}
    assert sum(sizes.values()) == 378_343_296


def test_the_published_files_name_tells_what_shapes_cannot() -> None:
    assert original_name(18, 18, 1152, 8192) == PUBLISHED
    config = recovered_config(layout(18, 1152), PUBLISHED, None, None)
    assert config == ModelConfig(18, 18, 1152, 8192, 100_288, dropout=0.07)
    assert config.parameter_count == 378_343_296


@pytest.mark.parametrize(
    ("name", "heads", "context", "expected"),
    [
        ("weights.pth", 2, 128, (2, 128)),
        ("mine_h4.pth", None, 128, (4, 128)),
        ("c64-mine.pth", 2, None, (2, 64)),
        ("c64_h4.pth", 4, 64, (4, 64)),
        ("parakeet8k-c64-d8-fexp4_v100288_h4_l3-alibi+gqa2 (1).pth", None, None, (4, 64)),
        ("parakeet8k-c64-d8-fexp4_v100288_h4_l3-alibi+gqa2-v2.pth", None, None, (4, 64)),
        ("parakeet8k-c64-d8-fexp4_v100288_h4_l3-alibi+gqa2-h2-c7.pth", None, None, (4, 64)),
        ("epoch12-hh3-c64-h2-ch7.pth", None, None, (2, 64)),
        ("mine_c64_h4-v2.pth", None, None, (4, 64)),
        ("mine_c64_h4_d16_l4_v50304.pth", None, None, (4, 64)),
        ("c5-h3.pth", 4, 64, (4, 64)),
        ("h2-h4-c64.pth", 4, None, (4, 64)),
    ],
)
def test_options_and_names_say_heads_and_context(
    name: str, heads: int | None, context: int | None, expected: tuple[int, int]
) -> None:
    config = recovered_config(layout(3, 8), name, heads, context)
    assert (config.heads, config.context) == expected
    assert (config.layers, config.width, config.vocabulary_rows) == (3, 8, 100_288)


@pytest.mark.parametrize(
    ("name", "heads", "context", "message"),
    [
        ("weights.pth", None, 64, r"show the model's heads.*--heads N"),
        ("weights.pth", 2, None, r"show the model's context.*--context N"),
        (original_name(3, 4, 8, 64), 2, None, r"--heads 2 contradicts the file name parakeet8k-.*, which says 4"),
        (original_name(3, 4, 8, 64), None, 65, r"--context 65 contradicts"),
        (original_name(4, 4, 8, 64), None, None, r"says layers 4, but the tensors have 3"),
        (original_name(3, 4, 16, 64), None, None, r"says width 16, but the tensors have 8"),
        (
            original_name(3, 4, 8, 64).replace("v100288", "v50304"),
            None,
            None,
            r"says vocabulary rows 50,304, but the tensors have 100,288",
        ),
        ("x_c64_h4_h8.pth", None, None, r"two numbers for heads: 4 and 8\. Give --heads N"),
        ("x.pth", 3, 64, r"width 8 is not a multiple of heads 3"),
        ("x_h0_c64.pth", None, None, r"heads is 0"),
        ("x_h2_c999999999.pth", None, None, r"context is 999999999"),
    ],
)
def test_what_nobody_says_or_two_say_differently_is_refused(
    name: str, heads: int | None, context: int | None, message: str
) -> None:
    with pytest.raises(ParakeetError, match=message):
        recovered_config(layout(3, 8), name, heads, context)


def test_wrong_keys_and_shapes_are_refused_by_name() -> None:
    good = shapes(3)

    def refused(spoilt: dict[str, tuple[int, ...]], message: str) -> None:
        with pytest.raises(ParakeetError, match=message):
            checked_layout(spoilt)

    refused({}, "has no transformer.wte.weight .it is empty")
    refused({"wte": (3, 4)}, "it begins with wte")
    refused(good | {"transformer.wte.weight": (8,)}, "^transformer.wte.weight has shape 8; an embedding is a matrix of")
    refused(good | {"transformer.wte.weight": ()}, "has shape of a single number; an embedding is a matrix of")
    refused(good | {"transformer.wte.weight": (50_304, 8)}, "50,304 rows.*has 100,288")
    without = {key: shape for key, shape in good.items() if "h.2.mlp" not in key}
    refused(without, r"with 3 layers: it lacks transformer\.h\.2\.mlp\.c_fc\.weight and 1 more")
    refused(good | {"transformer.h.0.attn.bias": (1,)}, r"also holds transformer\.h\.0\.attn\.bias\.")
    refused(good | {"transformer.h.999999999.ln_1.weight": (8,)}, "with 4 layers: it lacks")
    refused(good | {"transformer.h.1.attn.c_kv.weight": (8, 16)}, r"h\.1\.attn\.c_kv\.weight has shape 8 × 16;.*16 × 8")
    refused(good | {"transformer.ln_f.weight": ()}, r"ln_f\.weight has shape of a single number")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_come_off(prefix: str) -> None:
    keys = list(shapes(1))
    assert unwrapped([prefix + key for key in keys]) == (prefix, keys)


def test_a_prefix_of_some_keys_only_stays() -> None:
    assert unwrapped(["module.a", "b"]) == ("", ["module.a", "b"])
    assert unwrapped([]) == ("", [])
