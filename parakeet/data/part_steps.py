"""The datatrove steps that read and write the Parquet parts of documents. Only stage functions reach this module."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep

from parakeet.data.documents import DocumentWriter, read_identified
from parakeet.data.tasks import count

MB = 1_000_000
COUNT_BYTES = MB


class ReadPart(PipelineStep):
    """The documents of a task's parts, `groups[task]`, in order.

    Each item's metadata is {"document": Document, "doc_id": bytes}. `counts/<task>` says how many megabytes of content
    were read, for `watch`: documents are too unlike each other to tell how much is left.
    """

    name = "Read parts"
    type = "Reader"

    def __init__(self, groups: Sequence[Sequence[Path]], counts: Path) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        self.counts = counts

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        number = n_bytes = told = 0
        for path in self.groups[rank]:
            for doc_id, document in read_identified(path):
                number += 1
                n_bytes += document.n_bytes
                yield Item(document.content, str(number), metadata={"document": document, "doc_id": doc_id})
                if n_bytes - told >= COUNT_BYTES:
                    count(self.counts, rank, n_bytes / MB)
                    told = n_bytes
        count(self.counts, rank, n_bytes / MB)


class WriteDocuments(PipelineStep):
    """Writes each task's documents to parts in `folder/<task>`, over what an interrupted try left there."""

    name = "Write documents"
    type = "Writer"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterator[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        with DocumentWriter(self.folder / f"{rank:05d}") as writer:
            for item in data:
                writer.write(item.metadata["document"], item.metadata.get("doc_id"))
                yield item
