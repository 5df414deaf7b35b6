"""Ids in, a stream of text out: prefill, the key/value cache, sampling, whole UTF-8 characters."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.generation.batch import PREFILL_TOKENS, Batch, Job, Request
from parakeet.generation.choice import Choice, candidates
from parakeet.generation.decoder import Decoder
from parakeet.generation.lookup import DraftPolicy
from parakeet.generation.sampling import Sampler, check_finite, choose_all
from parakeet.generation.steps import NextToken, Step, Timing
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import load_model
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import Tokenizer

PROMPTS_PER_BATCH = 64


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
        """Of the latest reply."""
        self._job: Job | None = None
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

    @cached_property
    def _batch(self) -> Batch:
        """For one reply at a time. Made for the first one: on CUDA its cache takes its memory at once."""
        return Batch(self, 1)

    def generate(
        self, prompt_ids: Sequence[int], settings: SamplingSettings, log_probabilities: bool = False
    ) -> Iterator[Step]:
        """Continue the prompt until the model ends its turn, a stop string comes, or the room is used up.

        Nothing runs before the first `next`. Closing the iterator stops between two forward passes, or between two
        parts of the prompt's. Only the last step has a finish_reason. The same prompt, settings and seed give the same
        text on the same machine, dtype and number of threads, whatever was generated before. Only one reply at a time:
        a new one ends the one before. `Batch` generates several.

        Raises ParakeetError if the prompt is empty or longer than the context, or logits are not finite.
        """
        self._stop()
        job = self._batch.start(Request(prompt_ids, (settings,), log_probabilities))
        self._job, self.timing = job, job.timings[0]
        try:
            while not (job.done or job.cancelled):
                steps = self._batch.advance()
                if job.error is not None:
                    raise job.error
                if not steps:
                    yield Step(None, "", None)
                for _, _, step in steps:
                    yield step
        finally:
            job.cancelled = True

    def next_logits(self, prompt_ids: Sequence[int]) -> Tensor:
        """Logits (vocabulary rows,) fp32 of the token after a prompt. Raises ParakeetError as `generate` does."""
        self.check_prompt(prompt_ids)
        self._stop()
        self.timing = Timing(prompt_tokens=len(prompt_ids))
        return self._batch.logits(prompt_ids, self.timing)

    def _stop(self) -> None:
        """End the reply before, if its iterator was neither exhausted nor closed."""
        if self._job is not None:
            self._job.cancelled = True

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

    def synchronise(self) -> None:
        """Wait for what was started on a GPU."""
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
