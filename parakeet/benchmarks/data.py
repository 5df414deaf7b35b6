"""How fast the data stages are, in how much memory, and whether they find what they should: `parakeet bench data`."""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from parakeet.benchmarks import data_tables as tables
from parakeet.benchmarks.data_corpus import (
    invented_blocks,
    invented_texts,
    read_blocks,
    read_texts,
    varied,
    write_documents,
)
from parakeet.benchmarks.data_forecast import forecast
from parakeet.benchmarks.data_packing import lengths_of, measure_fill, measure_loading
from parakeet.benchmarks.data_pipeline import measure_pipelines
from parakeet.benchmarks.data_recall import labelled_sets, measure_labelled, measure_recall
from parakeet.benchmarks.data_stages import ROW_TOKENS, Chain, bench_recipe, run_chain
from parakeet.benchmarks.data_tokenising import measure_tokenising, save_tokenizer
from parakeet.benchmarks.demands import Demand, print_demands
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer

MB = 1_000_000
COMPARED_BYTES = 25 * MB
"""Most text that is cleaned and deduplicated as datatrove would: its words take spaCy a minute for these."""
LARGER = 10
"""The larger corpus of --memory, in smaller ones."""
DISK_SHARE = 4
"""Times the text that the stages take of the disk, at most."""
LOADER_SECONDS = 3.0
PACKAGES = ("datatrove", "spacy", "tiktoken", "pyarrow", "numpy", "xxhash")


@dataclass
class Bench:
    """One run of the benchmark in a folder that is gone after it."""

    folder: Path
    blocks: Sequence[str]
    texts: Sequence[str]
    """Documents as the files have them, for packing."""
    workers: int
    rounds: int
    progress: Progress
    result: dict[str, Any] = field(default_factory=dict)
    demands: list[Demand] = field(default_factory=list)

    def pipelines(self, n_bytes: int) -> None:
        documents = list(varied(self.blocks, min(n_bytes, COMPARED_BYTES), seed=1))
        written = write_documents(self.folder / "compared", documents, self.workers)
        sides = measure_pipelines(
            bench_recipe(self.workers), self.folder / "compared", self.rounds, self.folder / "sides", self.progress
        )
        self.result["pipelines"] = {"bytes": written, "documents": len(documents)}
        self.result["pipelines"] |= {name: side.as_json() for name, side in sides.items()}
        self.demands.append(tables.pipelines(sides, written, len(documents), self.workers))

    def recall(self, pairs: int) -> None:
        self.progress.say("planted pairs")
        recipe = bench_recipe(self.workers)
        bands, false = measure_recall(recipe, self.blocks, pairs, self.folder / "recall")
        self.result["recall"] = {"bands": [band.as_json() for band in bands], "unrelated_found": false}
        self.demands += tables.recall(bands, false)

    def labelled(self, trains: Sequence[Path]) -> None:
        self.progress.say("labelled sets")
        sets = measure_labelled(bench_recipe(self.workers), trains, self.folder / "labelled")
        self.result["labelled"] = [one.as_json() for one in sets]
        self.demands += tables.labelled(sets)

    def stages(self, sizes: Sequence[int]) -> None:
        """The chain of stages at every size; then tokenising, packing and loading from the largest one's artefacts."""
        tokenizer = save_tokenizer(self.folder / "tokenizer", self.blocks)
        chains: list[Chain] = []
        for size in sizes:
            keep = {"deduplicated_documents", "token_shards"} if size == sizes[-1] else set()
            folder = self.folder / f"chain-{size}"
            chain = run_chain(self.blocks, size, self.folder / "tokenizer", self.workers, folder, keep, self.progress)
            chains.append(chain)
        self.result["chains"] = [chain.as_json() for chain in chains]
        self.demands += tables.chains(chains)
        self._tokenising(folder, tokenizer)
        self._packing(folder / "token_shards", tokenizer)
        rows = forecast(chains[-1])
        self.result["forecast"] = [row.as_json() for row in rows]
        tables.forecasts(rows, self.workers)

    def _tokenising(self, folder: Path, tokenizer: Tokenizer) -> None:
        inputs = {"deduplicated_documents": folder / "deduplicated_documents", "tokenizer": self.folder / "tokenizer"}
        recipe = bench_recipe(self.workers)
        found = measure_tokenising(recipe, inputs, self.rounds, self.folder / "tokenising", self.progress)
        self.result["tokenise"] = {"tokenizer": tokenizer.name, **found.as_json()}
        self.demands.append(tables.tokenising(found, tokenizer.name))

    def _packing(self, shards: Path, tokenizer: Tokenizer) -> None:
        self.progress.say("packing and loading")
        of_shards = TokenShards(shards, "train", tokenizer).lengths()
        fills = [
            *measure_fill("these blocks", of_shards, ROW_TOKENS),
            *measure_fill("whole documents", lengths_of(self.texts, tokenizer), ROW_TOKENS),
        ]
        loading = measure_loading(shards, LOADER_SECONDS)
        self.result["packing"] = [fill.as_json() for fill in fills]
        self.result["loading"] = loading.as_json()
        self.demands += tables.packing(fills, loading)


def run(
    text: Sequence[str],
    megabytes: int,
    pairs: int,
    labelled: Path | None,
    memory: bool,
    workers: int,
    rounds: int,
) -> None:
    """Tables, then one JSON line. `workers` 0 is one a core; `memory` measures ten times `megabytes` too."""
    workers = workers or os.cpu_count() or 1
    sizes = [megabytes * MB, LARGER * megabytes * MB] if memory else [megabytes * MB]
    # Before minutes of other work.
    trains = labelled_sets(labelled) if labelled is not None else []
    _require_room(DISK_SHARE * sizes[-1])
    load_before = os.getloadavg()
    with TemporaryDirectory(prefix="parakeet-data-") as folder:
        blocks = read_blocks(text) if text else invented_blocks()
        texts = list(read_texts(text)) if text else invented_texts()
        bench = Bench(Path(folder), blocks, texts, workers, rounds, Progress())
        bench.pipelines(sizes[0])
        bench.recall(pairs)
        if trains:
            bench.labelled(trains)
        bench.stages(sizes)
    print_demands(bench.demands)
    values = {"benchmark": "data", "text": [Path(path).name for path in text], "workers": workers, "rounds": rounds}
    values |= bench.result | {"demands": [demand.as_json() for demand in bench.demands]}
    click.echo(json.dumps(values | _machine() | {"load_before": load_before, "load_after": os.getloadavg()}))


def _require_room(n_bytes: int) -> None:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < n_bytes:
        raise ParakeetError(
            f"{tempfile.gettempdir()} has {free / 1e9:,.1f} GB free, and up to {n_bytes / 1e9:,.1f} GB are needed. "
            "Make room, set TMPDIR to a folder with more, or lower --megabytes."
        )


def _machine() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    facts = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    return {**facts, "versions": versions}
