"""Cross entropy between hidden states and target ids, without ever holding the logits of a whole batch."""

import torch
from torch import Tensor, nn

from parakeet.model.execution import LOSS_ROWS
from parakeet.model.products import multiply


def backward_from_loss(
    hidden: Tensor,
    embedding: nn.Parameter,
    targets: Tensor,
    *,
    ignore: int,
    normaliser: int,
    z_loss: float = 0.0,
    rows: int = LOSS_ROWS,
    kept: Tensor | None = None,
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

    `kept` (n,): the flat positions of the targets that are not `ignore`, in order, if the caller knows them. To find
    them on a GPU, the host would have to wait for it.
    """
    # kept (n,): flat positions that have a target; wanted (n,): their targets. No other position takes part.
    flat_targets = targets.reshape(-1)
    if kept is None:
        kept = (flat_targets != ignore).nonzero()[:, 0]
    complete = len(kept) == len(flat_targets)
    wanted = flat_targets if complete else flat_targets[kept]
    # flat, gradient (positions, width). hidden is detached: each piece's gradient is computed here by hand, and the
    # graph behind `hidden` is entered once, at the end.
    flat = hidden.detach().reshape(-1, hidden.shape[-1])
    if embedding.grad is None:
        embedding.grad = torch.zeros_like(embedding)
    # One copy in the precision of the products, for all pieces.
    weight = embedding.detach().to(hidden.dtype)
    gradient = torch.empty_like(flat) if complete else torch.zeros_like(flat)
    total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    for begin in range(0, len(wanted), rows):
        span = slice(begin, begin + rows)
        # piece (rows, width); slope (rows, vocabulary rows) is the gradient with respect to the logits, before it is
        # divided by the normaliser.
        piece = flat[span] if complete else flat[kept[span]]
        loss, slope = _loss_and_slope(_product(piece, weight), wanted[span], z_loss, hidden.dtype)
        total += loss
        # logits = piece · weightᵀ, so the gradients are slope · weight and slopeᵀ · piece.
        if complete:
            torch.addmm(gradient[span], slope, weight, beta=0, alpha=1 / normaliser, out=gradient[span])
        else:
            gradient[kept[span]] = (slope @ weight).div_(normaliser)
        _add_product(embedding.grad, slope, piece, 1 / normaliser)
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


@torch.no_grad()
def token_scores(hidden: Tensor, embedding: Tensor, targets: Tensor, rows: int = LOSS_ROWS) -> tuple[Tensor, Tensor]:
    """`token_losses` (n,) fp32, and whether each target is the one likeliest id, (n,) bool: no other is as likely."""
    weight = embedding.to(hidden.dtype)
    losses, likeliest = [], []
    for piece, answers in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = _product(piece, weight)  # (rows, vocabulary rows)
        logits -= logits.amax(dim=1, keepdim=True)
        right = logits.gather(1, answers[:, None])[:, 0]
        likeliest.append((right == 0) & ((logits == 0).sum(dim=1) == 1))
        losses.append(logits.exp_().sum(dim=1).log() - right)
        del logits
    return torch.cat(losses), torch.cat(likeliest)


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """Logits in fp32, since bf16 has steps of 0.125 between 16 and 32. Only CUDA can multiply bf16 into fp32."""
    if rows.dtype == torch.bfloat16 and rows.device.type == "cuda":
        return torch.mm(rows, weight.T, out_dtype=torch.float32)
    logits = multiply(rows, weight)
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _loss_and_slope(logits: Tensor, answers: Tensor, z_loss: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and their gradient with respect to the logits in `dtype`. Overwrites the logits.

    logits (rows, vocabulary rows), answers (rows,).
    """
    # right, log_sum (rows, 1): the target's logit, and log Z.
    answers = answers[:, None]
    right = logits.gather(1, answers)
    if dtype == logits.dtype or logits.device.type == "cpu":
        # log Z = x − log p for any id. The likeliest id is used, because its p cannot underflow; the target's p can.
        # Two maxima without their places take a third of the time of one with them, on a CPU.
        largest = logits.amax(dim=1, keepdim=True)
        slope = torch.softmax(logits, dim=1, out=logits)
        log_sum = largest - slope.amax(dim=1, keepdim=True).log()
    else:
        # The exponential writes bf16 itself: three passes over the logits, where softmax and a cast would take five.
        # (On a CPU both calls would allocate the logits again.)
        log_p = torch.log_softmax(logits, dim=1, out=logits)
        log_sum = right - log_p.gather(1, answers)
        slope = torch.exp(log_p, out=torch.empty_like(log_p, dtype=dtype))
    # The gradient of log Z is p, and that of log² Z is 2 · log Z · p; the target's logit has −1 as well, which is added
    # in the precision of the logits: near 1, bf16 has steps of 0.004.
    drift = 1.0 + 2.0 * z_loss * log_sum
    if z_loss:
        slope *= drift
    slope.scatter_(1, answers, ((right - log_sum).exp() * drift - 1.0).to(slope.dtype))
    return (log_sum - right).sum(), slope.to(dtype)


def _add_product(total: Tensor, slope: Tensor, rows: Tensor, scale: float) -> None:
    """total (vocabulary rows, width) += scale · slopeᵀ · rows, in the precision of `total` if the device can."""
    if slope.dtype == total.dtype:
        total.addmm_(slope.T, rows, alpha=scale)
    elif slope.device.type == "cuda":
        torch.addmm(total, slope.T, rows, out_dtype=total.dtype, alpha=scale, out=total)
    else:
        total.add_(slope.T @ rows, alpha=scale)
