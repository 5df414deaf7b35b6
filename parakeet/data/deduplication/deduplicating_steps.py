"""The datatrove step that lets through what deduplication keeps. Only the stage function reaches this module."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep

from parakeet.artifact import replace_file
from parakeet.data.deduplication.exchanges import exchanges_of, without_exchanges
from parakeet.data.documents import Document

EXCERPT_CHARACTERS = 300


class MarkKept(PipelineStep):
    """The documents that `marks/<task>.npz` keeps, with `metadata["held_out"]`; where it `cuts`, without the exchanges
    that it removes.

    `told/<task>.json` then holds beginnings of the documents it is to show, and what was cut.
    """

    name = "Mark what is kept"
    type = "Filter"

    def __init__(self, marks: Path, told: Path, cuts: bool) -> None:
        super().__init__()
        self.marks = marks
        self.told = told
        self.cuts = cuts

    def run(self, data: Iterator[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        marks = np.load(self.marks / f"{rank:05d}.npz")
        kept, held_out, removed = marks["kept"], marks["held_out"], marks["removed"].tolist()
        shown = set(marks["shown"].tolist())
        beginnings: dict[str, dict[str, Any]] = {}
        cut, emptied, at = 0, Counter[str](), 0
        for row, item in enumerate(data):
            document: Document | None = item.metadata["document"]
            assert document is not None
            if row in shown:
                beginnings[str(row)] = _beginning(document)
            if not kept[row]:
                continue
            source, doc_id = document.source, item.metadata["doc_id"]
            if self.cuts:
                mine = removed[at : at + len(exchanges_of(document))]
                at += len(mine)
                if any(mine):
                    cut += sum(mine)
                    document, doc_id = without_exchanges(document, mine), None
            if document is None:
                emptied[source] += 1
                continue
            document = replace(document, metadata={**document.metadata, "held_out": bool(held_out[row])})
            yield Item(item.text, item.id, metadata={"document": document, "doc_id": doc_id})
        self.told.mkdir(parents=True, exist_ok=True)
        told = {"beginnings": beginnings, "exchanges_cut": cut, "emptied": emptied}
        replace_file(self.told / f"{rank:05d}.json", json.dumps(told))


def _beginning(document: Document) -> dict[str, Any]:
    where: dict[str, Any] = {key: document.metadata[key] for key in ("file", "row") if key in document.metadata}
    return {"text": document.content[:EXCERPT_CHARACTERS], **where}
