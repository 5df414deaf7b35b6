"""`python -m benchmarks.loss`: the loss in pieces of some rows, beside the logits of a whole batch at once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.demands import Demand, at_most, print_demands, run_command
from parakeet.benchmarks.process import Answer, ask_once
from parakeet.benchmarks.timing import PeakMemory, Sample, in_rounds
from parakeet.cli.bench import THREADS
from parakeet.formatting import format_bytes, format_percent, render_table
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import best_device
from parakeet.progress import Progress

WIDTHS = (192, 1152)
VOCABULARIES = (4160, 100_288)
PIECES = (64, 256, 1024, 4096)
"""Rows of logits at once."""
WHOLE = 0
"""Stands for all logits at once, by F.cross_entropy and autograd."""
PRECISIONS = {"cpu": "fp32", "cuda": "bf16"}
"""Of the hidden states, as in training; the embedding is in fp32."""
IGNORED = -100
EVERY_IGNORED = 16
"""One target in so many is ignored, like the padding of packed sequences."""
MOST_ERROR = {"loss": 1e-6, "gradients": 1e-5}
MOST_OF_PIECE = 1.1
RETURNED_BYTES = 32 << 20
"""glibc returns larger pieces to the system at once, and keeps some of the smaller ones."""
SECONDS = 300.0

COLUMNS = (
    *("width", "vocabulary", "rows at once", "ms", "low to high", "x whole", "peak memory", "of whole", "logits"),
    *("error", "of gradients", ""),
)


def _numbers(name: str, parameter: str, least: int, default: str) -> Callable[[Any], Any]:
    """An option for whole numbers that may be repeated."""
    return click.option(name, parameter, multiple=True, type=click.IntRange(least), metavar="N", help=default)


@click.command("loss")
@click.option("--tokens", type=click.IntRange(1), default=4096, show_default=True, help="Tokens in the batch.")
@_numbers("--width", "widths", 8, "Width of the hidden states.  [default: 192, 1152]")
@_numbers("--vocabulary", "vocabularies", 8, "Rows of the embedding.  [default: 4160, 100288]")
@_numbers("--rows", "pieces", 1, "Rows of logits at once.  [default: 64, 256, 1024, 4096]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@THREADS
def main(
    tokens: int,
    widths: tuple[int, ...],
    vocabularies: tuple[int, ...],
    pieces: tuple[int, ...],
    rounds: int,
    threads: int,
) -> None:
    """Time the loss in pieces and whole, and measure its memory and its error, for every width and vocabulary."""
    device = best_device()
    common = {"device": device, "precision": PRECISIONS[device]}
    click.echo(f"{device}: {tokens:,} tokens, hidden states in {PRECISIONS[device]}, forward and backward pass\n")
    shapes = [(width, vocabulary) for width in widths or WIDTHS for vocabulary in vocabularies or VOCABULARIES]
    rows: list[dict[str, Any]] = []
    table: list[list[object]] = []
    with Progress().task(f"Measuring on {device}", len(shapes), "shapes") as task:
        for width, vocabulary in shapes:
            case = common | {"tokens": tokens, "width": width, "vocabulary": vocabulary}
            some = _rows(case, [WHOLE, *(pieces or PIECES)], rounds, threads)
            table += [_shown(row, some[0]) for row in some]
            rows += some
            task.advance()
    click.echo(render_table(COLUMNS, table, right=range(11)))
    result = {"benchmark": "loss", **common, "rounds": rounds, "rows": rows}
    print_demands(result, demands_of(rows) if common["precision"] == "fp32" else [], threads)


def demands_of(rows: Sequence[Mapping[str, Any]]) -> list[Demand]:
    """Limits on the error of loss and gradients in fp32; and only the logits of one piece may exist."""
    pieces = [row for row in rows if row["piece"] != WHOLE]
    found = [row["errors"] for row in pieces if row["errors"]]
    worst = {what: max((errors[what] for errors in found), default=None) for what in MOST_ERROR}
    demands = [at_most(f"relative error of the {what}", worst[what], limit) for what, limit in MOST_ERROR.items()]
    shares = [share for share in map(_share_of_piece, pieces) if share is not None]
    text = "peak memory beside the gradients, of one piece's logits"
    return [*demands, at_most(text, max(shares, default=None), MOST_OF_PIECE, "x")]


def _share_of_piece(row: Mapping[str, Any]) -> float | None:
    """Peak memory without the gradients, as a share of one piece's logits; None when they are too small to measure."""
    logits = 4 * min(row["piece"], row["targets"]) * row["vocabulary"]
    if row["peak_bytes"] is None or logits < RETURNED_BYTES:
        return None
    # Of the embedding, and twice of the hidden states: ours, and the copy that autograd passes on.
    gradients = 4 * row["width"] * (row["vocabulary"] + 2 * row["tokens"])
    share: float = (row["peak_bytes"] - gradients) / logits
    return share


def _rows(case: dict[str, Any], pieces: Sequence[int], rounds: int, threads: int) -> list[dict[str, Any]]:
    """The rows of the JSON line for one shape; `piece` 0 is the whole. Seconds as (median, least, most)."""

    def ask(pieces: Sequence[int], rounds: int) -> Answer:
        limit = None if case["device"] == "cpu" else SECONDS
        return ask_once("benchmarks.loss:measure", case | {"pieces": pieces, "rounds": rounds}, threads, limit)

    timed = ask(pieces, rounds)
    rows = []
    for piece in pieces:
        peak = ask([piece], 0)  # one per process, so that its memory is the whole process's
        row = {key: case[key] for key in ("tokens", "width", "vocabulary")}
        row |= {"targets": row["tokens"] - len(range(0, row["tokens"], EVERY_IGNORED)), "piece": piece}
        row |= {"peak_bytes": peak.get("peak_bytes"), "refused": timed.get("refused") or peak.get("refused", "")}
        seconds = timed.get("seconds", {}).get(str(piece))
        row["seconds"] = seconds and Sample.of(seconds).as_json()
        rows.append(row | {"errors": timed.get("errors", {}).get(str(piece))})
    return rows


def _shown(row: Mapping[str, Any], whole: Mapping[str, Any]) -> list[object]:
    """The row of the table, beside that of the whole batch."""
    begin = [row["width"], row["vocabulary"], row["piece"] or "all, F.cross_entropy"]
    if row["seconds"] is None:
        return [*begin, *[""] * 8, row["refused"]]
    median, low, high = (1e3 * seconds for seconds in row["seconds"])
    peak, base = row["peak_bytes"], whole["peak_bytes"]
    times = [f"{median:.1f}", f"{low:.1f} to {high:.1f}", f"{1e3 * whole['seconds'][0] / median:.2f}"]
    logits = 4 * min(row["piece"] or row["tokens"], row["tokens"]) * row["vocabulary"]
    memory = ["" if peak is None else format_bytes(peak), format_percent(peak / base) if peak and base else ""]
    errors = [f"{row['errors'][what]:.1e}" if row["errors"] else "" for what in ("loss", "gradients")]
    return [*begin, *times, *memory, format_bytes(logits), *errors, row["refused"]]


class _Batch:
    """Hidden states, an embedding and targets."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        device, tokens, width, vocabulary = (values[name] for name in ("device", "tokens", "width", "vocabulary"))
        random = torch.Generator().manual_seed(1)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[values["precision"]]
        self.hidden = torch.randn(tokens, width, generator=random).to(device, dtype)
        # Values that bf16 can hold, so that the cast to it loses nothing.
        drawn = torch.randn(vocabulary, width, generator=random).mul_(0.02).bfloat16().float()
        self.embedding = nn.Parameter(drawn.to(device))
        self.targets = torch.randint(vocabulary, (tokens,), generator=random)
        self.targets[::EVERY_IGNORED] = IGNORED
        self.targets = self.targets.to(device)
        self.count = int((self.targets != IGNORED).sum())

    def step(self, piece: int) -> tuple[Tensor, Tensor]:
        """The mean loss and the gradient of the hidden states. The embedding's is in its .grad."""
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
        """Relative errors of the loss and of the worse of both gradients, against F.cross_entropy in fp32.

        The exact loss adds up its losses of single rows in float64. With ignored rows its own mean is off by up to
        1.4e-6 on a CPU.
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
    """In a process: seconds by piece, and errors. With 0 rounds the peak memory of one step, gradients included."""
    device, pieces, rounds = values["device"], values["pieces"], values["rounds"]
    batch = _Batch(values)
    works = {str(piece): partial(batch.step, piece) for piece in pieces}
    in_rounds(works, device, 1)
    batch.embedding.grad = None
    if not rounds:
        with PeakMemory(device) as memory:
            in_rounds(works, device, 1)
        return {"peak_bytes": memory.above}
    return {"seconds": in_rounds(works, device, rounds), "errors": batch.errors(pieces)}


if __name__ == "__main__":
    run_command(main)
