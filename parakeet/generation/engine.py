"""Ids in, a stream of text out: prefill, the key/value cache, sampling, whole UTF-8 characters."""

import codecs
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.generation.cache import Cache
from parakeet.generation.choice import Choice, candidates
from parakeet.generation.decoder import Decoder
from parakeet.generation.lookup import DraftPolicy, Drafts
from parakeet.generation.sampling import Sampler, check_finite, choose_all
from parakeet.generation.stop_strings import StopStrings
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import load_model
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import Tokenizer

PREFILL_TOKENS = 512
"""Prompt tokens in one forward pass. Fewer leave matrix units idle (256 is a tenth slower in bf16); more delay Ctrl-C
(512 tokens of the 378M model take 1.3 s in fp32 on 2 cores)."""

PROMPTS_PER_BATCH = 64


@dataclass(frozen=True)
class Step:
    """One step of a reply.

    `token_id` is None while the prompt is read, and in a last step that drew no token. `text` has only whole
    characters, and nothing that could become a stop string. `finish_reason` is None except in the last step: "stop"
    (the model ended its turn, or a stop string came), "length" (max_tokens) or "context" (the context is full).
    """

    token_id: int | None
    text: str
    finish_reason: str | None
    log_probability: float | None = None
    """ln p of the token by the model, before any sampling setting; None if it was not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in its place and their ln p, as many as were asked for."""


class NextToken(NamedTuple):
    """A token that may come next: its probability by the model, and with the sampling settings applied."""

    token_id: int
    probability: float
    drawn: float


@dataclass
class Timing:
    """The cost of one reply. Seconds are wall time, without the time that the consumer spends between steps."""

    prompt_tokens: int = 0
    kept_tokens: int = 0
    """Tokens of the prompt that were still in the cache from an earlier prompt."""
    reply_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Forward passes after the prefill and, on a GPU, the draws after them: they wait for the passes."""
    decoded_tokens: int = 0
    """Tokens whose successor these passes gave. The first token of a reply comes from the prefill."""
    drafted_tokens: int = 0
    """Tokens that were verified in a pass before they were drawn (prompt lookup decoding)."""
    accepted_tokens: int = 0
    """Those that were then drawn, so that each saved a pass."""
    first_token_seconds: float = 0.0
    """Prefill and the first draw."""
    bytes_read: float = 0.0
    """Memory read while decoding: for each pass, all weights and the filled part of the cache."""

    @property
    def prefill_rate(self) -> float | None:
        """Tokens a second, not counting the kept ones."""
        return (self.prompt_tokens - self.kept_tokens) / self.prefill_seconds if self.prefill_seconds else None

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second."""
        return self.decoded_tokens / self.decode_seconds if self.decode_seconds else None

    @property
    def bandwidth(self) -> float | None:
        """GB a second read from memory while decoding."""
        return self.bytes_read / self.decode_seconds / 1e9 if self.decode_seconds else None


class Engine:
    """A model and its tokenizer, ready to generate."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, choice: Choice | None = None) -> None:
        self.model = model
        self.choice = choice
        """How device, dtype and threads were chosen, if they were."""
        self.tokenizer = tokenizer
        self.context = model.config.context
        self.parameter_count = model.config.parameter_count
        self.dtype = model.dtype
        self.device = str(model.device)
        self.kernels = model.compiled
        self.cache_dtype = model.cache_dtype
        self.threads = torch.get_num_threads()
        self.timing = Timing()
        self.prompt_lookup = True
        """Whether text that repeats is drafted where that is faster. Replies are the same with and without."""
        self.draft_policy = DraftPolicy()
        self.stop_ids = frozenset({tokenizer.end_of_prompt, tokenizer.end_of_text, tokenizer.padding})
        spoken = {token_id: length for token_id, length in tokenizer.lengths().items() if length}
        self.longest_token = max(spoken.values())
        self.allowed = torch.zeros(tokenizer.rows, dtype=torch.bool)
        """(vocabulary rows,) bool: the ids that a reply may contain. These are text and the ends of turn and text, but
        no roles, no padding (it was never a target) and no undefined ids."""
        self.allowed[[*spoken, tokenizer.end_of_prompt, tokenizer.end_of_text]] = True
        self._read: list[int] = []
        """The prompt's beginning that is in the cache, in whole pieces of PREFILL_TOKENS."""

    @cached_property
    def _cache(self) -> Cache:
        """Made for the first reply: on CUDA it takes its memory at once."""
        return self.model.new_cache(self.context)

    def generate(
        self, prompt_ids: Sequence[int], settings: SamplingSettings, log_probabilities: bool = False
    ) -> Iterator[Step]:
        """Continue the prompt until the model ends its turn, a stop string comes, or the room is used up.

        Nothing runs before the first `next`. Closing the iterator stops between two forward passes. Only the last step
        has a finish_reason. The same prompt, settings and seed give the same text on the same machine, dtype and
        number of threads, whatever was generated before. Only one reply at a time: all share one cache.

        Raises ParakeetError if the prompt is empty or longer than the context, or logits are not finite.
        """
        self.check_prompt(prompt_ids)
        self.timing = timing = Timing(prompt_tokens=len(prompt_ids))
        sampler = Sampler(settings, self.allowed)
        stops = StopStrings(settings.stop)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        drafts = None
        if self.prompt_lookup and self.model.can_append:
            drafts = Drafts(prompt_ids, self.stop_ids, self.draft_policy)
        logits = None
        for chunk in self._unread(list(prompt_ids)):
            if logits is not None:
                yield Step(None, "", None)
            logits = self._prefill(chunk, timing)
        room = self.context - len(prompt_ids)
        limit = settings.max_tokens if settings.rolling else min(room, settings.max_tokens)
        for _ in range(limit):
            assert logits is not None
            began = time.perf_counter()
            token_id = sampler.choose(logits)
            seconds = time.perf_counter() - began
            if not timing.reply_tokens:
                timing.first_token_seconds = timing.prefill_seconds + seconds
            elif self.model.device.type != "cpu":
                timing.decode_seconds += seconds
            known = float(logits[token_id] - logits.logsumexp(0)) if log_probabilities else None
            if token_id in self.stop_ids:
                shown, _ = stops.feed(decoder.decode(b"", final=True))
                yield Step(token_id, shown + stops.finish(), "stop", known)
                return
            timing.reply_tokens += 1
            shown, stopped = stops.feed(decoder.decode(self.tokenizer.token_bytes(token_id)))
            yield Step(token_id, shown, "stop" if stopped else None, known)
            if stopped:
                return
            if timing.reply_tokens < limit:
                logits = self._step(token_id, timing, drafts, limit - timing.reply_tokens - 1)
        shown = stops.feed(decoder.decode(b"", final=True))[0] + stops.finish()
        reason = "length" if limit == settings.max_tokens else "context"
        yield Step(None, shown, "stop" if stops.stopped else reason)

    def next_logits(self, prompt_ids: Sequence[int]) -> Tensor:
        """Logits (vocabulary rows,) fp32 of the token after a prompt. Raises ParakeetError as `generate` does."""
        self.check_prompt(prompt_ids)
        self.timing = Timing(prompt_tokens=len(prompt_ids))
        for chunk in self._unread(list(prompt_ids)):
            logits = self._prefill(chunk, self.timing)
        return logits

    def likeliest(self, prompt_ids: Sequence[int], settings: SamplingSettings, number: int) -> list[NextToken]:
        """The likeliest tokens after a prompt, the first of a reply. Raises ParakeetError as `generate` does."""
        logits = self.next_logits(prompt_ids)
        ids, chances = Sampler(settings, self.allowed).distribution(logits)
        drawn = dict(zip(ids.tolist(), chances.tolist(), strict=True))
        # In float64 on the CPU, as the sampler computes.
        best = logits.cpu().double().softmax(0).topk(min(number, len(logits)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [NextToken(token_id, probability, drawn.get(token_id, 0.0)) for token_id, probability in pairs]

    def logits(self, ids: Sequence[int]) -> Iterator[Tensor]:
        """Logits (piece, vocabulary rows) fp32 after each of the ids, in pieces of PREFILL_TOKENS.

        Raises ParakeetError if there are no ids, or more than the context holds.
        """
        self.check_prompt(ids)
        cache = self.model.new_cache(len(ids))
        for begin in range(0, len(ids), PREFILL_TOKENS):
            yield self.model.logits(ids[begin : begin + PREFILL_TOKENS], cache)

    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        """ln p of each id after the first, given those before it: len(ids) − 1 numbers.

        Raises ParakeetError if there is no id after the first, if more precede the last one than the context holds, or
        if logits are not finite.
        """
        found: list[float] = []
        for logits in self.logits(ids[:-1]):
            check_finite([float(extreme) for extreme in logits.aminmax()])
            following = torch.tensor(ids[len(found) + 1 : len(found) + 1 + len(logits)], device=logits.device)
            # (piece, vocabulary rows) to (piece,)
            found += (logits.gather(1, following[:, None])[:, 0] - logits.logsumexp(1)).tolist()
        return found

    def _unread(self, prompt: list[int]) -> Iterator[list[int]]:
        """The prompt in pieces of PREFILL_TOKENS, without the pieces that are already in the cache.

        Only whole pieces are reused. Keys computed in a piece of another length, or in a step of one token, differ in
        the last bit: replies would depend on what was generated before.
        """
        same = next((i for i, pair in enumerate(zip(self._read, prompt, strict=False)) if pair[0] != pair[1]), None)
        shared = min(len(self._read), len(prompt) - 1) if same is None else same
        kept = shared // PREFILL_TOKENS * PREFILL_TOKENS
        self._cache.lengths = [kept]
        self._read = self._read[:kept]
        self.timing.kept_tokens = kept
        for begin in range(kept, len(prompt), PREFILL_TOKENS):
            yield prompt[begin : begin + PREFILL_TOKENS]

    def _prefill(self, ids: list[int], timing: Timing) -> Tensor:
        begin = time.perf_counter()
        logits = self.model.prefill(ids, self._cache)
        if len(ids) == PREFILL_TOKENS:
            self._read += ids
        self._synchronise()
        timing.prefill_seconds += time.perf_counter() - begin
        return logits

    def _step(self, token_id: int, timing: Timing, drafts: Drafts | None, most: int) -> Tensor:
        """Logits (vocabulary rows,) after a token that was drawn. A draft of what follows has at most `most` tokens."""
        timing.decoded_tokens += 1
        if drafts is None:
            return self._pass([token_id], timing)[0]
        drafts.append(token_id)
        if drafts.verified:
            expected, logits = drafts.verified.popleft()
            if expected == token_id:
                timing.accepted_tokens += 1
                return logits
            self._cache.lengths[0] -= 1 + len(drafts.verified)
            drafts.verified.clear()
        # A draft must not begin the ring again: tokens that it had overwritten could not be restored.
        draft = drafts.propose(min(most, self.context - self._cache.lengths[0] - 1))
        before = timing.decode_seconds
        following = self._pass([token_id, *draft], timing)
        self.draft_policy.record_pass(1 + len(draft), timing.decode_seconds - before)
        timing.drafted_tokens += len(draft)
        drafts.verified.extend(zip(draft, following[1:], strict=True))
        return following[0]

    def _pass(self, ids: list[int], timing: Timing) -> Tensor:
        """Append ids to the cache; logits (len(ids), vocabulary rows) after each."""
        begin = time.perf_counter()
        if self._cache.lengths[0] >= self.context:
            # The ring overwrites the prompt's first tokens, so no later prompt can reuse them.
            self._read = []
        # On a GPU this only starts the work: the draw is the one wait a token.
        logits = (self.model.step if len(ids) == 1 else self.model.steps)(ids, self._cache)
        timing.decode_seconds += time.perf_counter() - begin
        filled = min(self._cache.lengths[0], self.context)
        timing.bytes_read += self.model.bytes_per_token + filled * self._cache.n_bytes_per_token
        return logits

    def _synchronise(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        elif self.device == "mps":
            torch.mps.synchronize()

    def check_prompt(self, prompt_ids: Sequence[int]) -> None:
        """Raise ParakeetError if a prompt is empty or longer than the context."""
        if not prompt_ids:
            raise ParakeetError("The prompt is empty: there is nothing to continue.")
        if len(prompt_ids) > self.context:
            raise ParakeetError(
                f"The prompt has {len(prompt_ids):,} tokens, but the model's context is {self.context:,}: shorten it."
            )


def load_engine(
    directory: Path,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
    cache_dtype: str = "auto",
    recorded: Mapping[str, Any] | None = None,
) -> Engine:
    """Load the model of a release folder, with weights of precision `dtype`. Memory never holds two copies of them.

    `auto`, 0 threads and `recorded`: see `choice.candidates`. On a CPU, dtype `auto` is the fastest that fits into the
    memory and costs no more than 0.5 % of bits per byte.

    Raises ParakeetError for a missing device, a dtype that it does not support, too little memory, or unusable weights.
    """
    possible = candidates(ModelConfig.load(directory), device, dtype, threads, cache_dtype, recorded)
    tokenizer = Tokenizer.load(directory)
    model = load_model(directory, "cpu")
    if tokenizer.rows != model.config.vocabulary_rows:
        raise ParakeetError(
            f"{directory} holds a tokenizer of {tokenizer.rows:,} rows and a model of "
            f"{model.config.vocabulary_rows:,}: they do not belong together. Copy the release again."
        )
    choice = possible.choose(model)
    return Engine(choice.decoder(model), tokenizer, choice)


def batch_replies(
    engine: Engine, prompts: Sequence[Sequence[int]], settings: Sequence[SamplingSettings]
) -> list[list[int]]:
    """Replies to many prompts at once: the ids of each, without the id that ended it.

    The prompts are ids of any length up to the context. They are read one by one; then every step adds a token to each
    reply. `settings` has one entry a prompt; stop strings and `rolling` have no effect, and the end of the context ends
    a reply. Raises ParakeetError if a prompt does not fit, or logits are not finite.
    """
    for prompt in prompts:
        engine.check_prompt(prompt)
    replies: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: settings[index].max_tokens)
    for begin in range(0, len(order), PROMPTS_PER_BATCH):
        group = order[begin : begin + PROMPTS_PER_BATCH]
        for index, reply in zip(group, _batch(engine, prompts, settings, group), strict=True):
            replies[index] = reply
    return replies


def _batch(
    engine: Engine, prompts: Sequence[Sequence[int]], settings: Sequence[SamplingSettings], group: list[int]
) -> list[list[int]]:
    model = engine.model
    # One cache row a prompt, long enough for the longest prompt with its reply.
    longest = max(len(prompts[index]) + settings[index].max_tokens for index in group)
    cache = model.new_cache(longest, len(group))
    logits = {row: model.prefill(prompts[index], cache, row) for row, index in enumerate(group)}
    cached = list(logits)
    samplers = [Sampler(settings[index], engine.allowed) for index in group]
    rows: list[list[int]] = [[] for _ in group]
    open_rows = [row for row, index in enumerate(group) if len(prompts[index]) < engine.context]
    last = [0] * len(group)
    while open_rows:
        drawn = choose_all([samplers[row] for row in open_rows], [logits[row] for row in open_rows])
        for row, token_id in zip(open_rows, drawn, strict=True):
            last[row] = token_id
            if last[row] not in engine.stop_ids:
                rows[row].append(last[row])
        open_rows = [
            row
            for row in open_rows
            if last[row] not in engine.stop_ids
            and len(rows[row]) < settings[group[row]].max_tokens
            and len(prompts[group[row]]) + len(rows[row]) < engine.context
        ]
        # A few long replies leave most rows of a batch without work: of the 64 of a chat's replies, 9 on average have
        # some.
        if cache.graphs is None and 0 < 2 * len(open_rows) <= len(cached):
            cache.keep([cached.index(row) for row in open_rows])
            cached = open_rows
        if open_rows:
            found = model.step([last[row] for row in cached], cache)
            logits = dict(zip(cached, found.unbind(), strict=True))
    return rows
