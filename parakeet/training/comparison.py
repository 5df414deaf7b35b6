"""`parakeet compare A B`: what two runs were told, and what came of it. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parakeet.errors import ParakeetError
from parakeet.progress import brief, clock
from parakeet.training.curve import draw_comparison, running_mean
from parakeet.training.job import METRICS_FILE
from parakeet.training.metrics import Records, read_metrics
from parakeet.training.run_tables import UNKNOWN, shown, table
from parakeet.training.runs import Run, find_run, mean_speed, number, one_line, recent_loss, short_keys

GRID_ROWS = 10
ABSENT = "(none)"


@dataclass(frozen=True)
class Side:
    """One of the two runs, under the name that the tables give it."""

    name: str
    run: Run
    metrics: Records


def render_comparison(folder: Path, first: str, second: str, picture: Path | None) -> str:
    """Settings, loss at equal tokens and figures of two runs in `folder`; with `picture`, both curves as a PNG.

    ParakeetError where a prefix names no run or several, both name the same, or the picture cannot be written.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise ParakeetError(f"{picture}: the picture is a PNG; give a name that ends in .png.")
    if picture is not None and not picture.absolute().parent.is_dir():
        raise ParakeetError(f"{picture}: there is no folder {picture.absolute().parent}.")
    runs = [find_run(folder, prefix) for prefix in (first, second)]
    if runs[0].path == runs[1].path:
        raise ParakeetError(f"{first!r} and {second!r} are the same run, {runs[0].key}: name two.")
    names = short_keys(runs)
    a, b = (Side(n, run, read_metrics(run.path / METRICS_FILE)) for n, run in zip(names, runs, strict=True))
    sections = [_settings(a, b), _losses(a, b), _figures(a, b)]
    if picture is not None:
        _draw(a, b, picture)
        sections.append([f"{picture}: both curves."])
    return "\n\n".join("\n".join(section) for section in sections)


def _settings(a: Side, b: Side) -> list[str]:
    keys = [*a.run.settings, *(key for key in b.run.settings if key not in a.run.settings)]
    rows = []
    for key in keys:
        values = [shown(side.run.settings[key]) if key in side.run.settings else ABSENT for side in (a, b)]
        if values[0] != values[1]:
            rows.append([one_line(key), *values])
    if not rows:
        return ["The settings are equal."]
    return ["Settings that differ", *_under_heads(a, b, rows)]


def _losses(a: Side, b: Side) -> list[str]:
    title = "Loss at equal tokens (targets), nats a token: running means over a fortieth of what both trained on"
    end = min(max((record["tokens"] for record in side.metrics), default=0) for side in (a, b))
    # Both cut to the same range first: the mean of a longer run would reach further to either side.
    (tokens_a, loss_a), (tokens_b, loss_b) = (
        running_mean([record for record in side.metrics if record["tokens"] <= end]) for side in (a, b)
    )
    if not len(tokens_a) or not len(tokens_b):
        return [f"{title}: they have none in common."]
    rows = [["targets", a.name, b.name, "difference"]]
    grid = np.linspace(max(tokens_a[0], tokens_b[0]), min(tokens_a[-1], tokens_b[-1]), GRID_ROWS)
    for tokens in np.unique(grid.round()):
        losses = [np.interp(tokens, tokens_a, loss_a), np.interp(tokens, tokens_b, loss_b)]
        rows.append([brief(tokens), f"{losses[0]:.4f}", f"{losses[1]:.4f}", f"{losses[1] - losses[0]:+.4f}"])
    return [title, *_indented(rows, right=(0, 1, 2, 3))]


def _figures(a: Side, b: Side) -> list[str]:
    figures: dict[str, Callable[[Side], str]] = {
        "state": lambda side: side.run.state,
        "model": lambda side: side.run.model,
        "steps": lambda side: f"{side.run.step:,} of {side.run.total_steps:,}",
        "tokens": lambda side: brief(side.run.tokens),
        "targets": lambda side: brief(side.run.targets),
        "tokens/s": _speed,
        "time in steps": lambda side: clock(sum(record["seconds"] for record in side.metrics)),
        "loss, last 20 steps": lambda side: _loss(recent_loss(side.metrics)),
        "held-out loss, last": lambda side: _loss(next(reversed(_held_out(side)), None)),
        "held-out loss, best": lambda side: _loss(min(_held_out(side), default=None)),
    }
    return ["What came of it", *_under_heads(a, b, [[name, of(a), of(b)] for name, of in figures.items()])]


def _speed(side: Side) -> str:
    """Over all steps that are written down."""
    speed = mean_speed(side.metrics, side.run.settings["training.batch_tokens"])
    return UNKNOWN if speed is None else f"{speed:,.0f}"


def _held_out(side: Side) -> list[float]:
    return [loss for record in side.metrics if (loss := number(record, "validation_loss")) is not None]


def _loss(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _under_heads(a: Side, b: Side, rows: Sequence[Sequence[str]]) -> list[str]:
    return _indented([["", a.name, b.name], *rows], right=(1, 2))


def _indented(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    return [f"  {line}" for line in table(rows, right)]


def _draw(a: Side, b: Side, picture: Path) -> None:
    """Beside its place first: a picture that was there before is replaced whole, or stays."""
    partial = picture.with_name(f".{picture.name}.partial")
    try:
        draw_comparison({side.name: side.metrics for side in (a, b)}, partial)
        partial.replace(picture)
    finally:
        partial.unlink(missing_ok=True)
