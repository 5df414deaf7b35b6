"""All that follows from a recipe by arithmetic, before anything is built. Imports no torch."""

import textwrap
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cached_property
from itertools import product
from typing import Any

from parakeet.formatting import format_bytes, format_count, format_duration, format_percent
from parakeet.lineage import began_with
from parakeet.model.config import ModelConfig
from parakeet.model.execution import ActivationCheckpointing, Precision
from parakeet.plan_sources import forecast_sources, source_documents, sources_section, tokens_of
from parakeet.recipe import Recipe
from parakeet.tokenizer import CL100K_CONTROLS, ROLE_TOKENS
from parakeet.trace.stage import BYTES_A_TOKEN
from parakeet.training.forecast import (
    AUTO_SHARE,
    CPU_SHARE,
    GIB,
    LENGTH_UNIT,
    NO_LIMIT,
    ExecutionChoice,
    assumed_precision,
    checkpoint_bytes,
    choose,
    fitting_change,
    forecast,
    gpu_budget,
    longest_sequence,
    machine_budget,
    run_bytes,
    unmet,
    weights_bytes,
)
from parakeet.training.gpus import Gpu
from parakeet.training.schedule import Schedule
from parakeet.training.start import Start

CONTROL_TOKENS = 3 + len(ROLE_TOKENS)
UTILISATIONS = (0.4, 0.5, 0.6)
OPTIMIZERS = ("adamw", "muon", "adamw_8bit")
ACTIVATION_CHECKPOINTING: tuple[ActivationCheckpointing, ...] = ("none", "mlp", "block")
NAME = 28
FIGURE = 15
WIDTH = 110

Rows = list[tuple[str, str]]
Section = tuple[str, Rows]


def vocabulary_rows(recipe: Recipe, start: Start | None = None) -> int:
    """Rows of the embedding: exact for cl100k_base and a model to start from, else an upper bound for a vocabulary that
    is yet to be made."""
    if start is not None:
        return start.config.vocabulary_rows
    highest = max(CL100K_CONTROLS.values()) + 1
    ids = highest if recipe.tokenizer.kind == "cl100k_base" else recipe.tokenizer.vocabulary + CONTROL_TOKENS
    return -(-ids // 64) * 64


def tokens_by_length(recipe: Recipe) -> dict[int, int]:
    """Tokens that are trained on, by sequence length, in the order of the phases."""
    schedule = Schedule.from_recipe(recipe.training, recipe.packing)
    tokens: dict[int, int] = {}
    before = 0
    for phase in schedule.phases:
        until = min(schedule.tokens_until(phase.last_step), recipe.training.tokens)
        tokens[phase.sequence_length] = tokens.get(phase.sequence_length, 0) + until - before
        before = until
    return tokens


def training_flops(recipe: Recipe, config: ModelConfig) -> int:
    """FLOPs of the whole training, by the causal count."""
    return sum(config.flops_per_token(length) * tokens for length, tokens in tokens_by_length(recipe).items())


def render_plan(recipe: Recipe, gpu: Gpu | None = None, memory: int | None = None, start: Start | None = None) -> str:
    """The plan as plain text, one aligned section after the other.

    Training is planned for `gpu`, or for a GPU on which `memory` bytes can be allocated, or for this machine's
    processor if neither is given. With several processes, `memory` is that of each GPU, or of the whole machine.
    `start` is the model that training begins with.
    """
    plan = Plan(recipe, gpu, memory, start)
    sections = [
        (f"Recipe {recipe.name}", [(recipe.description, "")]),
        sources_section(recipe, plan.sources),
        ("Model", plan.model()),
        ("Training", plan.training()),
        *([("Before it can train", missing)] if (missing := plan.missing()) else []),
        plan.memory(),
        *([plan.policies()] if plan.cuda else []),
        *([plan.time(gpu)] if gpu is not None else []),
        ("Disk", plan.disk()),
    ]
    return "\n\n".join(
        f"{title}\n" + "\n".join(f"  {name:<{NAME}}{value}".rstrip() for name, value in rows)
        for title, rows in sections
    )


def plan_document(
    recipe: Recipe, gpu: Gpu | None = None, memory: int | None = None, start: Start | None = None
) -> dict[str, Any]:
    """The same as JSON values: sizes in bytes, time in seconds. What is not known is null."""
    plan = Plan(recipe, gpu, memory, start)
    return {
        "recipe": {"name": recipe.name, "description": recipe.description, "limit": recipe.limit},
        "sources": source_documents(recipe, plan.sources),
        "model": {
            "parameters": plan.config.parameter_count,
            "parameters_by_part": plan.config.parameters(),
            "embedding_rows": plan.config.vocabulary_rows,
            "embedding_rows_are_upper_bound": not plan.rows_are_known,
        },
        **plan.training_document(),
    }


class Plan:
    """One recipe on one device; every method makes a section or its rows."""

    def __init__(self, recipe: Recipe, gpu: Gpu | None, memory: int | None, start: Start | None = None) -> None:
        device = recipe.training.device
        self.recipe = recipe
        self.gpu = gpu
        self.start = start
        self.rows_are_known = recipe.tokenizer.kind == "cl100k_base" or start is not None
        self.config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe, start))
        self.schedule = Schedule.from_recipe(recipe.training, recipe.packing)
        self.sources = forecast_sources(recipe)
        self.cuda = gpu is not None or device.startswith("cuda") or (memory is not None and device != "cpu")
        precision = assumed_precision(recipe.training, self.cuda)
        self.settings = recipe.training.model_copy(update={"precision": precision})
        # 0 takes every GPU; how many another machine has is not known here.
        self.processes = max(1, recipe.training.processes)
        self.budget, self.budget_is = self._budget(memory)

    def model(self) -> Rows:
        rows = [(part, f"{count:>{FIGURE},}") for part, count in self.config.parameters().items()]
        at_most = "" if self.rows_are_known else "at most "
        embedding = f"({at_most}{self.config.vocabulary_rows:,} embedding rows)"
        return [*rows, ("total", f"{self.config.parameter_count:>{FIGURE},}  {embedding}")]

    def training(self) -> Rows:
        settings, schedule = self.settings, self.schedule
        lengths = list(self._tokens)
        rows = f" in sequences of {lengths[0]:,}" if len(lengths) == 1 else ""
        sizes = ", then ".join(f"{size:,}" for size in schedule.batch_sizes)
        return [
            *([] if self.start is None else [("begins with", began_with(self.start.lineage()))]),
            ("tokens", f"{settings.tokens:>{FIGURE},}"),
            ("tokens a parameter", f"{settings.tokens / self.config.parameter_count:>{FIGURE},.1f}"),
            *self._passes(),
            ("steps", f"{schedule.total_steps:>{FIGURE},}  of {sizes} tokens{rows}"),
            *self._shared(),
            ("warm-up, decay from", f"{schedule.warmup_steps:>{FIGURE},}  {schedule.decay_start:,}"),
            *(self._phases() if len(lengths) > 1 else []),
            *(row for length in lengths for row in self._flops(length, of_several=len(lengths) > 1)),
            ("total FLOPs", f"{self._total_flops:>{FIGURE}.2e}"),
        ]

    def missing(self) -> Rows:
        return [(line, "") for sentence in unmet(self.settings, self.cuda) for line in _wrapped(sentence, WIDTH - 2)]

    def memory(self) -> Section:
        """By part, for every sequence length; of one process."""
        choices = self._choices
        rows = [
            ("", _cells(f"length {length:,}" for length in choices)),
            *(
                (part, _cells(_memory(choice.forecast.parts[part]) for choice in choices.values()))
                for part in next(iter(choices.values())).forecast.parts
            ),
            ("total", _cells(_memory(choice.forecast.total) for choice in choices.values())),
            *([("budget", f"{_memory(self.budget):>{FIGURE}}  {self.budget_is}")] if self.budget_is else []),
            ("checkpointing", _cells(choice.execution.activation_checkpointing for choice in choices.values())),
            ("attention", _cells(choice.execution.attention for choice in choices.values())),
            ("tokens in a pass", _cells(f"{choice.micro_batch_tokens:,}" for choice in choices.values())),
        ]
        for length, choice in choices.items():
            if not choice.fits:
                advice = fitting_change(
                    self.config, self.settings, length, self.budget, self.cuda, processes=self.processes, flex=True
                )
                lines = _wrapped(f"Sequences of {length:,}: {advice}", WIDTH - 2 - NAME)
                rows += [("" if index else "does not fit", line) for index, line in enumerate(lines)]
        return f"Memory of a training step {self._place()}", rows

    def policies(self) -> Section:
        """What other activation checkpointing and optimizers would take, for the longest sequences."""
        length = max(self._choices)
        choice = self._choices[length]
        accumulates = choice.micro_batch_tokens < max(self.settings.batch_sizes.values()) or self.processes > 1
        residuals: tuple[Precision, ...] = (self.settings.residual,)
        if self.settings.precision == "bf16":
            residuals = ("fp32", "bf16")
        rows = [("checkpointing, residual", _cells(f"{optimizer}  " for optimizer in OPTIMIZERS))]
        for checkpointing, residual in product(ACTIVATION_CHECKPOINTING, residuals):
            execution = replace(choice.execution, activation_checkpointing=checkpointing, residual=residual)
            totals = [
                forecast(
                    self.config, execution, optimizer, choice.micro_batch_tokens, length,
                    cuda=True, accumulates=accumulates, momentum_precision=self.settings.momentum_precision,
                ).total
                for optimizer in OPTIMIZERS
            ]  # fmt: skip
            marks = [" *" if self.budget_is and total <= AUTO_SHARE * self.budget else "  " for total in totals]
            cells = (f"{_memory(total)}{mark}" for total, mark in zip(totals, marks, strict=True))
            rows.append((f"{checkpointing}, {residual}", _cells(cells)))
        title = f"Policies at {choice.micro_batch_tokens:,} tokens in a pass"
        if not self.budget_is:
            return title, rows
        longest = longest_sequence(self.config, self.settings, self.budget, cuda=True)
        one = (
            f"{longest:>{FIGURE},}  tokens" if longest else f"{'none fits':>{FIGURE}}  of {LENGTH_UNIT} tokens and more"
        )
        rows.append(("longest sequence", f"{one}, one at a time, with block checkpointing"))
        return f"{title}; * fits {_memory(self.budget)} with {format_percent(1 - AUTO_SHARE, 0)} to spare", rows

    def time(self, gpu: Gpu) -> Section:
        """Speed, days and energy for the recipe's tokens at some shares of the GPU's peak."""
        gpus = self.processes
        where = f"Time on {'one' if gpus == 1 else gpus} {gpu.name}"
        if self.settings.precision != "bf16":
            why = "not forecast: the table of GPUs has rates in bf16; set training.precision: bf16"
            return where, [(why, "")]
        peak = gpus * gpu.tflops_bf16 * 1e12
        rates = {
            length: [peak * share / self.config.flops_per_token(length) for share in UTILISATIONS]
            for length in self._tokens
        }
        seconds = {length: [tokens / rate for rate in rates[length]] for length, tokens in self._tokens.items()}
        in_all = self._seconds(gpu)
        rows = [("share of the peak (MFU)", _cells(format_percent(share, 0) for share in UTILISATIONS))]
        rows += [
            (f"tokens/s, sequences of {length:,}", _cells(f"{r:,.0f}" for r in row)) for length, row in rates.items()
        ]
        if len(seconds) > 1:
            rows += [
                (f"time, sequences of {length:,}", _cells(map(format_duration, row))) for length, row in seconds.items()
            ]
        rows += [
            ("total time", _cells(map(format_duration, in_all))),
            ("total energy", _cells(format_energy(gpus * gpu.watts * s) for s in in_all)),
        ]
        specification = f"{gpu.tflops_bf16} TFLOPS in dense bf16, {gpu.gigabytes_per_second:,} GB/s, {gpu.watts} W"
        return f"{where} ({specification}{' each' if gpus > 1 else ''})", rows

    def disk(self) -> Rows:
        sizes = {
            "release": weights_bytes(self.config),
            "a training checkpoint": checkpoint_bytes(self.config, self.settings),
            "training at its largest": run_bytes(self.config, self.settings),
        }
        if self._trace_index_bytes:
            sizes["trace index, about"] = self._trace_index_bytes
        shown = ((name, format_bytes(n_bytes).split(" ")) for name, n_bytes in sizes.items())
        return [(name, f"{number:>{FIGURE}} {unit}") for name, (number, unit) in shown]

    @property
    def _trace_index_bytes(self) -> int:
        """0 if the recipe has none; not known of text of unknown size."""
        tokens = tokens_of(self.sources, self.recipe) if self.recipe.evaluation.trace_index else 0
        return round(BYTES_A_TOKEN * (tokens or 0))

    @cached_property
    def _choices(self) -> dict[int, ExecutionChoice]:
        """What `auto` means for every sequence length; a GPU is assumed to have Triton."""
        return {
            length: choose(
                self.config, self.settings, length, self.budget, self.cuda, processes=self.processes, flex=True
            )
            for length in self._tokens
        }

    @cached_property
    def _tokens(self) -> dict[int, int]:
        return tokens_by_length(self.recipe)

    @cached_property
    def _total_flops(self) -> int:
        return training_flops(self.recipe, self.config)

    def _budget(self, memory: int | None) -> tuple[int, str]:
        """Bytes that one process may take, and in words what they are; no words if they are unknown."""
        several = self.processes > 1
        if self.cuda:
            if memory is not None:
                return memory, "as given, on each GPU" if several else "as given"
            if self.gpu is None:
                return NO_LIMIT, ""
            whole = round(self.gpu.memory_gib * GIB)
            budget = gpu_budget(whole, self.processes)
            users = "CUDA, NCCL and a display" if several else "CUDA and a display"
            return budget, f"{format_bytes(whole)} less {format_bytes(whole - budget)} for {users}"
        shared = f", shared by {self.processes} processes" if several else ""
        if memory is not None:
            return memory // self.processes, f"{_memory(memory)} as given{shared}" if several else "as given"
        return machine_budget() // self.processes, f"{format_percent(CPU_SHARE, 0)} of this machine's memory{shared}"

    def _place(self) -> str:
        if not self.cuda:
            each = f"in each of {self.processes} processes " if self.processes > 1 else ""
            return f"{each}on this machine's processor"
        if self.processes > 1:
            return f"on each of {self.processes} {self.gpu.name if self.gpu else 'GPUs'}"
        return f"on an {self.gpu.name}" if self.gpu else "on a GPU"

    def _passes(self) -> Rows:
        tokens = tokens_of(self.sources, self.recipe)
        if not tokens or any(source.weight is not None for source in self.recipe.sources):
            return []
        return [
            (
                "passes over the text",
                f"{self.settings.tokens / tokens:>{FIGURE},.1f}  of about {format_count(tokens)} tokens",
            )
        ]

    def training_document(self) -> dict[str, Any]:
        """Training, memory by sequence length, time on the GPU, and disk space, as JSON values."""
        settings, schedule = self.settings, self.schedule
        return {
            "training": {
                "start": None if self.start is None else self.start.lineage(),
                "tokens": settings.tokens,
                "text_tokens": tokens_of(self.sources, self.recipe),
                "steps": schedule.total_steps,
                "batch_tokens": settings.batch_tokens,
                "later_batches": [asdict(later) for later in schedule.growth],
                "warmup_steps": schedule.warmup_steps,
                "decay_start": schedule.decay_start,
                "processes": self.processes,
                "flops": self._total_flops,
                "missing": list(unmet(settings, self.cuda)),
            },
            "memory": {
                "device": self.gpu.name if self.gpu else "cuda" if self.cuda else "cpu",
                "budget_bytes": self.budget if self.budget_is else None,
                "by_sequence_length": {
                    str(length): {
                        "tokens": self._tokens[length],
                        "bytes": choice.forecast.total,
                        "bytes_by_part": dict(choice.forecast.parts),
                        "fits": choice.fits,
                        "activation_checkpointing": choice.execution.activation_checkpointing,
                        "attention": choice.execution.attention,
                        "micro_batch_tokens": choice.micro_batch_tokens,
                    }
                    for length, choice in self._choices.items()
                },
            },
            "time": [
                {"mfu": share, "seconds": seconds, "watt_hours": self.processes * self.gpu.watts * seconds / 3600}
                for share, seconds in zip(UTILISATIONS, self._seconds(self.gpu), strict=False)
            ]
            if self.gpu is not None
            else None,
            "disk": {
                "release_bytes": weights_bytes(self.config),
                "checkpoint_bytes": checkpoint_bytes(self.config, settings),
                "training_bytes": run_bytes(self.config, settings),
                "trace_index_bytes": self._trace_index_bytes or None,
            },
        }

    def _seconds(self, gpu: Gpu) -> list[float]:
        """Seconds of training at each share of the GPUs' peak; none where the table of GPUs has no rate."""
        if self.settings.precision != "bf16":
            return []
        peak = self.processes * gpu.tflops_bf16 * 1e12
        return [self._total_flops / (peak * share) for share in UTILISATIONS]

    def _shared(self) -> Rows:
        if self.processes > 1:
            return [("processes", f"{self.processes:>{FIGURE},}  that share each step{', one a GPU' * self.cuda}")]
        if self.settings.processes == 0 and self.settings.device in ("auto", "cuda"):
            return [("processes", f"{1:>{FIGURE}}  assumed: training.processes 0 takes every GPU")]
        return []

    def _phases(self) -> Rows:
        rows, first = [], 1
        for phase in self.schedule.phases:
            steps = f"{phase.last_step - first + 1:>{FIGURE},}  steps, {first:,} to {phase.last_step:,}"
            rows.append((f"sequences of {phase.sequence_length:,}", steps))
            first = phase.last_step + 1
        return rows

    def _flops(self, length: int, of_several: bool) -> Rows:
        causal = self.config.flops_per_token(length)
        # PaLM (arXiv 2204.02311, appendix B) counts the scores of the future too: 12 · L · d · T.
        palm = self.config.palm_flops_per_token(length)
        name = f", sequences of {length:,}" if of_several else " a token"
        return [
            (f"FLOPs{name}", f"{causal:>{FIGURE},}  (causal count, forward and backward)"),
            ("", f"{palm:>{FIGURE},}  (as PaLM counts, the future too)"),
        ]


def _memory(n_bytes: int) -> str:
    return format_bytes(n_bytes, 2)


def _wrapped(sentence: str, width: int) -> list[str]:
    return textwrap.wrap(sentence, width, break_long_words=False, break_on_hyphens=False)


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"{text:>{FIGURE}}" for text in texts)


def format_energy(joules: float) -> str:
    """`350.0 Wh`, `12.3 kWh`."""
    hours = joules / 3600
    return f"{hours / 1000:,.1f} kWh" if hours >= 1000 else f"{hours:,.1f} Wh"
