"""What the model gives to tokens that it is shown: their bits, and whether each was its first choice."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from parakeet.data.tokens.packing import pieces_of
from parakeet.data.tokens.shards import ranges
from parakeet.evaluation.scoring import check_finite
from parakeet.memorisation.text import Excerpts
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress

TOKENS_PER_BATCH = 2048
"""What a core's cache holds: with 8,192 the demo's model takes a quarter more CPU time (2.6 against 2.0 s)."""
LOGIT_ROWS = 256
"""Rows of logits at a time: 100 MB with cl100k_base's vocabulary."""


def score(
    model: Parakeet,
    allowed: torch.Tensor,
    excerpts: Excerpts,
    sequence_length: int,
    progress: Progress,
    doing: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Bits and first choices of the learned tokens, both (n,): float64, 0 elsewhere; and bool, False elsewhere.

    Each is predicted from the tokens before it in its piece of `sequence_length` tokens, as in training. The first
    choice is the likeliest id that a reply may contain, `allowed` (vocabulary rows,). As long as all first choices are
    right, they are what greedy decoding would write. ParakeetError if the model's output is not finite.
    """
    bits, right = np.zeros(len(excerpts.ids)), np.zeros(len(excerpts.ids), np.bool_)
    device = model.embedding.weight.device
    forbidden = ~allowed.to(device)
    _, start, length = (pieces := pieces_of(excerpts.lengths, sequence_length))
    first = excerpts.begins[pieces[0]] + start  # (pieces,) place of each piece's first token
    with progress.task(doing, int((length - 1).sum()), "tokens") as task:
        for chosen in _batches(length - 1):
            slots = length[chosen] - 1
            width = int(slots.max())
            # rows, columns (slots,): the position of each in the batch. The rest of a row is of no document.
            rows = np.repeat(np.arange(len(chosen)), slots)
            columns = ranges(np.zeros_like(slots), slots)
            places = first[chosen][rows] + columns
            inputs = np.zeros((len(chosen), width), np.int64)
            documents = np.full_like(inputs, -1)
            inputs[rows, columns] = excerpts.ids[places]
            documents[rows, columns] = 0
            wanted = excerpts.learned[places + 1]
            places, rows, columns = places[wanted] + 1, rows[wanted], columns[wanted]
            targets = torch.from_numpy(excerpts.ids[places]).to(device)
            with torch.no_grad():
                hidden = model(torch.from_numpy(inputs).to(device), torch.from_numpy(documents).to(device))
                hidden = hidden[torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)]
                for begin in range(0, len(places), LOGIT_ROWS):
                    span = slice(begin, begin + LOGIT_ROWS)
                    logits = (hidden[span] @ model.embedding.weight.T).float()
                    losses = torch.nn.functional.cross_entropy(logits, targets[span], reduction="none")
                    best = logits.masked_fill_(forbidden, -math.inf).argmax(1)
                    bits[places[span]] = losses.double().cpu().numpy() / math.log(2)
                    right[places[span]] = (best == targets[span]).cpu().numpy()
            task.advance(int(slots.sum()))
    check_finite(bits)
    return bits, right


def _batches(slots: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of pieces with so many slots (pieces,), in batches of pieces of nearly one length."""
    order = np.argsort(-slots, kind="stable")
    begin = 0
    while begin < len(order):
        step = max(1, TOKENS_PER_BATCH // max(1, int(slots[order[begin]])))
        yield order[begin : begin + step]
        begin += step
