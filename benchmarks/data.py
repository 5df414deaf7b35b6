"""`python -m benchmarks.data`: the data stages beside datatrove's defaults, bare tiktoken and MinHash's formula."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.demands import Demand, at_least, at_most, print_demands, run_command
from benchmarks.packing import Fill, Loading, lengths_of, measure_fill, measure_loading
from benchmarks.recall import Band, Labelled, labelled_sets, measure_labelled, measure_recall
from benchmarks.tokenizing import Tokenising, measure_tokenising
from parakeet.benchmarks.corpus import (
    invented_blocks,
    invented_texts,
    read_blocks,
    read_texts,
    save_tokenizer,
    varied,
    write_documents,
)
from parakeet.benchmarks.data import (
    MB,
    ROW_TOKENS,
    STAGES,
    Chain,
    bench_recipe,
    print_chain,
    print_forecast,
    require_room,
    run_chain,
    run_work,
)
from parakeet.benchmarks.process import print_result
from parakeet.data.tokens.shards import TokenShards
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.sanitise import sanitise
from parakeet.tokenizer import Tokenizer

COMPARED_BYTES = 25 * MB
"""The most text for the comparison with datatrove: spaCy takes a minute for it."""
LARGER = 10
"""With --memory the stages run over this many times the text, too."""
LOADER_SECONDS = 3.0
PACKAGES = ("datatrove", "spacy", "tiktoken", "pyarrow", "numpy", "xxhash")
HELD_FOR_ALL = ("deduplicated_documents", "packing_plan")
"""Stages that hold something of every document: ids and clusters, lengths and sequences."""
LEAST_SPEED, LEAST_TOKENISING, MOST_GROWTH, LEAST_FILL, LEAST_LOADING = 3.0, 0.9, 1.15, 99.5, 20.0

OURS, DATATROVE = "ours", "datatrove"
SIDES = {
    OURS: (STAGES["clean_documents"][0], STAGES["deduplicated_documents"][0]),
    DATATROVE: ("benchmarks.datatrove_defaults:clean_documents", "benchmarks.datatrove_defaults:deduplicate_documents"),
}
SIGNATURES, COMPARISON, REST = "signatures of documents", "comparison of documents", "exact, clusters, writing, start"
STEPS = ("clean", SIGNATURES, COMPARISON, REST, "all")
EndToEnd = tuple[dict[str, float], int, int]
"""Seconds by step, documents after cleaning, documents kept."""


@click.command("data")
@click.option(
    "--text", multiple=True, type=click.Path(exists=True), metavar="FILE",
    help="Text to measure with, up to 64 MiB; may be repeated.  [default: Parakeet's own words]",
)  # fmt: skip
@click.option("--megabytes", type=click.IntRange(1), default=100, show_default=True, help="Text for the stages.")
@click.option("--pairs", type=click.IntRange(1), default=300, show_default=True, help="Planted pairs in each band.")
@click.option(
    "--labelled", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of labelled sets: <name>.train and <name>.truth.",
)  # fmt: skip
@click.option("--memory", is_flag=True, help="Run the stages over ten times the text too, and compare their memory.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes.  [default: one per core]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Samples of each time.")
def main(
    text: tuple[str, ...], megabytes: int, pairs: int, labelled: Path | None, memory: bool, workers: int, rounds: int
) -> None:
    """Compare the data stages with datatrove's defaults, and measure what near-duplicate search finds.

    Also: tokenizing beside bare tiktoken, what packing loses, and the growth of memory with the amount of text.
    """
    workers = workers or os.cpu_count() or 1
    sizes = [megabytes * MB, LARGER * megabytes * MB] if memory else [megabytes * MB]
    trains = labelled_sets(labelled) if labelled is not None else []
    require_room(sizes[-1])
    load_before = os.getloadavg()
    recipe, progress = bench_recipe(workers), Progress()
    result: dict[str, Any] = {"benchmark": "data", "text": [Path(path).name for path in text]}
    demands: list[Demand] = []
    with TemporaryDirectory(prefix="parakeet-data-") as name:
        folder = Path(name)
        blocks = read_blocks(text) if text else invented_blocks()
        texts = list(read_texts(text)) if text else invented_texts()

        documents = list(varied(blocks, min(sizes[0], COMPARED_BYTES), seed=1))
        written = write_documents(folder / "compared", documents, workers)
        sides = measure_pipelines(recipe, folder / "compared", rounds, folder / "sides", progress)
        result["pipelines"] = {"bytes": written, "documents": len(documents)} | {
            side: {
                "kept": _middle(found)[2],
                "cleaned": _middle(found)[1],
                "seconds": [seconds for seconds, _, _ in found],
            }
            for side, found in sides.items()
        }
        demands.append(print_pipelines(sides, written, len(documents), workers))

        progress.say("planted pairs")
        bands, unrelated = measure_recall(recipe, blocks, pairs, folder / "recall")
        result["recall"] = {"bands": [band.as_json() for band in bands], "unrelated_found": unrelated}
        demands += print_recall(bands, unrelated)

        if trains:
            progress.say("labelled sets")
            sets = measure_labelled(recipe, trains, folder / "labelled")
            result["labelled"] = [one.as_json() for one in sets]
            demands += print_labelled(sets)

        tokenizer = save_tokenizer(folder / "tokenizer", blocks)
        chains: list[Chain] = []
        for size in sizes:
            keep = {"deduplicated_documents", "token_shards"} if size == sizes[-1] else set()
            made = folder / f"chain-{size}"
            chains.append(run_chain(blocks, size, folder / "tokenizer", workers, made, keep, progress))
            print_chain(chains[-1])
        result["chains"] = [chain.as_json() for chain in chains]
        if len(chains) > 1:
            demands += print_growth(chains[0], chains[-1])

        inputs = {"deduplicated_documents": made / "deduplicated_documents", "tokenizer": folder / "tokenizer"}
        tokenising = measure_tokenising(recipe, inputs, rounds, folder / "tokenising", progress)
        result["tokenise"] = {"tokenizer": tokenizer.name, **tokenising.as_json()}
        demands.append(print_tokenising(tokenising, tokenizer.name))

        progress.say("packing and loading")
        fills = list(_fills(made / "token_shards", texts, tokenizer))
        loading = measure_loading(made / "token_shards", LOADER_SECONDS)
        result |= {"packing": [fill.as_json() for fill in fills], "loading": loading.as_json()}
        demands += print_packing(fills, loading)
        result["forecast"] = print_forecast(chains[-1], workers)
    print_demands(demands)
    facts = {"workers": workers, "rounds": rounds, "versions": {name: _version(name) for name in PACKAGES}}
    facts |= {"load_before": load_before, "load_after": os.getloadavg()}
    print_result(result | facts | {"demands": [demand.as_json() for demand in demands]})


def measure_pipelines(
    recipe: Recipe, documents: Path, rounds: int, scratch: Path, progress: Progress
) -> dict[str, list[EndToEnd]]:
    """Clean, exact and MinHash of both sides in turn, so that other load slows both. Without spaCy only ours."""
    found: dict[str, list[EndToEnd]] = {name: [] for name in SIDES if name == OURS or find_spec("spacy")}
    for number in range(rounds):
        for name, rows in found.items():
            progress.say(f"clean, exact and MinHash, {name}, round {number + 1} of {rounds}")
            clean, deduplicate = SIDES[name]
            cleaned = run_work(clean, recipe, {"documents": documents}, scratch / "clean")
            inputs = {"clean_documents": scratch / "clean"}
            deduplicated = run_work(deduplicate, recipe, inputs, scratch / "deduplicated")
            shutil.rmtree(scratch)
            parts = [deduplicated.tasks[SIGNATURES], deduplicated.tasks[COMPARISON]]
            values = [
                cleaned.seconds,
                *parts,
                deduplicated.seconds - sum(parts),
                cleaned.seconds + deduplicated.seconds,
            ]
            counts = (int(cleaned.counts["documents"]), int(deduplicated.counts["documents"]))
            rows.append((dict(zip(STEPS, values, strict=True)), *counts))
    return found


def print_pipelines(sides: Mapping[str, Sequence[EndToEnd]], n_bytes: int, documents: int, workers: int) -> Demand:
    click.echo(f"Clean, exact and MinHash of {n_bytes / MB:,.1f} MB in {documents:,} documents, workers: {workers}\n")
    middle = {name: _middle(found) for name, found in sides.items()}
    click.echo(f"{'MB/s':<34}" + "".join(f"{name:>11}" for name in middle) + (f"{'times':>8}" * (len(middle) > 1)))
    for step in STEPS:
        seconds = [values[step] for values, _, _ in middle.values()]
        rates = "".join(f"{n_bytes / MB / max(one, 1e-9):>11.2f}" for one in seconds)
        click.echo(f"{step:<34}{rates}" + (f"{seconds[1] / seconds[0]:>8.2f}" if len(seconds) > 1 else ""))
    for what, at in (("documents after cleaning", 1), ("documents kept", 2)):
        click.echo(f"{what:<34}" + "".join(f"{found[at]:>11,}" for found in middle.values()))
    click.echo()
    text = "clean, exact and MinHash beside datatrove's defaults"
    if DATATROVE not in middle:
        click.echo("datatrove's defaults: not measured, spaCy is not installed: pip install 'parakeet-lm[bench]'\n")
        return at_least(text, None, LEAST_SPEED, "x")
    return at_least(text, middle[DATATROVE][0]["all"] / middle[OURS][0]["all"], LEAST_SPEED, "x")


def print_recall(bands: Sequence[Band], unrelated: int) -> list[Demand]:
    click.echo(f"{'Planted pairs':<16}{'pairs':>8}{'found':>8}{'recall':>9}{'formula':>9}{'95 % from':>11}")
    demands = []
    for band in bands:
        between = f"{band.low:.1f} to {band.high:.1f}"
        click.echo(
            f"{between:<16}{band.pairs:>8,}{band.found:>8,}{band.found / band.pairs:>9.3f}"
            f"{band.expected / band.pairs:>9.3f}{band.least / band.pairs:>11.3f}"
        )
        text = f"found of {band.pairs:,} pairs with a Jaccard of {between}"
        demands.append(at_least(text, band.found, band.least))
    click.echo()
    return [*demands, at_most("found pairs of unrelated documents", unrelated, 0)]


def print_labelled(sets: Sequence[Labelled]) -> list[Demand]:
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


def print_growth(small: Chain, large: Chain) -> list[Demand]:
    """Judge the memory of ten times the text. Of stages that hold something of every document, only their workers'."""
    demands = []
    for stage in STAGES:
        before, after = small.of(stage).ran, large.of(stage).ran
        judged, what = (before.peak, after.peak), f"peak memory of {stage}"
        if stage in HELD_FOR_ALL:
            documents = large.of("clean_documents").documents - small.of("clean_documents").documents
            each = (after.main - before.main) / max(1, documents)
            click.echo(f"{stage}: {each:,.0f} bytes of memory for each further document")
            judged, what = (before.workers, after.workers), f"peak memory of the workers of {stage}"
            if not before.workers:
                continue
        growth = judged[1] / judged[0] if judged[0] else None
        demands.append(at_most(f"{what}, of ten times the text", growth, MOST_GROWTH, "x"))
    click.echo()
    return demands


def print_tokenising(found: Tokenising, tokenizer: str) -> Demand:
    title = f"Tokenize {found.n_bytes / MB:,.1f} MB in {found.documents:,} documents ({sanitise(tokenizer)})"
    click.echo(f"{title:<56}{'seconds':>12}{'MB/s':>8}")
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
    return at_least("tokenize beside bare tiktoken, both without their start", found.ratio, LEAST_TOKENISING, "x")


def print_packing(fills: Sequence[Fill], loading: Loading) -> list[Demand]:
    click.echo(f"{'Packing':<20}{'length':>11}{'sequences':>10}{'filled':>10}{'tokens lost':>13}")
    for fill in fills:
        click.echo(
            f"{fill.documents:<20}{fill.sequence_length:>11,}{fill.rows:>10,}{fill.share:>10.2%}{fill.lost:>13,}"
        )
    click.echo(
        f"\nThe loader lays out {loading.tokens_per_second / 1e6:,.1f} M tokens/s. To open "
        f"{loading.shard_bytes / MB:,.1f} MB of shards Arrow allocates {loading.allocated:,} bytes.\n"
    )
    return [
        at_most("tokens lost in packing", sum(fill.lost for fill in fills), 0),
        *[
            at_least(f"slots filled at {fill.sequence_length:,}, {fill.documents}", 100 * fill.share, LEAST_FILL, " %")
            for fill in fills
        ],
        at_least("loader, documents of 100 tokens", loading.tokens_per_second / 1e6, LEAST_LOADING, " M tokens/s"),
        at_most("bytes that Arrow allocates to open a shard", loading.allocated, 0),
    ]


def _fills(shards: Path, texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[Fill]:
    yield from measure_fill("these blocks", TokenShards(shards, "train", tokenizer).lengths(), ROW_TOKENS)
    yield from measure_fill("whole documents", lengths_of(texts, tokenizer), ROW_TOKENS)


def _middle(rounds: Sequence[EndToEnd]) -> EndToEnd:
    """The round with the median time (the slower of two)."""
    return sorted(rounds, key=lambda one: one[0]["all"])[len(rounds) // 2]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    run_command(main)
