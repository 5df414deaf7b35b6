"""Bytes that training keeps."""

import pytest
import torch

from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.disk import checkpoint_bytes, optimizer_bytes, run_bytes, weights_bytes
from parakeet.training.optimizer import make_optimizer

CONFIG = ModelConfig(layers=2, heads=2, width=128, context=64, vocabulary_rows=512)


def training(**settings: object) -> Training:
    return Training.model_validate({"tokens": 10_000, "batch_tokens": 100, "learning_rate": 1e-3} | settings)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "muon"])
def test_an_optimizers_state_is_as_large_as_foretold(name: str) -> None:
    model = Parakeet(CONFIG)
    optimizer = make_optimizer(model, training(optimizer=name))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    tensors = {id(value): value for values in state.values() for value in values.values() if torch.is_tensor(value)}
    held = sum(tensor.nbytes for tensor in tensors.values())
    assert held == pytest.approx(optimizer_bytes(CONFIG, name), rel=0.02)


def test_a_run_holds_every_checkpoint_that_is_kept() -> None:
    def checkpoints(**settings: object) -> int:
        settings = {"checkpoint_steps": 10, "keep_checkpoints": 2, "validation_tokens": 0} | settings
        one = checkpoint_bytes(CONFIG, training())
        return (run_bytes(CONFIG, training(**settings)) - weights_bytes(CONFIG)) // one

    # Two, the last stable one, and the one being written.
    assert checkpoints() == 4
    assert checkpoints(validation_tokens=1000) == 5
    assert checkpoints(keep_checkpoints=3) == 5
    assert checkpoints(keep_every=20) == 4 + 5
    assert checkpoints(keep_every=15) == 4 + 3
    assert run_bytes(CONFIG, training(tensorboard=True)) > run_bytes(CONFIG, training())
