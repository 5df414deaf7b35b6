"""Cross entropy between hidden states and target ids, without ever holding the logits of a whole batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parakeet.model.execution import LOSS_ROWS


def backward_from_loss(
    hidden: Tensor,
    embedding: nn.Parameter,
    targets: Tensor,
    *,
    ignore: int,
    normaliser: int,
    z_loss: float = 0.0,
    rows: int = LOSS_ROWS,
) -> Tensor:
    """Run the whole backward pass of a micro-batch; the sum of −log p(target) in nats, 0-dim, fp32.

    hidden (…, width), of a forward pass that tracks gradients; embedding (vocabulary rows, width), also the output
    projection; targets (…), of which `ignore` is left out. The gradients of

        (Σ −log p + z_loss · Σ log² Z) / normaliser

    are added to the .grad of every parameter. `normaliser` counts the targets of the whole optimizer step, so that
    micro-batches and processes add up to one mean. `z_loss` (PaLM, arXiv 2204.02311 §5) is no part of the value.

    `rows` rows of logits exist at once; the gradient takes their place, and goes into the embedding's .grad at once,
    so its second dense gradient (462 MB at 100,288 × 1,152) never exists. Liger's rule would make 64 pieces of 128
    rows out of 8,192, each of which reads and writes that gradient.
    """
    kept = (targets != ignore).reshape(-1).nonzero()[:, 0]
    wanted = targets.reshape(-1)[kept]
    flat = hidden.detach().reshape(-1, hidden.shape[-1])
    if embedding.grad is None:
        embedding.grad = torch.zeros_like(embedding)
    weight = embedding.detach().to(hidden.dtype)
    gradient = torch.zeros_like(flat)
    total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    for places, answers in zip(kept.split(rows), wanted.split(rows), strict=True):
        piece = flat[places]
        loss, slope = _loss_and_slope(_product(piece, weight), answers, normaliser, z_loss)
        total += loss
        slope = slope.to(hidden.dtype)
        gradient[places] = slope @ weight
        _add_product(embedding.grad, slope, piece)
        # The next piece's logits, and the backward pass, need the room.
        del loss, slope, piece
    del weight
    hidden.backward(gradient.view_as(hidden))
    return total


@torch.no_grad()
def token_losses(hidden: Tensor, embedding: Tensor, targets: Tensor, rows: int = LOSS_ROWS) -> Tensor:
    """−log p(target) in nats of every row, `rows` at a time: hidden (n, width), targets (n,) to (n,) fp32.

    Takes the memory of one piece's logits: F.cross_entropy would hold their log-softmax beside them.
    """
    weight = embedding.to(hidden.dtype)
    losses = []
    for piece, answers in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = _product(piece, weight)
        logits -= logits.amax(dim=1, keepdim=True)
        right = logits.gather(1, answers[:, None])[:, 0]
        losses.append(logits.exp_().sum(dim=1).log() - right)
        del logits
    return torch.cat(losses)


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """Logits in fp32: bf16 has steps of 0.125 between 16 and 32. Only CUDA multiplies bf16 into fp32."""
    if rows.dtype == torch.bfloat16 and rows.device.type == "cuda":
        return torch.mm(rows, weight.T, out_dtype=torch.float32)
    logits = F.linear(rows, weight)
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _loss_and_slope(logits: Tensor, answers: Tensor, normaliser: int, z_loss: float) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and their gradient by the logits in the logits' own memory."""
    answers = answers[:, None]
    largest, place = logits.max(dim=1, keepdim=True)
    right = logits.gather(1, answers)
    slope = torch.softmax(logits, dim=1, out=logits)
    # The likeliest token's probability cannot underflow, the wanted token's can.
    log_sum = largest - slope.gather(1, place).log()
    if z_loss:
        slope *= 1.0 + 2.0 * z_loss * log_sum
    slope.scatter_add_(1, answers, -torch.ones_like(right))
    slope /= normaliser
    return (log_sum - right).sum(), slope


def _add_product(total: Tensor, slope: Tensor, rows: Tensor) -> None:
    """total += slopeᵀ · rows, in the precision of `total` where the device can."""
    if slope.dtype == total.dtype:
        total.addmm_(slope.T, rows)
    elif slope.device.type == "cuda":
        torch.addmm(total, slope.T, rows, out_dtype=total.dtype, out=total)
    else:
        total += slope.T @ rows
