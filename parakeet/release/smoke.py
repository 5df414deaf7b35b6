"""Whether a release writes anything that can be seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parakeet.evaluation.replies import GREEDY, replies_to
from parakeet.generation.engine import batch_replies, load_engine
from parakeet.model.transformer import best_device

PROMPTS = 5
TOKENS = 32


def visible_text(release: Path, prompts: Sequence[str]) -> tuple[str, str]:
    """The first of some prompts with a visible greedy reply, and that reply; two empty strings without one.

    A model of plain text alone may reply to none. Then the prompt is empty, and the text is a document that it begins.
    Raises ParakeetError if the release does not load from its own files.
    """
    # By torch: a C compiler is no part of a release.
    engine = load_engine(release, best_device(), "fp32", recorded={"kernels": False})
    some = [*prompts[:PROMPTS]]
    for prompt, reply in zip(some, replies_to(engine, some, [TOKENS] * len(some)) if some else [], strict=True):
        if _can_be_seen(reply):
            return prompt, reply
    opening = [engine.tokenizer.end_of_text]
    [ids] = batch_replies(engine, [opening], [replace(GREEDY, max_tokens=TOKENS)])
    text = engine.tokenizer.decode(ids).strip()
    return "", text if _can_be_seen(text) else ""


def _can_be_seen(text: str) -> bool:
    """Whether some character is neither white space nor a control character nor a broken one."""
    return any(letter.isprintable() and not letter.isspace() and letter != "\ufffd" for letter in text)
