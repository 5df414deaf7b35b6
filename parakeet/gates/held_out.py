"""The text on which two releases are compared: documents that neither of them was trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.artifact import Store
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.scoring import choose_documents
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.template import read_document, render_document
from parakeet.tokenizer import Tokenizer

SHARD_BYTES = 384 << 20


@dataclass(frozen=True)
class Trained:
    """A release as it was trained: its tokenizer, its recipe's settings, and its token shards if they are still there.

    `measured`: whether its own evaluation could measure held-out text.
    """

    folder: Path
    tokenizer: Tokenizer
    shards: Path | None
    sequence_length: int
    loss_on: str
    metrics: Mapping[str, Any]
    """The version of each metric that its evaluation had."""

    @classmethod
    def read(cls, root: Path, folder: Path) -> "Trained":
        """ParakeetError if its lineage cannot be read."""
        path = folder / TRAINING_MANIFEST_FILE
        try:
            lineage = json.loads(path.read_text(encoding="utf-8"))
            recipe, stages = lineage["recipe"], lineage["stages"]
            packing = recipe["packing"]
            there = Store(root).artifacts("token_shards", content=stages["token_shards"]["content"])
            return cls(
                folder,
                Tokenizer.load(folder),
                there[-1].path if there else None,
                # Releases of Parakeet 0.1 have the old name.
                int(packing.get("sequence_length") or packing["row_tokens"]),
                str(recipe["shards"]["loss_on"]),
                {"stage": stages["evaluation"]["version"], **stages["evaluation"]["settings"].get("metrics", {})},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParakeetError(f"{path} cannot be read ({error!r}).") from None


@dataclass(frozen=True)
class Text:
    """Held-out documents as ids of one tokenizer: token shards, and the numbers of some of their documents."""

    shards: TokenShards
    documents: Sequence[int]
    sources: Sequence[str]
    """The source of each."""
    of: str
    """Whose held-out documents they are: the folder's name."""


def common_text(candidate: Trained, incumbent: Trained, max_bytes: int, fewest: int) -> Text | None:
    """The incumbent's held-out documents that the candidate was not trained on, up to about `max_bytes` of a source.

    With fewer than `fewest` of them, or without the incumbent's shards, the candidate's own, if they are more. What is
    held out is decided by a hash of the text, so they were held out from the incumbent too, where it had them; where
    its shards are there, that is made sure. None if there is no document.
    """
    found = _held_out_from(incumbent, candidate, max_bytes)
    if found is None or len(found.documents) < fewest:
        other = _held_out_from(candidate, incumbent, max_bytes)
        if other is not None and (found is None or len(other.documents) > len(found.documents)):
            return other
    return found


def _held_out_from(owner: Trained, other: Trained, max_bytes: int) -> Text | None:
    if owner.shards is None:
        return None
    held_out = TokenShards(owner.shards, "held_out", owner.tokenizer)
    unread = np.ones(len(held_out), np.bool_)
    if other.shards is not None:
        # (documents,): half of an id of 16 bytes tells documents apart.
        read = TokenShards(other.shards, "train").doc_ids()[:, 1]
        unread = ~np.isin(held_out.doc_ids()[:, 1], read)
    chosen = {name: choose_documents(held_out, number, max_bytes, unread) for number, name in enumerate(held_out.names)}
    documents = [number for numbers in chosen.values() for number in numbers]
    sources = [name for name, numbers in chosen.items() for _ in numbers]
    return Text(held_out, documents, sources, owner.folder.name) if documents else None


def rendered_for(text: Text, made_with: Tokenizer, tokenizer: Tokenizer, loss_on: str, folder: Path) -> Text:
    """The same documents in the same order as ids of another tokenizer, in token shards in `folder`.

    With `loss_on` "assistant", only replies count in conversations.
    """
    folder.mkdir(parents=True)
    writer = ShardWriter(folder, "held_out", tokenizer, sorted(set(text.sources)), SHARD_BYTES)
    for number, source in zip(text.documents, text.sources, strict=True):
        turns = read_document(made_with, text.shards.tokens(number).tolist())
        ids, spans = render_document(tokenizer, turns, loss_on)
        n_bytes = sum(len(turn.content.encode()) for turn in turns)
        writer.write(TokenDocument(text.shards.doc_id(number), source, ids, spans, n_bytes))
    writer.close()
    return Text(TokenShards(folder, "held_out", tokenizer), range(len(text.documents)), text.sources, text.of)
