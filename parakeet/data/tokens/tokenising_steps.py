"""The datatrove step that turns a task's documents into token shards. Only the stage function reaches this module."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep

from parakeet.artifact import replace_file
from parakeet.conversation import Turn
from parakeet.data.documents import HELD_OUT, read_batches
from parakeet.data.tasks import count
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import SPLITS
from parakeet.recipe import Shards
from parakeet.template import render_document, render_text
from parakeet.tokenizer import Tokenizer

READ = ("doc_id", "source", "turns", "split")


class Tokenise(PipelineStep):
    """Reads the parts `groups[task]`, and writes shards to `output` and `tallies/<task>.json`.

    Columns are taken as they lie, and no Document is made: at 4 KiB a document tiktoken takes 0.2 ms, and a tenth of
    that is all that reading and writing may take.
    """

    name = "Tokenise"
    type = "Writer"

    def __init__(
        self,
        groups: Sequence[Sequence[Path]],
        tokenizer: Path,
        output: Path,
        work: Path,
        settings: Shards,
        sources: list[str],
    ) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        self.tokenizer = tokenizer
        self.output = output
        self.counts = work / "counts"
        self.tallies = work / "tallies"
        self.settings = settings
        self.sources = sources

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        tokenizer = _loaded(self.tokenizer)
        arguments = (tokenizer, self.sources, self.settings.shard_bytes, rank)
        train, held_out = (ShardWriter(self.output, split, *arguments) for split in SPLITS)
        done = 0.0
        for path in self.groups[rank]:
            for batch in read_batches(path, READ):
                for is_held_out, document in tokenised(batch, tokenizer, self.settings.loss_on):
                    (held_out if is_held_out else train).write(document)
                    done += document.n_bytes / 1e6
                count(self.counts, rank, done)
        tally: dict[str, Any] = {"largest_id": max(train.largest_id, held_out.largest_id)}
        for split, writer in zip(SPLITS, (train, held_out), strict=True):
            writer.close()
            tally[split] = writer.counts()
        # In place of waiting for the disk, 15 ms a file: the store syncs all files at the end, and what a power cut
        # took from one before that is known by its size.
        tally["sizes"] = {path.name: path.stat().st_size for path in self.output.glob(f"*-{rank:05d}-*.arrow")}
        self.tallies.mkdir(parents=True, exist_ok=True)
        replace_file(self.tallies / f"{rank:05d}.json", json.dumps(tally))
        yield from ()


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> Tokenizer:
    """Once for all tasks of a worker: cl100k_base takes 0.35 s to load, in which 6 MB are tokenised.

    An artefact's folder never holds another tokenizer later.
    """
    return Tokenizer.load(folder)


def tokenised(batch: pa.RecordBatch, tokenizer: Tokenizer, loss_on: str) -> Iterator[tuple[bool, TokenDocument]]:
    """The documents of a batch in order, as ids, and whether each is held out."""
    turns = batch["turns"]
    flat = turns.flatten()
    roles, contents = flat.field("role").to_pylist(), flat.field("content").to_pylist()
    ends = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    bytes_before = np.concatenate([[0], np.cumsum(pc.binary_length(flat.field("content")).to_numpy())])
    n_bytes = np.diff(bytes_before[ends]).tolist()
    held_out = [split == HELD_OUT for split in batch["split"].to_pylist()]
    columns = (batch["doc_id"].to_pylist(), batch["source"].to_pylist(), n_bytes, held_out)
    for (begin, end), doc_id, source, size, is_held_out in zip(pairwise(ends.tolist()), *columns, strict=True):
        if roles[begin] == "text":
            ids, spans = render_text(tokenizer, contents[begin])
        else:
            spoken = [Turn(role, content) for role, content in zip(roles[begin:end], contents[begin:end], strict=True)]
            ids, spans = render_document(tokenizer, spoken, loss_on)
        yield is_held_out, TokenDocument(doc_id, source, ids, spans, size)
