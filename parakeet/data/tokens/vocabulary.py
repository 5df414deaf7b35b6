"""Stage `tokenizer`: cl100k_base with Parakeet's control tokens, or a vocabulary made of the training documents."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parakeet.data.documents import HELD_OUT, content_bytes, parts, read_documents
from parakeet.progress import Progress, Task
from parakeet.recipe import Recipe
from parakeet.tokenizer import VOCABULARY_FILE, Tokenizer, cl100k_base, count_words, train_tokenizer

TRAINING_BYTES = 256 << 20
"""The most text to train a vocabulary on. More text hardly changes it, and costs the trainer memory."""


def make_tokenizer(recipe: Recipe, inputs: Mapping[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    if recipe.tokenizer.kind == "cl100k_base":
        tokenizer = cl100k_base(known=output.parent.glob(f"*-*/{VOCABULARY_FILE}"))
    else:
        with progress.task("tokenizer", None, "documents") as task:
            texts = _training_texts(inputs["deduplicated_documents"], task, TRAINING_BYTES)
            make = count_words if recipe.tokenizer.kind == "words" else train_tokenizer
            tokenizer = make(texts, recipe.tokenizer.vocabulary)
    return copy_tokenizer(tokenizer, output)


def copy_tokenizer(tokenizer: Tokenizer, output: Path) -> dict[str, Any]:
    """Save a tokenizer. Returns the counts that the manifest keeps."""
    tokenizer.save(output)
    lengths = Counter(len(tokenizer.token_bytes(token_id)) for token_id in tokenizer.defined_ids())
    return {
        "kind": tokenizer.name,
        "tokens": len(tokenizer.defined_ids()),
        "control_tokens": len(tokenizer.controls),
        "embedding_rows": tokenizer.rows,
        "bytes_per_token": sum(length * count for length, count in lengths.items()) / sum(lengths.values()),
        "sha256": tokenizer.sha256,
    }


def _training_texts(directory: Path, task: Task, most: int) -> Iterator[str]:
    """The training documents' texts; of a larger corpus about `most` bytes, from the documents with the lowest ids.

    Held-out text must not shape the vocabulary, since bits per byte are measured on it. Ids are compared by their
    second half, because the first half decides what is held out.
    """
    paths = parts(directory)
    share = most / max(1, sum(map(content_bytes, paths)))
    for document in read_documents(paths):
        task.advance()
        if document.split != HELD_OUT and int.from_bytes(document.doc_id[8:]) < share * 2**64:
            yield from (turn.content for turn in document.turns)
