"""The model against the independent oracle, in the layout of the original checkpoint; and the oracle against itself."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parakeet.generation.cache import MarkAttention
from parakeet.generation.decoder import Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.transformer import Parakeet
from parakeet.recipe_file import load_recipe

oracle = runpy.run_path(str(Path(__file__).with_name("oracle.py")))
Case, CASES, make_case = oracle["Case"], oracle["CASES"], oracle["make_case"]
TOLERANCE = 2e-5
"""1e-4 is promised and 1e-6 measured. The tanh GELU instead of the exact one would differ by 8e-5 to 4e-4."""
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def differences(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The relative error of the norm, and the largest error relative to the largest logit."""
    error = found.astype(np.float64) - expected
    return (
        float(np.linalg.norm(error) / np.linalg.norm(expected)),
        float(np.abs(error).max() / np.abs(expected).max()),
    )


def renamed(weights: dict[str, np.ndarray], layers: int, shared: bool = True) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under this package's names, shared ones once."""
    names = {
        "embedding.weight": "transformer.wte.weight",
        "embedding_norm.weight": "transformer.wte.norm.weight",
        "embedding_norm.bias": "transformer.wte.norm.bias",
        "final_norm.weight": "transformer.ln_f.weight",
    }
    for layer in range(layers):
        theirs = f"transformer.h.{layer}."
        names[f"key_values.{layer // 2 if shared else layer}.weight"] = theirs + "attn.c_kv.weight"
        names[f"blocks.{layer}.attention_norm.weight"] = theirs + "ln_1.weight"
        names[f"blocks.{layer}.query.weight"] = theirs + "attn.c_query.weight"
        names[f"blocks.{layer}.attention_output.weight"] = theirs + "attn.c_proj.weight"
        names[f"blocks.{layer}.mlp_norm.weight"] = theirs + "ln_2.weight"
        names[f"blocks.{layer}.mlp_input.weight"] = theirs + "mlp.c_fc.weight"
        names[f"blocks.{layer}.mlp_output.weight"] = theirs + "mlp.c_proj.weight"
    return {ours: torch.from_numpy(weights[theirs].copy()) for ours, theirs in names.items()}


def model_of(
    case: Any, weights: dict[str, np.ndarray], attention: Any = "fused", softmax_one: bool = False, shared: bool = True
) -> Parakeet:
    """The case as a model of this package, fp32."""
    sizes = case.layers, case.heads, case.width
    config = ModelConfig(
        *sizes, context=2048, vocabulary_rows=case.rows, softmax_one=softmax_one, share_keys_values=shared
    )
    model = Parakeet(config, Execution(attention=attention)).eval()
    model.load_state_dict(renamed(weights, case.layers, shared))
    return model


@EVERY_CASE
def test_the_model_agrees_with_the_oracle(case: Any) -> None:
    weights, ids = make_case(case)
    expected = oracle["logits"](weights, case.heads, ids)
    assert expected.shape == (case.length, case.rows)
    assert 1 < np.abs(expected).mean() < 10
    model = model_of(case, weights)
    row = torch.tensor([ids])
    with torch.no_grad():
        found = model.logits(model(row, torch.zeros_like(row)))[0].numpy()
    assert max(differences(found, expected)) < TOLERANCE


@EVERY_CASE
def test_the_decoder_agrees_with_the_oracle(case: Any) -> None:
    """In one piece, in two, and token by token."""
    weights, ids = make_case(case)
    expected = oracle["logits"](weights, case.heads, ids)
    decoder = Decoder(model_of(case, weights), "fp32")
    assert max(differences(decoder.logits(ids).numpy(), expected)) < TOLERANCE
    cache = decoder.new_cache(case.length)
    half = max(1, case.length - 20)
    found = [decoder.prefill(ids[:half], cache), *(decoder.step([i], cache)[0] for i in ids[half:])]
    assert max(differences(torch.stack(found).numpy(), expected[half - 1 :])) < TOLERANCE


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[3], CASES[5]], ids=lambda case: case.name)
def test_a_projection_for_each_layer_agrees_with_the_oracle(case: Any) -> None:
    """The model with each attention; the decoder with torch and with the kernels, in one piece and token by token."""
    weights, ids = make_case(case)
    random = np.random.default_rng(case.width)
    for layer in range(1, case.layers, 2):
        shared = weights[name := f"transformer.h.{layer}.attn.c_kv.weight"]
        weights[name] = random.permutation(shared.ravel()).reshape(shared.shape)
    expected = oracle["logits"](weights, case.heads, ids)
    row = torch.tensor([ids])
    for attention in ("reference", "fused", "tiled"):
        model = model_of(case, weights, attention, shared=False)
        with torch.no_grad():
            whole = model.logits(model(row, torch.zeros_like(row)))[0]
        assert max(differences(whole.numpy(), expected)) < TOLERANCE
    for options in ({}, {"compiled": False}, {"attention": MarkAttention}):
        decoder = Decoder(model, "fp32", **options)
        assert max(differences(decoder.logits(ids).numpy(), expected)) < TOLERANCE
        cache = decoder.new_cache(case.length)
        half = case.length - 10
        found = [decoder.prefill(ids[:half], cache), *(decoder.step([i], cache)[0] for i in ids[half:])]
        assert max(differences(torch.stack(found).numpy(), expected[half - 1 :])) < TOLERANCE


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[4], CASES[7]], ids=lambda case: case.name)
def test_softmax_off_by_one_agrees_with_the_oracle(case: Any) -> None:
    """The model with each attention; the decoder in two pieces, token by token, and with a ring that begins again."""
    weights, ids = make_case(case)
    expected = oracle["logits"](weights, case.heads, ids, softmax_one=True)
    assert max(differences(oracle["logits"](weights, case.heads, ids), expected)) > 0.01
    row = torch.tensor([ids])
    for attention in ("reference", "fused", "tiled"):
        model = model_of(case, weights, attention, softmax_one=True)
        with torch.no_grad():
            whole = model.logits(model(row, torch.zeros_like(row)))[0]
        assert max(differences(whole.numpy(), expected)) < TOLERANCE
    half = case.length - 10
    context = 40
    banded = oracle["logits"](weights, case.heads, ids[:100], context - 1, softmax_one=True)
    for options in ({}, {"compiled": False}, {"attention": MarkAttention}):
        decoder = Decoder(model, "fp32", **options)
        cache = decoder.new_cache(case.length)
        found = [decoder.prefill(ids[:half], cache), *(decoder.step([i], cache)[0] for i in ids[half:])]
        assert max(differences(torch.stack(found).numpy(), expected[half - 1 :])) < TOLERANCE
        cache = decoder.new_cache(context)
        found = [decoder.step([i], cache)[0] for i in ids[:100]]
        assert max(differences(torch.stack(found).numpy(), banded)) < TOLERANCE


@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: case.name)
def test_a_full_ring_agrees_with_the_oracle_under_a_band(case: Any) -> None:
    """A cache of `context` tokens sees itself and context − 1 earlier ones, however long the text."""
    weights, ids = make_case(case)
    context = max(2, case.length // 3)
    expected = oracle["logits"](weights, case.heads, ids, context - 1)
    decoder = Decoder(model_of(case, weights), "fp32")
    cache = decoder.new_cache(context)
    found = [decoder.step([i], cache)[0] for i in ids]
    assert max(differences(torch.stack(found).numpy(), expected)) < TOLERANCE


@pytest.mark.parametrize("band", [0, 1, 7, 31])
def test_a_band_hides_earlier_positions(band: int) -> None:
    """With one layer, the logits depend only on what the position sees."""
    case = CASES[0]
    weights, ids = make_case(case)
    banded = oracle["logits"](weights, case.heads, ids, band)
    for position in range(case.length):
        seen = ids[max(0, position - band) : position + 1]
        alone = oracle["logits"](weights, case.heads, seen)[-1]
        np.testing.assert_allclose(banded[position], alone, rtol=1e-9, atol=1e-12)


def test_a_band_holds_in_every_layer() -> None:
    """Each layer looks `band` positions back, so the model looks back exactly `layers` · `band` positions."""
    case, band = CASES[2], 4
    weights, ids = make_case(case)
    before = oracle["logits"](weights, case.heads, ids, band)
    for position, changes in (
        (case.length - 1 - case.layers * band, True),
        (case.length - 2 - case.layers * band, False),
    ):
        other = ids.copy()
        other[position] = (other[position] + 1) % case.defined
        after = oracle["logits"](weights, case.heads, other, band)
        assert (not np.array_equal(before[-1], after[-1])) == changes


def test_a_band_as_wide_as_the_text_changes_nothing() -> None:
    case = CASES[3]
    weights, ids = make_case(case)
    whole, banded = (oracle["logits"](weights, case.heads, ids, band) for band in (None, case.length - 1))
    assert np.array_equal(whole, banded)
    assert not np.array_equal(whole, oracle["logits"](weights, case.heads, ids, case.length - 2))


def test_the_original_has_378_343_296_parameters() -> None:
    settings = load_recipe("parakeet-378m").model
    config = ModelConfig.from_recipe(settings, vocabulary_rows=100_288)
    assert config.parameter_count == 378_343_296
    with torch.device("meta"):
        model = Parakeet(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 378_343_296
    shapes = oracle["shapes"](18, 1152, 100_288)
    assert sum(int(np.prod(shape)) for name, shape in shapes.items() if oracle["owner"](name) == name) == 378_343_296
