"""What metrics of held-out text share: documents, tokens, and the model's bits for them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from parakeet.data.tokens.loader import read_batch
from parakeet.data.tokens.packing import pack
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.base import Subject
from parakeet.model.loss import token_losses, token_scores
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer

TOKENS_PER_BATCH = 8192


def choose_documents(shards: TokenShards, source: int, max_bytes: int, among: np.ndarray | None = None) -> list[int]:
    """Documents of one source, in file order, up to about `max_bytes` of content; only `among` (documents,) bool."""
    wanted = shards.sources() == source
    numbers = np.flatnonzero(wanted if among is None else wanted & among)
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


@dataclass(frozen=True)
class DocumentBits:
    """Bits of the content tokens that the recipe trains on: in all, and with their bytes by document (documents,)."""

    total: float
    bits: np.ndarray
    n_bytes: np.ndarray


def document_bits(subject: Subject, documents: Sequence[int]) -> DocumentBits:
    """`bits_of` the held-out documents of an evaluation, in pieces of the training's first sequence length."""
    length = subject.recipe.packing.sequence_length
    return bits_of(subject.model, subject.tokenizer, subject.held_out, documents, length, subject.progress)


def bits_of(
    model: Parakeet,
    tokenizer: Tokenizer,
    shards: TokenShards,
    documents: Sequence[int],
    sequence_length: int,
    progress: Progress,
    doing: str = "held-out bits per byte",
) -> DocumentBits:
    """The model's bits for some documents, each token predicted from what precedes it in its piece.

    `doing` names the task in the progress. ParakeetError if they are not finite.
    """
    numbers = np.array(documents, np.int64)
    packed = pack(shards.lengths()[numbers], sequence_length)
    packed = replace(packed, document=numbers[packed.document])
    control, padding = is_control(tokenizer), tokenizer.padding
    # (largest number + 1,): sums by the number of a document in the shards
    nats_of, bytes_of = np.zeros(numbers.max() + 1), np.zeros(numbers.max() + 1, np.int64)
    step = sequences_per_batch(sequence_length)
    nats = 0.0
    with progress.task(doing, len(packed), "sequences") as task:
        for begin in range(0, len(packed), step):
            some = packed.take(np.arange(begin, min(begin + step, len(packed))))
            # inputs, targets and documents: (sequences of the batch, sequence_length)
            batch = read_batch(shards, some, sequence_length, padding)
            counted = ~control[batch.targets]  # padding, which marks what is not learnt, is a control token too
            losses = content_nats(model, batch.inputs, batch.targets, batch.documents, counted)
            # A sequence counts its pieces from 0, and the members are those of one sequence after the other.
            pieces = batch.documents + some.offsets[:-1, None]
            owners = np.array(batch.members)[pieces[counted]]
            np.add.at(nats_of, owners, losses)
            np.add.at(bytes_of, owners, byte_lengths(tokenizer, batch.targets[counted]))
            nats += float(losses.sum())
            task.advance(len(some))
    check_finite(nats_of)
    return DocumentBits(nats / math.log(2), nats_of[numbers] / math.log(2), bytes_of[numbers])


def byte_lengths(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """UTF-8 bytes of each id, 0 for control tokens, in the shape of `ids`."""
    distinct, places = np.unique(ids, return_inverse=True)
    lengths = np.array([len(tokenizer.token_bytes(token_id)) for token_id in distinct.tolist()], np.int64)
    return lengths[places].reshape(ids.shape)


def check_finite(losses: np.ndarray) -> None:
    """Raise ParakeetError unless all losses are finite numbers: a figure made of others would look like one."""
    if not np.isfinite(losses).all():
        raise ParakeetError(
            "The model's loss on held-out text is not finite: its weights are unusable, so nothing is measured. "
            "Check them with: parakeet verify. To train again, run the same build with: --force checkpoint"
        )


def opening(subject: Subject) -> list[int]:
    """The ids that a text of its own begins with: those of a plain document, or of a reply if only chats are held out.

    A model that has only seen chats has never seen the beginning of a plain document.
    """
    tokenizer, shards = subject.tokenizer, subject.held_out
    chosen = [number for documents in subject.documents.values() for number in documents]
    plain = any(int(shards.tokens(number)[0]) == tokenizer.end_of_text for number in chosen)
    return [tokenizer.end_of_text] if plain or not chosen else [tokenizer.role_id("Assistant")]


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


class TokenScores(NamedTuple):
    """For each id after the first of a sequence, (ids − 1,): −log p in nats, float64, and whether no other id is as
    likely."""

    nats: np.ndarray
    likeliest: np.ndarray


def score_sequences(
    model: Parakeet, sequences: Sequence[Sequence[int]], advance: Callable[[int], None] | None = None
) -> list[TokenScores]:
    """The scores of each sequence of two ids or more. Raises ParakeetError if a loss is not finite.

    Calls `advance` with the number of sequences that were scored since.
    """
    found = [TokenScores(np.zeros(0), np.zeros(0, np.bool_))] * len(sequences)
    for numbers, hidden, targets in _hidden(model, sequences):
        losses, best = token_scores(hidden, model.embedding.weight, targets)
        nats, likeliest = losses.double().cpu().numpy(), best.cpu().numpy()
        check_finite(nats)
        ends = np.cumsum([len(sequences[number]) - 1 for number in numbers])[:-1]
        for number, *scores in zip(numbers, np.split(nats, ends), np.split(likeliest, ends), strict=True):
            found[number] = TokenScores(*scores)
        if advance is not None:
            advance(len(numbers))
    return found


@torch.no_grad()
def _hidden(model: Parakeet, sequences: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Final hidden states (n, width) before each id after the first, and these ids (n,), for some sequences at a time.

    The list has the numbers of the sequences, in the order of their rows.
    """
    device = model.embedding.weight.device
    # Longest first, so that the first batch shows whether the memory suffices.
    waiting = sorted(range(len(sequences)), key=lambda number: -len(sequences[number]))
    while waiting:
        longest = len(sequences[waiting[0]]) - 1
        step = sequences_per_batch(longest)
        numbers, waiting = waiting[:step], waiting[step:]
        lengths = torch.tensor([len(sequences[number]) - 1 for number in numbers])
        used = torch.arange(longest) < lengths[:, None]  # (sequences, longest)
        ids = torch.zeros(len(numbers), longest + 1, dtype=torch.int64)
        for row, number in enumerate(numbers):
            ids[row, : len(sequences[number])] = torch.tensor(sequences[number])
        documents = torch.where(used, 0, -1)
        hidden = model(ids[:, :-1].to(device), documents.to(device))  # (sequences, longest, width)
        yield numbers, hidden[used.to(device)], ids[:, 1:][used].to(device)
