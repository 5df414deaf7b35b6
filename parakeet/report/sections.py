"""The report's sections, from what was gathered. Both pages show the same ones."""

import datetime
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

from parakeet.evaluation.base import Metric, Score
from parakeet.evaluation.metrics import measured_metrics
from parakeet.formatting import format_bytes, format_count, format_date, format_duration, format_percent
from parakeet.lineage import began_with
from parakeet.memorisation import sections
from parakeet.pages import Cell, Table
from parakeet.report.charts import draw_scores
from parakeet.report.gather import Gathered
from parakeet.report.parts import Answers, Details, Drawing, Facts, Heading, Part, Section
from parakeet.report.published import published_for
from parakeet.training.curve import draw_loss_curve

HELD_OUT = ("bits_per_byte", "bits_per_byte_by_position")
"""Metrics with a section of their own; the replies of the finished model are in `samples`."""
REPLIES = "replies"
BENCHMARKS = "benchmarks"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
MOST_ROWS, MOST_ROWS_WITH_CHART = 16, 6
"""A longer table is closed until a reader opens it."""


def sections_of(report: Gathered) -> list[Section]:
    """In the order of the page; a section without anything to say is left out."""
    found = (
        _text(report),
        _training(report),
        _scores(report),
        _held_out(report),
        _memorisation(report),
        _samples(report),
        _changes(report),
    )
    return [section for section in found if section.parts]


def _text(report: Gathered) -> Section:
    total, sources = report.text["total"], report.text["sources"]
    repeated = any(source["epochs"] != 1 for source in sources)
    rows: list[list[object]] = [
        [
            source["name"],
            Cell(source["licence"], "pill warn" if source["licence"].casefold() == "unknown" else "keep"),
            source["documents"],
            source["tokens"],
            source["held_out"],
            *([f"{source['epochs']:.3g}"] if repeated else []),
            Cell(format_percent(source["share"]), "share", source["share"]),
        ]
        for source in sources
    ]
    several = len(rows) > 1
    if several:
        whole = [total["documents"], total["tokens"], total["held_out_tokens"]]
        rows.append(["All", "", *whole, *([""] if repeated else []), ""])
    share = "Share of what is read" if repeated else "Share"
    columns = ("Source", "Licence", "Documents", "Tokens", "Held out", *(["Epochs"] if repeated else []), share)
    sentence = (
        f"{total['tokens']:,} tokens, which are {format_bytes(total['bytes'])} of text. Another "
        f"{total['held_out_tokens']:,} tokens were held out: the model never learned from them and is measured on them."
    )
    parts: list[Part] = [sentence, Table(columns, rows, range(2, len(columns) - 1), total=several)]
    if planted := report.text["canaries"]:
        parts.append(
            f"Canaries: {planted['documents']:,} of these documents are copies of "
            f"{sum(planted['copies'].values()):,} made-up texts, planted to measure what the model memorises. It may "
            "repeat them."
        )
    return Section("text", "Training text", parts)


def _training(report: Gathered) -> Section:
    counts, config, settings = report.training, report.config, report.recipe.training
    losses = [f"{counts['final_loss']:.3f} nats a token in training"]
    if counts.get("validation_loss") is not None:
        losses.append(f"{counts['validation_loss']:.3f} on held-out text")
    machine = [counts["device"]]
    machine += [f"{counts['processes']} processes"] if counts.get("processes", 1) > 1 else []
    threads = counts.get("threads", 0) if counts["device"] == "cpu" else 0
    machine += [f"{threads} thread{'s' * (threads != 1)}"] if threads else []
    exponent = math.floor(math.log10(report.flops))
    power = str(exponent).translate(SUPERSCRIPTS)
    compute = f"{report.flops / 10**exponent:.1f} × 10{power} floating-point operations"
    if counts.get("mfu"):
        compute += f", {format_percent(counts['mfu'])} of what the device can do"
    faults = [f"{counts[key]:,} {key.replace('_', ' ')}" for key in ("skipped", "rolled_back") if counts.get(key)]
    if counts.get("skipped") and (undone := counts["skipped"] - _skipped(report)) > 0 and counts.get("rolled_back"):
        faults[0] += f" ({undone:,} of them undone by a rollback)"
    rows = [
        ("Shape", f"{config.layers} layers, {config.heads} heads, width {config.width:,}, context {config.context:,}"),
        ("Tokenizer", f"{report.tokenizer.name}, {config.vocabulary_rows:,} rows"),
        *([("Began with", began_with(counts["start"]))] if "start" in counts else []),
        *_tokens(report),
        ("Optimizer", f"{settings.optimizer}, learning rate {settings.learning_rate:g}"),
        ("Loss at the end", ", ".join(losses)),
        ("Time", f"{format_duration(counts['seconds'])} on {', '.join(machine)}"),
        *(
            [("Speed", f"{counts['tokens_per_second']:,} tokens read a second")]
            if counts.get("tokens_per_second")
            else []
        ),
        ("Compute", compute),
        *([("Peak memory", format_bytes(counts["memory_bytes"]))] if counts.get("memory_bytes") else []),
        *([("Steps that went wrong", ", ".join(faults))] if faults else []),
    ]
    curve = Drawing(partial(draw_loss_curve, report.metrics), "Loss in nats a token by tokens trained on")
    return Section("training", "Training", [curve, Facts(rows)])


def _tokens(report: Gathered) -> list[tuple[str, str]]:
    """What training read and, where that is more, what it learned: the tokens that the curve and the samples count."""
    counts, read = report.training, report.tokens_read
    steps = f"in {counts['steps']:,} steps"
    if read <= counts["tokens"]:
        return [("Trained on", f"{counts['tokens']:,} tokens {steps}")]
    skipped = _skipped(report)
    others = ["padding", *([f"{skipped:,} skipped step{'s' * (skipped != 1)}"] if skipped else [])]
    if report.recipe.shards.loss_on == "assistant":
        others.insert(0, "what people say to the assistant")
    left_out = " and ".join([*([", ".join(others[:-1])] if len(others) > 1 else []), others[-1]])
    learned = f"{counts['tokens']:,} of them: it learns to predict these. The others are {left_out}"
    return [("Tokens read", f"{read:,} {steps}"), ("Trained on", learned)]


def _skipped(report: Gathered) -> int:
    """Steps on the way to this model that were skipped; the counts also have those that were rolled back."""
    return sum(bool(record.get("skipped")) for record in report.metrics)


def _scores(report: Gathered) -> Section:
    metrics = [m for m in measured_metrics(report.evaluation) if m.name not in (*HELD_OUT, REPLIES)]
    parts: list[Part] = []
    if shares := shares_of(report):
        parts += ["Share of right answers, with 95% intervals.", scores_drawing(report, shares)]
    for metric in metrics:
        parts += [Heading(metric.title), *_metric(metric, report.evaluation[metric.name])]
        if metric.name == BENCHMARKS:
            parts += _published(report.evaluation[BENCHMARKS]["tasks"])
    return Section("scores", "Scores", parts)


def shares_of(report: Gathered) -> dict[str, list[Score]]:
    """The scores that are shares, by the title of their metric."""
    found = {m.title: report.scores.get(m.name, []) for m in measured_metrics(report.evaluation)}
    shares = {title: [score for score in scores if score.unit == "share"] for title, scores in found.items()}
    return {title: scores for title, scores in shares.items() if scores}


def scores_drawing(report: Gathered, shares: Mapping[str, Sequence[Score]]) -> Drawing:
    tasks = [score.name for metric, scores in report.scores.items() if metric == BENCHMARKS for score in scores]
    published = {task: [model.scores[task] for model in published_for(tasks) if task in model.scores] for task in tasks}
    label = "; ".join(f"{score.name} {format_percent(score.value)}" for scores in shares.values() for score in scores)
    return Drawing(partial(draw_scores, shares, published), label)


def _metric(metric: Metric, figures: Any) -> list[Part]:
    """Its chart and its figures. What begins with a long table is for those who open it."""
    found, scores = metric.render(figures), metric.scores(figures)
    # A chart of several shares would repeat that of all scores.
    drawn = metric.plot_file and sum(score.unit == "share" for score in scores) < 2
    most = MOST_ROWS_WITH_CHART if drawn else MOST_ROWS
    long = (number for number, part in enumerate(found) if isinstance(part, Table) and len(part.rows) > most)
    begin = next(long, len(found))
    parts: list[Part] = [metric.introduction] if metric.introduction else []
    parts += [_in_words(score) for score in scores if not begin]
    parts += found[:begin]
    if drawn:
        parts.append(Drawing(partial(metric.plot, figures), metric.plot_title))
    return [*parts, *([Details("All figures", found[begin:])] if begin < len(found) else [])]


def _in_words(score: Score) -> str:
    value = format_percent(score.value) if score.unit == "share" else f"{score.value:.3f}"
    interval = ""
    if score.interval and score.unit == "share":
        low, high = map(format_percent, score.interval)
        interval = f" ({low} to {high})"
    return f"{score.name[:1].upper()}{score.name[1:]}: {value} of {score.n:,} {score.of}{interval}."


def _published(tasks: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """Published models' scores on the tasks that were measured, below this model's own."""
    models = published_for(tasks.keys())
    shown = [task for task in tasks if any(task in model.scores for model in models)]
    if not shown:
        return []
    rows: list[list[object]] = []
    for key, name in (("accuracy", "this model"), ("normalised", "this model, normalised")):
        if any(tasks[task][key] for task in shown):
            cells = [format_percent(tasks[task][key]["share"]) if tasks[task][key] else "" for task in shown]
            rows.append([Cell(name, "keep"), *cells])
    for model in models:
        cells = [format_percent(model.scores[task]) if task in model.scores else "" for task in shown]
        rows.append([Cell(model.name, "keep"), *cells])
    sources = [
        f"{', '.join(model.name for model in group)}: {source}, measured with {harness}."
        for (source, harness), group in groupby(models, key=lambda model: (model.source, model.harness))
    ]
    return [
        Heading("Beside published models"),
        "These numbers were published, not measured here. Programs that measure the same task differ by several "
        "points, so read them as a neighbourhood, not as a ranking.",
        Table(("Model", *shown), rows, range(1, len(shown) + 1)),
        " ".join(sources),
    ]


def _held_out(report: Gathered) -> Section:
    parts: list[Part] = []
    for metric in measured_metrics(report.evaluation):
        if metric.name in HELD_OUT:
            parts += [*([Heading(metric.title)] if parts else []), *_metric(metric, report.evaluation[metric.name])]
    return Section("held-out", "Held-out bits per byte", parts)


def _memorisation(report: Gathered) -> Section:
    title, parts = "Learned or memorised?", list[Part]()
    if report.memorisation is None:
        parts.append(
            "Not measured: this recipe sets evaluation.trace_index to false, and the figures need that index of the "
            "training text."
        )
    for found in sections(report.memorisation) if report.memorisation else ():
        parts += [*([Heading(found.title)] if found.title != title else []), *found.parts]
        if found.chart:
            parts.append(Drawing(found.chart, found.title))
    return Section("memorisation", title, parts)


def _samples(report: Gathered) -> Section:
    answers = []
    for number, pair in enumerate(report.evaluation.get(REPLIES, [])):
        said = [(earlier["tokens"], earlier["replies"][number]) for earlier in report.samples]
        answers.append(Answers(pair["prompt"], _merged([*said, (report.training["tokens"], pair["reply"])])))
    how = "The most likely reply to each of the recipe's prompts, token by token."
    if report.samples:
        how += " Earlier checkpoints of the same training come first."
    return Section("samples", "Samples", [how, *answers] if answers else [])


def _merged(said: Sequence[tuple[int, str]]) -> list[tuple[str, str]]:
    """(when, reply) of each reply, by the tokens trained on until then; the same ones in a row only once."""
    found = []
    for reply, same in groupby(said, key=itemgetter(1)):
        tokens = [format_count(trained) for trained, _ in same]
        last = reply == said[-1][1] and tokens[-1] == format_count(said[-1][0])
        if last and len(tokens) > 1:
            when = f"from {tokens[0]} tokens to the end"
        elif last:
            when = "the finished model" if len(said) > 1 else ""
        else:
            when = f"after {' and '.join(tokens)} tokens"
        found.append((when, reply))
    return found


def _changes(report: Gathered) -> Section:
    before, now = report.previous, report.measured()
    if before is None:
        return Section("changes", "Since the previous release", [])
    rows: list[list[object]] = [
        ["size and training", label, f"{old:,}", f"{new:,}", f"{new - old:+,}", ""]
        for label, old, new in (
            ("parameters", before.parameters, now.parameters),
            ("tokens trained on", before.tokens, now.tokens),
        )
        if old != new
    ]
    same_text = before.text == now.text
    for metric in measured_metrics(report.evaluation):
        old_scores = {score.name: score for score in before.scores.get(metric.name, [])}
        rows += [
            [metric.title, score.name, *_change(old_scores[score.name], score)]
            for score in now.scores.get(metric.name, [])
            if score.name in old_scores and (same_text or score.unit == "share")
        ]
    for above, row in reversed(list(pairwise(rows))):
        row[0] = "" if row[0] == above[0] else row[0]
    trained = datetime.date.fromisoformat(before.made[:10])
    sentence = (
        f"Compared with {before.name} ({before.release}), the promoted release when this report was made. It was "
        f"trained on {format_date(trained)}."
    )
    if not same_text:
        sentence += " Its text was another, so bits per byte cannot be compared."
    columns = ("", "", "Before", "Now", "Difference", "")
    return Section("changes", "Since the previous release", [sentence, Table(columns, rows, range(2, 5))])


def _change(old: Score, new: Score) -> list[object]:
    if new.unit == "share":
        values = (format_percent(old.value), format_percent(new.value), f"{100 * (new.value - old.value):+.1f} points")
    else:
        values = (f"{old.value:.3f}", f"{new.value:.3f}", f"{new.value - old.value:+.3f}")
    verdict = ""
    if old.interval and new.interval:
        apart = new.interval[0] > old.interval[1] or new.interval[1] < old.interval[0]
        better = (new.value > old.value) == (new.unit == "share")
        verdict = ("better" if better else "worse") if apart else "within the intervals"
    return [*values, verdict]
