"""The original's step computes the same loss and gradients as Parakeet, by other means."""

import pytest
import torch
from torch import Tensor

from benchmarks.original_step import OriginalStep
from parakeet.benchmarks.steps import IGNORED
from parakeet.model.config import ModelConfig
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet

CONFIG = ModelConfig(layers=3, heads=2, width=32, context=64, vocabulary_rows=96)


@pytest.fixture
def model() -> Parakeet:
    model = Parakeet(CONFIG)
    model.initialise(torch.Generator().manual_seed(1))
    return model


def batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(CONFIG.vocabulary_rows, (2, 33), generator=torch.Generator().manual_seed(2))
    targets = ids[:, 1:].clone()
    targets[:, -5:] = IGNORED
    return ids[:, :-1], targets


def gradients(model: Parakeet) -> dict[str, Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-5), (True, 0.03)])
def test_loss_and_gradients_are_ours(model: Parakeet, autocast: bool, tolerance: float) -> None:
    ids, targets = batch()
    loss = OriginalStep(model, ids.shape[1], autocast).backward(ids, targets)
    theirs = gradients(model)
    count = int((targets != IGNORED).sum())
    hidden = model(ids, torch.zeros_like(ids))
    ours = backward_from_loss(
        hidden, model.get_parameter("embedding.weight"), targets, ignore=IGNORED, normaliser=count
    )
    assert float(loss) == pytest.approx(float(ours) / count, rel=tolerance)
    for name, gradient in gradients(model).items():
        assert float((theirs[name] - gradient).norm() / gradient.norm()) < tolerance, name


def test_its_autocast_keeps_weights_and_gradients_in_fp32(model: Parakeet) -> None:
    ids, targets = batch()
    assert OriginalStep(model, ids.shape[1], autocast=True).backward(ids, targets).dtype == torch.float32
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.float32}


def test_dropout_acts_on_the_probabilities_too(model: Parakeet) -> None:
    dropping = Parakeet(ModelConfig(**{**CONFIG.__dict__, "dropout": 0.5}))
    dropping.load_state_dict(model.state_dict())
    ids, targets = batch()
    way = OriginalStep(dropping, ids.shape[1], autocast=False)
    losses = {float(way.backward(ids, targets)) for _ in range(2)}
    assert len(losses) == 2
    dropping.eval()
    plain = OriginalStep(model, ids.shape[1], autocast=False).backward(ids, targets)
    assert float(way.backward(ids, targets)) == float(plain)
