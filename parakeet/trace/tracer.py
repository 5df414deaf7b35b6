"""Tracing in the text that a model was trained on."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from parakeet.artifact import Store
from parakeet.data.documents import SCHEMA, parts, read_batches
from parakeet.data.tokens.shards import TokenShards
from parakeet.tokenizer import Tokenizer
from parakeet.trace.index import TraceIndex
from parakeet.trace.spans import DOCUMENTS, MIN_TOKENS, Trace, trace_text
from parakeet.trace.stored import index_of_model


@dataclass(frozen=True)
class Tracer:
    """Looks texts up in what one model was trained on."""

    model: str
    """Its name."""
    tokenizer: Tokenizer
    index: TraceIndex
    held_out: TokenShards | None
    """The held-out documents of the same data; None if they are no longer in the store."""
    documents: Path | None
    """The artefact of the documents, which know where they come from; None likewise."""

    @classmethod
    def open(cls, model: str, folder: Path, root: Path, tokenizer: Tokenizer) -> "Tracer":
        """For the model in a folder: a release, or a checkpoint of a run.

        Raises ParakeetError, which says what to run, if it has no index, or one of other text or another tokenizer.
        """
        index = index_of_model(folder, root, tokenizer.sha256)
        store = Store(root)
        shards = store.artifacts("token_shards", index.shards_content)
        if not shards:
            return cls(model, tokenizer, index, None, None)
        made_from = shards[-1].manifest["inputs"].get("deduplicated_documents")
        documents = store.artifacts("deduplicated_documents", made_from["content"]) if made_from else []
        held_out = TokenShards(shards[-1].path, "held_out", tokenizer)
        return cls(model, tokenizer, index, held_out, documents[-1].path if documents else None)

    def trace(self, text: str, min_tokens: int = MIN_TOKENS, documents: int = DOCUMENTS) -> Trace:
        """As `trace_text`; and each place has its origin, if the documents are still there."""
        trace = trace_text(self.index, self.tokenizer, text, min_tokens, documents, self.held_out)
        if self.documents is None:
            return trace
        origins = _origins(self.documents, {place.doc_id for span in trace.spans for place in span.places})
        # Spans of the same wording share their places.
        shared = {id(span.places): span.places for span in trace.spans}
        places = {
            key: [replace(place, origin=origins.get(place.doc_id, {})) for place in found]
            for key, found in shared.items()
        }
        return replace(trace, spans=[replace(span, places=places[id(span.places)]) for span in trace.spans])

    @property
    def where(self) -> str:
        """What a text is looked up in, for people."""
        return f"the {self.index.tokens:,} tokens that {self.model} was trained on"

    def about(self) -> dict[str, Any]:
        """The same as JSON values."""
        index = self.index
        return {
            "model": self.model,
            "index": {
                "folder": str(index.folder),
                "tokens": index.tokens,
                "documents": index.documents,
                "token_shards": index.shards_content,
                "tokenizer_sha256": index.tokenizer_hash,
            },
        }


def _origins(folder: Path, doc_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """What the documents with these ids tell of where they come from, by id."""
    wanted = pa.array([bytes.fromhex(doc_id) for doc_id in doc_ids], pa.binary(16))
    found: dict[str, dict[str, Any]] = {}
    for part in parts(folder):
        if len(found) == len(wanted):
            break
        # The ids alone first: they are a small part of a file.
        ids = _column(part, "doc_id")
        rows = pc.filter(ids, there := pc.is_in(ids, wanted))
        if len(rows):
            metadata = pc.filter(_column(part, "metadata"), there)
            found |= {
                doc_id.hex(): json.loads(text)
                for doc_id, text in zip(rows.to_pylist(), metadata.to_pylist(), strict=True)
            }
    return found


def _column(part: Path, name: str) -> pa.ChunkedArray:
    return pa.chunked_array([batch.column(name) for batch in read_batches(part, [name])], SCHEMA.field(name).type)
