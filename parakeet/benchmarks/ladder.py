"""From the original's way of a training step to ours on a CPU, one change a row: same model, same tokens, same run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from parakeet.benchmarks.decoding import Sample
from parakeet.benchmarks.ways import Measurement, Taken, Way, take
from parakeet.model.config import ModelConfig
from parakeet.recipe import Training
from parakeet.training.forecast import ExecutionChoice, choose
from parakeet.training.memory import GIB, machine_budget

ORIGINAL = "the original's way"
SHAPES = {
    "3M": ModelConfig(layers=4, heads=4, width=256, context=8192, vocabulary_rows=4160),
    "25M": ModelConfig(layers=16, heads=3, width=192, context=8192, vocabulary_rows=100_288),
}
"""The demo's, and a deep one most of whose weights are cl100k's embedding."""
LENGTHS = (256, 1024, 4096)
"""Tokens in a row. A step has as many tokens as the longest, at each of them."""
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fused attention", {"attention": "fused"}),
    ("products in bf16", {"precision": "bf16"}),
    ("residual in bf16", {"residual": "bf16"}),
    ("MLPs computed again", {"recompute": "mlp"}),
    ("whole blocks again", {"recompute": "block"}),
)
"""Settings of the recipe, each row's on top of those above it."""
BESIDE_THE_STEP = ("weights", "optimizer", "checkpoint copy")
"""Parts of a forecast that are there before a step, or that no step here takes."""


@dataclass(frozen=True)
class Rung:
    """A way of making a step.

    `forecast`: bytes above weights and optimizer state, None for the original's way. `needed`: bytes in all, roughly.
    `auto`: whether the trainer takes it of itself, by the recipe's precision.
    """

    way: Way
    forecast: int | None
    needed: int
    auto: bool = False


@dataclass(frozen=True)
class Row:
    """A rung as it was measured: tokens a second, and the most bytes above weights and optimizer state.

    `ours`: of what the trainer takes of itself in fp32 or in bf16, the faster.
    """

    rung: Rung
    speed: Sample | None = None
    above: int | None = None
    refused: str = ""
    ours: bool = False

    def as_json(self) -> dict[str, Any]:
        way = self.rung.way
        return {
            "name": way.name,
            "execution": asdict(way.execution) if way.execution else None,
            "pass_rows": way.pass_rows,
            "tokens_per_second": self.speed.as_json() if self.speed else None,
            "mfu": None,  # no processor is in the table of cards
            "above_bytes": self.above,
            "forecast_bytes": self.rung.forecast,
            "auto": self.rung.auto,
            "ours": self.ours,
            "refused": self.refused,
        }


@dataclass(frozen=True)
class Ladder:
    """All rungs for one shape in rows of one length."""

    config: ModelConfig
    training: Training
    row_tokens: int
    rungs: Sequence[Rung]

    @classmethod
    def of(cls, config: ModelConfig, training: Training, row_tokens: int, tokens: int) -> "Ladder":
        """For steps of `tokens`, with the fused AdamW in every rung."""
        changes = {"batch_tokens": tokens, "micro_batch_tokens": tokens, "optimizer": "adamw", "compile": False}
        settings = training.model_copy(update=changes)
        return cls(config, settings, row_tokens, list(_rungs(config, settings, row_tokens)))

    def measure(self, rounds: int, threads: int) -> list[Row]:
        """Of all rungs that fit the machine, one step of each in turn."""
        budget = machine_budget()
        able = [rung for rung in self.rungs if rung.needed <= budget]
        taken = take([self._measurement(rung.way) for rung in able], rounds, threads)
        found = {rung.way.name: one for rung, one in zip(able, taken, strict=True)}
        return _with_ours([self._row(rung, found.get(rung.way.name)) for rung in self.rungs])

    def _measurement(self, way: Way) -> Measurement:
        rows = self.training.batch_tokens // self.row_tokens
        return Measurement(self.config, self.training, rows, self.row_tokens, way)

    def _row(self, rung: Rung, taken: Taken | None) -> Row:
        if taken is None:
            return Row(rung, refused=f"not measured: it would take about {rung.needed / GIB:.0f} GiB")
        if taken.refused:
            return Row(rung, refused=taken.refused)
        speed = Sample.of([self.training.batch_tokens / seconds for seconds in taken.seconds])
        return Row(rung, speed, taken.above)


def growth_lengths(longest: int) -> tuple[int, ...]:
    """Lengths of one row at which memory is measured for its growth: each the double of the one before."""
    return longest // 4, longest // 2, longest, 2 * longest


def measure_growth(ladder: Ladder, way: Way, threads: int) -> dict[int, int | None]:
    """Bytes above weights and optimizer state by length, of a step of one row; None where it was refused."""
    one = replace(way, pass_rows=1)
    lengths = growth_lengths(ladder.row_tokens)
    # Each by itself: together the longest could take what the machine has not.
    taken = [take([Measurement(ladder.config, ladder.training, 1, length, one)], 1, threads) for length in lengths]
    return {length: found.above for length, (found,) in zip(lengths, taken, strict=True)}


def _rungs(config: ModelConfig, settings: Training, row_tokens: int) -> Iterator[Rung]:
    budget = machine_budget()
    plain: dict[str, Any] = {"attention": "reference", "precision": "fp32", "residual": "fp32", "recompute": "none"}

    def chosen(changes: dict[str, Any]) -> ExecutionChoice:
        return choose(config, settings.model_copy(update=changes), row_tokens, budget, cuda=False)

    automatic = {"attention": "auto", "recompute": "auto", "residual": "fp32", "micro_batch_tokens": 0}
    auto = {precision: chosen(automatic | {"precision": precision}) for precision in ("fp32", "bf16")}
    ours = [_computed(choice) for choice in auto.values()]
    tokens = settings.batch_tokens
    first = chosen(plain)
    # Logits, their log-softmax and its gradient.
    whole = 3 * 4 * tokens * config.vocabulary_rows
    yield Rung(Way(ORIGINAL, None, tokens // row_tokens), None, first.forecast.total + whole)

    passes = auto["fp32"].micro_batch_tokens
    changes = [("loss in pieces", plain), (f"passes of {passes:,} tokens", {"micro_batch_tokens": passes}), *CHANGES]
    steps = [(name, chosen(merged)) for name, merged in _merged(changes)]
    steps += [(f"auto in {precision}", choice) for precision, choice in auto.items()]
    seen: list[tuple[Any, ...]] = []
    for name, choice in steps:
        if _computed(choice) not in seen:
            seen.append(_computed(choice))
            yield _rung(name, choice, row_tokens, _computed(choice) in ours)


def _merged(changes: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    merged: dict[str, Any] = {}
    for name, change in changes:
        merged |= change
        yield name, dict(merged)


def _computed(choice: ExecutionChoice) -> tuple[Any, ...]:
    """What two choices that compute alike have in common."""
    return choice.execution, choice.micro_batch_tokens


def _rung(name: str, choice: ExecutionChoice, row_tokens: int, auto: bool) -> Rung:
    parts = choice.forecast.parts
    above = sum(n_bytes for part, n_bytes in parts.items() if part not in BESIDE_THE_STEP)
    return Rung(
        Way(name, choice.execution, choice.micro_batch_tokens // row_tokens), above, choice.forecast.total, auto
    )


def _with_ours(rows: Sequence[Row]) -> list[Row]:
    able = [row for row in rows if row.rung.auto and row.speed]
    best = max(able, key=lambda row: row.speed.median if row.speed else 0.0, default=None)
    return [replace(row, ours=row is best) for row in rows]
