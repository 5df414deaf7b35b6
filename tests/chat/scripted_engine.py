"""An engine without a model: its reply is a function of (prompt ids, seed)."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from parakeet.errors import ParakeetError
from parakeet.generation.engine import Step
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import Tokenizer

Reply = Callable[[list[int], int | None], str]


@dataclass
class ScriptedTiming:
    """The fields of the engine's `Timing`, with fixed figures."""

    prompt_tokens: int = 0
    kept_tokens: int = 0
    reply_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prefill_seconds: float = 0.25
    decode_seconds: float = 0.5
    first_token_seconds: float = 0.3
    bytes_per_token: float = 1e6
    prefill_rate: float | None = 512.0
    decode_rate: float | None = 61.2
    bandwidth: float | None = 24.1


class ScriptedEngine:
    """Says one word a step, and a word counts as one token; `prompts` holds the ids that it was given.

    `replies` is a function of (prompt ids, seed), or a list: which of them is said is decided by a hash of
    prompt ids and seed, so that a list of one always says the same. Without an end in it (`ends=False`) the
    reply is said again and again. A word takes `delay` seconds.
    """

    def __init__(
        self,
        replies: list[str] | Reply,
        tokenizer: Tokenizer,
        context: int = 512,
        delay: float = 0.0,
        ends: bool = True,
        dtype: str = "fp32",
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self._reply = replies if callable(replies) else _one_of(replies)
        self.tokenizer = tokenizer
        self.context = context
        self.delay = delay
        self.ends = ends
        self.dtype, self.device, self.threads = dtype, device, threads
        self.choice, self.kernels, self.cache_dtype = None, False, "fp32"
        self.parameter_count = 7
        self.longest_token = max(len(tokenizer.token_bytes(token_id)) for token_id in tokenizer.defined_ids())
        self.timing = ScriptedTiming()
        self.prompts: list[list[int]] = []
        self.settings: list[SamplingSettings] = []

    def generate(self, prompt_ids: Sequence[int], settings: SamplingSettings) -> Iterator[Step]:
        if not prompt_ids or len(prompt_ids) > self.context:
            raise ParakeetError(f"The prompt has {len(prompt_ids)} tokens; the context is {self.context}.")
        self.prompts.append(list(prompt_ids))
        self.settings.append(settings)
        self.timing = ScriptedTiming(prompt_tokens=len(prompt_ids))
        room = self.context - len(prompt_ids)
        most = min(room, settings.max_tokens)
        words = re.findall(r"\s*\S+\s*$|\s*\S+|\s+", self._reply(list(prompt_ids), settings.seed))
        yield Step(None, "", None)  # while the prompt is read
        said = 0
        while words and (said < len(words) or not self.ends):
            if said == most:
                yield Step(None, "", "length" if settings.max_tokens <= room else "context")
                return
            time.sleep(self.delay)
            word = words[said % len(words)]
            said += 1
            self.timing.reply_tokens = said
            yield Step(self.tokenizer.encode(word)[0], word, None)
        if said == most:
            yield Step(None, "", "length" if settings.max_tokens <= room else "context")
        else:
            yield Step(self.tokenizer.end_of_prompt, "", "stop")


def _one_of(replies: list[str]) -> Reply:
    def choose(prompt_ids: list[int], seed: int | None) -> str:
        digest = hashlib.sha256(repr((prompt_ids, seed)).encode()).digest()
        return replies[int.from_bytes(digest[:8], "big") % len(replies)]

    return choose
