"""Which share of a text's n-grams is novel, nowhere in the training text: of replies, of held-out and of training text.

Held-out text is the yardstick: people repeat each other too. A model whose replies have fewer novel n-grams than
held-out text copies more than people do.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.replies import GREEDY
from parakeet.evaluation.scoring import is_control
from parakeet.intervals import pooled_share, share_of
from parakeet.memorisation.text import separated
from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.memorisation.measure import Subject

LONGEST = 16
TEXTS = 64
TEXT_TOKENS = 96
PROMPT_TOKENS = 32
"""Of a plain document, whose beginning is the prompt; of a conversation it is all before the first reply."""
TEMPERATURES = {"greedy": 0.0, "sampled": 0.8}


def measure_novelty(subject: "Subject") -> dict[str, Any]:
    """{kind: found}; the kinds are "greedy", "sampled" (temperature 0.8), "held_out" and "training".

    The replies answer the beginnings of the held-out documents, or of training documents if nothing is held out.
    found = {"texts", "novelty": [{"n" (texts), "share", "interval"} or None for n = 1 … LONGEST], "whole": share of the
    texts that stand in training as a whole}.
    """
    rng = np.random.default_rng(13)
    held_out = prompts_of(subject.held_out, np.arange(len(subject.held_out)), subject.tokenizer, rng)
    training = prompts_of(subject.train, subject.read_documents, subject.tokenizer, rng)
    asked = held_out or training
    asked = [(prompt, text) for prompt, text in asked if len(prompt) < subject.engine.context]
    prompts = [prompt for prompt, _ in asked]
    texts = {kind: _replies(subject, prompts, temperature) for kind, temperature in TEMPERATURES.items()}
    texts |= {"held_out": [text for _, text in held_out], "training": [text for _, text in training]}
    return {kind: novelty_of(subject, found) for kind, found in texts.items()}


def prompts_of(
    shards: TokenShards, documents: np.ndarray, tokenizer: Tokenizer, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The beginnings of some documents, and the content that follows, up to TEXT_TOKENS ids of it."""
    control = is_control(tokenizer)
    found = []
    for number in rng.permutation(documents)[: 4 * TEXTS].tolist():
        ids = shards.tokens(number).astype(np.int64)
        if ids[0] == tokenizer.end_of_text:
            begin = min(PROMPT_TOKENS, len(ids) // 2)
        else:
            replies = np.flatnonzero(ids == tokenizer.role_id("Assistant"))
            begin = int(replies[0]) + 1 if len(replies) else 0
        text = ids[begin : begin + TEXT_TOKENS]
        text = text[: int(np.argmax(control[text]))] if control[text].any() else text
        if begin and len(text):
            found.append((ids[:begin], text))
        if len(found) == TEXTS:
            break
    return found


def _replies(subject: "Subject", prompts: Sequence[np.ndarray], temperature: float) -> list[np.ndarray]:
    from parakeet.generation.engine import batch_replies

    settings = [
        replace(GREEDY, temperature=temperature, max_tokens=TEXT_TOKENS, seed=seed) for seed in range(len(prompts))
    ]
    replies = batch_replies(subject.engine, [prompt.tolist() for prompt in prompts], settings)
    return [np.array(reply, np.int64) for reply in replies if reply]


def novelty_of(subject: "Subject", texts: Sequence[np.ndarray]) -> dict[str, Any]:
    """The figures of one kind of text, each a row of ids."""
    query, begins = separated(texts)
    matches = subject.index.longest_matches(query)
    of_text = [matches[begin : begin + len(text)] for begin, text in zip(begins, texts, strict=True)]
    novelty = []
    for n in range(1, LONGEST + 1):
        starts = [found[: max(0, len(found) - n + 1)] for found in of_text]
        novelty.append(pooled_share([int((found < n).sum()) for found in starts], [len(found) for found in starts]))
    return {
        "texts": len(texts),
        "novelty": novelty,
        "whole": share_of(found[0] >= len(found) for found in of_text) if texts else None,
    }
