"""A model as lm-evaluation-harness sees it: texts in, log-probabilities out.

`TextModel` is what the adapter asks of a model; `scorer.ModelScorer` is the one that Parakeet has.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from parakeet.errors import ParakeetError
from parakeet.progress import Progress


class Request(NamedTuple):
    """Ids that are given, at least one, and ids to score; together at most one more than the context."""

    given: tuple[int, ...]
    scored: tuple[int, ...]


class AnswerScore(NamedTuple):
    """log p in nats of all scored ids together, and whether each was the one likeliest id (no other as likely)."""

    log_probability: float
    greedy: bool


class TextModel(ABC):
    """A language model with its tokenizer."""

    context: int
    """The most ids that it reads at once."""
    start: int
    """The id that every text begins with, in training too."""

    @abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str: ...

    @abstractmethod
    def score(self, requests: Sequence[Request], advance: Callable[[int], None]) -> list[AnswerScore]:
        """The score of each request. Calls `advance` with the number of requests that were scored since."""

    @abstractmethod
    def continue_text(self, ids: Sequence[int], max_tokens: int, stop: Sequence[str], temperature: float) -> str:
        """What the model writes after `ids`, up to the first of the stop strings."""


class Adapter(TemplateLM):
    """Every text begins with the id that documents begin with in training. A text longer than the context keeps its
    end. An answer that alone is longer is scored in several windows, so that no id of it goes unscored.

    Raises ParakeetError for an empty answer, and for a score that is not finite.
    """

    def __init__(self, model: TextModel, progress: Progress) -> None:
        super().__init__()
        self.model = model
        self.progress = progress
        self.truncated: set[tuple[str | None, int | None]] = set()
        """Task and number of the items whose beginning did not fit into the context."""
        self._encode = lru_cache(maxsize=1 << 12)(model.encode)

    @property
    def eot_token_id(self) -> int:
        return self.model.start

    @property
    def max_length(self) -> int:
        return self.model.context

    @property
    def tokenizer_name(self) -> str:
        return "parakeet"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; the start of a document is not part of it."""
        return self._encode(string)

    def tok_decode(self, ids: Sequence[int]) -> str:
        return self.model.decode(ids)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As upstream, but an answer that the tokenizer joins to the question's last token keeps ids of its own."""
        given, scored = super()._encode_pair(context, continuation)
        return given, scored or self.tok_encode(continuation)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = []
        for request in requests:
            context, continuation = request.args
            if not continuation:
                raise ParakeetError(f"{_place(request)}: an answer is empty, so there is nothing to score.")
            given, scored = self._encode_pair(context, continuation) if context else ([], self.tok_encode(continuation))
            pairs.append((request.args, [self.model.start, *given], scored))
            if len(given) + len(scored) > self.model.context:
                self.truncated.add((request.task_name, request.doc_id))
        scores = self._loglikelihood_tokens(pairs)
        for request, score in zip(requests, scores, strict=True):
            _refuse_not_finite(score[0], request)
        return scores

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        windows = [self._windows(given, scored) for _, given, scored in requests]
        return self._scores(windows, "benchmarks")

    def _windows(self, given: list[int], scored: list[int]) -> list[Request]:
        most = self.model.context
        if len(scored) > most:
            disjoint = map(make_disjoint_window, get_rolling_token_windows(scored, given[-1], most, 1))
            return [Request(tuple(before), tuple(after)) for before, after in disjoint]
        return [Request(tuple(given[-(most + 1 - len(scored)) :]), tuple(scored))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        windows = [self._windows([self.model.start], self.model.encode(text)) if text else [] for text in texts]
        totals = [total for total, _ in self._scores(windows, "benchmarks, whole texts")]
        for request, total in zip(requests, totals, strict=True):
            _refuse_not_finite(total, request)
        return totals

    def _scores(self, windows: Sequence[Sequence[Request]], what: str) -> list[tuple[float, bool]]:
        """The sums over the windows of each request."""
        flat = [window for several in windows for window in several]
        with self.progress.task(what, len(flat), "answers") as task:
            scores = iter(self.model.score(flat, task.advance) if flat else ())
        sums = []
        for several in windows:
            found = [next(scores) for _ in several]
            sums.append((math.fsum(score.log_probability for score in found), all(score.greedy for score in found)))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        replies = []
        with self.progress.task("benchmarks, replies", len(requests), "replies") as task:
            for request in requests:
                context, asked = request.args
                wanted = normalize_gen_kwargs(asked)
                most = wanted["max_gen_toks"]
                prompt = [self.model.start, *self.model.encode(context)]
                prompt = prompt[-max(1, self.model.context - most) :]
                stop = [text for text in wanted.get("until", []) if text]
                replies.append(self.model.continue_text(prompt, most, stop, wanted.get("temperature", 0.0)))
                task.advance()
        return replies


def _refuse_not_finite(value: float, request: Any) -> None:
    if not math.isfinite(value):
        raise ParakeetError(
            f"{_place(request)}: the model's score is {value}, so its weights are unusable. No score is given: "
            "lm-evaluation-harness would take it for the right answer. Use an earlier checkpoint."
        )


def _place(request: Any) -> str:
    return f"Task {request.task_name}, item {request.doc_id}" if request.task_name else "A request"
