"""The log-probabilities of many short answers by a Parakeet model.

Answers to the same question share its keys and values: a question is computed once (again after many answers), and its
answers attend to it but not to each other. Questions lie packed in one sequence, so nothing is spent on padding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from parakeet.evaluation.benchmarks.adapter import AnswerScore, Request, TextModel
from parakeet.evaluation.replies import GREEDY
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.attention import Tile, TiledMask
from parakeet.model.loss import token_scores
from parakeet.model.transformer import Parakeet
from parakeet.tokenizer import Tokenizer

TOKENS_PER_PASS = 4096
TILE_ROWS = {"cpu": 64, "cuda": 512}
"""Queries that attend together. Small tiles skip more keys, large ones are fewer calls."""
ANSWERS_TOGETHER = 512
"""Tokens of answers to one question that lie together; further ones repeat the question. All sentences of BLiMP answer
the same empty question, and the cost of a place rises with their length."""

Group = tuple[tuple[int, ...], list[int]]
"""Ids that some requests share, and the numbers of those requests."""


class ModelScorer(TextModel):
    """A model in the precision of its execution, and its tokenizer."""

    def __init__(self, model: Parakeet, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context = model.config.context
        self.start = tokenizer.end_of_text
        self.tokens = 0
        """Tokens computed so far; one that several answers share counts once."""

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    @cached_property
    def _engine(self) -> Engine:
        """By torch, as in the stage `evaluation`: what is recorded must not depend on a C compiler."""
        device = str(self.model.embedding.weight.device)
        return Engine(Decoder(self.model, "fp32", device, compiled=False), self.tokenizer)

    def continue_text(self, ids: Sequence[int], max_tokens: int, stop: Sequence[str], temperature: float) -> str:
        settings = replace(GREEDY, temperature=temperature, max_tokens=max_tokens, stop=tuple(stop), seed=0)
        return "".join(step.text for step in self._engine.generate(ids, settings))

    def score(self, requests: Sequence[Request], advance: Callable[[int], None]) -> list[AnswerScore]:
        shared: dict[tuple[int, ...], list[int]] = {}
        for number, request in enumerate(requests):
            shared.setdefault(request.given, []).append(number)
        scores: list[AnswerScore | None] = [None] * len(requests)
        # The longest first: if memory runs out, it does so at once.
        pieces = (piece for group in shared.items() for piece in _pieces(group, requests))
        groups = sorted(pieces, key=lambda group: -self._length(group, requests))
        begin = 0
        while begin < len(groups):
            end, length = begin, 0
            while end < len(groups) and (
                end == begin or length + self._length(groups[end], requests) <= TOKENS_PER_PASS
            ):
                length += self._length(groups[end], requests)
                end += 1
            for number, score in self._score_pass(groups[begin:end], requests):
                scores[number] = score
            advance(sum(len(numbers) for _, numbers in groups[begin:end]))
            begin = end
        return [score for score in scores if score is not None]

    def _length(self, group: Group, requests: Sequence[Request]) -> int:
        """Tokens of a question and all its answers; the last one of an answer is predicted, but not read."""
        given, numbers = group
        return len(given) + sum(len(requests[number].scored) - 1 for number in numbers)

    @torch.inference_mode()
    def _score_pass(self, groups: Sequence[Group], requests: Sequence[Request]) -> list[tuple[int, AnswerScore]]:
        """Scores by the number of their request."""
        layout = _Layout()
        for given, numbers in groups:
            layout.add(given, [requests[number].scored for number in numbers])
        device = self.model.embedding.weight.device
        mask = layout.mask(self.model.slopes, TILE_ROWS.get(device.type, TILE_ROWS["cuda"]))
        ids = torch.tensor(layout.ids, device=device)[None]  # (1, length)
        self.tokens += ids.shape[1]
        hidden = self.model.forward_masked(ids, mask)[0]  # (length, width)
        # Only the positions before a scored id, (n, width), meet the vocabulary.
        before = torch.tensor(layout.before, device=device)
        targets = torch.tensor(layout.targets, device=device)
        losses, greedy = token_scores(hidden[before], self.model.embedding.weight, targets)
        nats, first = losses.double().cpu().numpy(), greedy.cpu().numpy()
        scores, begin = [], 0
        for number in (number for _, numbers in groups for number in numbers):
            end = begin + len(requests[number].scored)
            scores.append((number, AnswerScore(-float(nats[begin:end].sum()), bool(first[begin:end].all()))))
            begin = end
        return scores


def _pieces(group: Group, requests: Sequence[Request]) -> Iterator[Group]:
    """The answers to one question in pieces of at most ANSWERS_TOGETHER tokens, or of one answer."""
    given, numbers = group
    piece, length = list[int](), 0
    for number in numbers:
        size = len(requests[number].scored)
        if piece and length + size > ANSWERS_TOGETHER:
            yield given, piece
            piece, length = [], 0
        piece.append(number)
        length += size
    yield given, piece


class _Layout:
    """Questions and their answers in one sequence: q1 a1 a1' a1'' q2 a2 a2' …

    An answer stands at the positions right after its question, wherever it lies in the sequence.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        """By token: its place in question and answer."""
        self.begins: list[int] = []
        """By token: where its question begins."""
        self.answers: list[int] = []
        """By token: a number of its answer, 0 in a question."""
        self.before: list[int] = []
        """By scored id: the token that predicts it."""
        self.targets: list[int] = []
        """By scored id: the id."""

    def add(self, given: Sequence[int], answers: Sequence[Sequence[int]]) -> None:
        begin = len(self.ids)
        self._extend(begin, 0, 0, given)
        last = len(self.ids) - 1
        for number, scored in enumerate(answers, start=1):
            # The first id of an answer is predicted by the question's last token, the others by those of the answer.
            self.before += [last, *range(len(self.ids), len(self.ids) + len(scored) - 1)]
            self.targets += scored
            self._extend(begin, number, len(given), scored[:-1])

    def _extend(self, begin: int, answer: int, position: int, ids: Sequence[int]) -> None:
        self.ids += ids
        self.positions += range(position, position + len(ids))
        self.begins += [begin] * len(ids)
        self.answers += [answer] * len(ids)

    def mask(self, slopes: Tensor, rows: int) -> TiledMask:
        """Tiles of at most `rows` queries, with the keys from the beginning of the first query's question on."""
        positions, begins, answers = map(np.array, (self.positions, self.begins, self.answers))
        places = np.arange(len(positions))
        tiles = []
        for begin in range(0, len(places), rows):
            asking = slice(begin, min(begin + rows, len(places)))
            seen = slice(int(begins[begin]), asking.stop)
            # (queries, keys) each.
            same = begins[asking, None] == begins[None, seen]
            own = (answers[None, seen] == 0) | (answers[asking, None] == answers[None, seen])
            hidden = ~(same & own & (places[None, seen] <= places[asking, None]))
            distance = torch.from_numpy(positions[None, seen] - positions[asking, None]).to(slopes.device)
            bias = slopes[:, None, None] * distance  # (heads, queries, keys)
            bias.masked_fill_(torch.from_numpy(hidden).to(slopes.device), float("-inf"))
            tiles.append(Tile(0, seen.start, asking.start, asking.stop, bias))
        return TiledMask(tiles)
