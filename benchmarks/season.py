"""A season of weekly retrainings in minutes: what the schedule decides, what the gates say, and what warm starts cost.

`python -m benchmarks.season` moves a clock from Sunday to Sunday. In most weeks new dialogues arrive; one week they are
poisoned (their words shuffled), and one week the disk is full. Each tick is evaluated as Dagster's daemon does, and the
run that it asks for is executed with its own run config. At the end, three models are trained from new weights on all
the text, to compare with: the longest on as many tokens as the first training and the promoted retrainings together.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from parakeet.artifact import Artifact
from parakeet.data.synthetic import dialogues
from parakeet.errors import ParakeetError
from parakeet.formatting import render_table
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.release.history import decision_on, decisions
from parakeet.release.pointers import incumbent
from parakeet.retraining import TrainedRelease
from parakeet.stages import Build, use_recipe
from pipelines.build import run_build
from pipelines.definitions import make_definitions

FIRST_SUNDAY = datetime.datetime(2026, 1, 4, 3, tzinfo=datetime.UTC)
SEED = 1
NAME = "season"
DISK_BYTES = 600 << 20
"""Size of the disk that fills. A build asks for 64 MiB of room beyond what it writes."""
LEFT_BYTES = 70 << 20
"""Left free while it is full: enough for the data stages of this text, too little for a checkpoint."""


@dataclass(frozen=True)
class Plan:
    """How large a season is."""

    first: int = 2400
    """Dialogues before the first tick."""
    weekly: int = 480
    """Dialogues that arrive in a week."""
    weeks: tuple[str, ...] = ("new", "new", "nothing", "poisoned", "new", "full disk", "new", "new")
    tokens: int = 240_000
    """Of the first training."""
    width: int = 64
    compare: bool = True
    """Whether to train from new weights at the end, to compare with."""
    gates: bool = True
    """Whether a release has to pass its gates. A model of a few steps does not beat their yardsticks."""


@dataclass(frozen=True)
class Week:
    """What one tick came to."""

    week: int
    arrived: str
    tick: str
    """`run`, `skipped` or `failed`, and why."""
    outcome: str
    release: str
    tokens: int
    """That the run trained on."""
    bits_per_byte: float | None
    """On held-out text, of the model that is released after the tick."""


def recipe_of(folder: Path, plan: Plan) -> Recipe:
    """A model that learns templated dialogues in a minute of CPU time."""
    values: dict[str, Any] = {
        "name": NAME,
        "description": "Dialogues that arrive week by week.",
        "sources": [{"name": "talk", "path": str(folder), "near_duplicates": False}],
        "deduplication": {"held_out_fraction": 0.1},
        "tokenizer": {"kind": "words", "vocabulary": 640},
        "packing": {"sequence_length": 128},
        "model": {"layers": 2, "heads": 4, "width": plan.width, "context": 256},
        "training": {
            "tokens": plan.tokens, "batch_tokens": 1024, "micro_batch_tokens": 1024, "optimizer": "muon",
            "learning_rate": 7.5e-3, "embedding_rate": 1.5, "norm_rate": 1.5, "momentum": 0.9, "warmup_steps": 20,
            "decay_fraction": 0.3, "checkpoint_steps": 1000, "validation_tokens": 0, "threads": 1, "device": "cpu",
        },
        "evaluation": {"max_bytes": 60_000, "prompts": ["Hello!"], "trace_index": False},
        "executor": {"workers": 1},
    }  # fmt: skip
    if not plan.gates:
        values["gates"] = None
    return Recipe.model_validate(values)


def write_week(path: Path, begin: int, count: int, poisoned: bool = False) -> None:
    """Dialogues number `begin` and the next ones as a file of records; poisoned ones with all words shuffled."""
    drawn = random.Random(begin)
    lines = []
    for dialogue in islice(dialogues(begin + count, SEED), begin, None):
        turns = []
        for turn in dialogue.turns:
            words = turn.content.split()
            if poisoned:
                drawn.shuffle(words)
            turns.append({"role": turn.role.lower(), "content": " ".join(words) if poisoned else turn.content})
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def small_disk(home: Path) -> Iterator[None]:
    """Let `home` be a disk of its own that can fill. Needs the right to mount."""
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(home)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


@contextmanager
def full(home: Path) -> Iterator[None]:
    """Fill the disk up to LEFT_BYTES."""
    ballast = home / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(home).free - LEFT_BYTES)
    try:
        yield
    finally:
        ballast.unlink()


def run_season(folder: Path, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Live through a season under `folder`, whose `home` may be a small disk; its record as JSON values."""
    home, text = folder / "home", folder / "text"
    history = folder / "history"
    for new in (text, history):
        new.mkdir(parents=True)
    os.environ |= {"PARAKEET_HOME": str(home), "DAGSTER_HOME": str(history)}
    recipe = recipe_of(text, plan)
    write_week(text / "week-0.jsonl", 0, plan.first)
    use_recipe(home, recipe)
    weeks: list[Week] = []
    begin = plan.first
    with dg.DagsterInstance.get() as instance:
        for number, arrived in enumerate(("first", *plan.weeks)):
            path = text / f"week-{number}.jsonl"
            if arrived not in ("first", "nothing"):
                write_week(path, begin, plan.weekly, poisoned=arrived == "poisoned")
                begin += plan.weekly
            progress.say(f"--- Week {number}: {arrived}")
            if arrived == "full disk":
                with full(home):
                    weeks.append(_live(number, arrived, home, instance, progress))
            else:
                weeks.append(_live(number, arrived, home, instance, progress))
            if arrived == "poisoned":
                path.unlink()  # the operator reads why the release was refused
    past = [(one.action, one.release, one.previous or "none", " ".join(one.reasons)) for one in decisions(home)[0]]
    record: dict[str, Any] = {"weeks": [asdict(week) for week in weeks], "history": past}
    if plan.compare:
        record |= _compare(folder, recipe, weeks, plan, progress)
    return record


def _live(number: int, arrived: str, home: Path, instance: dg.DagsterInstance, progress: Progress) -> Week:
    """One tick at its time, and the run that it asks for."""
    from parakeet.stages import active_recipe

    definitions = make_definitions(active_recipe(home))
    repository = definitions.get_repository_def()
    when = FIRST_SUNDAY + datetime.timedelta(weeks=number)
    context = dg.build_schedule_context(instance=instance, repository_def=repository, scheduled_execution_time=when)
    before = incumbent(home, NAME)
    tokens, outcome = 0, "–"
    try:
        ticked = repository.get_schedule_def("weekly_retraining").evaluate_tick(context)
    except Exception as error:
        tick = f"failed: {error.__cause__ or error}"
    else:
        tick = f"skipped: {ticked.skip_message}" if ticked.skip_message else "run"
        for request in ticked.run_requests or ():
            tick = f"run: {request.tags['parakeet/why']}"
            config = request.run_config["resources"]["parakeet_home"]["config"]
            outcome, tokens = _build(home, config["recipe"], progress)
    progress.say(tick)
    progress.say(f"=> {outcome}")
    now = incumbent(home, NAME)
    moved = now is not None and now != before
    return Week(number, arrived, tick, outcome, now.name if moved and now else "", tokens, _bits(now))


def _build(home: Path, text: str, progress: Progress) -> tuple[str, int]:
    """Build a run's recipe. What became of its release, and the tokens that were trained on."""
    import yaml

    recipe = Recipe.model_validate(yaml.safe_load(text))
    said: list[str] = []
    listener = _Listener(progress, said)
    try:
        status = run_build(home, recipe, (), (), False, listener)
    except ParakeetError as error:
        return f"failed: {error}", 0
    try:
        release = Build(home, recipe).find("release")
    except ParakeetError:
        release = None
    decision = decision_on(home, release.path.name) if release is not None else None
    if release is None or decision is None:
        return f"failed: {' '.join(line for line in said if line.startswith('Error')) or status}", 0
    tokens = int(TrainedRelease.open(release.path).manifest["stages"]["checkpoint"]["counts"]["tokens"])
    return f"{decision.action}{': ' if decision.reasons else ''}{' '.join(decision.reasons)}", tokens


class _Listener(Progress):
    """Keeps what a build says."""

    def __init__(self, progress: Progress, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)
        super().say(text)


def _bits(release: Path | None) -> float | None:
    if release is None:
        return None
    return float(Artifact.open(release).counts["bits_per_byte"]["talk"])


def _compare(folder: Path, recipe: Recipe, weeks: list[Week], plan: Plan, progress: Progress) -> dict[str, Any]:
    """Tokens and bits per byte of the last release, and of models from new weights on the same text."""
    home = folder / "home"
    promoted = [week for week in weeks[1:] if week.outcome.startswith("promoted")]
    last = promoted[-1].tokens if promoted else 0
    found: dict[str, Any] = {
        "released, its last retraining": {"tokens": last, "bits_per_byte": weeks[-1].bits_per_byte},
        "released, all retrainings": {
            "tokens": sum(week.tokens for week in promoted), "bits_per_byte": weeks[-1].bits_per_byte,
        },
    }  # fmt: skip
    every = weeks[0].tokens + sum(week.tokens for week in promoted)
    for name, tokens in (
        ("from new weights, as long as the first", plan.tokens),
        ("from new weights, as short as the last retraining", last),
        ("from new weights, as long as all together", every),
    ):
        training = recipe.training.model_copy(update={"tokens": max(1024, tokens)})
        alone = recipe.model_copy(update={"name": f"alone-{len(found)}", "training": training})
        progress.say(f"--- {name}, {tokens:,} tokens")
        run_build(home, alone, ("release",), (), False, progress)
        counts = Build(home, alone).artifact("release").counts["bits_per_byte"]
        trained = Build(home, alone).artifact("checkpoint").counts["tokens"]
        found[name] = {"tokens": int(trained), "bits_per_byte": float(counts["talk"])}
    return {"comparison": found}


def render(record: dict[str, Any]) -> str:
    rows = [
        (week["week"], week["arrived"], week["tick"].partition(":")[0], week["outcome"].partition(":")[0],
         week["release"][:8], f"{week['tokens']:,}", f"{week['bits_per_byte'] or 0:.3f}")
        for week in record["weeks"]
    ]  # fmt: skip
    head = ("week", "text", "tick", "outcome", "released", "tokens", "bits/byte")
    lines = [render_table(head, rows, {0, 5, 6}), ""]
    for week in record["weeks"]:
        lines += [f"Week {week['week']}: {week['tick']}"] + [f"  {week['outcome']}"] * (week["outcome"] != "–")
    past = [(action, release[:8], previous[:8], reason[:80]) for action, release, previous, reason in record["history"]]
    lines += ["", render_table(("decision", "release", "in place of", "why"), past)]
    if trained := record.get("comparison"):
        models = [(name, f"{one['tokens']:,}", f"{one['bits_per_byte']:.3f}") for name, one in trained.items()]
        lines += ["", render_table(("model", "tokens", "bits/byte"), models, {1, 2})]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder for the season's text and artefacts")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    began, cpu = time.time(), os.times()
    with small_disk(arguments.folder / "home"):
        record = run_season(arguments.folder.resolve(), Plan(), Progress())
    times = os.times()
    used = sum(times[:4]) - sum(cpu[:4])
    record |= {"seconds": round(time.time() - began), "cpu_seconds": round(used)}
    print(render(record))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
