"""Bits per byte of held-out text: the model's, and those of two yardsticks on the same bytes."""

import lzma
import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from parakeet.data.tokens.loader import place_rows
from parakeet.data.tokens.packing import pack
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.model.loss import token_losses
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer

TOKENS_PER_BATCH = 8192


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
    content = read_whole(shards, documents)
    content = content[~is_control(tokenizer)[content]]
    text = b"".join(map(tokenizer.token_bytes, content.tolist()))
    bits = _model_bits(model, tokenizer, shards, documents, row_tokens, progress)
    if not math.isfinite(bits):
        raise ParakeetError("The model's held-out loss is not finite: its weights are unusable.")
    return BitsPerByte(
        documents=len(documents),
        n_bytes=len(text),
        model=bits / len(text),
        unigram=float(unigram[content].sum()) / len(text),
        xz=8 * len(lzma.compress(text, preset=9)) / len(text),
    )


def read_whole(shards: TokenShards, documents: list[int]) -> np.ndarray:
    """Ids (n,) uint32 of some documents, one after the other; ParakeetError where one is beyond the vocabulary."""
    numbers = np.array(documents, np.int64)
    return shards.read(numbers, np.zeros_like(numbers), shards.lengths()[numbers])


def unigram_bits(tokenizer: Tokenizer, shards: TokenShards) -> np.ndarray:
    """(rows,) −log2 p of each ordinary id in `shards`, add-one smoothed; control ids have no part in it."""
    counts = shards.id_counts()
    ordinary = np.array(tokenizer.defined_ids())
    smoothed = np.zeros(tokenizer.rows)
    smoothed[ordinary] = counts[ordinary] + 1.0
    with np.errstate(divide="ignore"):
        return -np.log2(smoothed / smoothed.sum())


@torch.no_grad()
def _model_bits(
    model: Parakeet,
    tokenizer: Tokenizer,
    shards: TokenShards,
    documents: list[int],
    row_tokens: int,
    progress: Progress,
) -> float:
    """Bits of all content tokens, each predicted from what precedes it in its row's document."""
    numbers = np.array(documents, np.int64)
    rows = pack(shards.lengths()[numbers], row_tokens)
    rows = replace(rows, document=numbers[rows.document])
    control = is_control(tokenizer)
    step = rows_per_batch(row_tokens)
    nats = 0.0
    with progress.task("held-out bits per byte", len(rows), "rows") as task:
        for begin in range(0, len(rows), step):
            some = rows.take(np.arange(begin, min(begin + step, len(rows))))
            placed = place_rows(shards, some, row_tokens, tokenizer.padding)
            counted = (placed.documents >= 0) & ~control[placed.following]
            nats += float(content_nats(model, placed.inputs, placed.following, placed.documents, counted).sum())
            task.advance(len(some))
    return nats / math.log(2)


def rows_per_batch(row_tokens: int) -> int:
    """Long rows go one by one: the memory of a batch stays the same up to TOKENS_PER_BATCH, and linear beyond."""
    return max(1, TOKENS_PER_BATCH // row_tokens)


def content_nats(
    model: Parakeet, inputs: np.ndarray, targets: np.ndarray, documents: np.ndarray, counted: np.ndarray
) -> np.ndarray:
    """−log p in nats (n,) float64 of the targets where `counted` is true, in their order; all (rows, row_tokens)."""
    device = model.embedding.weight.device
    hidden = model(torch.from_numpy(inputs).to(device), torch.from_numpy(documents).to(device))
    where = torch.from_numpy(counted).to(device)
    losses = token_losses(hidden[where], model.embedding.weight, torch.from_numpy(targets).to(device)[where])
    return losses.double().cpu().numpy()


def is_control(tokenizer: Tokenizer) -> np.ndarray:
    """(rows,) whether an id is a control token, which is no content."""
    controls = np.zeros(tokenizer.rows, np.bool_)
    controls[list(tokenizer.control_ids)] = True
    return controls
