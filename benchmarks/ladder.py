"""From the original's training step to ours on a CPU, one change per row: the same model and the same tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parakeet.benchmarks.steps import Measurement, measure_steps
from parakeet.benchmarks.training import Configuration, Row
from parakeet.model.config import ModelConfig
from parakeet.recipe import Training
from parakeet.training.forecast import GIB, ExecutionChoice, choose, machine_budget

ORIGINAL = "the original's way"
ORIGINAL_STEP = "benchmarks.original_step:OriginalStep"
SHAPES = {
    "3M": ModelConfig(layers=4, heads=4, width=256, context=8192, vocabulary_rows=4160),
    "25M": ModelConfig(layers=16, heads=3, width=192, context=8192, vocabulary_rows=100_288),
}
"""The demo's, and a deep one whose weights are mostly cl100k's embedding."""
LENGTHS = (256, 1024, 4096)
"""Tokens in a sequence. A step has as many tokens as the longest, at each of them."""
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fused attention", {"attention": "fused"}),
    ("products in bf16", {"precision": "bf16"}),
    ("residual in bf16", {"residual": "bf16"}),
    ("MLPs computed again", {"activation_checkpointing": "mlp"}),
    ("whole blocks again", {"activation_checkpointing": "block"}),
)
"""Settings of the recipe; each row has those of the rows above it, too."""


@dataclass(frozen=True)
class Ladder:
    """All rows for one shape at one sequence length."""

    config: ModelConfig
    training: Training
    sequence_length: int
    rungs: Sequence[Configuration]

    @classmethod
    def of(cls, config: ModelConfig, training: Training, sequence_length: int, tokens: int) -> "Ladder":
        """For steps of `tokens`, with the fused AdamW in every row."""
        changes = {"batch_tokens": tokens, "micro_batch_tokens": tokens, "optimizer": "adamw", "compile": False}
        settings = training.model_copy(update=changes)
        return cls(config, settings, sequence_length, list(_rungs(config, settings, sequence_length)))

    def measure(self, rounds: int, threads: int) -> list[Row]:
        """Measure every row that fits the machine, one step of each in turn."""
        budget = machine_budget()
        able = [rung for rung in self.rungs if rung.needed <= budget]
        measured = iter(measure_steps([rung.measurement for rung in able], rounds, threads))
        return [
            Row.of(rung, next(measured))
            if rung.needed <= budget
            else Row(rung, refused=f"not measured: it would take about {rung.needed / GIB:.0f} GiB")
            for rung in self.rungs
        ]


def ours_among(rows: Sequence[Row]) -> Row | None:
    """The faster of what the trainer chooses in fp32 and in bf16."""
    able = [row for row in rows if row.configuration.auto and row.speed]
    return max(able, key=lambda row: row.speed.median if row.speed else 0.0, default=None)


def growth_lengths(longest: int) -> tuple[int, ...]:
    """Sequence lengths at which memory is measured for its growth: each is twice the one before."""
    return longest // 4, longest // 2, longest, 2 * longest


def measure_growth(measurement: Measurement, threads: int) -> dict[int, int | None]:
    """Bytes above weights and optimizer state by length, in a step of one sequence; None where it was refused."""
    found: dict[int, int | None] = {}
    for length in growth_lengths(measurement.sequence_length):
        # One at a time: all of them together might not fit the machine.
        (steps,) = measure_steps([replace(measurement, rows=1, pass_rows=1, sequence_length=length)], 1, threads)
        found[length] = None if steps.refused else steps.above
    return found


def _rungs(config: ModelConfig, settings: Training, sequence_length: int) -> Iterator[Configuration]:
    budget = machine_budget()
    tokens = settings.batch_tokens
    base = Measurement(config, settings, tokens // sequence_length, sequence_length, tokens // sequence_length)
    plain: dict[str, Any] = {
        "attention": "reference",
        "precision": "fp32",
        "residual": "fp32",
        "activation_checkpointing": "none",
    }

    def chosen(changes: dict[str, Any]) -> ExecutionChoice:
        return choose(config, settings.model_copy(update=changes), sequence_length, budget, cuda=False)

    automatic = {"attention": "auto", "activation_checkpointing": "auto", "residual": "fp32", "micro_batch_tokens": 0}
    auto = {precision: chosen(automatic | {"precision": precision}) for precision in ("fp32", "bf16")}
    ours = [(choice.execution, choice.micro_batch_tokens) for choice in auto.values()]
    # Logits, their log-softmax and its gradient, in fp32.
    logits = 3 * 4 * tokens * config.vocabulary_rows
    original = replace(base, backward=ORIGINAL_STEP)
    yield Configuration(ORIGINAL, original, None, chosen(plain).forecast.total + logits)

    passes = auto["fp32"].micro_batch_tokens
    changes = [("loss in pieces", plain), (f"passes of {passes:,} tokens", {"micro_batch_tokens": passes}), *CHANGES]
    merged: dict[str, Any] = {}
    steps = []
    for name, change in changes:
        merged |= change
        steps.append((name, chosen(merged)))
    steps += [(f"auto in {precision}", choice) for precision, choice in auto.items()]
    seen: list[tuple[Any, ...]] = []
    for name, choice in steps:
        computed = (choice.execution, choice.micro_batch_tokens)
        if computed not in seen:
            seen.append(computed)
            pass_rows = choice.micro_batch_tokens // sequence_length
            measurement = replace(base, execution=choice.execution, pass_rows=pass_rows)
            yield Configuration.of_choice(name, measurement, choice, computed in ours)
