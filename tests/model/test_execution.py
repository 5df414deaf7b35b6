"""Every way to compute a training step gives the same gradients. They differ in what they keep in memory."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet

PADDING = 127
CONFIG = ModelConfig(layers=3, heads=2, width=64, context=64, vocabulary_rows=128, dropout=0.1)
STILL = ModelConfig(layers=3, heads=2, width=64, context=64, vocabulary_rows=128)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(length: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids, targets = torch.randint(0, 127, (2, 2, length), generator=generator)
    targets[0, :9] = PADDING
    documents = torch.randint(0, 4, (2, length), generator=generator).sort()[0]
    return ids, documents, targets


def model_of(config: ModelConfig, execution: Execution) -> Parakeet:
    model = Parakeet(config, execution)
    model.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    torch.manual_seed(5)
    return model.train()


def gradients(config: ModelConfig, execution: Execution) -> tuple[float, dict[str, Tensor]]:
    model = model_of(config, execution)
    ids, documents, targets = batch()
    hidden = model(ids, documents)
    loss = backward_from_loss(
        hidden, model.embedding.weight, targets, ignore=PADDING, normaliser=87, rows=execution.loss_rows
    )
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def furthest(found: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((found[name] - right[name]).norm() / right[name].norm()) for name in right)


def test_a_step_gives_the_gradients_of_plain_autograd() -> None:
    model = model_of(CONFIG, Execution("reference"))
    ids, documents, targets = batch()
    logits = model.logits(model(ids, documents)).flatten(0, 1)
    (F.cross_entropy(logits, targets.flatten(), ignore_index=PADDING, reduction="sum") / 87).backward()
    right = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert furthest(gradients(CONFIG, Execution("reference"))[1], right) < 1e-5
    # 1.1e-4 on an AMD EPYC, which sums products in a different order.
    assert furthest(gradients(CONFIG, Execution("fused", loss_rows=7))[1], right) < 3e-4


def test_the_embeddings_two_uses_add_up() -> None:
    """By finite differences in float64, without trusting autograd."""
    model = model_of(STILL, Execution("reference")).double()
    ids, documents, targets = batch()

    def loss() -> Tensor:
        hidden = model(ids, documents)
        return backward_from_loss(hidden, model.embedding.weight, targets, ignore=PADDING, normaliser=1)

    loss()
    row, column = int(ids[1, 3]), 5
    found = float(model.embedding.weight.grad[row, column])
    step = 1e-6
    with torch.no_grad():
        model.embedding.weight[row, column] += step
    above = loss().item()
    with torch.no_grad():
        model.embedding.weight[row, column] -= 2 * step
    below = loss().item()
    assert found == pytest.approx((above - below) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("residual", ["fp32", "bf16"])
def test_activation_checkpointing_changes_no_bit(precision: str, residual: str) -> None:
    """With dropout, which has to be drawn again as it was."""
    loss, kept = gradients(CONFIG, Execution("fused", precision, residual, "none"))
    for activation_checkpointing in ("mlp", "block"):
        again_loss, again = gradients(CONFIG, Execution("fused", precision, residual, activation_checkpointing))
        assert again_loss == loss
        assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_bf16_follows_fp32_over_fp32_weights() -> None:
    loss, right = gradients(CONFIG, Execution("reference"))
    for residual, limit in (("fp32", 0.03), ("bf16", 0.06)):
        half_loss, half = gradients(CONFIG, Execution("fused", "bf16", residual))
        assert half_loss == pytest.approx(loss, rel=2e-3)
        assert all(gradient.dtype == torch.float32 for gradient in half.values())
        assert furthest(half, right) < limit


@pytest.mark.slow
@pytest.mark.parametrize("activation_checkpointing", ["none", "mlp", "block"])
def test_compiled_blocks_compute_the_same(activation_checkpointing: str) -> None:
    loss, right = gradients(STILL, Execution("fused", activation_checkpointing=activation_checkpointing))
    compiled_loss, compiled = gradients(
        STILL, Execution("fused", activation_checkpointing=activation_checkpointing, compile=True)
    )
    assert compiled_loss == pytest.approx(loss, rel=1e-6)
    assert furthest(compiled, right) < 1e-4


def kept_bytes(length: int, execution: Execution) -> int:
    """Bytes that the forward pass keeps for the backward pass, without the weights."""
    model = model_of(STILL, execution)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    ids, documents, _ = batch(length)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(model(ids, documents))
    return sum(kept.values())


def test_checkpointing_keeps_less_and_memory_grows_linearly() -> None:
    sizes = {r: kept_bytes(512, Execution("fused", activation_checkpointing=r)) for r in ("none", "mlp", "block")}
    assert sizes["none"] > 1.3 * sizes["mlp"] > 2.6 * sizes["block"]
    for activation_checkpointing, size in sizes.items():
        assert kept_bytes(2048, Execution("fused", activation_checkpointing=activation_checkpointing)) <= 4.05 * size
    assert kept_bytes(512, Execution("fused", residual="bf16", activation_checkpointing="block")) < sizes["block"]
