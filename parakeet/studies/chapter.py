"""A study as a reader sees it: its answer, and how it was run. A section of the article, or a page of its own."""

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from parakeet.formatting import counted, format_count, format_date, format_duration, listed
from parakeet.pages import Table
from parakeet.report.parts import Commands, Details, Drawing, Facts, Heading, Items, Part
from parakeet.studies.answers import answer_of
from parakeet.studies.results import Results
from parakeet.studies.study import shipped_studies

MOST_NAMED = 6
"""If more runs are missing, they are counted by arm."""
MOST_ROWS = 4
"""Of a table that is open: who wants more figures than the chart shows opens the others."""


@dataclass(frozen=True)
class Chapter:
    name: str
    scale: str
    title: str
    question: str
    sentence: str
    """The answer; empty if there is none, because no run has finished."""
    parts: Sequence[Part]
    """Its drawings have files, `<name>-<number>`, for Markdown."""
    limits: Items | None
    command: Commands
    differs: str
    """What the command alone does otherwise than these runs; empty if nothing."""
    how: Sequence[Part]
    """When, where, how long, which text."""
    runs: int
    missing: int
    digest: str
    """Of the records that it is written from."""

    @property
    def anchor(self) -> str:
        """Of its heading on a Markdown page, as GitHub makes it."""
        letters = "".join(letter for letter in self.title.casefold() if letter.isalnum() or letter in " -_")
        return letters.replace(" ", "-")


def chapter_of(results: Results) -> Chapter:
    """Without an answer if there are no records."""
    answer = answer_of(results) if results.records else None
    limits = [*answer.limits, *_missing(results)] if answer else []
    return Chapter(
        name=results.name,
        scale=results.scale,
        title=results.file.title,
        question=" ".join(results.file.question.split()),
        sentence=answer.sentence if answer else "",
        parts=_with_files(_folded(answer.parts), results.name) if answer else [],
        limits=Items(limits) if limits else None,
        command=Commands([command_of(results)]),
        differs=_differs(results),
        how=[Details("How it was run", [Facts(_facts(results))])] if answer else [],
        runs=len(results.records),
        missing=len(results.missing),
        digest=results.digest,
    )


def command_of(results: Results) -> str:
    """What repeats the study."""
    file = results.name if results.name in shipped_studies() else f"{results.name}.yaml"
    return f"parakeet study run {file} --scale {results.scale}"


def _folded(parts: Sequence[Part]) -> list[Part]:
    """Long tables closed until a reader opens them, under the words that introduce them. Empty ones are left out."""
    found: list[Part] = []
    title = ""
    for part in parts:
        if isinstance(part, Heading):
            title = part.text
        if not isinstance(part, Table) or 0 < len(part.rows) <= MOST_ROWS:
            found.append(part)
        elif part.rows:
            introduced = isinstance(found[-1], str) and found[-1].endswith(":") if found else False
            summary = str(found.pop()).removesuffix(":") if introduced else f"{title}: the figures".removeprefix(": ")
            found.append(Details(summary[:1].upper() + summary[1:], [part]))
    return found


def _with_files(parts: Sequence[Part], name: str) -> list[Part]:
    found: list[Part] = []
    drawings = 0
    for part in parts:
        if isinstance(part, Drawing):
            drawings += 1
            part = replace(part, file=f"{name}-{drawings}")
        found.append(part)
    return found


def _missing(results: Results) -> list[str]:
    """What is missing, by arm; a run that failed is named with its reason."""
    if not results.missing:
        return []
    n, total = len(results.missing), len(results.missing) + len(results.records)
    unexplained = [name for name, reason in results.missing if not reason]
    if len(unexplained) > MOST_NAMED:
        arms = Counter(name.partition(".")[0].replace("_", " ") for name in unexplained)
        unexplained = [f"{count} of {arm}" for arm, count in arms.items()]
    named = f": {listed(unexplained)}" if unexplained else ""
    failed = [f"{name} failed: {' '.join(reason.split())}" for name, reason in results.missing if reason]
    return [f"{n} of {counted(total, 'run')} {'is' if n == 1 else 'are'} missing{named}.", *failed]


def _differs(results: Results) -> str:
    said = []
    if default := results.setup.get("default_sources"):
        said.append(
            f"Without --data the command reads the recipe's own text ({listed(default)}). These runs read "
            f"{listed(_source_names(results.texts[:1]))}, so your figures will differ somewhat."
        )
    if "benchmark_items" in results.setup:
        items = results.setup["benchmark_items"]
        some = f" --set evaluation.benchmarks.items={items}" if items else ""
        said.append(
            "Benchmarks are scored only if you have their data (docs/evaluation.md) and add --set "
            f"evaluation.benchmarks.data=FOLDER{some}."
        )
    return " ".join(said)


def _source_names(texts: Sequence[object]) -> list[str]:
    return [source["name"] for text in texts for source in text["sources"]]  # type: ignore[index]


def _facts(results: Results) -> list[tuple[str, str]]:
    records = results.records
    settings = {(record.arm, *record.points.values()) for record in records}
    seeds = results.seeds
    with_seeds = f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([str(seed) for seed in seeds])}"
    rows = [("Runs", f"{counted(len(records), 'run')} of {counted(len(settings), 'setting')}, {with_seeds}")]
    if results.dates:
        rows.append(("Trained", in_days(results.dates)))
    rows.append(("Machine", machine_of(results)))
    rows.append(("Time", f"{format_duration(results.seconds)} of training, one run after the other"))
    parameters = [record.training["parameters"] for record in records]
    tokens = [record.training["tokens"] for record in records]
    rows.append(("Models", f"{_range(parameters)} parameters, trained on {_range(tokens)} tokens"))
    for text in results.texts:
        arms = [arm.replace("_", " ") for arm in text["arms"]]
        sources = [f"{source['name']} (licence: {source['licence']})" for source in text["sources"]]
        there = [record.training["text_tokens"] for record in records if record.arm in text["arms"]]
        name = "Text" if len(results.texts) == 1 else f"Text of {listed(arms)}"
        rows.append((name, f"{listed(sources)}, {_range(there)} tokens to train on"))
    return rows


def machine_of(results: Results) -> str:
    devices = sorted({record.training.get("device", "cpu") for record in results.records})
    if not results.machines:
        return listed(["a GPU" if device == "cuda" else "a CPU" for device in devices])
    return listed(results.machines)


def in_days(dates: Sequence[str]) -> str:
    """`29 November 2026`, or from one day to another. `dates` are sorted, in ISO 8601."""
    first, last = (datetime.date.fromisoformat(day) for day in (dates[0], dates[-1]))
    return f"on {format_date(first)}" if first == last else f"from {format_date(first)} to {format_date(last)}"


def _range(numbers: Sequence[int]) -> str:
    low, high = format_count(min(numbers)), format_count(max(numbers))
    return low if low == high else f"{low} to {high}"
