"""Packing, shared projections, and weights on disk. test_parity.py compares what the model computes with the oracle."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.transformer import WEIGHTS_FILE, Parakeet, load_model, save_model

CONFIGS = [
    ModelConfig(layers=1, heads=1, width=8, context=32, vocabulary_rows=64),
    ModelConfig(layers=3, heads=2, width=16, context=32, vocabulary_rows=128),
    ModelConfig(layers=4, heads=18, width=36, context=32, vocabulary_rows=64),
]


def made(config: ModelConfig) -> Parakeet:
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in model.parameters():
            # Weights of 1 and biases of 0 would hide a norm that is missing or applied twice.
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
            else:
                parameter.mul_(8)
    return model.eval()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.layers}x{config.heads}")
def test_packed_documents_do_not_see_each_other(config: ModelConfig) -> None:
    model = made(config)
    ids = torch.randint(0, config.vocabulary_rows, (1, 14), generator=torch.Generator().manual_seed(6))
    documents = torch.tensor([[0] * 5 + [1] * 6 + [-1] * 3])
    with torch.no_grad():
        packed = model(ids, documents)
        alone = model(ids[:, 5:11], documents[:, 5:11])
        changed = ids.clone()
        changed[:, :5] = 0
        other = model(changed, documents)
    # 1.7e-5 on an AMD EPYC, which sums products in a different order.
    assert torch.allclose(packed[:, 5:11], alone, atol=5e-5)
    assert torch.equal(packed[:, 5:11], other[:, 5:11])
    assert torch.isfinite(packed).all()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.layers}x{config.heads}")
@pytest.mark.parametrize("checkpointing", ["none", "mlp", "block"])
def test_a_shared_projection_learns_from_both_of_its_layers(config: ModelConfig, checkpointing: Any) -> None:
    """A model with an equal copy in each layer computes the same, and the gradients of the copies add up."""
    execution = Execution(activation_checkpointing=checkpointing)
    shared, own = (Parakeet(each, execution).train() for each in (config, replace(config, share_keys_values=False)))
    assert sum(parameter.numel() for parameter in own.parameters()) == own.config.parameter_count
    weights = made(config).state_dict()
    shared.load_state_dict(weights)
    others = {name: tensor for name, tensor in weights.items() if not name.startswith("key_values.")}
    copies = {
        f"key_values.{layer}.weight": weights[f"key_values.{layer // 2}.weight"] for layer in range(config.layers)
    }
    own.load_state_dict({**others, **copies})
    ids = torch.randint(0, config.vocabulary_rows, (2, 15), generator=torch.Generator().manual_seed(6))
    losses = []
    for model in (shared, own):
        logits = model.logits(model(ids[:, :-1], torch.zeros_like(ids[:, :-1])))
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
        losses[-1].backward()
    assert torch.equal(*losses)
    for projection, module in enumerate(shared.key_values):
        own_ones = list(own.key_values)[2 * projection : 2 * projection + 2]
        gradients: list[Any] = [copy.weight.grad for copy in own_ones]
        torch.testing.assert_close(module.weight.grad, sum(gradients), rtol=1e-4, atol=1e-7)
        assert all(gradient.norm() > 0 for gradient in gradients)


@pytest.mark.parametrize("shared", [True, False])
def test_a_configuration_says_only_what_is_not_the_default(shared: bool, tmp_path: Path) -> None:
    config = replace(CONFIGS[1], share_keys_values=shared)
    config.save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert values.get("share_keys_values", "left out") == ("left out" if shared else False)
    assert ModelConfig.load(tmp_path) == config
    (tmp_path / "config.json").write_text(json.dumps(values | {"share_keys_values": 0}), encoding="utf-8")
    with pytest.raises(ParakeetError, match="share_keys_values is 0; it must be true or false"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("shared", [True, False])
def test_saving_and_loading_keeps_every_bit(shared: bool, tmp_path: Path) -> None:
    model = made(replace(CONFIGS[1], share_keys_values=shared))
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, "cpu")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(model(ids, torch.zeros_like(ids)), loaded(ids, torch.zeros_like(ids)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w | {"final_norm.weight": torch.full((16,), float("nan"))}, "NaN or infinite"),
        (lambda w: w | {"final_norm.weight": torch.ones(17)}, "final_norm.weight has shape"),
        (lambda w: {name: tensor for name, tensor in w.items() if name != "embedding.weight"}, "missing"),
        (lambda w: w | {"extra": torch.ones(1)}, "extra"),
    ],
)
def test_wrong_weights_are_refused_by_name(tmp_path: Path, spoil: object, message: str) -> None:
    save_model(made(CONFIGS[1]), tmp_path)
    save_file(spoil(load_file(tmp_path / WEIGHTS_FILE)), tmp_path / WEIGHTS_FILE)  # type: ignore[operator]
    with pytest.raises(ParakeetError, match=message):
        load_model(tmp_path, "cpu")


@pytest.mark.parametrize("text", ["", "[]", '{"layers": 1e9}', '{"layers": "3"}', "not json"])
def test_a_broken_configuration_is_refused(tmp_path: Path, text: str) -> None:
    save_model(made(CONFIGS[0]), tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ParakeetError, match=r"config\.json"):
        load_model(tmp_path, "cpu")


def test_a_torn_weights_file_is_refused(tmp_path: Path) -> None:
    save_model(made(CONFIGS[0]), tmp_path)
    file = tmp_path / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ParakeetError, match="cannot be read as safetensors"):
        load_model(tmp_path, "cpu")
