"""The two shapes of the synthetic source: a dialogue, and a question with its one right answer."""

from dataclasses import dataclass

from parakeet.conversation import Turn


@dataclass(frozen=True)
class Dialogue:
    """A whole conversation of one family (`task`). `split` is "train" or "held_out"."""

    task: str
    turns: tuple[Turn, ...]
    split: str


@dataclass(frozen=True)
class Question:
    """One Human turn and the exact reply that counts as right."""

    task: str
    prompt: str
    answer: str


def exchange(prompt: str, answer: str) -> tuple[Turn, ...]:
    """A Human turn and the Assistant's reply."""
    return Turn("Human", prompt), Turn("Assistant", answer)
