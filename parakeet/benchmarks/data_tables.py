"""What `parakeet bench data` prints for people, and what it is held to."""

from collections.abc import Mapping, Sequence
from statistics import median

import click

from parakeet.benchmarks.data_forecast import Forecast
from parakeet.benchmarks.data_packing import Fill, Loading
from parakeet.benchmarks.data_pipeline import DATATROVE, OURS, STEPS, WITHOUT_SPACY, Side
from parakeet.benchmarks.data_recall import Band, Labelled
from parakeet.benchmarks.data_stages import HELD_FOR_ALL, STAGES, Chain
from parakeet.benchmarks.data_tokenising import Tokenising
from parakeet.benchmarks.demands import Demand, at_least, at_most
from parakeet.sanitise import sanitise

MB, MIB = 1e6, 1 << 20
LEAST_SPEED, LEAST_TOKENISING, MOST_GROWTH, LEAST_FILL, LEAST_LOADING = 3.0, 0.9, 1.15, 99.5, 20.0


def pipelines(sides: Mapping[str, Side], n_bytes: int, documents: int, workers: int) -> Demand:
    click.echo(
        f"Clean, exact and MinHash of {n_bytes / MB:,.1f} MB in {documents:,} documents, {_workers(workers)}, MB/s\n"
    )
    click.echo(f"{'':<34}" + "".join(f"{name:>11}" for name in sides) + (f"{'times':>8}" if len(sides) > 1 else ""))
    for step in STEPS:
        seconds = [side.median.seconds[step] for side in sides.values()]
        rates = "".join(f"{n_bytes / MB / max(one, 1e-9):>11.2f}" for one in seconds)
        click.echo(f"{step:<34}{rates}" + (f"{seconds[1] / seconds[0]:>8.2f}" if len(seconds) > 1 else ""))
    for what, counts in (
        ("documents after cleaning", [side.median.cleaned for side in sides.values()]),
        ("documents kept", [side.median.kept for side in sides.values()]),
    ):
        click.echo(f"{what:<34}" + "".join(f"{count:>11,}" for count in counts))
    text = "clean, exact and MinHash beside datatrove's defaults"
    if DATATROVE not in sides:
        click.echo(f"\ndatatrove's defaults: not measured, {WITHOUT_SPACY}\n")
        return at_least(text, None, LEAST_SPEED, "x")
    click.echo()
    whole = {name: side.median.seconds[STEPS[-1]] for name, side in sides.items()}
    return at_least(text, whole[DATATROVE] / whole[OURS], LEAST_SPEED, "x")


def recall(bands: Sequence[Band], unrelated: int) -> list[Demand]:
    click.echo(f"{'Planted pairs':<16}{'pairs':>8}{'found':>8}{'recall':>9}{'formula':>9}{'95 % from':>11}")
    for band in bands:
        click.echo(
            f"{f'{band.low:.1f} to {band.high:.1f}':<16}{band.pairs:>8,}{band.found:>8,}{band.found / band.pairs:>9.3f}"
            f"{band.expected / band.pairs:>9.3f}{band.least / band.pairs:>11.3f}"
        )
    click.echo()
    demands = [
        at_least(
            f"found of {band.pairs:,} pairs with a Jaccard of {band.low:.1f} to {band.high:.1f}", band.found, band.least
        )
        for band in bands
    ]
    return [*demands, at_most("found pairs of unrelated documents", unrelated, 0)]


def labelled(sets: Sequence[Labelled]) -> list[Demand]:
    click.echo(f"{'Labelled set':<20}{'documents':>10}{'pairs':>8}{'precision':>11}{'recall':>8}{'seconds':>9}")
    for one in sets:
        click.echo(
            f"{sanitise(one.name):<20}{one.documents:>10,}{one.truth:>8,}{one.precision:>11.3f}{one.recall:>8.3f}"
            f"{one.seconds:>9.1f}"
        )
    click.echo()
    return [
        at_least(f"{name}, {one.name}", value, 1.0)
        for one in sets
        for name, value in (("precision", one.precision), ("recall", one.recall))
    ]


def tokenising(found: Tokenising, tokenizer: str) -> Demand:
    click.echo(
        f"Tokenise {found.n_bytes / MB:,.1f} MB in {found.documents:,} documents ({sanitise(tokenizer)})"
        f"{'seconds':>12}{'MB/s':>8}"
    )
    stage, starting = median(found.stage), median(found.starting)
    rows = {
        "the whole stage": stage,
        "without its start": stage - starting,
        "bare tiktoken, texts in memory": median(found.bare),
        "bare tiktoken, with its start and the reading": median(found.bare_with_start),
    }
    for name, seconds in rows.items():
        rate = f"{found.n_bytes / MB / seconds:>8.2f}" if seconds > 0 else ""
        click.echo(f"  {name:<54}{seconds:>12.2f}{rate}")
    click.echo(f"  its start: {starting:.2f} s; the whole stage is {found.whole_ratio:.2f} of bare tiktoken\n")
    return at_least("tokenise beside bare tiktoken, both without their start", found.ratio, LEAST_TOKENISING, "x")


def chains(found: Sequence[Chain]) -> list[Demand]:
    for chain in found:
        click.echo(
            f"{f'Stages over {chain.n_bytes / MB:,.0f} MB':<26}{'seconds':>9}{'MB/s':>8}{'peak MiB':>10}{'itself':>8}"
            f"{'workers':>9}{'documents':>11}{'disk MB':>9}{'scratch':>9}"
        )
        for run in chain.runs:
            memory = run.ran.memory
            click.echo(
                f"  {run.stage:<24}{run.ran.seconds:>9.1f}{chain.rate(run.stage) / MB:>8.2f}{memory.peak / MIB:>10,.0f}"
                f"{memory.main / MIB:>8,.0f}{memory.workers / MIB:>9,.0f}{run.documents:>11,}{run.artefact / MB:>9,.1f}"
                f"{run.scratch / MB:>9,.1f}"
            )
        click.echo()
    return _growth(found[0], found[-1]) if len(found) > 1 else []


def _growth(small: Chain, large: Chain) -> list[Demand]:
    """Of stages that hold something of every document, what their workers hold is judged, and the rest told."""
    demands = []
    for stage in STAGES:
        before, after = small.of(stage).ran.memory, large.of(stage).ran.memory
        if stage not in HELD_FOR_ALL:
            demands.append(_at_most_grown(f"peak memory of {stage}", before.peak, after.peak))
            continue
        documents = large.of("clean_documents").documents - small.of("clean_documents").documents
        each = (after.main - before.main) / max(1, documents)
        click.echo(f"{stage}: {each:,.0f} bytes of memory more for each further document")
        if before.workers:
            demands.append(_at_most_grown(f"peak memory of the workers of {stage}", before.workers, after.workers))
    click.echo()
    return demands


def _at_most_grown(what: str, before: int, after: int) -> Demand:
    growth = after / before if before else None
    return at_most(f"{what}, of ten times the text", growth, MOST_GROWTH, "x")


def packing(fills: Sequence[Fill], loading: Loading) -> list[Demand]:
    click.echo(f"{'Packing':<20}{'row tokens':>11}{'rows':>10}{'filled':>10}{'tokens lost':>13}")
    for fill in fills:
        click.echo(f"{fill.documents:<20}{fill.row_tokens:>11,}{fill.rows:>10,}{fill.share:>10.2%}{fill.lost:>13,}")
    click.echo(
        f"\nThe loader lays out {loading.tokens_per_second / 1e6:,.1f} M tokens/s; to open "
        f"{loading.shard_bytes / MB:,.1f} MB of shards Arrow allocates {loading.allocated:,} bytes\n"
    )
    return [
        at_most("tokens lost in packing", sum(fill.lost for fill in fills), 0),
        *[
            at_least(f"slots filled at {fill.row_tokens:,}, {fill.documents}", 100 * fill.share, LEAST_FILL, " %")
            for fill in fills
        ],
        at_least("loader, documents of 100 tokens", loading.tokens_per_second / 1e6, LEAST_LOADING, " M tokens/s"),
        at_most("bytes that Arrow allocates to open a shard", loading.allocated, 0),
    ]


def forecasts(rows: Sequence[Forecast], workers: int) -> None:
    click.echo(f"{f'50 GB on {_workers(workers)}':<26}{'MB/s':>8}{'hours':>8}{'disk GB':>10}{'scratch GB':>12}")
    for row in rows:
        click.echo(
            f"  {row.stage:<24}{row.megabytes_per_second:>8.2f}{row.hours:>8.2f}{row.artefact / 1e9:>10.1f}"
            f"{row.scratch / 1e9:>12.1f}"
        )
    hours, disk = sum(row.hours for row in rows), sum(row.artefact for row in rows)
    click.echo(f"  {'all':<24}{'':>8}{hours:>8.2f}{disk / 1e9:>10.1f}\n")


def _workers(number: int) -> str:
    return f"{number} worker" + ("" if number == 1 else "s")
