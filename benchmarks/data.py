"""`python -m benchmarks.data`: the data stages beside datatrove's defaults, bare tiktoken and MinHash's formula."""

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from benchmarks.demands import Demand, at_least, at_most, print_demands, run_command
from benchmarks.packing import measure_fill, measure_loader, measure_opening
from benchmarks.recall import measure_labelled, measure_recall
from benchmarks.tokenizing import measure_tokenizing
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
    SEQUENCE_LENGTHS,
    STAGES,
    Chain,
    bench_recipe,
    print_chain,
    print_forecast,
    require_room,
    run_chain,
    run_work,
)
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_count, format_duration, format_percent, render_table
from parakeet.progress import Progress
from parakeet.recipe import Recipe

COMPARED_BYTES = 25 * MB
"""The most text for the comparison with datatrove: spaCy takes a minute for it."""
LARGER = 10
"""With --memory the stages run over this many times the text, too."""
LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, LOADER_SECONDS = 300_000, 100, 3.0
"""120 MB of ids: more than caches hold."""
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
    # The smallest set first.
    trains = sorted(labelled.glob("*.train"), key=lambda path: path.stat().st_size) if labelled else []
    if labelled and not trains:
        raise ParakeetError(f"{labelled} has no file called *.train. Give --labelled a folder with labelled sets.")
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
        result["pipelines"] = {"bytes": written, "documents": len(documents), **sides}
        demands.append(print_pipelines(sides, written, len(documents), workers))

        progress.say("planted pairs")
        bands, unrelated = measure_recall(recipe, blocks, pairs, folder / "recall")
        result["recall"] = {"bands": bands, "unrelated_found": unrelated}
        demands += [*print_recall(bands), at_most("found pairs of unrelated documents", unrelated, 0)]

        if trains:
            progress.say("labelled sets")
            result["labelled"] = [measure_labelled(recipe, train, folder / "labelled" / train.stem) for train in trains]
            demands += print_labelled(result["labelled"])

        tokenizer = save_tokenizer(folder / "tokenizer", blocks)
        chains: list[Chain] = []
        for size in sizes:
            keep = {"deduplicated_documents", "token_shards"} if size == sizes[-1] else set()
            made = folder / f"chain-{size}"
            chains.append(run_chain(blocks, size, folder / "tokenizer", workers, made, keep, progress))
            print_chain(chains[-1])
        result["chains"] = chains
        if len(chains) > 1:
            demands += print_growth(chains[0], chains[-1])

        inputs = {"deduplicated_documents": made / "deduplicated_documents", "tokenizer": folder / "tokenizer"}
        result["tokenize"] = measure_tokenizing(recipe, inputs, rounds, folder / "tokenizing", progress)
        demands.append(print_tokenizing(result["tokenize"], tokenizer.name))

        progress.say("packing and loading")
        lengths = {
            "these blocks": TokenShards(made / "token_shards", "train", tokenizer).lengths(),
            # A document starts with a token of its own.
            "whole documents": np.array([len(tokenizer.encode_array(text)) + 1 for text in texts], np.int64),
        }
        fills = [measure_fill(name, some, length) for name, some in lengths.items() for length in SEQUENCE_LENGTHS]
        rate = measure_loader(LOADER_DOCUMENTS, LOADER_MEAN_TOKENS, SEQUENCE_LENGTHS[0], LOADER_SECONDS)
        loading = {"tokens_per_second": rate, **measure_opening(made / "token_shards")}
        result |= {"packing": fills, "loading": loading}
        demands += print_packing(fills, loading)
        result["forecast"] = print_forecast(chains[-1], workers)
    result |= {"workers": workers, "rounds": rounds, "versions": {name: _version(name) for name in PACKAGES}}
    print_demands(result | {"load_before": load_before, "load_after": os.getloadavg()}, demands)


def measure_pipelines(
    recipe: Recipe, documents: Path, rounds: int, scratch: Path, progress: Progress
) -> dict[str, list[dict[str, Any]]]:
    """Clean, exact and MinHash of both sides in turn, so that other load slows both. Without spaCy only ours.

    Of every round: seconds by step, documents after cleaning (`cleaned`), and documents kept.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES if name == OURS or find_spec("spacy")}
    for number in range(rounds):
        for name, rows in found.items():
            progress.say(f"clean, exact and MinHash, {name}, round {number + 1} of {rounds}")
            clean, deduplicate = SIDES[name]
            cleaned = run_work(clean, recipe, {"documents": documents}, scratch / "clean")
            inputs = {"clean_documents": scratch / "clean"}
            kept = run_work(deduplicate, recipe, inputs, scratch / "deduplicated")
            shutil.rmtree(scratch)
            seconds = {"clean": cleaned.seconds, **{step: kept.tasks[step] for step in (SIGNATURES, COMPARISON)}}
            seconds[REST] = kept.seconds - seconds[SIGNATURES] - seconds[COMPARISON]
            seconds["all"] = cleaned.seconds + kept.seconds
            counts = {"cleaned": int(cleaned.counts["documents"]), "kept": int(kept.counts["documents"])}
            rows.append({"seconds": seconds, **counts})
    return found


def print_pipelines(
    sides: Mapping[str, Sequence[Mapping[str, Any]]], n_bytes: int, documents: int, workers: int
) -> Demand:
    size = f"{format_bytes(n_bytes)} in {documents:,} documents, workers: {workers}"
    # Of each side the round with the median time (the slower of two).
    middle = {
        name: sorted(rounds, key=lambda one: one["seconds"]["all"])[len(rounds) // 2] for name, rounds in sides.items()
    }
    rows: list[list[object]] = []
    for step in STEPS:
        seconds = [found["seconds"][step] for found in middle.values()]
        times = f"{seconds[1] / seconds[0]:.2f}" if len(seconds) > 1 else ""
        rows.append([step, *(f"{format_bytes(n_bytes / max(one, 1e-9))}/s" for one in seconds), times])
    for text, key in (("documents after cleaning", "cleaned"), ("documents kept", "kept")):
        rows.append([text, *(f"{found[key]:,}" for found in middle.values()), ""])
    click.echo(f"Clean, exact and MinHash of {size}\n{render_table(('', *middle, 'times'), rows, right=(1, 2, 3))}\n")
    text = "clean, exact and MinHash beside datatrove's defaults"
    if DATATROVE not in middle:
        click.echo("datatrove's defaults: not measured, spaCy is not installed: pip install 'parakeet-lm[bench]'\n")
        return at_least(text, None, LEAST_SPEED, "x")
    return at_least(text, middle[DATATROVE]["seconds"]["all"] / middle[OURS]["seconds"]["all"], LEAST_SPEED, "x")


def print_recall(bands: Sequence[Mapping[str, Any]]) -> list[Demand]:
    columns = ("Planted pairs", "pairs", "found", "recall", "formula", "95% from")
    rows = [
        (
            _between(band),
            band["pairs"],
            band["found"],
            *(f"{band[key] / band['pairs']:.3f}" for key in ("found", "expected", "least")),
        )
        for band in bands
    ]
    click.echo(f"{render_table(columns, rows, right=(3, 4, 5))}\n")
    return [
        at_least(f"found of {band['pairs']:,} pairs with a Jaccard of {_between(band)}", band["found"], band["least"])
        for band in bands
    ]


def print_labelled(sets: Sequence[Mapping[str, Any]]) -> list[Demand]:
    rows = [
        (
            one["name"],
            one["documents"],
            one["pairs"],
            f"{one['precision']:.3f}",
            f"{one['recall']:.3f}",
            format_duration(one["seconds"]),
        )
        for one in sets
    ]
    columns = ("Labelled set", "documents", "pairs", "precision", "recall", "time")
    click.echo(f"{render_table(columns, rows, right=(3, 4, 5))}\n")
    return [at_least(f"{key}, {one['name']}", one[key], 1.0) for one in sets for key in ("precision", "recall")]


def print_growth(small: Chain, large: Chain) -> list[Demand]:
    """Judge the memory of ten times the text. Of stages that hold something of every document, only their workers'."""
    demands = []
    pairs = [(a, b) for a, b in zip(small["stages"], large["stages"], strict=True)]
    documents = {row["stage"]: after["documents"] - row["documents"] for row, after in pairs}
    for before, after in pairs:
        stage = before["stage"]
        key, text = "memory", f"peak memory of {stage}"
        if stage in HELD_FOR_ALL:
            each = (after["memory_main"] - before["memory_main"]) / max(1, documents["clean_documents"])
            click.echo(f"{stage}: {each:,.0f} bytes of memory for each further document")
            key, text = "memory_workers", f"peak memory of the workers of {stage}"
            if not before[key]:
                continue
        growth = after[key] / before[key] if before[key] else None
        demands.append(at_most(f"{text}, of ten times the text", growth, MOST_GROWTH, "x"))
    click.echo()
    return demands


def print_tokenizing(found: Mapping[str, Any], tokenizer: str) -> Demand:
    middle = {name: median(found[name]) for name in ("stage", "starting", "bare", "bare_with_start")}
    times = {
        "the whole stage": middle["stage"],
        "its start": middle["starting"],
        "without its start": middle["stage"] - middle["starting"],
        "bare tiktoken, texts in memory": middle["bare"],
        "bare tiktoken, with its start and the reading": middle["bare_with_start"],
    }
    rows = [
        (name, f"{seconds:.2f}", f"{format_bytes(found['bytes'] / seconds)}/s" if seconds > 0 else "")
        for name, seconds in times.items()
    ]
    title = f"Tokenize {format_bytes(found['bytes'])} in {found['documents']:,} documents ({tokenizer})"
    click.echo(f"{render_table((title, 'seconds', 'text'), rows, right=(1, 2))}\n")
    return at_least("tokenize beside bare tiktoken, both without their start", found["ratio"], LEAST_TOKENISING, "x")


def print_packing(fills: Sequence[Mapping[str, Any]], loading: Mapping[str, Any]) -> list[Demand]:
    columns = ("Packing", "length", "sequences", "filled", "tokens lost")
    rows = [
        (one["documents"], one["sequence_length"], one["sequences"], format_percent(one["share"], 2), one["lost"])
        for one in fills
    ]
    rate = loading["tokens_per_second"]
    click.echo(
        f"{render_table(columns, rows, right=(3,))}\n\nThe loader lays out {format_count(rate)} tokens/s. Arrow "
        f"allocates {loading['allocated']:,} bytes to open {format_bytes(loading['shard_bytes'])} of shards.\n"
    )
    filled = [(f"slots filled at {one['sequence_length']:,}, {one['documents']}", 100 * one["share"]) for one in fills]
    return [
        at_most("tokens lost in packing", sum(one["lost"] for one in fills), 0),
        *(at_least(text, percent, LEAST_FILL, " %") for text, percent in filled),
        at_least("loader, documents of 100 tokens", rate / 1e6, LEAST_LOADING, " M tokens/s"),
        at_most("bytes that Arrow allocates to open a shard", loading["allocated"], 0),
    ]


def _between(band: Mapping[str, Any]) -> str:
    return f"{band['low']:.1f} to {band['high']:.1f}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    run_command(main)
