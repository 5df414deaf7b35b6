"""Several replies at once (continuous batching): each pass reads the weights once for all of them.

A prompt is read a third of a layer at a time between the passes, so that other replies go on meanwhile. With the
compiled kernels a reply's ids and numbers are the same bits alone and beside others.
"""

import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.generation.lookup import Drafts
from parakeet.generation.reply import Reply, log_probabilities
from parakeet.generation.sampling import Sampler, check_finite, choose_all
from parakeet.generation.steps import Step, Timing
from parakeet.sampling_settings import SamplingSettings

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine

PREFILL_TOKENS = 512
"""Prompt tokens in one forward pass. Fewer leave matrix units idle (256 is a tenth slower in bf16); more delay the
replies beside it."""

SCORED_TOGETHER = 64
"""Tokens of a prompt whose logits are held at once: 26 MB with 100,288 rows."""


@dataclass(frozen=True)
class Request:
    """A prompt, and the replies to it that are wanted: one for each of `settings`, which have a seed each.

    With `log_probabilities`, each step has ln p of its token, and the `top` likeliest tokens beside it. With
    `score_prompt`, the prompt's own ids are scored likewise; `settings` may be empty then.
    """

    prompt_ids: Sequence[int]
    settings: Sequence[SamplingSettings]
    log_probabilities: bool = False
    top: int = 0
    score_prompt: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids before anything else; −100 and 100 as good as forbid and force a token."""


@dataclass(frozen=True)
class Scored:
    """A token of a prompt: ln p given those before it, and the likeliest in its place with theirs."""

    token_id: int
    log_probability: float | None
    """None for the first, which nothing precedes."""
    top: tuple[tuple[int, float], ...]


class Job:
    """A request that was started. `cancelled` may be set from any thread."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.timings = [Timing(prompt_tokens=len(request.prompt_ids)) for _ in request.settings]
        """Of each reply."""
        self.prompt_scores: list[Scored] = []
        self.cancelled = False
        self.error: ParakeetError | None = None
        """Why there are no more steps, if generation failed."""
        self.done = False


@dataclass(eq=False)
class _Place:
    """A row of the cache."""

    row: int
    read: list[int] = field(default_factory=list)
    """The prompt's beginning that is in the row, in whole pieces of PREFILL_TOKENS."""
    job: Job | None = None
    last_used: int = 0


@dataclass(eq=False)
class _Growing:
    """A reply whose prompt was read."""

    job: Job
    index: int
    place: _Place
    reply: Reply
    timing: Timing
    drafts: Drafts | None
    logits: Tensor | None
    """(vocabulary rows,), to draw the next id from; None once that is done."""
    token_id: int = 0
    """The latest id that was drawn."""


class Batch:
    """Generates replies to several requests in turns of `advance`. Not for several threads at once."""

    def __init__(self, engine: "Engine", rows: int) -> None:
        """At most `rows` replies at once, each with a whole context of cache: memory that is taken as it is filled on a
        CPU, and at once on a GPU."""
        self._engine, self._model = engine, engine.model
        self._cache = engine.model.new_cache(engine.context, rows)
        self._places = [_Place(row) for row in range(rows)]
        self._waiting: deque[tuple[Job, Generator[None, None, None]]] = deque()
        """Prompts that are read, one after the other."""
        self._growing: list[_Growing] = []
        self._pass_seconds = 0.0
        """What the latest pass took."""
        self._clock = 0

    @property
    def free(self) -> int:
        """Replies that could be started now."""
        self._drop()
        return sum(place.job is None for place in self._places)

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        self._drop()
        return bool(self._waiting or self._growing)

    def start(self, request: Request) -> Job:
        """Take places for a request. There must be so many free ones as it has replies, and at least one.

        Raises ParakeetError if its prompt cannot be continued, or its settings allow no token.
        """
        self._engine.check_prompt(request.prompt_ids)
        job = Job(request)
        samplers = [Sampler(each, self._engine.allowed, request.logit_bias) for each in request.settings]
        self._waiting.append((job, self._begin(job, samplers, self._take(job, max(1, len(samplers))))))
        return job

    def advance(self) -> list[tuple[Job, int, Step]]:
        """Compute some parts of prompts, if any are to be read, and one id of every reply that grows.

        The parts take about as long as the latest pass of those replies, so that neither waits long for the other. A
        part, a third of a layer, takes 20 to 60 ms for 512 tokens and 1 ms for 16, and a pass of 8 replies 40 (378M in
        int8 on 2 cores).

        Returns the steps that came of it, each with its job and the number of the reply. An error of the arithmetic
        ends the job whose prompt is read, or all whose replies grow.
        """
        self._drop()
        steps, growing = list[tuple[Job, int, Step]](), [*self._growing]
        try:
            # The pass comes first: a row that was read and has no token yet would not be in it, and without kernels the
            # slot after its last would be written, which in a full row is the oldest that it still sees.
            self._append()
            reading = self._read_on()
            for each in growing:
                each.timing.decode_seconds += reading
            steps = self._draw()
        except ParakeetError as error:
            for each in self._growing:
                self._end(each.job, error)
        self._drop()
        return steps

    def abandon(self) -> None:
        """Give everything up, after an error that left the cache in an unknown state."""
        for job in [place.job for place in self._places if place.job is not None]:
            job.cancelled = True
        self._drop()
        for place in self._places:
            place.read = []

    def logits(self, prompt_ids: Sequence[int], timing: Timing) -> Tensor:
        """Logits (vocabulary rows,) fp32 after a prompt, at once. A place must be free."""
        job = Job(Request(prompt_ids, ()))
        place = self._take(job, 1)[0]
        try:
            parts = self._read(place, job, [timing])
            while True:
                next(parts)
        except StopIteration as stopped:
            return stopped.value
        finally:
            place.job = None

    def _take(self, job: Job, count: int) -> list[_Place]:
        """Free places for a job: first the one that holds most of its prompt, then those longest unused."""
        self._drop()
        free = [place for place in self._places if place.job is None]
        assert len(free) >= count
        prompt = job.request.prompt_ids
        free.sort(key=lambda place: (-_kept(place.read, prompt), place.last_used))
        self._clock += 1
        for place in free[:count]:
            place.job, place.last_used = job, self._clock
        return free[:count]

    def _read_on(self) -> float:
        """Parts of the prompts whose turn it is; the seconds that they took."""
        began, seconds = time.perf_counter(), 0.0
        while self._waiting:
            job, parts = self._waiting[0]
            try:
                next(parts)
            except StopIteration:
                self._waiting.popleft()
            except ParakeetError as error:
                self._end(job, error)
            self._drop()
            seconds = time.perf_counter() - began
            if not self._growing or seconds >= self._pass_seconds:
                break
        return seconds

    def _begin(self, job: Job, samplers: Sequence[Sampler], places: Sequence[_Place]) -> Generator[None, None, None]:
        """Read a job's prompt, and begin its replies."""
        first, request, engine = places[0], job.request, self._engine
        logits = yield from self._read(first, job, job.timings)
        room = engine.context - len(request.prompt_ids)
        for index, sampler in enumerate(samplers):
            place = places[index]
            if place is not first:
                self._cache.copy_row(first.row, place.row)
                place.read = [*first.read]
            what = engine.tokenizer, engine.stop_ids, sampler, room, request.log_probabilities, request.top
            drafts = None
            if engine.prompt_lookup and self._model.can_append:
                drafts = Drafts(request.prompt_ids, engine.stop_ids, engine.draft_policy)
            self._growing.append(_Growing(job, index, place, Reply(*what), job.timings[index], drafts, logits))
        if not samplers:
            self._end(job)

    def _read(self, place: _Place, job: Job, timings: Sequence[Timing]) -> Generator[None, None, Tensor]:
        """Read a prompt into a row; logits (vocabulary rows,) after it.

        Only whole pieces of an earlier prompt are reused. Keys computed in a piece of another length, or in a step of
        one token, differ in the last bit: replies would depend on what was generated before.
        """
        request, prompt = job.request, list(job.request.prompt_ids)
        kept = 0 if request.score_prompt else _kept(place.read, prompt)
        self._cache.lengths[place.row] = kept
        place.read = place.read[:kept]
        if request.score_prompt:
            job.prompt_scores.append(Scored(prompt[0], None, ()))
        for timing in timings:
            timing.kept_tokens = kept
        for begin in range(kept, len(prompt), PREFILL_TOKENS):
            if begin > kept:
                yield
            piece = prompt[begin : begin + PREFILL_TOKENS]
            if request.score_prompt:
                hidden = yield from self._timed(self._model.hidden_in_parts(piece, self._cache, place.row), timings)
                yield from self._score(job, hidden, prompt[begin + 1 : begin + 1 + len(piece)])
                logits = self._model.head(hidden[-1:])[0]
            else:
                logits = yield from self._timed(self._model.prefill_in_parts(piece, self._cache, place.row), timings)
            if len(piece) == PREFILL_TOKENS:
                place.read += piece
        return logits

    def _timed(self, parts: Generator[None, None, Tensor], timings: Sequence[Timing]) -> Generator[None, None, Tensor]:
        """The same, with its seconds counted. Without pauses where other rows cannot go on in one."""
        while True:
            began, result = time.perf_counter(), None
            try:
                next(parts)
            except StopIteration as stopped:
                result = stopped.value
            self._engine.synchronise()
            for timing in timings:
                timing.prefill_seconds += time.perf_counter() - began
            if result is not None:
                return result
            if self._model.can_append:
                yield

    def _score(self, job: Job, hidden: Tensor, following: Sequence[int]) -> Generator[None, None, None]:
        """Score the ids that follow the positions of hidden states (n, width)."""
        for begin in range(0, len(following), SCORED_TOGETHER):
            ids = following[begin : begin + SCORED_TOGETHER]
            logits = self._model.head(hidden[begin : begin + len(ids)])
            check_finite([float(extreme) for extreme in logits.aminmax()])
            for token_id, row in zip(ids, logits, strict=True):
                job.prompt_scores.append(Scored(token_id, *log_probabilities(row, token_id, job.request.top)))
            yield

    def _append(self) -> None:
        """One pass for the replies whose next logits are not there yet."""
        due = [each for each in self._growing if not self._verified(each)]
        if not due:
            return
        # Beside other replies, a draft would take their time. A prompt that is being read has its parts in between.
        alone = len(self._growing) == 1 and not self._waiting
        ids, rows, counts = list[int](), list[int](), list[int]()
        for each in due:
            length = self._cache.lengths[each.place.row]
            if length >= self._engine.context:
                # The ring overwrites the prompt's first tokens, so no later prompt can reuse them.
                each.place.read = []
            draft = []
            if alone and each.drafts is not None:
                # It must not begin the ring again: tokens that it had overwritten could not be restored.
                most = min(each.reply.limit - each.reply.tokens - 1, self._engine.context - length - 1)
                draft = each.drafts.propose(most)
            ids += [each.token_id, *draft]
            rows += [each.place.row] * (1 + len(draft))
            counts.append(1 + len(draft))
        began = time.perf_counter()
        # On a GPU this only starts the work: the draw is the one wait a token.
        logits = self._model.append(ids, rows, self._cache)
        seconds = self._pass_seconds = time.perf_counter() - began
        if alone:
            self._engine.draft_policy.record_pass(len(ids), seconds)
        place = 0
        for each, count in zip(due, counts, strict=True):
            following, draft = logits[place : place + count], ids[place + 1 : place + count]
            place += count
            each.logits = following[0]
            if each.drafts is not None:
                each.drafts.verified.extend(zip(draft, following[1:], strict=True))
            each.timing.drafted_tokens += len(draft)
            each.timing.decode_seconds += seconds
            filled = min(self._cache.lengths[each.place.row], self._engine.context)
            each.timing.bytes_read += self._model.bytes_per_token / len(due) + filled * self._cache.n_bytes_per_token

    def _verified(self, each: _Growing) -> bool:
        """Take the logits of a draft that was right. A wrong one is forgotten."""
        each.timing.decoded_tokens += 1
        if each.drafts is None:
            return False
        each.drafts.append(each.token_id)
        if not each.drafts.verified:
            return False
        expected, logits = each.drafts.verified.popleft()
        if expected == each.token_id:
            each.timing.accepted_tokens += 1
            each.logits = logits
            return True
        self._cache.lengths[each.place.row] -= 1 + len(each.drafts.verified)
        each.drafts.verified.clear()
        return False

    def _draw(self) -> list[tuple[Job, int, Step]]:
        """Draw an id for every reply."""
        steps = []
        # A reply without room ends before its first token.
        ready = [each for each in self._growing if each.reply.limit]
        began = time.perf_counter()
        drawn = (
            choose_all([each.reply.sampler for each in ready], [_some(each.logits) for each in ready]) if ready else []
        )
        seconds = time.perf_counter() - began
        for each, token_id in zip(ready, drawn, strict=True):
            timing = each.timing
            if not each.reply.tokens:
                timing.first_token_seconds = timing.prefill_seconds + seconds
            elif self._model.device.type != "cpu":
                timing.decode_seconds += seconds
            each.token_id = token_id
            steps.append((each.job, each.index, each.reply.add(token_id, _some(each.logits))))
            timing.reply_tokens, each.logits = each.reply.tokens, None
        for each in self._growing:
            if (step := each.reply.cut()) is not None:
                steps.append((each.job, each.index, step))
        return steps

    def _end(self, job: Job, error: ParakeetError | None = None) -> None:
        job.done, job.error = True, job.error or error

    def _drop(self) -> None:
        """Give up the places of replies that have ended, and of jobs that were cancelled or have failed."""
        for job, parts in [pair for pair in self._waiting if pair[0].cancelled or pair[0].done]:
            self._waiting.remove((job, parts))
            parts.close()
        self._growing = [
            each for each in self._growing if not (each.reply.finished or each.job.cancelled or each.job.done)
        ]
        waiting, growing = [job for job, _ in self._waiting], [each.place for each in self._growing]
        for place in self._places:
            owner = place.job
            if owner is not None and place not in growing and owner not in waiting:
                place.job = None
                owner.done = owner.done or all(other.job is not owner for other in self._places)


def _kept(read: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of a row that a prompt begins with, in whole pieces, without the prompt's last."""
    same = next((i for i, pair in enumerate(zip(read, prompt, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(read), len(prompt) - 1) if same is None else same
    return shared // PREFILL_TOKENS * PREFILL_TOKENS


def _some(logits: Tensor | None) -> Tensor:
    assert logits is not None
    return logits
