"""Tracing in the text that a model was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, Store
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.tokenizer import Tokenizer
from parakeet.trace.index import TraceIndex
from parakeet.trace.spans import DOCUMENTS, MIN_TOKENS, Trace, trace_text
from parakeet.trace.stored import BUILD, index_of_model


@dataclass(frozen=True)
class Tracer:
    """Looks texts up in what one model was trained on."""

    model: str
    """Its name."""
    tokenizer: Tokenizer
    index: TraceIndex
    held_out: TokenShards | None
    """The held-out documents of the same data; None if they are no longer in the store."""

    @classmethod
    def open(cls, model: str, folder: Path, root: Path, tokenizer: Tokenizer) -> "Tracer":
        """For the model in a folder: a release, or a checkpoint of a run.

        Raises ParakeetError, which says what to run, if it has no index, or one of other text or another tokenizer.
        """
        index = index_of_model(folder, root)
        if index.tokenizer_hash != tokenizer.sha256:
            raise ParakeetError(
                f"{index.folder} was made with tokenizer {index.tokenizer_hash}, and {folder} has {tokenizer.sha256}. "
                f"Make the index again with the model's recipe: {BUILD} --force"
            )
        return cls(model, tokenizer, index, _held_out(index, root, tokenizer))

    def trace(self, text: str, min_tokens: int = MIN_TOKENS, documents: int = DOCUMENTS) -> Trace:
        """As `trace_text`."""
        return trace_text(self.index, self.tokenizer, text, min_tokens, documents, self.held_out)

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


def _held_out(index: TraceIndex, root: Path, tokenizer: Tokenizer) -> TokenShards | None:
    for folder in Store(root).directories("token_shards"):
        try:
            artifact = Artifact.open(folder)
        except ParakeetError:
            continue  # not the one that is looked for, or as good as removed
        if artifact.content == index.shards_content:
            return TokenShards(folder, "held_out", tokenizer)
    return None
