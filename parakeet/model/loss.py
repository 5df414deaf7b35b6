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
    """Run the whole backward pass of a micro-batch, and return the sum of −log p(target) in nats, 0-dim fp32.

    hidden (…, width), from a forward pass that tracks gradients; embedding (vocabulary rows, width), also the output
    projection; targets (…), where `ignore` is left out. The gradients of

        (Σ −log p + z_loss · Σ log² Z) / normaliser

    are added to the .grad of every parameter. `normaliser` counts the targets of the whole optimizer step, so that
    micro-batches and processes add up to one mean. `z_loss` (PaLM, arXiv 2204.02311 §5) is not part of the returned
    value.

    Only `rows` rows of logits exist at a time. Their gradient takes their place and goes straight into the embedding's
    .grad, so a second dense gradient (462 MB at 100,288 × 1,152) never exists. Liger's rule would cut 8,192 rows into
    64 pieces of 128, each of which reads and writes that gradient.
    """
    # Ignored positions are dropped before the product: kept (n,) are the others, as flat positions; wanted (n,).
    kept = (targets != ignore).reshape(-1).nonzero()[:, 0]
    wanted = targets.reshape(-1)[kept]
    # flat, gradient (positions, width). hidden is detached: each piece's gradient is computed here by hand, and the
    # graph behind `hidden` is entered once, at the end.
    flat = hidden.detach().reshape(-1, hidden.shape[-1])
    if embedding.grad is None:
        embedding.grad = torch.zeros_like(embedding)
    # One copy in the precision of the products, for all pieces.
    weight = embedding.detach().to(hidden.dtype)
    gradient = torch.zeros_like(flat)
    total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    for places, answers in zip(kept.split(rows), wanted.split(rows), strict=True):
        # piece (rows, width); slope (rows, vocabulary rows) is the gradient with respect to the logits.
        piece = flat[places]
        loss, slope = _loss_and_slope(_product(piece, weight), answers, normaliser, z_loss)
        total += loss
        slope = slope.to(hidden.dtype)
        # logits = piece · weightᵀ, so the gradients are slope · weight and slopeᵀ · piece.
        gradient[places] = slope @ weight
        _add_product(embedding.grad, slope, piece)
        # Free the memory for the next piece's logits, and for the backward pass.
        del loss, slope, piece
    del weight
    hidden.backward(gradient.view_as(hidden))
    return total


@torch.no_grad()
def token_losses(hidden: Tensor, embedding: Tensor, targets: Tensor, rows: int = LOSS_ROWS) -> Tensor:
    """−log p(target) in nats of every position, `rows` at a time: hidden (n, width), targets (n,) to (n,) fp32.

    It takes the memory of one piece's logits, where F.cross_entropy would hold their log-softmax as well.
    """
    weight = embedding.to(hidden.dtype)
    losses = []
    for piece, answers in zip(hidden.split(rows), targets.split(rows), strict=True):
        # logits (rows, vocabulary rows), changed in place: log Σ exp(x − max) − (x_target − max).
        logits = _product(piece, weight)
        logits -= logits.amax(dim=1, keepdim=True)
        right = logits.gather(1, answers[:, None])[:, 0]
        losses.append(logits.exp_().sum(dim=1).log() - right)
        del logits
    return torch.cat(losses)


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """Logits in fp32, since bf16 has steps of 0.125 between 16 and 32. Only CUDA can multiply bf16 into fp32."""
    if rows.dtype == torch.bfloat16 and rows.device.type == "cuda":
        return torch.mm(rows, weight.T, out_dtype=torch.float32)
    logits = F.linear(rows, weight)
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _loss_and_slope(logits: Tensor, answers: Tensor, normaliser: int, z_loss: float) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and their gradient with respect to the logits, in the memory of the logits.

    logits (rows, vocabulary rows), answers (rows,).
    """
    # largest, place, right, log_sum (rows, 1): the maximum and its id, the target's logit, and log Z.
    answers = answers[:, None]
    largest, place = logits.max(dim=1, keepdim=True)
    right = logits.gather(1, answers)
    slope = torch.softmax(logits, dim=1, out=logits)
    # log Z = x − log p for any id. The likeliest id is used, because its p cannot underflow; the target's p can.
    log_sum = largest - slope.gather(1, place).log()
    # The gradient of log Z is p, and that of log² Z is 2 · log Z · p; the target's logit has −1 as well.
    if z_loss:
        slope *= 1.0 + 2.0 * z_loss * log_sum
    slope.scatter_add_(1, answers, -torch.ones_like(right))
    slope /= normaliser
    return (log_sum - right).sum(), slope


def _add_product(total: Tensor, slope: Tensor, rows: Tensor) -> None:
    """total (vocabulary rows, width) += slopeᵀ · rows, in the precision of `total` if the device can."""
    if slope.dtype == total.dtype:
        total.addmm_(slope.T, rows)
    elif slope.device.type == "cuda":
        torch.addmm(total, slope.T, rows, out_dtype=total.dtype, out=total)
    else:
        total += slope.T @ rows
