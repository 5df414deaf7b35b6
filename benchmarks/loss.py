"""`python -m benchmarks.loss`: the loss in pieces of some rows, beside the logits of a whole batch at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.demands import Demand, at_most, print_demands, run_command
from parakeet.benchmarks.process import Answer, ask_once, print_result
from parakeet.benchmarks.timing import PeakMemory, Sample, in_rounds
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

Shape = tuple[int, int]
"""Width and vocabulary rows."""


def _numbers(name: str, parameter: str, least: int, default: str) -> Callable[[Any], Any]:
    """An option for whole numbers that may be repeated."""
    return click.option(name, parameter, multiple=True, type=click.IntRange(least), metavar="N", help=default)


@click.command("loss")
@click.option("--tokens", type=click.IntRange(1), default=4096, show_default=True, help="Tokens in the batch.")
@_numbers("--width", "widths", 8, "Width of the hidden states.  [default: 192, 1152]")
@_numbers("--vocabulary", "vocabularies", 8, "Rows of the embedding.  [default: 4160, 100288]")
@_numbers("--rows", "pieces", 1, "Rows of logits at once.  [default: 64, 256, 1024, 4096]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads.  [default: what torch chooses]")
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
    shapes = [(width, vocabulary) for width in widths or WIDTHS for vocabulary in vocabularies or VOCABULARIES]
    chosen = [WHOLE, *(pieces or PIECES)]
    precision = PRECISIONS[device]
    click.echo(f"{device}: {tokens:,} tokens, hidden states in {precision}, forward and backward pass\n")
    rows: list[dict[str, Any]] = []
    with Progress().task(f"Measuring on {device}", len(shapes) * (1 + len(chosen)), "processes") as task:
        for shape in shapes:
            timed = _ask(device, tokens, shape, chosen, rounds, threads)
            task.advance()
            some = []
            for piece in chosen:
                # One per process, so that its memory is the whole process's.
                peak = _ask(device, tokens, shape, [piece], 0, threads)
                some.append(_row(tokens, shape, piece, timed, peak))
                task.advance()
            _print_table(some, tokens)
            rows += some
    demands = demands_of(rows) if precision == "fp32" else []
    print_demands(demands)
    result = {"benchmark": "loss", "device": device, "precision": precision, "rounds": rounds}
    print_result(result | {"rows": rows, "demands": [demand.as_json() for demand in demands]}, threads)


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


def _ask(device: str, tokens: int, shape: Shape, pieces: Sequence[int], rounds: int, threads: int) -> Answer:
    request = {"device": device, "tokens": tokens, "width": shape[0], "vocabulary": shape[1], "pieces": list(pieces)}
    request |= {"precision": PRECISIONS[device], "rounds": rounds}
    return ask_once("benchmarks.loss:measure", request, threads, SECONDS if device != "cpu" else None)


def _row(tokens: int, shape: Shape, piece: int, timed: Answer, peak: Answer) -> dict[str, Any]:
    """One row of the JSON line; `piece` 0 is the whole. Seconds as (median, least, most)."""
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

    def work(piece: int) -> Callable[[], Any]:
        return lambda: batch.step(piece)

    works = {str(piece): work(piece) for piece in pieces}
    in_rounds(works, device, 1)
    batch.embedding.grad = None
    if not rounds:
        with PeakMemory(device) as memory:
            in_rounds(works, device, 1)
        return {"peak_bytes": memory.above}
    return {"seconds": in_rounds(works, device, rounds), "errors": batch.errors(pieces)}


if __name__ == "__main__":
    run_command(main)
