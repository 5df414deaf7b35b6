"""What metrics of held-out text share: documents, tokens, and the model's bits for them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from parakeet.data.tokens.loader import read_batch
from parakeet.data.tokens.packing import pack
from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.base import Subject
from parakeet.model.loss import token_losses
from parakeet.model.transformer import Parakeet
from parakeet.tokenizer import Tokenizer

TOKENS_PER_BATCH = 8192


def choose_documents(shards: TokenShards, source: int, max_bytes: int) -> list[int]:
    """Documents of one source, in file order, up to about `max_bytes` of content."""
    numbers = np.flatnonzero(shards.sources() == source)
    before = np.cumsum(shards.n_bytes()[numbers]) - shards.n_bytes()[numbers]
    chosen: list[int] = numbers[before < max_bytes].tolist()
    return chosen


def read_whole(shards: TokenShards, documents: Sequence[int]) -> np.ndarray:
    """Ids (n,) uint32 of some documents, one after the other; ParakeetError if an id is beyond the vocabulary."""
    numbers = np.array(documents, np.int64)
    return shards.read(numbers, np.zeros_like(numbers), shards.lengths()[numbers])


def read_learned(shards: TokenShards, documents: Sequence[int]) -> np.ndarray:
    """Ids (n,) uint32 of what a recipe trains on in some documents: all of them, or their loss spans."""
    numbers = np.array(documents, np.int64)
    whole = shards.all_targets(numbers)
    if whole.all():
        return read_whole(shards, documents)
    counts, bounds = shards.spans(numbers[~whole])
    starts = np.concatenate([np.zeros(whole.sum(), np.int64), bounds[:, 0]])
    lengths = np.concatenate([shards.lengths()[numbers[whole]], bounds[:, 1] - bounds[:, 0]])
    return shards.read(np.concatenate([numbers[whole], np.repeat(numbers[~whole], counts)]), starts, lengths)


def is_control(tokenizer: Tokenizer) -> np.ndarray:
    """(vocabulary rows,) whether an id is a control token, which is not content."""
    controls = np.zeros(tokenizer.rows, np.bool_)
    controls[list(tokenizer.control_ids)] = True
    return controls


def unigram_bits(tokenizer: Tokenizer, shards: TokenShards) -> np.ndarray:
    """(vocabulary rows,) −log2 p of each ordinary id in `shards`, add-one smoothed; control ids are left out."""
    counts = shards.id_counts()
    ordinary = np.array(tokenizer.defined_ids())
    smoothed = np.zeros(tokenizer.rows)
    smoothed[ordinary] = counts[ordinary] + 1.0
    with np.errstate(divide="ignore"):
        return -np.log2(smoothed / smoothed.sum())


def model_bits(subject: Subject, documents: Sequence[int]) -> float:
    """Bits of the content tokens that the recipe trains on, each predicted from what precedes it in its piece."""
    sequence_length = subject.recipe.packing.sequence_length
    numbers = np.array(documents, np.int64)
    packed = pack(subject.held_out.lengths()[numbers], sequence_length)
    packed = replace(packed, document=numbers[packed.document])
    control, padding = is_control(subject.tokenizer), subject.tokenizer.padding
    step = sequences_per_batch(sequence_length)
    nats = 0.0
    with subject.progress.task("held-out bits per byte", len(packed), "sequences") as task:
        for begin in range(0, len(packed), step):
            some = packed.take(np.arange(begin, min(begin + step, len(packed))))
            # inputs, targets and documents: (sequences of the batch, sequence_length)
            batch = read_batch(subject.held_out, some, sequence_length, padding)
            counted = ~control[batch.targets]  # padding, which marks what is not learnt, is a control token too
            nats += float(content_nats(subject.model, batch.inputs, batch.targets, batch.documents, counted).sum())
            task.advance(len(some))
    return nats / math.log(2)


def sequences_per_batch(sequence_length: int) -> int:
    """As many as TOKENS_PER_BATCH holds, and at least one."""
    return max(1, TOKENS_PER_BATCH // sequence_length)


@torch.no_grad()
def content_nats(
    model: Parakeet, inputs: np.ndarray, targets: np.ndarray, documents: np.ndarray, counted: np.ndarray
) -> np.ndarray:
    """−log p in nats (n,) float64 of the targets where `counted` is true, in their order.

    All four arrays are (sequences, sequence_length).
    """
    device = model.embedding.weight.device
    # (sequences, sequence_length, width); then only the counted positions, (n, width), meet the vocabulary.
    hidden = model(torch.from_numpy(inputs).to(device), torch.from_numpy(documents).to(device))
    where = torch.from_numpy(counted).to(device)
    losses = token_losses(hidden[where], model.embedding.weight, torch.from_numpy(targets).to(device)[where])
    return losses.double().cpu().numpy()
