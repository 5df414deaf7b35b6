"""`python -m benchmarks.attention`: time, memory and error of the attention backends, beside plain causal attention."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.demands import Demand, at_most, print_demands, run_command
from parakeet.benchmarks.process import Answer, ask_once
from parakeet.benchmarks.timing import PeakMemory, Sample, in_rounds
from parakeet.cli.bench import THREADS
from parakeet.formatting import format_bytes, render_table
from parakeet.model.attention import alibi_slopes, attend, prepare_mask
from parakeet.model.transformer import best_device
from parakeet.progress import Progress

PLAIN = "plain causal"
"""Causal attention without ALiBi and documents: the others, if these cost nothing."""
BACKENDS = {"cpu": ("reference", "fused", PLAIN), "cuda": ("reference", "fused", "flex", PLAIN)}
LENGTHS = (512, 1024, 2048, 4096, 8192)
HEADS = {"cpu": 4, "cuda": 18}
HEAD_WIDTH = 64
TOKENS_PER_DOCUMENT = 9
"""In a sequence with many documents: 910 of them in 8,192 tokens."""
EXACT_LENGTH = 2048
"""Longest sequence whose scores are all computed in float64, for the error."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MOST_ERROR = {"fp32": {"output": 1e-4, "gradients": 1e-4}, "bf16": {"output": 3e-3, "gradients": 6e-3}}
SECONDS = 300.0
COLUMNS = (
    *("precision", "tokens", "documents", "backend", "mask ms", "forward ms", "and back ms", "x reference", "x plain"),
    *("peak memory", "error", "of gradients", ""),
)


@click.command("attention")
@click.option(
    "--length", "lengths", multiple=True, type=click.IntRange(8), metavar="N",
    help="Sequence length, may be repeated.  [default: 512 to 8192]",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@THREADS
def main(lengths: tuple[int, ...], rounds: int, threads: int) -> None:
    """Time the attention backends, and measure their memory and their error against float64.

    One sequence of each length, in both precisions, as one document and as many.
    """
    device = best_device()
    click.echo(
        f"{device}: {HEADS[device]} heads of {HEAD_WIDTH}, one sequence, forward and backward pass of one layer\n"
    )
    common = {"device": device, "heads": HEADS[device]}
    cases = [
        common | {"precision": precision, "length": length, "documents": documents}
        for precision in DTYPES
        for length in lengths or LENGTHS
        for documents in (1, max(2, length // TOKENS_PER_DOCUMENT))
    ]
    rows: list[dict[str, Any]] = []
    with Progress().task(f"Measuring on {device}", len(cases), "cases") as task:
        for case in cases:
            rows += _rows(case, rounds, threads)
            task.advance()
    click.echo(render_table(COLUMNS, [_shown(row, rows) for row in rows], right=range(4, 12)))
    result = {"benchmark": "attention", **common, "head_width": HEAD_WIDTH, "rounds": rounds, "rows": rows}
    print_demands(result, demands_of(rows), threads)


def demands_of(rows: Sequence[Mapping[str, Any]]) -> list[Demand]:
    """Limits on the largest error of each backend's output and gradients."""
    demands = []
    for backend in dict.fromkeys(row["backend"] for row in rows if row["backend"] != PLAIN):
        for precision, limits in MOST_ERROR.items():
            for what, limit in limits.items():
                errors = [row["errors"] for row in rows if (row["backend"], row["precision"]) == (backend, precision)]
                worst = max((some[what] for some in errors if some), default=None)
                demands.append(at_most(f"{backend}, {precision}, relative error of the {what}", worst, limit))
    return demands


def _rows(case: dict[str, Any], rounds: int, threads: int) -> list[dict[str, Any]]:
    """The rows of the JSON line for one case; seconds as (median, least, most)."""

    def ask(backends: Sequence[str], rounds: int) -> Answer:
        request = case | {"backends": backends, "rounds": rounds}
        return ask_once("benchmarks.attention:measure", request, threads, limit)

    limit = None if case["device"] == "cpu" else SECONDS
    timed = ask(BACKENDS[case["device"]], rounds)
    rows = []
    for backend in BACKENDS[case["device"]]:
        # Memory is measured with one backend per process, and does not depend on the number of documents.
        peak = ask([backend], 0) if case["documents"] == 1 else {}
        row = {key: case[key] for key in ("precision", "length", "documents")} | {"backend": backend}
        row |= {"peak_bytes": peak.get("peak_bytes"), "refused": timed.get("refused") or peak.get("refused", "")}
        seconds = timed["seconds"][backend] if "seconds" in timed else {}
        row["seconds"] = {what: Sample.of(values).as_json() for what, values in seconds.items()}
        rows.append(row | {"errors": timed.get("errors", {}).get(backend)})
    return rows


def _shown(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[object]:
    """The row of the table; its times are compared with those of other backends among `rows`."""
    case = [row[key] for key in ("precision", "length", "documents")]
    if not row["seconds"]:
        return [*case, row["backend"], *[""] * 8, row["refused"]]
    both = {
        one["backend"]: one["seconds"]["both"][0]
        for one in rows
        if one["seconds"] and [one[key] for key in ("precision", "length", "documents")] == case
    }
    mine = both[row["backend"]]
    times = [f"{1e3 * row['seconds'][what][0]:.1f}" if what in row["seconds"] else "" for what in ("mask", "forward")]
    times += [f"{1e3 * mine:.1f}", f"{both['reference'] / mine:.2f}", f"{mine / both[PLAIN]:.2f}"]
    peak = "" if row["peak_bytes"] is None else format_bytes(row["peak_bytes"])
    errors = [f"{row['errors'][what]:.1e}" if row["errors"] else "" for what in ("output", "gradients")]
    return [*case, row["backend"], *times, peak, *errors, row["refused"]]


class _Layer:
    """The attention of one layer over one sequence."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        device, length, heads = values["device"], values["length"], values["heads"]
        self.dtype = DTYPES[values["precision"]]
        random = torch.Generator().manual_seed(1)
        drawn = torch.randn(4, 1, heads, length, HEAD_WIDTH, generator=random).to(device, self.dtype)
        # Queries, keys, values and the gradient by the output: (1, heads, length, head width) each.
        self.inputs = [part.requires_grad_() for part in drawn[:3].unbind()]
        self.gradient = drawn[3]
        self.documents = (torch.arange(length, device=device) * values["documents"] // length)[None]
        self.slopes = alibi_slopes(heads).to(device)

    def mask(self, backend: str) -> Any:
        return None if backend == PLAIN else prepare_mask(backend, self.slopes, self.documents, HEAD_WIDTH, self.dtype)  # type: ignore[arg-type]

    def forward(self, mask: Any) -> Tensor:
        queries, keys, values = self.inputs
        if mask is None:
            return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return attend(queries, keys, values, mask)

    def both(self, mask: Any) -> list[Tensor]:
        """The output and the gradients by queries, keys and values."""
        output = self.forward(mask)
        return [output, *torch.autograd.grad(output, self.inputs, self.gradient)]

    def works(self, backend: str) -> dict[str, Callable[[], Any]]:
        mask = self.mask(backend)
        works: dict[str, Callable[[], Any]] = {"forward": torch.no_grad()(lambda: self.forward(mask))}
        works["both"] = lambda: self.both(mask)
        return works if mask is None else works | {"mask": lambda: self.mask(backend)}

    def errors(self, backends: Sequence[str]) -> dict[str, dict[str, float]]:
        """Relative errors in norm, of the output and of the worst gradient, against `reference` in float64."""
        found = {backend: self.both(self.mask(backend)) for backend in backends if backend != PLAIN}
        # Queries, keys, values and the gradient by the output: (1, heads, length, head width) each.
        self.inputs = [part.detach().double().requires_grad_() for part in self.inputs]
        self.gradient, self.dtype, self.slopes = self.gradient.double(), torch.float64, self.slopes.double()
        exact = self.both(self.mask("reference"))
        errors = {}
        for backend, parts in found.items():
            each = [float((part.double() - true).norm() / true.norm()) for part, true in zip(parts, exact, strict=True)]
            errors[backend] = {"output": each[0], "gradients": max(each[1:])}
        return errors


def measure(values: dict[str, Any]) -> Answer:
    """In a process: seconds by backend and work, and errors. With 0 rounds the peak memory of one backend's mask and
    both passes, without queries, keys and values."""
    device, backends, rounds = values["device"], values["backends"], values["rounds"]
    layer = _Layer(values)
    if not rounds:
        (backend,) = backends
        layer.both(layer.mask(backend))
        with PeakMemory(device) as memory:
            layer.both(layer.mask(backend))
        return {"peak_bytes": memory.above}
    works = {f"{backend}/{name}": work for backend in backends for name, work in layer.works(backend).items()}
    in_rounds(works, device, 1)
    seconds: dict[str, dict[str, list[float]]] = {backend: {} for backend in backends}
    for name, samples in in_rounds(works, device, rounds).items():
        backend, _, what = name.partition("/")
        seconds[backend][what] = samples
    errors = layer.errors(backends) if values["length"] <= EXACT_LENGTH else {}
    return {
        "seconds": seconds,
        "errors": {name: some for name, some in errors.items() if math.isfinite(some["output"])},
    }


if __name__ == "__main__":
    run_command(main)
