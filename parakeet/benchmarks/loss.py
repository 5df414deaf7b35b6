"""`parakeet bench loss`: the loss in pieces of so many rows, beside the logits of a whole batch at once.

As `python -m parakeet.benchmarks.loss` it is the process that measures some of them.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parakeet.benchmarks.apart import Answer, answer, ask_apart
from parakeet.benchmarks.decoding import Sample
from parakeet.benchmarks.demands import Demand, at_most, print_demands
from parakeet.benchmarks.rounds import PeakMeter, in_rounds
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import best_device
from parakeet.progress import Progress
from parakeet.sanitise import sanitise

MIB = 1 << 20
WIDTHS = (192, 1152)
VOCABULARIES = (4160, 100_288)
PIECES = (64, 256, 1024, 4096)
"""Rows of logits at once."""
WHOLE = 0
"""In their place: all logits, by F.cross_entropy and autograd."""
PRECISIONS = {"cpu": "fp32", "cuda": "bf16"}
"""Of the hidden states, as it is trained there; the embedding is in fp32."""
IGNORED = -100
EVERY_IGNORED = 16
"""Every so many targets are not learned, as the padding of packed rows is not."""
MOST_ERROR = {"loss": 1e-6, "gradients": 1e-5}
MOST_OF_PIECE = 1.1
RETURNED_BYTES = 32 << 20
"""glibc returns larger pieces to the system at once; of smaller ones a few lie about."""
SECONDS = 300.0

Shape = tuple[int, int]
"""Width and vocabulary rows."""


def run(
    tokens: int, widths: Sequence[int], vocabularies: Sequence[int], pieces: Sequence[int], rounds: int, threads: int
) -> None:
    """Every width with every vocabulary; tables, then one JSON line."""
    device = best_device()
    shapes = [(width, vocabulary) for width in widths or WIDTHS for vocabulary in vocabularies or VOCABULARIES]
    chosen = [WHOLE, *(pieces or PIECES)]
    precision = PRECISIONS[device]
    click.echo(f"{device}: {tokens:,} tokens, hidden states in {precision}, forward and backward pass\n")
    rows: list[dict[str, Any]] = []
    with Progress().task(f"Measuring on {device}", len(shapes) * (1 + len(chosen)), "processes") as task:
        for shape in shapes:
            timed = _apart(device, tokens, shape, chosen, rounds, threads)
            task.advance()
            some = []
            for piece in chosen:
                # One alone: its memory is then the whole process's.
                peak = _apart(device, tokens, shape, [piece], 0, threads)
                some.append(_row(tokens, shape, piece, timed, peak))
                task.advance()
            _print_table(some, tokens)
            rows += some
    demands = demands_of(rows) if precision == "fp32" else []
    print_demands(demands)
    result = {"benchmark": "loss", "device": device, "precision": precision, "rounds": rounds}
    facts: dict[str, Any] = {"cpus": os.cpu_count(), "threads": threads or torch.get_num_threads()}
    facts |= {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    click.echo(json.dumps(result | {"rows": rows, "demands": [d.as_json() for d in demands]} | facts))


def demands_of(rows: Sequence[Mapping[str, Any]]) -> list[Demand]:
    """How far from F.cross_entropy the loss and the gradients may be in fp32, and that one piece's logits exist."""
    pieces = [row for row in rows if row["piece"] != WHOLE]
    found = [row["errors"] for row in pieces if row["errors"]]
    worst = {what: max((errors[what] for errors in found), default=None) for what in MOST_ERROR}
    demands = [at_most(f"relative error of the {what}", worst[what], limit) for what, limit in MOST_ERROR.items()]
    shares = [share for share in map(_share_of_piece, pieces) if share is not None]
    text = "peak memory beside the gradients, of one piece's logits"
    return [*demands, at_most(text, max(shares, default=None), MOST_OF_PIECE, "x")]


def _share_of_piece(row: Mapping[str, Any]) -> float | None:
    """What a step takes beside the gradients, of the logits of one piece; None where it is too small to tell."""
    logits = 4 * min(row["piece"], row["targets"]) * row["vocabulary"]
    if row["peak_bytes"] is None or logits < RETURNED_BYTES:
        return None
    # By the embedding, and by the hidden states: as it is made, and as autograd hands it on.
    gradients = 4 * row["width"] * (row["vocabulary"] + 2 * row["tokens"])
    share: float = (row["peak_bytes"] - gradients) / logits
    return share


def _apart(device: str, tokens: int, shape: Shape, pieces: Sequence[int], rounds: int, threads: int) -> Answer:
    request = {"device": device, "tokens": tokens, "width": shape[0], "vocabulary": shape[1], "pieces": list(pieces)}
    request |= {"precision": PRECISIONS[device], "rounds": rounds}
    return ask_apart("parakeet.benchmarks.loss", request, threads, SECONDS if device != "cpu" else None)


def _row(tokens: int, shape: Shape, piece: int, timed: Answer, peak: Answer) -> dict[str, Any]:
    """As the JSON line has it; `piece` 0 is the whole. Seconds as (median, least, most)."""
    row: dict[str, Any] = {"tokens": tokens, "targets": tokens - len(range(0, tokens, EVERY_IGNORED)), "piece": piece}
    row |= {"width": shape[0], "vocabulary": shape[1], "seconds": None, "errors": None}
    row |= {"peak_bytes": peak.get("peak_bytes"), "refused": timed.get("refused", "") or peak.get("refused", "")}
    if "refused" not in timed:
        row |= {"seconds": Sample.of(timed["seconds"][str(piece)]).as_json(), "errors": timed["errors"].get(str(piece))}
    return row


def _print_table(rows: Sequence[Mapping[str, Any]], tokens: int) -> None:
    whole = rows[0]
    width, vocabulary = whole["width"], whole["vocabulary"]
    click.echo(
        f"{f'width {width:,}, vocabulary {vocabulary:,}':<34}{'ms':>9}{'low to high':>18}{'x whole':>9}"
        f"{'peak MiB':>10}{'of whole':>10}{'logits':>8}{'error':>10}{'of gradients':>14}"
    )
    for row in rows:
        name = f"{row['piece']:,} rows at once" if row["piece"] else "all logits, F.cross_entropy"
        click.echo(f"{name:<34}" + _figures(row, whole, 4 * min(row["piece"] or tokens, tokens) * vocabulary))
    click.echo()


def _figures(row: Mapping[str, Any], whole: Mapping[str, Any], logits: int) -> str:
    if row["seconds"] is None:
        return f"  {sanitise(row['refused'])}"
    median, low, high = (1e3 * seconds for seconds in row["seconds"])
    peak, base = row["peak_bytes"], whole["peak_bytes"]
    memory = f"{'' if peak is None else f'{peak / MIB:,.0f}':>10}{f'{peak / base:.1%}' if peak and base else '':>10}"
    errors = row["errors"]
    told = f"{errors['loss']:>10.1e}{errors['gradients']:>14.1e}" if errors else ""
    times = f"{median:>9.1f}{f'{low:.1f} to {high:.1f}':>18}{1e3 * whole['seconds'][0] / median:>9.2f}"
    return times + memory + f"{logits / MIB:>8,.0f}" + told


class _Batch:
    """Hidden states, an embedding and targets."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        device, tokens, width, vocabulary = (values[name] for name in ("device", "tokens", "width", "vocabulary"))
        random = torch.Generator().manual_seed(1)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[values["precision"]]
        self.hidden = torch.randn(tokens, width, generator=random).to(device, dtype)
        # bf16's own values, so that the cast to it loses nothing.
        drawn = torch.randn(vocabulary, width, generator=random).mul_(0.02).bfloat16().float()
        self.embedding = nn.Parameter(drawn.to(device))
        self.targets = torch.randint(vocabulary, (tokens,), generator=random)
        self.targets[::EVERY_IGNORED] = IGNORED
        self.targets = self.targets.to(device)
        self.count = int((self.targets != IGNORED).sum())

    def step(self, piece: int) -> tuple[Tensor, Tensor]:
        """The mean loss, and its gradient by the hidden states; the embedding's is in its .grad."""
        self.embedding.grad = None
        hidden = self.hidden.detach().requires_grad_()
        if piece == WHOLE:
            loss = self._whole(hidden)
        else:
            loss = backward_from_loss(
                hidden, self.embedding, self.targets, ignore=IGNORED, normaliser=self.count, rows=piece
            )
            loss = loss / self.count
        assert hidden.grad is not None
        return loss, hidden.grad

    def _whole(self, hidden: Tensor) -> Tensor:
        logits = F.linear(hidden, self.embedding.to(hidden.dtype)).float()
        loss = F.cross_entropy(logits, self.targets, ignore_index=IGNORED)
        loss.backward()
        return loss.detach()

    def errors(self, pieces: Sequence[int]) -> dict[str, dict[str, float]]:
        """Of the loss, and of the worse of both gradients in norm, beside F.cross_entropy's in fp32.

        Its losses of single rows, added up in float64: with ignored rows its own sum is off by up to 1.4e-6 on a CPU.
        """
        found = {piece: self._all(piece) for piece in pieces}
        self.hidden = self.hidden.float()
        exact = [self._exact_loss(), *self._all(WHOLE)[1:]]
        errors = {}
        for piece, parts in found.items():
            each = [float((part.float() - true).norm() / true.norm()) for part, true in zip(parts, exact, strict=True)]
            errors[str(piece)] = {"loss": each[0], "gradients": max(each[1:])}
        return errors

    @torch.no_grad()
    def _exact_loss(self) -> Tensor:
        logits = F.linear(self.hidden, self.embedding)
        rows = F.cross_entropy(logits, self.targets, ignore_index=IGNORED, reduction="none")
        return rows.double().sum() / self.count

    def _all(self, piece: int) -> list[Tensor]:
        loss, gradient = self.step(piece)
        assert self.embedding.grad is not None
        return [loss, gradient, self.embedding.grad]


def measure(values: dict[str, Any]) -> Answer:
    """Seconds by piece, and errors; with no rounds the bytes at most that one kind of step takes, gradients counted."""
    device, pieces, rounds = values["device"], values["pieces"], values["rounds"]
    batch = _Batch(values)

    def work(piece: int) -> Callable[[], Any]:
        return lambda: batch.step(piece)

    works = {str(piece): work(piece) for piece in pieces}
    in_rounds(works, device, 1)
    batch.embedding.grad = None
    if not rounds:
        meter = PeakMeter(device)
        in_rounds(works, device, 1)
        return {"peak_bytes": meter.above}
    return {"seconds": in_rounds(works, device, rounds), "errors": batch.errors(pieces)}


if __name__ == "__main__":
    answer(measure)
