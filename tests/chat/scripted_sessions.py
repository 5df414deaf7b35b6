"""Sessions with a scripted engine, and helpers to hold a conversation in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from parakeet.chat.session import Session
from parakeet.chat.storage import SessionLog, session_header
from parakeet.conversation import Turn
from parakeet.sampling_settings import SamplingSettings

from ..conversations import parse_conversation
from ..scripted import byte_tokenizer
from .scripted_engine import ScriptedEngine

TOKENIZER = byte_tokenizer()


def greedy(max_tokens: int = 50, seed: int | None = None) -> SamplingSettings:
    return SamplingSettings(
        temperature=0, top_p=1, min_p=0, frequency_penalty=0, presence_penalty=0, max_tokens=max_tokens, seed=seed
    )


def session(
    reply: str | Callable[[list[int], int], str] = "yes",
    context: int = 512,
    max_tokens: int = 50,
    system: str = "",
    log: SessionLog | None = None,
    seed: int | None = None,
) -> Session:
    engine = ScriptedEngine([reply] if isinstance(reply, str) else reply, TOKENIZER, context)
    return Session(engine, greedy(max_tokens, seed), system, log)


def new_log(folder: Path, name: str = "talk", model: str = "tiny") -> SessionLog:
    return SessionLog.create(folder / f"{name}.jsonl", header(model))


def header(model: str = "tiny") -> dict[str, Any]:
    return session_header(ScriptedEngine(["x"], TOKENIZER), model, f"sha of {model}")


def seeded(prompt_ids: list[int], seed: int) -> str:
    """A reply that differs from seed to seed, and with the prompt."""
    return f"seed {seed} after {len(prompt_ids)}\nand more"


def drain(steps: Any, words: int | None = None) -> str:
    """The reply; with `words`, it is interrupted after that many."""
    text = ""
    for step in steps:
        text += step.text
        words = None if words is None else words - (step.token_id is not None)
        if words == 0:
            break
    steps.close()
    return text


def say(talk: Session, message: str, words: int | None = None) -> str:
    return drain(talk.reply(message), words)


def prompts(talk: Session) -> list[list[Turn]]:
    """What the model was given, turn by turn."""
    return [parse_conversation(TOKENIZER, ids) for ids in talk.engine.prompts]  # type: ignore[attr-defined]


def last_prompt(talk: Session) -> list[str]:
    return [turn.content for turn in prompts(talk)[-1]]
