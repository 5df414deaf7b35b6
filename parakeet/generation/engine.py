"""Ids in, a stream of text out: prefill, the cache of keys and values, sampling, whole UTF-8 characters."""

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.generation.sampling import Sampler
from parakeet.generation.settings import SamplingSettings
from parakeet.generation.stopping import StopStrings
from parakeet.model.transformer import best_device, load_model
from parakeet.tokenizer import Tokenizer

PREFILL_TOKENS = 512
"""Prompt tokens in one forward pass: fewer leave matrix units idle (256: a tenth slower in bf16), more make Ctrl-C
wait (512 of the 378M model take 1.3 s in fp32 on 2 cores)."""


class ModelShape(Protocol):
    @property
    def context(self) -> int: ...

    @property
    def parameter_count(self) -> int: ...


class LanguageModel(Protocol):
    """What the engine asks of a model; `parakeet.generation.decoder.Decoder` is one."""

    dtype: str
    device: torch.device
    bytes_per_token: int

    @property
    def config(self) -> ModelShape: ...

    def new_cache(self, capacity: int, batch_size: int = 1) -> Any:
        """An empty cache with `lengths`, the tokens seen by each row, and `n_bytes_per_token`."""

    def prefill(self, ids: Sequence[int], cache: Any, row: int = 0) -> Tensor:
        """Logits (vocabulary rows,) after the last of some ids that join a row of the cache."""

    def step(self, ids: Sequence[int], cache: Any) -> Tensor:
        """Logits (batch, vocabulary rows) after one more id for every row."""


@dataclass(frozen=True)
class Step:
    """One step of a reply.

    `token_id` is None while the prompt is read and in a last step that drew no token. `text` holds only whole
    characters, and nothing that may yet turn out to be a stop string. `finish_reason` is None but in the last step:
    "stop" (the model ended its turn, or a stop string came), "length" (max_tokens) or "context" (it is full).
    """

    token_id: int | None
    text: str
    finish_reason: str | None


@dataclass
class Timing:
    """What one reply took. Seconds are wall time; the time in which the consumer holds the stream does not count."""

    prompt_tokens: int = 0
    kept_tokens: int = 0
    """Tokens of the prompt whose keys and values an earlier prompt had left in the cache."""
    reply_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    decoded_tokens: int = 0
    """Forward passes of one token: the first token of a reply comes out of the prefill."""
    first_token_seconds: float = 0.0
    """Prefill, and the draw of the first token."""
    bytes_read: float = 0.0
    """Memory read while decoding: for each token all weights, and the cache as far as it is filled."""

    @property
    def prefill_rate(self) -> float | None:
        """Tokens a second, without those that were kept."""
        return (self.prompt_tokens - self.kept_tokens) / self.prefill_seconds if self.prefill_seconds else None

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second."""
        return self.decoded_tokens / self.decode_seconds if self.decode_seconds else None

    @property
    def bandwidth(self) -> float | None:
        """GB of memory read a second while decoding."""
        return self.bytes_read / self.decode_seconds / 1e9 if self.decode_seconds else None


class Engine:
    """A model and its tokenizer, ready to write."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context = model.config.context
        self.parameter_count = model.config.parameter_count
        self.dtype = model.dtype
        self.device = str(model.device)
        self.threads = torch.get_num_threads()
        self.timing = Timing()
        self.stop_ids = frozenset({tokenizer.end_of_prompt, tokenizer.end_of_text, tokenizer.padding})
        spoken = {i: length for i in tokenizer.defined_ids() if (length := len(tokenizer.token_bytes(i)))}
        self.longest_token = max(spoken.values())
        self.allowed = torch.zeros(tokenizer.rows, dtype=torch.bool)
        """(rows,) where a reply may draw from: text, the end of a turn and of a text; no role, no padding (it was
        never a target), no id without a meaning."""
        self.allowed[[*spoken, tokenizer.end_of_prompt, tokenizer.end_of_text]] = True
        self._cache: Any = None
        self._read: list[int] = []

    def generate(self, prompt_ids: Sequence[int], settings: SamplingSettings) -> Iterator[Step]:
        """Continue the prompt until the model ends its turn, a stop string comes, or there is no more room.

        Nothing runs before the first `next`; closing the iterator stops between two forward passes. Exactly the last
        step has a finish_reason. The same prompt, settings and seed give the same text on the same machine, dtype and
        number of threads, whatever was generated before. One reply at a time: all share one cache.

        Raises ParakeetError where the prompt is empty or beyond the context, or logits are not finite.
        """
        self.check_prompt(prompt_ids)
        self.timing = timing = Timing(prompt_tokens=len(prompt_ids))
        sampler = Sampler(settings, self.allowed)
        stops = StopStrings(settings.stop)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
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
            if not timing.reply_tokens:
                timing.first_token_seconds = timing.prefill_seconds + time.perf_counter() - began
            if token_id in self.stop_ids:
                shown, _ = stops.feed(decoder.decode(b"", final=True))
                yield Step(token_id, shown + stops.finish(), "stop")
                return
            timing.reply_tokens += 1
            shown, stopped = stops.feed(decoder.decode(self.tokenizer.token_bytes(token_id)))
            yield Step(token_id, shown, "stop" if stopped else None)
            if stopped:
                return
            if timing.reply_tokens < limit:
                logits = self._step(token_id, timing)
        shown = stops.feed(decoder.decode(b"", final=True))[0] + stops.finish()
        reason = "length" if limit == settings.max_tokens else "context"
        yield Step(None, shown, "stop" if stops.stopped else reason)

    def _unread(self, prompt: list[int]) -> Iterator[list[int]]:
        """The prompt in pieces of PREFILL_TOKENS, without the pieces that the cache holds already.

        Only whole pieces that began at the same place are kept. A piece of another length, or a token that came out
        of a step, has keys that differ in the last bit: replies would depend on what was said before them.
        """
        if self._cache is None:
            self._cache = self.model.new_cache(self.context)
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

    def _step(self, token_id: int, timing: Timing) -> Tensor:
        begin = time.perf_counter()
        if self._cache.lengths[0] >= self.context:
            # The ring takes the place of the prompt's first tokens.
            self._read = []
        logits = self.model.step([token_id], self._cache)[0]
        self._synchronise()
        timing.decode_seconds += time.perf_counter() - begin
        timing.decoded_tokens += 1
        filled = min(self._cache.lengths[0], self.context)
        timing.bytes_read += self.model.bytes_per_token + filled * self._cache.n_bytes_per_token
        return logits

    def _synchronise(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def check_prompt(self, prompt_ids: Sequence[int]) -> None:
        """ParakeetError where a prompt is empty or beyond the context."""
        if not prompt_ids:
            raise ParakeetError("The prompt is empty: there is nothing to continue.")
        if len(prompt_ids) > self.context:
            raise ParakeetError(
                f"The prompt has {len(prompt_ids):,} tokens, but the model's context is {self.context:,}: shorten it."
            )


def load_engine(directory: Path, device: str = "auto", dtype: str = "auto", threads: int = 0) -> Engine:
    """The model in a release folder, in the precision `dtype` of its weights; never two copies of them in memory.

    `auto` takes CUDA where there is one and the dtype runs there, fp32 on a CPU and bf16 elsewhere. `threads` 0 takes
    what torch chooses.

    Raises ParakeetError on a device that is not there, a dtype that it does not have, or unusable weights.
    """
    device = _checked_device("cpu" if device == "auto" and dtype.startswith("int") else device)
    dtype = ("fp32" if device == "cpu" else "bf16") if dtype == "auto" else dtype
    if dtype not in DTYPES:
        raise ParakeetError(f"dtype is {dtype!r}; one of auto, {', '.join(DTYPES)} is needed.")
    if dtype.startswith("int") and device != "cpu":
        raise ParakeetError(f"{dtype} runs on the CPU only: take bf16 on {device}, or --device cpu.")
    if threads:
        torch.set_num_threads(threads)
    tokenizer = Tokenizer.load(directory)
    model = load_model(directory, "cpu")
    if tokenizer.rows != model.config.vocabulary_rows:
        raise ParakeetError(
            f"{directory} holds a tokenizer of {tokenizer.rows:,} rows and a model of "
            f"{model.config.vocabulary_rows:,}: they do not belong together. Copy the release again."
        )
    return Engine(Decoder(model, dtype, device), tokenizer)


def _checked_device(name: str) -> str:
    if name == "auto":
        return best_device()
    if name == "cpu":
        return name
    known = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if name not in ["cuda", *known] or not known:
        raise ParakeetError(f"There is no device {name!r} on this machine: it has {', '.join(['cpu', *known])}.")
    return name
