"""A model whose replies are given, on a tokenizer of bytes: an exact oracle for everything above a model."""

import base64
import time
from collections.abc import Generator, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from parakeet.generation.engine import Engine
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import END_OF_PROMPT, END_OF_TEXT, PADDING, ROLE_TOKENS, Tokenizer

UNDEFINED = 300
"""An id for which the byte tokenizer has a row but no meaning."""


def byte_tokenizer() -> Tokenizer:
    """Ids 0 to 255 are the bytes, 256 to 261 the control tokens; 320 rows."""
    lines = (base64.b64encode(bytes([byte])) + b" " + str(byte).encode() for byte in range(256))
    names = (END_OF_TEXT, END_OF_PROMPT, PADDING, *ROLE_TOKENS.values())
    controls = {name: 256 + index for index, name in enumerate(names)}
    return Tokenizer("bytes", b"\n".join(lines), r"[\s\S]", controls)


class ScriptedModel:
    """Replies with `script`, id by id, to every prompt; `prompts` are the ids that it received."""

    dtype = "fp32"
    device = torch.device("cpu")
    bytes_per_token = 28
    compiled = False
    cache_dtype = "fp32"
    can_append = True

    def __init__(self, tokenizer: Tokenizer, script: list[int], context: int, delay: float = 0.0) -> None:
        self.config = SimpleNamespace(context=context, parameter_count=7)
        self.rows = tokenizer.rows
        self.assistant = tokenizer.role_id("Assistant")
        self.script = script
        self.delay = delay
        self.prompts: list[list[int]] = []
        self.passes: list[int] = []
        """How many tokens each pass after a prefill had."""

    def new_cache(self, capacity: int, batch_size: int = 1) -> SimpleNamespace:
        return SimpleNamespace(lengths=[0] * batch_size, capacity=capacity, prompt=0, n_bytes_per_token=1)

    def prefill_in_parts(
        self, ids: Sequence[int], cache: SimpleNamespace, row: int = 0
    ) -> Generator[None, None, Tensor]:
        if cache.lengths[row] == 0:
            self.prompts.append([])
        cache.lengths[row] += len(ids)
        assert cache.lengths[row] <= cache.capacity <= self.config.context
        self.prompts[-1] += ids
        cache.prompt = cache.lengths[row]
        time.sleep(self.delay)
        yield from ()
        return self._logits(0)

    def append(self, ids: Sequence[int], rows: Sequence[int], cache: SimpleNamespace) -> Tensor:
        assert set(rows) == {0}
        assert len(ids) == 1 or cache.lengths[0] + len(ids) <= cache.capacity
        time.sleep(self.delay)
        self.passes.append(len(ids))
        said = cache.lengths[0] - cache.prompt
        cache.lengths[0] += len(ids)
        return torch.stack([self._logits(said + number) for number in range(1, len(ids) + 1)])

    def _logits(self, said: int) -> Tensor:
        logits = torch.full((self.rows,), -9.0)
        logits[self.script[said % len(self.script)]] = 9.0
        # Higher still, ids that no reply may contain: an engine without the mask would choose these.
        logits[[UNDEFINED, self.assistant]] = 99.0
        return logits


def greedy(max_tokens: int = 1000) -> SamplingSettings:
    return SamplingSettings(
        temperature=0, top_p=1, min_p=0, frequency_penalty=0, presence_penalty=0, max_tokens=max_tokens
    )


def scripted_engine(reply: bytes, context: int = 512, delay: float = 0.0, ends: bool = True) -> Engine:
    """An engine that replies with `reply`, once or (`ends=False`) again and again."""
    tokenizer = byte_tokenizer()
    script = [*reply, tokenizer.end_of_prompt] if ends else [*reply]
    return Engine(ScriptedModel(tokenizer, script, context, delay), tokenizer)


def random_engine(context: int = 512, weight: float | None = None, dtype: str = "fp32") -> Engine:
    """A real transformer with random weights (every byte and control token is about as likely), or all the same."""
    from parakeet.generation.decoder import Decoder
    from parakeet.model.config import ModelConfig
    from parakeet.model.transformer import Parakeet

    tokenizer = byte_tokenizer()
    model = Parakeet(ModelConfig(layers=2, heads=2, width=16, context=context, vocabulary_rows=tokenizer.rows))
    model.initialise(torch.Generator().manual_seed(1))
    if weight is not None:
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, weight)
    return Engine(Decoder(model, dtype), tokenizer)
