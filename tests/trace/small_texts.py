"""Small training texts as token shards with a trace index."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Store, Work
from parakeet.conversation import Turn
from parakeet.data.documents import Document, DocumentWriter
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.model.config import CONFIG_FILE, WEIGHTS_FILE
from parakeet.progress import Progress
from parakeet.release.verify import GENERATION_FILE, TRAINING_MANIFEST_FILE, write_json, write_sums
from parakeet.template import render_document
from parakeet.tokenizer import Tokenizer
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex

Turns = str | Sequence[tuple[str, str]]
"""A plain document, or the (role, content) of a conversation's turns."""


@dataclass(frozen=True)
class Corpus:
    tokenizer: Tokenizer
    train: list[list[int]]
    """The ids of each document."""
    train_text: str
    """The same as one string; see `as_text`."""
    index: TraceIndex
    held_out: TokenShards


def write_split(folder: Path, split: str, tokenizer: Tokenizer, documents: Sequence[Turns]) -> list[list[int]]:
    """Write the shards of a split; returns the ids of each document. Of a conversation, the Assistant is learnt."""
    writer = ShardWriter(folder, split, tokenizer, ["fables", "talk"], 1 << 20)
    written = []
    for document in documents:
        plain = isinstance(document, str)
        turns = [Turn("text", document)] if isinstance(document, str) else [Turn(*turn) for turn in document]
        ids, spans = render_document(tokenizer, turns, "all" if plain else "assistant")
        doc_id = Document("fables", "", tuple(turns)).doc_id
        n_bytes = sum(len(turn.content.encode()) for turn in turns)
        writer.write(TokenDocument(doc_id, "fables" if plain else "talk", ids, spans, n_bytes))
        written.append(ids.tolist())
    writer.close()
    return written


def write_corpus(
    folder: Path, tokenizer: Tokenizer, train: Sequence[Turns], held_out: Sequence[Turns], shard_tokens: int = 1 << 26
) -> Corpus:
    shards, index = folder / "token_shards", folder / "trace_index"
    shards.mkdir(parents=True)
    index.mkdir()
    ids = write_split(shards, "train", tokenizer, train)
    write_split(shards, "held_out", tokenizer, held_out)
    build_index(
        TokenShards(shards, "train", tokenizer),
        tokenizer.sha256,
        "c" * 64,
        index,
        Progress(),
        shard_tokens=shard_tokens,
    )
    return Corpus(tokenizer, ids, as_text(ids), TraceIndex.open(index), TokenShards(shards, "held_out", tokenizer))


def as_text(documents: Sequence[Sequence[int]]) -> str:
    """Documents as one string, a character for each id, so that Python's own search looks through them."""
    return "\U0010ffff".join("".join(map(chr, ids)) for ids in documents)


def stands_in(piece: Sequence[int], text: str) -> int:
    """How often a piece stands in the text of `as_text`; places may overlap."""
    wanted = as_text([piece])
    return sum(text.startswith(wanted, start) for start in range(len(text)))


def longest_match(ids: Sequence[int], text: str) -> int:
    """The length of the longest beginning of `ids` that stands within a document."""
    wanted, longest = as_text([ids]), 0
    while longest < len(ids) and wanted[: longest + 1] in text:
        longest += 1
    return longest


def write_store(root: Path, tokenizer: Tokenizer, train: Sequence[Turns], held_out: Sequence[Turns]) -> Path:
    """Token shards, their trace index, and a release that was trained on them: the folder of the release."""
    store, progress = Store(root), Progress()

    def documents(folder: Path, progress: Progress) -> dict[str, Any]:
        with DocumentWriter(folder) as writer:
            for row, text in enumerate(train):
                turns = (Turn("text", text),) if isinstance(text, str) else tuple(Turn(*turn) for turn in text)
                writer.write(Document("fables", "", turns, {"file": "fables.txt", "row": row}, split="train"))
        return {}

    read, _ = store.ensure(Work("deduplicated_documents", 1, {}), documents, progress)

    def shards(folder: Path, progress: Progress) -> dict[str, Any]:
        write_split(folder, "train", tokenizer, train)
        write_split(folder, "held_out", tokenizer, held_out)
        return {"tokenizer_sha256": tokenizer.sha256}

    made, _ = store.ensure(Work("token_shards", 1, {}, {"deduplicated_documents": read}), shards, progress)

    def index(folder: Path, progress: Progress) -> dict[str, Any]:
        return build_index(TokenShards(made.path, "train", tokenizer), tokenizer.sha256, made.content, folder, progress)

    store.ensure(Work("trace_index", 1, {}, {"token_shards": made}), index, progress)

    def release(folder: Path, progress: Progress) -> dict[str, Any]:
        # A trace reads no weights: their file only has to be the one that SHA256SUMS names.
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (folder / name).write_text(f"{name} of a model", encoding="utf-8")
        tokenizer.save(folder)
        write_json(folder / GENERATION_FILE, {"name": "aesop"})
        record_training(folder, made.content)
        write_sums(folder)
        return {"name": "aesop", "parameters": 7}

    return store.ensure(Work("release", 1, {}, {"token_shards": made}, folder="releases"), release, progress)[0].path


def record_training(release: Path, shards_content: str) -> None:
    """Let a release say what it was trained on."""
    shards = {"content": shards_content}
    write_json(release / TRAINING_MANIFEST_FILE, {"recipe": {"name": "fables"}, "stages": {"token_shards": shards}})
