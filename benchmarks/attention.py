"""`python -m benchmarks.attention`: time, memory and error of the attention backends, beside plain causal attention."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.demands import Demand, at_most, print_demands, run_command
from parakeet.benchmarks.process import Answer, ask_once, print_result
from parakeet.benchmarks.timing import PeakMemory, Sample, in_rounds
from parakeet.model.attention import alibi_slopes, attend, prepare_mask
from parakeet.model.transformer import best_device
from parakeet.progress import Progress
from parakeet.sanitise import sanitise

MIB = 1 << 20
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

Key = tuple[str, int, int]
"""Precision, sequence length, documents in it."""


@click.command("attention")
@click.option(
    "--length", "lengths", multiple=True, type=click.IntRange(8), metavar="N",
    help="Sequence length, may be repeated.  [default: 512 to 8192]",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each number.")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads.  [default: what torch chooses]")
def main(lengths: tuple[int, ...], rounds: int, threads: int) -> None:
    """Time the attention backends, and measure their memory and their error against float64.

    One sequence of each length, in both precisions, as one document and as many.
    """
    device = best_device()
    backends, heads = BACKENDS[device], HEADS[device]
    keys = list(_keys(lengths or LENGTHS))
    click.echo(f"{device}: {heads} heads of {HEAD_WIDTH}, one sequence, forward and backward pass of one layer")
    found: dict[Key, Answer] = {}
    peaks: dict[tuple[str, int, str], Answer] = {}
    single = [key for key in keys if key[2] == 1]
    with Progress().task(f"Measuring on {device}", len(keys) + len(single) * len(backends), "processes") as task:
        for key in keys:
            found[key] = _ask(device, key, backends, rounds, threads)
            task.advance()
        for precision, length, documents in single:
            for backend in backends:
                # One per process, so that its memory is the whole process's.
                peak = _ask(device, (precision, length, documents), [backend], 0, threads)
                peaks[precision, length, backend] = peak
                task.advance()
    rows = [_row(key, backend, found[key], peaks[key[0], key[1], backend]) for key in keys for backend in backends]
    _print_tables(rows)
    demands = demands_of(rows)
    print_demands(demands)
    result = {"benchmark": "attention", "device": device, "heads": heads, "head_width": HEAD_WIDTH, "rounds": rounds}
    print_result(result | {"rows": rows, "demands": [demand.as_json() for demand in demands]}, threads)


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


def _keys(lengths: Sequence[int]) -> Iterator[Key]:
    for precision in DTYPES:
        for length in lengths:
            yield precision, length, 1
            yield precision, length, max(2, length // TOKENS_PER_DOCUMENT)


def _ask(device: str, key: Key, backends: Sequence[str], rounds: int, threads: int) -> Answer:
    precision, length, documents = key
    request = {"device": device, "precision": precision, "length": length, "documents": documents}
    request |= {"backends": list(backends), "rounds": rounds, "heads": HEADS[device]}
    return ask_once("benchmarks.attention:measure", request, threads, SECONDS if device != "cpu" else None)


def _row(key: Key, backend: str, found: Answer, peak: Answer) -> dict[str, Any]:
    """One row of the JSON line; seconds as (median, least, most)."""
    precision, length, documents = key
    row: dict[str, Any] = {"backend": backend, "precision": precision, "length": length, "documents": documents}
    row |= {"peak_bytes": peak.get("peak_bytes"), "errors": None, "seconds": {}}
    row["refused"] = found.get("refused", "") or peak.get("refused", "")
    if "refused" not in found:
        row["seconds"] = {what: Sample.of(values).as_json() for what, values in found["seconds"][backend].items()}
        row["errors"] = found["errors"].get(backend)
    return row


def _print_tables(rows: Sequence[dict[str, Any]]) -> None:
    plain = {_place(row): _median(row, "both") for row in rows if row["backend"] == PLAIN}
    reference = {_place(row): _median(row, "both") for row in rows if row["backend"] == "reference"}
    title = ""
    for row in rows:
        many = row["documents"] > 1
        wanted = f"{row['precision']}, T = {row['length']:,}, {row['documents']:,} document{'s' if many else ''}"
        if wanted != title:
            title = wanted
            click.echo(
                f"\n{title:<34}{'mask ms':>9}{'forward':>9}{'and back':>10}{'x reference':>12}{'x plain':>9}"
                f"{'peak MiB':>10}{'error':>10}{'of gradients':>14}"
            )
        click.echo(f"{row['backend']:<34}" + _figures(row, reference[_place(row)], plain[_place(row)]))
    click.echo()


def _figures(row: dict[str, Any], reference: float | None, plain: float | None) -> str:
    if not row["seconds"]:
        return f"  {sanitise(row['refused'])}"
    both = _median(row, "both")
    assert both is not None
    times = [_milliseconds(_median(row, what), width) for what, width in (("mask", 9), ("forward", 9), ("both", 10))]
    ratios = f"{_ratio(reference, both):>12}{_ratio(both, plain):>9}"
    peak = "" if row["peak_bytes"] is None or row["documents"] > 1 else f"{row['peak_bytes'] / MIB:,.0f}"
    errors = row["errors"] or {}
    told = [f"{errors[what]:.1e}" if what in errors else "" for what in ("output", "gradients")]
    return "".join(times) + f"{ratios}{peak:>10}{told[0]:>10}{told[1]:>14}"


def _place(row: Mapping[str, Any]) -> Key:
    return row["precision"], row["length"], row["documents"]


def _median(row: Mapping[str, Any], what: str) -> float | None:
    return row["seconds"][what][0] if what in row["seconds"] else None


def _milliseconds(seconds: float | None, width: int) -> str:
    return f"{'' if seconds is None else f'{1e3 * seconds:.1f}':>{width}}"


def _ratio(over: float | None, under: float | None) -> str:
    return f"{over / under:.2f}" if over is not None and under else ""


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
