"""What the methods of `parakeet.Model` return: generated text with its pieces, and a score. Imports no torch."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A piece of a generated text: one token, or several if only they make a character or exclude a stop string.

    `log_probabilities` has ln p of each of the `ids`, by the model, before any sampling setting. If the model ended its
    turn, the last id is the control token that says so.

    `finish_reason` is None except in the last piece, which may have no text: "stop" (the model ended its turn, or a
    stop string came), "length" (max_tokens) or "context" (the context is full).
    """

    text: str
    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    finish_reason: str | None


class Generation:
    """A text that is being generated: iterate over its pieces, or `read` the whole.

    >>> generation = model.generate([("user", "Who are you?")])
    >>> for piece in generation:
    ...     print(piece.text, end="", flush=True)
    >>> generation.finish_reason, generation.seed
    ('stop', 3155915424)

    Nothing is computed before the first piece. Leave the loop to stop early, or call `close`. So far generated:

    text: the text.
    ids: its tokens, with the one that ended it.
    log_probabilities: ln p of each of the ids, as in `Piece`.
    finish_reason: that of the last piece; None before it, and after an early stop.

    Known from the beginning:

    seed: with the same prompt, settings, dtype, device and number of threads, it gives the same text again.
    prompt_ids: what the model continues.
    dropped: how many of the oldest exchanges were left out of the prompt, because they did not fit the context.
    """

    def __init__(
        self, pieces: Generator[Piece, None, None], prompt_ids: Sequence[int], seed: int, dropped: int
    ) -> None:
        """Made by `Model.generate`."""
        self._pieces = pieces
        self.prompt_ids = tuple(prompt_ids)
        self.seed = seed
        self.dropped = dropped
        self.text = ""
        self.ids: list[int] = []
        self.log_probabilities: list[float] = []
        self.finish_reason: str | None = None

    def __iter__(self) -> "Generation":
        return self

    def __next__(self) -> Piece:
        piece = next(self._pieces)
        self.text += piece.text
        self.ids += piece.ids
        self.log_probabilities += piece.log_probabilities
        self.finish_reason = piece.finish_reason
        return piece

    def read(self) -> str:
        """Generate the rest, and return the whole text."""
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """Stop. There are no more pieces."""
        self._pieces.close()

    def __repr__(self) -> str:
        state = self.finish_reason or f"{len(self.ids):,} tokens so far"
        return f"<Generation {self.text!r} ({state}, seed {self.seed})>"


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text. `bits_per_byte` is the figure to compare: lower is better.

    ids: the tokens of the text.
    log_probabilities: ln p of each, given those before it.
    n_bytes: UTF-8 bytes of the text.
    """

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    n_bytes: int

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return len(self.ids)

    @property
    def bits(self) -> float:
        """Σ −log2 p."""
        return -math.fsum(self.log_probabilities) / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte of the text."""
        return self.bits / self.n_bytes

    def __repr__(self) -> str:
        return f"<Score {self.bits_per_byte:.3f} bits per byte ({self.tokens:,} tokens, {self.n_bytes:,} bytes)>"
