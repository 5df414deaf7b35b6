"""The law of loss by size and tokens, L(N, D) = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022, approach 3).

As there, the Huber loss of log L (delta 1e-3) is minimised from a grid of starts, here by Levenberg-Marquardt with
Huber's weights, all starts at once. N and D are divided by their geometric means while fitting, so A and B are then
losses, and the search is well conditioned. Exponents stay within EXPONENTS, where they are told apart.

The intervals are of a parametric bootstrap: new runs are drawn around the law and fitted again. The noise has two
parts, that of seeds, and that of cells (one N and D each), by which the law itself is off; the variance of each is
drawn for each fit, since few cells know it badly. Of 200 simulated studies of 9 cells with 3 seeds each, the interval
held a new run of the forecast size in SIMULATED of them; with the seeds resampled within cells in BASELINE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Counted = Literal["all", "without embedding"]

DELTA = 1e-3
"""Of the Huber loss of log L, as Hoffmann et al. have it."""
EXPONENTS = (0.01, 3.0)
DRAWS = 500
FEWEST_SIZES = 3
PARAMETERS = {"two exponents": 5, "one exponent": 4}
FIRST_STEPS, STEPS, KEPT = 30, 200, 8
"""All starts take the first steps, the best of them the others."""
CONVERGED = 1e-4
"""Of a mean loss: the search ends when no point has gained this share of its own in CHECKED steps."""
CHECKED = 10
SPARE = 1
"""Cells more than parameters, at least: with none, nothing is known of how far the law is off."""


@dataclass(frozen=True)
class TrainedRun:
    """A training: its size by name, its parameters with and without the embedding, its tokens, its loss in bits per
    byte. Runs of the same size and tokens differ by their seed only, and are one cell."""

    size: str
    parameters: int
    matrix_parameters: int
    """Without the embedding."""
    tokens: int
    loss: float

    def counted(self, kind: Counted) -> int:
        return self.parameters if kind == "all" else self.matrix_parameters


@dataclass(frozen=True)
class Form:
    """What N counts, and whether N and D have an exponent each."""

    counted: Counted = "all"
    exponents: Literal["two exponents", "one exponent"] = "two exponents"

    @property
    def name(self) -> str:
        return f"{self.counted} parameters, {self.exponents}".replace("without embedding parameters", NO_EMBEDDING)


NO_EMBEDDING = "parameters without the embedding"
FORMS = tuple(Form(counted, exponents) for counted in ("all", "without embedding") for exponents in PARAMETERS)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Law:
    """A fitted law. `point` (5,) and `draws` (draws, 5) are e, a, b, log alpha, log beta at the centre of the runs."""

    form: Form
    point: Values
    draws: Values
    centre: tuple[float, float]
    """Geometric means of N and D."""
    seed_noise: float | None
    """Standard deviation of log L over seeds; None with one seed a cell, when it is part of the misfit."""
    misfit: float
    """Standard deviation of log L by which cells are off the law beyond the noise of their seeds."""
    noise: Values
    """(draws,) that of a new run's log L: seeds and misfit, as drawn for each fit."""

    def parameters(self) -> dict[str, float]:
        """E, A, B (bits per byte), alpha, beta."""
        return {name: float(values[0]) for name, values in self._parameters(self.point[None]).items()}

    def intervals(self) -> dict[str, list[float]]:
        """95 % intervals of `parameters()`."""
        return {name: _interval(values) for name, values in self._parameters(self.draws).items()}

    def loss(self, parameters: float | Values, tokens: float | Values) -> Values:
        """Bits per byte; `parameters` are counted as the law's form says."""
        return np.exp(self._log_loss(self.point[None], parameters, tokens)[0])

    def drawn_losses(self, parameters: float | Values, tokens: float | Values) -> Values:
        """(draws, points): what each of the bootstrap's laws says."""
        return np.exp(self._log_loss(self.draws, parameters, tokens))

    def prediction_interval(self, parameters: float, tokens: float) -> list[float]:
        """95 % interval of the loss of one new run: the law's uncertainty, its misfit, and the noise of a seed."""
        rng = np.random.default_rng(1)
        logs = self._log_loss(self.draws, parameters, tokens)[:, 0]
        return _interval(np.exp(logs + self.noise * rng.standard_normal(len(logs))))

    def as_dict(self) -> dict[str, Any]:
        """What files keep of it."""
        return {
            "form": self.form.name,
            "parameters": self.parameters(),
            "intervals": self.intervals(),
            "seed_noise": self.seed_noise,
            "misfit": self.misfit,
        }

    def _parameters(self, points: Values) -> dict[str, Values]:
        alpha, beta = np.exp(points[:, 3]), np.exp(points[:, 4])
        return {
            "E": np.exp(points[:, 0]),
            "A": np.exp(points[:, 1] + alpha * np.log(self.centre[0])),
            "B": np.exp(points[:, 2] + beta * np.log(self.centre[1])),
            "alpha": alpha,
            "beta": beta,
        }

    def _log_loss(self, points: Values, parameters: float | Values, tokens: float | Values) -> Values:
        x, y = np.broadcast_arrays(
            np.atleast_1d(np.log(parameters) - np.log(self.centre[0])),
            np.atleast_1d(np.log(tokens) - np.log(self.centre[1])),
        )
        return _model(points, x, y)[0]


def fit_law(runs: Sequence[TrainedRun], form: Form | None = None, draws: int = DRAWS) -> tuple[Law | None, str]:
    """The law of these runs, and an empty text; or None and why they are too few.

    Without a form it is the one of FORMS that says best what a size would lose that it was not fitted to. The same
    runs give the same law. With `draws` 0 there are no intervals.
    """
    if form is None:
        errors = {one: left_out_error(runs, one) for one in FORMS}
        known = {one: error for one, error in errors.items() if error is not None}
        form = min(known, key=lambda one: known[one]) if known else FORMS[-1]
    cells = _cells(runs)
    sizes = {run.size for run in runs}
    needed = PARAMETERS[form.exponents] + SPARE
    if len(sizes) < FEWEST_SIZES or len(cells) < needed or len({run.tokens for run in runs}) < 2:
        return None, (
            f"a law with {PARAMETERS[form.exponents]} parameters needs runs of {FEWEST_SIZES} sizes with two numbers "
            f"of tokens or more, {needed} different ones in all; there are {len(cells)}, of {len(sizes)} sizes"
        )
    return _fit(runs, cells, form, draws), ""


def left_out_error(runs: Sequence[TrainedRun], form: Form) -> float | None:
    """Root mean square error of log L of the sizes' cells, each forecast from the other sizes; None if they are too
    few."""
    found = left_out(runs, form, draws=0)
    if not found:
        return None
    return float(np.sqrt(np.mean([np.log(one["measured"] / one["forecast"]) ** 2 for one in found])))


def left_out(runs: Sequence[TrainedRun], form: Form, draws: int = DRAWS) -> list[dict[str, Any]]:
    """{"size", "tokens", "measured", "forecast", "interval"} of each cell's mean, forecast from the other sizes alone.

    Empty if they are too few.
    """
    found: list[dict[str, Any]] = []
    for size in dict.fromkeys(run.size for run in runs):
        law, _ = fit_law([run for run in runs if run.size != size], form, draws)
        if law is None:
            continue
        for (_, tokens), members in _cells([run for run in runs if run.size == size]).items():
            n = members[0].counted(form.counted)
            found.append(
                {
                    "size": size,
                    "tokens": tokens,
                    "measured": float(np.mean([run.loss for run in members])),
                    "forecast": float(law.loss(n, tokens)[0]),
                    "interval": law.prediction_interval(n, tokens) if draws else None,
                }
            )
    return found


def residuals(law: Law, runs: Sequence[TrainedRun]) -> list[dict[str, Any]]:
    """{"size", "tokens", "measured", "law", "residual"} of each cell's mean; the residual is measured minus law."""
    found = []
    for (size, tokens), members in _cells(runs).items():
        measured = float(np.mean([run.loss for run in members]))
        said = float(law.loss(members[0].counted(law.form.counted), tokens)[0])
        found.append({"size": size, "tokens": tokens, "measured": measured, "law": said, "residual": measured - said})
    return found


def _cells(runs: Sequence[TrainedRun]) -> dict[tuple[str, int], list[TrainedRun]]:
    cells: dict[tuple[str, int], list[TrainedRun]] = {}
    for run in runs:
        cells.setdefault((run.size, run.tokens), []).append(run)
    return cells


def _fit(
    runs: Sequence[TrainedRun], cells: Mapping[tuple[str, int], Sequence[TrainedRun]], form: Form, draws: int
) -> Law:
    n = np.log([run.counted(form.counted) for run in runs])
    d = np.log([run.tokens for run in runs])
    losses = np.log([run.loss for run in runs])
    x, y, tied = n - n.mean(), d - d.mean(), form.exponents == "one exponent"
    candidates, objectives = _minimise(_starts(losses, tied), x, y, losses[None], tied, FIRST_STEPS)
    kept = candidates[np.argsort(objectives, kind="stable")[:KEPT]]
    candidates, objectives = _minimise(kept, x, y, losses[None], tied, STEPS)
    point = candidates[int(np.argmin(objectives))]
    said = _model(point[None], x, y)[0][0]
    numbers = {cell: number for number, cell in enumerate(cells)}
    cell_of = np.array([numbers[run.size, run.tokens] for run in runs])
    counts = np.bincount(cell_of)
    means = np.bincount(cell_of, losses - said) / counts
    of_cells, of_seeds = len(cells) - PARAMETERS[form.exponents], len(runs) - len(cells)
    spread = float(counts @ means**2 / of_cells)  # a run's variance, by how far cells are off
    seeds = float(((losses - said - means[cell_of]) ** 2).sum() / of_seeds) if of_seeds else None
    rng = np.random.default_rng(0)
    drawn_spread = spread * of_cells / rng.chisquare(of_cells, draws)
    drawn_seeds = seeds * of_seeds / rng.chisquare(of_seeds, draws) if seeds is not None else np.zeros(draws)
    per_cell = len(runs) / len(cells)
    misfit = np.maximum(0.0, drawn_spread - drawn_seeds) / per_cell
    noise = rng.standard_normal((draws, len(cells)))[:, cell_of] * np.sqrt(misfit)[:, None]
    noise += rng.standard_normal((draws, len(runs))) * np.sqrt(drawn_seeds)[:, None]
    refitted, _ = _minimise(np.tile(point, (draws, 1)), x, y, said + noise, tied, STEPS)
    return Law(
        form,
        point,
        refitted,
        (float(np.exp(n.mean())), float(np.exp(d.mean()))),
        None if seeds is None else seeds**0.5,
        (max(0.0, spread - (seeds or 0.0)) / per_cell) ** 0.5,
        np.sqrt(misfit + drawn_seeds),
    )


def _starts(losses: Values, tied: bool) -> Values:
    """(starts, 5): shares of the mean loss for the three terms, and exponents."""
    mean, exponents = float(losses.mean()), (0.05, 0.3, 1.0)
    shares = ((0.8, 0.1, 0.1), (0.4, 0.3, 0.3), (0.1, 0.6, 0.3), (0.1, 0.3, 0.6))
    pairs = [(one, one) for one in exponents] if tied else list(product(exponents, exponents))
    return np.array(
        [[*(mean + np.log(share)), *np.log(pair)] for share in map(np.array, shares) for pair in pairs], np.float64
    )


def _model(points: Values, x: Values, y: Values) -> tuple[Values, Values]:
    """log L (points, runs), and the share of each of the three terms of L (points, runs, 3)."""
    e, a, b, alpha, beta = (points[:, number, None] for number in range(5))
    terms = np.stack([e + 0 * x, a - np.exp(alpha) * x, b - np.exp(beta) * y], axis=-1)
    top = terms.max(axis=-1, keepdims=True)
    exponentials = np.exp(terms - top)
    total = exponentials.sum(axis=-1, keepdims=True)
    return (top + np.log(total))[..., 0], exponentials / total


def _minimise(points: Values, x: Values, y: Values, losses: Values, tied: bool, steps: int) -> tuple[Values, Values]:
    """The points (points, 5) moved to a minimum, and the mean Huber loss there; `losses` are (points or 1, runs)."""
    low, high = np.log(EXPONENTS)
    damping = np.full(len(points), 1e-2)
    said, shares = _model(points, x, y)
    objectives = _huber(losses - said)
    diagonal = np.arange(5)
    before = objectives
    for number in range(steps if len(points) else 0):
        if number % CHECKED == CHECKED - 1:
            if (before - objectives <= CONVERGED * before).all():
                break
            before = objectives
        off = losses - said
        alpha, beta = np.exp(points[:, 3, None]), np.exp(points[:, 4, None])
        slopes = np.concatenate(
            [shares, (-shares[..., 1] * alpha * x)[..., None], (-shares[..., 2] * beta * y)[..., None]], axis=-1
        )
        if tied:  # both exponents move as one
            slopes[..., 3] += slopes[..., 4]
            slopes[..., 4] = 0.0
        weighted = slopes * np.minimum(1.0, DELTA / np.maximum(np.abs(off), 1e-12))[..., None]
        normal = np.swapaxes(weighted, 1, 2) @ slopes
        normal[:, diagonal, diagonal] = normal[:, diagonal, diagonal] * (1 + damping[:, None]) + 1e-12
        step = np.linalg.solve(normal, np.einsum("pri,pr->pi", weighted, off)[..., None])[..., 0]
        moved = points + np.clip(step, -1.0, 1.0)
        if tied:
            moved[:, 4] = moved[:, 3]
        moved[:, :3] = np.clip(moved[:, :3], -20.0, 20.0)
        moved[:, 3:] = np.clip(moved[:, 3:], low, high)
        new_said, new_shares = _model(moved, x, y)
        new_objectives = _huber(losses - new_said)
        better = new_objectives <= objectives
        points = np.where(better[:, None], moved, points)
        said, shares = np.where(better[:, None], new_said, said), np.where(better[:, None, None], new_shares, shares)
        objectives = np.where(better, new_objectives, objectives)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
    return points, objectives


def _huber(off: Values) -> Values:
    size = np.abs(off)
    return np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).mean(axis=-1)


def _interval(values: Values) -> list[float]:
    if not len(values):
        return [float("nan"), float("nan")]
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]
