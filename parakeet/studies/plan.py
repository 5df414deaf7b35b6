"""What a study costs before it is run: runs, tokens, FLOPs, time; and whether its budget holds it. Imports no torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Store
from parakeet.errors import ParakeetError
from parakeet.formatting import counted, format_count, format_duration, format_percent, render_table
from parakeet.machine import usable_cores
from parakeet.model.config import ModelConfig
from parakeet.plan import UTILISATIONS, format_energy, training_flops, vocabulary_rows
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.studies.records import Record, find_record, study_folder
from parakeet.studies.stage import MeasurementsStage
from parakeet.studies.step_rates import Shape, flops_per_second
from parakeet.studies.study import Study, StudyRun
from parakeet.training.forecast import assumed_precision
from parakeet.training.gpus import Gpu

START_SECONDS = 8.0
"""Of a run: its process, its data, its last checkpoint. 6 to 8 s on two busy cores of an AMD EPYC (Zen 3)."""
TOKENS_OF_A_BYTE = 0.11
"""What reading a byte of text to measure it costs, in tokens of training: a third of a token, forward only."""
TOKENS_OF_AN_ITEM = 1_200
"""The same for an item of every benchmark: 100 items and 200,000 bytes took as long as 145,000 tokens of training."""
TOKENS_OF_A_STAGE = 100_000
"""The same for a stage that a study asks for."""
ALLOWED = 1.5
"""Budgets that are refused are missed by this factor: forecasts are off, and the machine may be busy for a while."""
TYPICAL_UTILISATION = UTILISATIONS[1]
"""The share of a GPU's peak that `RunPlan.seconds` assumes."""


@dataclass(frozen=True)
class RunPlan:
    """A run before it is made, or as it was.

    `seconds` is the time of one worker for starting, training and measuring; 0 for a run that another one of the study
    makes too, None where it is not known. `threads` are the cores that it keeps busy.
    """

    run: StudyRun
    parameters: int
    tokens: int
    flops: int
    seconds: float | None
    threads: int
    is_done: bool


@dataclass(frozen=True)
class StudyPlan:
    """The runs of a study on a GPU, or on the cores of this machine."""

    study: Study
    runs: Sequence[RunPlan]
    cores: int
    gpu: Gpu | None = None

    @property
    def left(self) -> list[RunPlan]:
        return [run for run in self.runs if not run.is_done]

    @property
    def seconds(self) -> float | None:
        """Time on the machine for all runs; None if it is not known."""
        return self.time_of(self.runs)

    @property
    def seconds_left(self) -> float | None:
        """Time on the machine for the runs that are not done."""
        return self.time_of(self.left)

    def time_of(self, runs: Sequence[RunPlan]) -> float | None:
        """Time on the machine for some runs, as many side by side as it has cores for; one by one on a GPU."""
        known = [(run.seconds, run.threads) for run in runs if run.seconds is not None]
        if len(known) < len(runs):
            return None
        if self.gpu is not None:
            return sum(seconds for seconds, _ in known)
        busy = sum(seconds * threads for seconds, threads in known) / self.cores
        return max([busy, *(seconds for seconds, _ in known)])

    def as_json(self) -> dict[str, Any]:
        return {
            "study": self.study.name,
            "scale": self.study.scale_name,
            "gpu": self.gpu.name if self.gpu else None,
            "cores": None if self.gpu else self.cores,
            "runs": [
                {
                    "name": one.run.name,
                    "arm": one.run.arm,
                    "points": dict(one.run.points),
                    "seed": one.run.seed,
                    "is_forecast": one.run.is_forecast,
                    "parameters": one.parameters,
                    "tokens": one.tokens,
                    "flops": one.flops,
                    "seconds": one.seconds,
                    "done": one.is_done,
                }
                for one in self.runs
            ],
            "tokens": sum(one.tokens for one in self.runs),
            "flops": sum(one.flops for one in self.runs),
            "seconds": self.seconds,
            "seconds_left": self.seconds_left,
            "time_by_mfu": [{"mfu": share, "seconds": seconds} for share, seconds in self._by_utilisation()],
            "minutes": self.study.scale.minutes,
        }

    def render(self) -> str:
        rows = [self._row(name, [one for one in self.runs if one.run.arm == name]) for name in self.study.arms]
        if len(rows) > 1:
            rows.append(self._row("in all", self.runs))
        columns = ("arm", "runs", "done", "parameters", "tokens of a run", "tokens", "FLOPs", "time")
        table = render_table(columns, rows, right=(3, 4, 5, 6, 7))
        lines = render_table(("", ""), list(self._lines()))
        return f"{self.study.file.title}\nStudy {self.study.name}, scale {self.study.scale_name}\n\n{table}\n\n{lines}"

    def _row(self, name: str, runs: Sequence[RunPlan]) -> list[object]:
        seconds = self.time_of(runs)
        return [
            name,
            len(runs),
            sum(run.is_done for run in runs),
            _range([run.parameters for run in runs]),
            _range([run.tokens for run in runs]),
            format_count(sum(run.tokens for run in runs)),
            f"{sum(run.flops for run in runs):.1e}",
            "unknown" if seconds is None else format_duration(seconds),
        ]

    def _lines(self) -> Iterator[tuple[str, str]]:
        seconds, left = self.seconds, self.seconds_left
        if self.gpu is not None:
            yield "GPU", f"{self.gpu.name}: {self.gpu.tflops_bf16} TFLOPS in dense bf16, {self.gpu.watts} W"
            for share, needed in self._by_utilisation():
                energy = format_energy(self.gpu.watts * needed)
                yield f"at {format_percent(share, 0)} of the peak (MFU)", f"{format_duration(needed)}, {energy}"
            if seconds is None:
                yield "not forecast", "the table of GPUs has rates in bf16; set training.precision: bf16"
            yield "small models", "do not reach such shares of the peak: their steps take longer than this"
        elif seconds is not None:
            workers = "" if self.cores == 1 else f" on {self.cores} cores, as many runs side by side as they hold"
            yield "time", f"{format_duration(seconds)}{workers}"
        if not self.left:
            yield "left", "nothing"
        elif left is not None and len(self.left) < len(self.runs):
            yield "left", f"{format_duration(left)} for {counted(len(self.left), 'run')}"
        if self.study.scale.minutes is not None:
            yield "budget", format_duration(60 * self.study.scale.minutes)

    def _by_utilisation(self) -> list[tuple[float, float]]:
        """Seconds of all runs at each share of the GPU's peak; none without a GPU, or where its rate is unknown."""
        if self.gpu is None or (seconds := self.seconds) is None:
            return []
        return [(share, seconds * TYPICAL_UTILISATION / share) for share in UTILISATIONS]


def _range(numbers: Sequence[int]) -> str:
    least, most = format_count(min(numbers)), format_count(max(numbers))
    return least if least == most else f"{least} to {most}"


def plan_study(root: Path, study: Study, progress: Progress, gpu: Gpu | None = None, again: bool = False) -> StudyPlan:
    """What the study takes on a GPU, or on this machine's cores. There, a step of each shape is measured once.

    `again` measures them once more. Raises ParakeetError if a setting does not fit a recipe.
    """
    runs = study.runs()
    records = {run.name: find_record(root, study, run) for run in runs}
    rates: Mapping[str, float] = {}
    if gpu is None:
        waiting = [run.recipe for run in runs if records[run.name] is None]
        rates = flops_per_second(study_folder(root, study), waiting, progress, again) if waiting else {}
    cores = usable_cores()
    store = Store(root)
    planned: list[RunPlan] = []
    seen: set[str] = set()
    for run in runs:
        recipe = run.recipe
        config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
        flops = training_flops(recipe, config)
        record, key = records[run.name], study.key(run)
        seconds: float | None
        if key in seen:
            seconds = 0.0
        elif gpu is not None:
            seconds = _seconds_on(gpu, recipe, flops)
        elif record is not None:
            seconds = _recorded(store, study, record)
        else:
            seconds = _forecast(study, recipe, flops / rates[Shape(recipe).key])
        seen.add(key)
        threads = min(recipe.training.threads or cores, cores)
        is_done = record is not None
        planned.append(RunPlan(run, config.parameter_count, recipe.training.tokens, flops, seconds, threads, is_done))
    return StudyPlan(study, planned, cores, gpu)


def _seconds_on(gpu: Gpu, recipe: Recipe, flops: int) -> float | None:
    if assumed_precision(recipe.training, cuda=True) != "bf16":
        return None
    return flops / (gpu.tflops_bf16 * 1e12 * TYPICAL_UTILISATION)


def _recorded(store: Store, study: Study, record: Record) -> float:
    """Seconds of a finished run: of its training, and of each stage that measured its checkpoint."""
    checkpoint = str(record.values["checkpoint"])
    stages = (MeasurementsStage.name, *study.file.stages)
    measured = [store.artifacts(stage, checkpoint=checkpoint) for stage in stages]
    measuring = sum(float(artifacts[-1].manifest["seconds"]) for artifacts in measured if artifacts)
    return START_SECONDS + float(record.training.get("seconds", 0.0)) + measuring


def _forecast(study: Study, recipe: Recipe, training_seconds: float) -> float:
    """Seconds of a run, from those of its training."""
    tokens = TOKENS_OF_A_BYTE * recipe.evaluation.max_bytes + TOKENS_OF_A_STAGE * len(study.file.stages)
    if "benchmarks" in study.file.measures and recipe.evaluation.benchmarks is not None:
        tokens += TOKENS_OF_AN_ITEM * (recipe.evaluation.benchmarks.items or 0)
    return START_SECONDS + training_seconds * (1 + tokens / recipe.training.tokens)


def refuse_over_budget(root: Path, study: Study, progress: Progress) -> None:
    """Raise ParakeetError if what is left of the study does not fit into the minutes of its scale."""
    if study.scale.minutes is None or study.scale.gpu:
        return
    plan = plan_study(root, study, progress)
    if _exceeds(plan, plan.seconds_left):
        plan = plan_study(root, study, progress, again=True)  # the first measurement may have met a busy machine
    check_budget(plan)


def check_budget(plan: StudyPlan) -> None:
    """Raise ParakeetError, which says what would fit, if the runs that are left take far longer than the budget."""
    seconds, study = plan.seconds_left, plan.study
    if seconds is None or not _exceeds(plan, seconds):
        return
    where = f"on {plan.gpu.name}" if plan.gpu else f"on {counted(plan.cores, 'core')}"
    fitting = list(_fitting(plan, _single_cuts(plan))) or list(_fitting(plan, _double_cuts(plan)))
    least = min((one for one in map(plan.time_of, ([run] for run in plan.left)) if one), default=seconds)
    would = f"What would fit: {'; '.join(fitting)}." if fitting else (
        f"Nothing like it fits: the shortest run alone takes {format_duration(least)}."
    )  # fmt: skip
    raise ParakeetError(
        f"Study {study.name} does not fit scale {study.scale_name}: {counted(len(plan.left), 'run')} take about "
        f"{format_duration(seconds)} {where}, and the budget is {format_duration(60 * (study.scale.minutes or 0))}. "
        f"{would} Set seeds, arms or points of scales.{study.scale_name} in the study's file, or raise its minutes."
    )


def _exceeds(plan: StudyPlan, seconds: float | None) -> bool:
    minutes = plan.study.scale.minutes
    return minutes is not None and seconds is not None and seconds > ALLOWED * 60 * minutes


Cut = tuple[str, Callable[[StudyRun], bool]]
"""What is left out, in words, and which runs stay."""


def _fitting(plan: StudyPlan, cuts: Sequence[Cut]) -> Iterator[str]:
    """The cuts after which the rest fits, each with its time. Of fewer and fewer seeds only the first."""
    of_seeds = False
    for words, stays in cuts:
        rest = [one for one in plan.left if stays(one.run)]
        seconds = plan.time_of(rest)
        if not rest or seconds is None or _exceeds(plan, seconds) or (of_seeds and words.startswith("seeds")):
            continue
        of_seeds = of_seeds or words.startswith("seeds")
        yield f"{words} ({format_duration(seconds)})"


def _single_cuts(plan: StudyPlan) -> list[Cut]:
    return [*_fewer_seeds(plan), *_without_an_arm(plan), *_without_the_largest(plan)]


def _double_cuts(plan: StudyPlan) -> list[Cut]:
    """One seed, and an arm or the largest point less."""
    cuts = []
    for seeds, some in _fewer_seeds(plan)[-1:]:
        for words, others in (*_without_an_arm(plan), *_without_the_largest(plan)):
            cuts.append((f"{seeds} and {words}", _both(some, others)))
    return cuts


def _both(one: Callable[[StudyRun], bool], other: Callable[[StudyRun], bool]) -> Callable[[StudyRun], bool]:
    return lambda run: one(run) and other(run)


def _fewer_seeds(plan: StudyPlan) -> list[Cut]:
    study = plan.study
    own = {name for name in study.arms if study.seeds_of(name) != study.seeds}

    def with_seeds(kept: Sequence[int]) -> Cut:
        return f"seeds {', '.join(map(str, kept))}", lambda run: run.arm in own or run.seed in kept

    return [with_seeds(study.seeds[:number]) for number in range(len(study.seeds) - 1, 0, -1)]


def _without_an_arm(plan: StudyPlan) -> list[Cut]:
    def without(arm: str) -> Cut:
        return f"without the arm {arm}", lambda run: run.arm != arm

    return [without(arm) for arm in plan.study.arms] if len(plan.study.arms) > 1 else []


def _without_the_largest(plan: StudyPlan) -> list[Cut]:
    """Without the point of each axis that takes longest in all."""
    axes: dict[str, dict[str, float]] = {}
    for one in plan.left:
        for axis, label in one.run.points.items():
            seconds = axes.setdefault(axis, {})
            seconds[label] = seconds.get(label, 0.0) + (one.seconds or 0.0)

    def without(axis: str, label: str) -> Cut:
        return f"without the point {label} of {axis}", lambda run: run.points.get(axis) != label

    return [without(axis, max(by, key=by.__getitem__)) for axis, by in axes.items() if len(by) > 1]
