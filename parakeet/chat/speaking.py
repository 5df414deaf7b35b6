"""One reply after the other: from a session's steps to a reporter, with Ctrl-C in between."""

import math
import signal
import time
from collections.abc import Generator
from contextlib import closing
from types import FrameType
from typing import TYPE_CHECKING

from parakeet.chat.output import Reporter, count, figures, stats_line
from parakeet.chat.session import Session

if TYPE_CHECKING:
    from parakeet.generation.engine import Step

SECONDS_TO_LEAVE = 1.0


class Presses:
    """When Ctrl-C was pressed. `leave`: twice within a second, wherever the presses fell."""

    def __init__(self) -> None:
        self.leave = False
        self._last = -math.inf

    def press(self) -> None:
        before, self._last = self._last, time.monotonic()
        self.leave = self.leave or self._last - before < SECONDS_TO_LEAVE


class Interrupt:
    """While it is entered, Ctrl-C only sets `requested`: an exception inside a forward pass or a write
    could leave either half done. Elsewhere Ctrl-C raises KeyboardInterrupt as usual."""

    def __init__(self, presses: Presses) -> None:
        self.requested = False
        self._presses = presses

    def __enter__(self) -> "Interrupt":
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._presses.press()


class Speaker:
    """Says a session's replies through a reporter, and notes what became of them."""

    def __init__(self, session: Session, reporter: Reporter, stats: bool = False) -> None:
        self.session = session
        self.reporter = reporter
        self.stats = stats
        self.interrupted = False
        """Whether Ctrl-C was pressed while the latest reply was written."""
        self.presses = Presses()
        self._told_dropped = 0

    def say(self, steps: Generator["Step", None, None], label: str = "") -> str:
        """Stream one reply that the session has begun; returns its finish reason.

        "interrupted" means that Ctrl-C stopped it, which closes `steps`. ParakeetError as the steps raise it.
        """
        self._tell_dropped()
        self.interrupted = False
        finish_reason = "interrupted"
        with Interrupt(self.presses) as interrupt, self.reporter.reply(label) as line, closing(steps):
            for step in steps:
                line.write(step.text)
                finish_reason = step.finish_reason or finish_reason
                if interrupt.requested:
                    break
            if finish_reason == "interrupted":
                line.mark(" [stopped]")
        self.interrupted = interrupt.requested
        self._tell_end(finish_reason)
        return finish_reason

    def tell_notes(self) -> None:
        """Pass on what the session has to say about its file."""
        for text in self.session.notes:
            self.reporter.note(text)
        self.session.notes.clear()

    def _tell_dropped(self) -> None:
        """Once for each exchange that the prompt had to leave out, not again with every reply."""
        dropped = self.session.dropped
        if dropped > self._told_dropped:
            self.reporter.note(
                f"{count(dropped - self._told_dropped, 'oldest exchange')} no longer fitted the context of "
                f"{self.session.engine.context:,} tokens and left the conversation."
            )
        self._told_dropped = dropped

    def _tell_end(self, finish_reason: str) -> None:
        timing, seed = self.session.engine.timing, self.session.last_seed
        values = {"finish_reason": finish_reason, "seed": seed, "tokens": timing.reply_tokens, **figures(timing)}
        self.reporter.end(values)
        self.tell_notes()
        if finish_reason in ("length", "context"):
            why = "the context is full" if finish_reason == "context" else "max_tokens"
            self.reporter.note(f"reply cut at {count(timing.reply_tokens, 'token')} ({why})")
        if self.stats:
            self.reporter.note(stats_line(timing, seed, finish_reason))
