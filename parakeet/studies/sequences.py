"""Sequences of text as training has them, and a model's bits for each. Imports torch: only measures at work use it."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from parakeet.data.tokens.loader import read_batch
from parakeet.data.tokens.packing import PackedSequences, pack
from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.base import Subject
from parakeet.evaluation.scoring import byte_lengths, check_finite, content_nats, is_control, sequences_per_batch


def packed_documents(shards: TokenShards, documents: np.ndarray, length: int) -> PackedSequences:
    """Some documents (numbers in the shards) in sequences of `length` tokens."""
    packed = pack(shards.lengths()[documents], length)
    return replace(packed, document=documents[packed.document])


def bits_by_sequence(
    subject: Subject, shards: TokenShards, sequences: PackedSequences, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The model's bits and the bytes of each sequence, both (sequences,) float64, of what the recipe trains on.

    ParakeetError if a loss is not finite.
    """
    control = is_control(subject.tokenizer)
    bits, n_bytes = np.zeros(len(sequences)), np.zeros(len(sequences))
    step = sequences_per_batch(length)
    for begin in range(0, len(sequences), step):
        numbers = np.arange(begin, min(begin + step, len(sequences)))
        batch = read_batch(shards, sequences.take(numbers), length, subject.tokenizer.padding)
        counted = ~control[batch.targets]  # (sequences of the batch, length); padding is a control token too
        nats = content_nats(subject.model, batch.inputs, batch.targets, batch.documents, counted)
        owners = numbers[np.nonzero(counted)[0]]
        np.add.at(bits, owners, nats / math.log(2))
        np.add.at(n_bytes, owners, byte_lengths(subject.tokenizer, batch.targets[counted]))
    check_finite(bits)
    return bits, n_bytes


@torch.no_grad()
def last_hidden(subject: Subject, shards: TokenShards, sequences: PackedSequences, length: int) -> Tensor:
    """Last hidden states (n, width) of all positions with a token. All sequences are one batch."""
    batch = read_batch(shards, sequences, length, subject.tokenizer.padding)
    device = subject.model.embedding.weight.device
    inputs, pieces = (torch.from_numpy(array).to(device) for array in (batch.inputs, batch.documents))
    return subject.model(inputs, pieces)[pieces >= 0].cpu()
