"""Bits per byte of held-out text: the model's, and those of two yardsticks on the same bytes."""

import lzma
import math
from dataclasses import dataclass

import numpy as np
import torch

from parakeet.data.packing import Piece, pack
from parakeet.data.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.model.loss import token_losses
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer

ROWS_PER_BATCH = 8


@dataclass(frozen=True)
class BitsPerByte:
    """Bits a byte of content (roles and ends count neither as bits nor as bytes); lower is better."""

    documents: int
    n_bytes: int
    model: float
    unigram: float
    xz: float


def choose_documents(shards: TokenShards, source: int, max_bytes: int) -> list[int]:
    """Documents of one source, in file order, up to about `max_bytes` of content."""
    numbers = np.flatnonzero(shards.sources() == source)
    before = np.cumsum(shards.n_bytes()[numbers]) - shards.n_bytes()[numbers]
    chosen: list[int] = numbers[before < max_bytes].tolist()
    return chosen


def measure(
    model: Parakeet,
    tokenizer: Tokenizer,
    shards: TokenShards,
    documents: list[int],
    unigram: np.ndarray,
    row_tokens: int,
    progress: Progress,
) -> BitsPerByte:
    """Measure some documents of `shards`. `unigram` (rows,) holds −log2 p of every id.

    bits = Σ −log2 p(content token), bytes = UTF-8 bytes of the content.
    """
    controls = np.array(sorted(tokenizer.control_ids), np.int64)
    tokens = [np.asarray(shards.tokens(number), np.int64) for number in documents]
    content = [ids[~np.isin(ids, controls)] for ids in tokens]
    text = b"".join(tokenizer.token_bytes(token_id) for ids in content for token_id in ids.tolist())
    bits = _model_bits(model, tokens, controls, row_tokens, progress) / math.log(2)
    if not math.isfinite(bits):
        raise ParakeetError("The model's held-out loss is not finite: its weights are unusable.")
    return BitsPerByte(
        documents=len(documents),
        n_bytes=len(text),
        model=bits / len(text),
        unigram=float(sum(unigram[ids].sum() for ids in content)) / len(text),
        xz=8 * len(lzma.compress(text, preset=9)) / len(text),
    )


def unigram_bits(tokenizer: Tokenizer, shards: TokenShards) -> np.ndarray:
    """(rows,) −log2 p of each ordinary id in `shards`, add-one smoothed; control ids have no part in it."""
    counts = np.zeros(tokenizer.rows, np.int64)
    for number in range(len(shards)):
        np.add.at(counts, shards.tokens(number), 1)
    ordinary = np.array(tokenizer.defined_ids())
    smoothed = np.zeros(tokenizer.rows)
    smoothed[ordinary] = counts[ordinary] + 1.0
    with np.errstate(divide="ignore"):
        return -np.log2(smoothed / smoothed.sum())


@torch.no_grad()
def _model_bits(
    model: Parakeet, tokens: list[np.ndarray], controls: np.ndarray, row_tokens: int, progress: Progress
) -> float:
    """Nats of all content tokens, each predicted from what precedes it in its row's document."""
    rows = pack(np.array([len(ids) for ids in tokens]), row_tokens)
    nats = 0.0
    with progress.task("held-out bits per byte", len(rows), "rows") as task:
        for begin in range(0, len(rows), ROWS_PER_BATCH):
            batch = rows[begin : begin + ROWS_PER_BATCH]
            nats += _batch_nats(model, tokens, batch, controls, row_tokens)
            task.advance(len(batch))
    return nats


def _batch_nats(
    model: Parakeet, tokens: list[np.ndarray], rows: list[list[Piece]], controls: np.ndarray, row_tokens: int
) -> float:
    inputs = np.zeros((len(rows), row_tokens), np.int64)
    targets = np.zeros_like(inputs)
    documents = np.full_like(inputs, -1)
    for index, row in enumerate(rows):
        begin = 0
        for number, piece in enumerate(row):
            ids = tokens[piece.document][piece.start : piece.start + piece.length]
            end = begin + piece.slots
            inputs[index, begin:end], targets[index, begin:end] = ids[:-1], ids[1:]
            documents[index, begin:end] = number
            begin = end
    device = model.embedding.weight.device
    hidden = model(torch.from_numpy(inputs).to(device), torch.from_numpy(documents).to(device))
    counted = (documents >= 0) & ~np.isin(targets, controls)
    where = torch.from_numpy(counted).to(device)
    losses = token_losses(hidden[where], model.embedding.weight, torch.from_numpy(targets).to(device)[where])
    return float(losses.double().sum())
