"""Chunked cross entropy: equal to F.cross_entropy, without its memory."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from parakeet.model.loss import backward_from_loss, token_losses

PADDING = 77


def made(tokens: int, width: int, vocabulary: int, ignored: int, seed: int = 3) -> tuple[Tensor, nn.Parameter, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, tokens, width, generator=generator).requires_grad_()
    embedding = nn.Parameter(torch.randn(vocabulary, width, generator=generator))
    targets = torch.randint(0, vocabulary, (1, tokens), generator=generator)
    targets[0, torch.randperm(tokens, generator=generator)[:ignored]] = PADDING
    return hidden, embedding, targets


def expected(hidden: Tensor, embedding: Tensor, targets: Tensor, normaliser: int, z_loss: float = 0.0) -> list[Tensor]:
    hidden, embedding = hidden.detach().double().requires_grad_(), embedding.detach().double().requires_grad_()
    logits = (hidden @ embedding.T).flatten(0, 1)
    loss = F.cross_entropy(logits, targets.flatten(), ignore_index=PADDING, reduction="sum")
    kept = (targets != PADDING).flatten()
    drift = torch.logsumexp(logits[kept], dim=-1).square().sum()
    ((loss + z_loss * drift) / normaliser).backward()
    return [loss.detach(), hidden.grad, embedding.grad]


def error(found: Tensor, right: Tensor) -> float:
    return float((found.detach().double() - right).norm() / right.norm().clamp_min(1e-30))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.sampled_from([8, 24, 64]), st.sampled_from([128, 1000]), st.integers(1, 80), st.data())
def test_it_is_cross_entropy(tokens: int, width: int, vocabulary: int, rows: int, data: st.DataObject) -> None:
    ignored = data.draw(st.integers(0, tokens - 1))
    z_loss = data.draw(st.sampled_from([0.0, 1e-4, 0.1]))
    hidden, embedding, targets = made(tokens, width, vocabulary, ignored)
    loss, at_hidden, at_embedding = expected(hidden, embedding, targets, 1234, z_loss)
    found = backward_from_loss(hidden, embedding, targets, ignore=PADDING, normaliser=1234, z_loss=z_loss, rows=rows)
    assert error(found, loss) < 1e-6
    assert error(hidden.grad, at_hidden) < 1e-5
    assert error(embedding.grad, at_embedding) < 1e-5
    assert not hidden.grad[targets == PADDING].any()


def test_a_vocabulary_of_cl100k_agrees() -> None:
    hidden, embedding, targets = made(300, 64, 100_288, ignored=11)
    loss, at_hidden, at_embedding = expected(hidden, embedding, targets, 289)
    found = backward_from_loss(hidden, embedding, targets, ignore=PADDING, normaliser=289, rows=128)
    assert error(found, loss) < 1e-6
    assert error(hidden.grad, at_hidden) < 1e-5
    assert error(embedding.grad, at_embedding) < 1e-5


def test_gradients_add_up_over_micro_batches() -> None:
    hidden, embedding, targets = made(40, 16, 128, ignored=4)
    whole = expected(hidden, embedding, targets, 36)[2]
    for part in (slice(0, 13), slice(13, 40)):
        piece = hidden.detach()[:, part].requires_grad_()
        backward_from_loss(piece, embedding, targets[:, part], ignore=PADDING, normaliser=36)
    assert error(embedding.grad, whole) < 1e-5


def test_without_targets_there_is_no_gradient() -> None:
    hidden, embedding, targets = made(9, 16, 128, ignored=9)
    loss = backward_from_loss(hidden, embedding, targets, ignore=PADDING, normaliser=1)
    assert float(loss) == 0.0
    assert not hidden.grad.any()
    assert not embedding.grad.any()


def test_a_target_whose_probability_underflows_has_a_finite_loss() -> None:
    """Its probability is 0 in fp32; its loss is not infinite."""
    embedding = nn.Parameter(torch.eye(4) * 300.0)
    hidden = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]).requires_grad_()
    loss = backward_from_loss(hidden, embedding, torch.tensor([[1]]), ignore=PADDING, normaliser=1)
    assert float(loss) == pytest.approx(300.0)
    assert torch.isfinite(hidden.grad).all()


def test_bf16_follows_fp32() -> None:
    hidden, embedding, targets = made(200, 64, 1000, ignored=3)
    with torch.no_grad():
        embedding *= 0.3
    loss, at_hidden, at_embedding = expected(hidden, embedding, targets, 197)
    half = hidden.detach().bfloat16().requires_grad_()
    found = backward_from_loss(half, embedding, targets, ignore=PADDING, normaliser=197, rows=64)
    assert found.dtype == torch.float32
    assert error(found, loss) < 3e-3
    assert error(half.grad, at_hidden) < 1e-2
    assert embedding.grad.dtype == torch.float32
    assert error(embedding.grad, at_embedding) < 1e-2


def test_losses_per_token_are_the_same() -> None:
    hidden, embedding, targets = made(50, 16, 128, ignored=0)
    right = F.cross_entropy((hidden @ embedding.T)[0], targets[0], reduction="none")
    assert torch.allclose(token_losses(hidden[0].detach(), embedding, targets[0], rows=7), right, rtol=1e-5)


def test_losses_per_token_are_finite_when_probabilities_underflow() -> None:
    losses = token_losses(torch.tensor([[300.0, 0.0]]), torch.eye(2), torch.tensor([1]))
    assert losses.tolist() == pytest.approx([300.0])


class Largest(TorchDispatchMode):
    """The largest number of elements in any operation's result."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_more_rows_of_logits_exist_than_asked_for() -> None:
    hidden, embedding, targets = made(600, 8, 4096, ignored=0)
    with Largest() as largest:
        backward_from_loss(hidden, embedding, targets, ignore=PADDING, normaliser=600, rows=50)
    assert largest.elements == 50 * 4096
