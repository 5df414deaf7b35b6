"""What a chat prints: replies on standard output, notes on standard error, or everything as JSON events.

Text that a model or a file supplied passes the sanitiser, or is escaped as JSON.
"""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from parakeet.chat.wrapping import Wrapper, terminal_width
from parakeet.formatting import counted
from parakeet.sanitise import Sanitiser, sanitise

if TYPE_CHECKING:
    from parakeet.chat.session import Session
    from parakeet.generation.engine import Engine, Step, Timing

SECONDS_TO_LEAVE = 1.0
"""Two presses of Ctrl-C within this time leave the chat."""


def write(text: str) -> None:
    """Put text on standard output at once. BrokenPipeError if its reader has gone away."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def note(text: str) -> None:
    """Print a line of our own on standard error, if that is open."""
    if sys.stderr is not None:  # print(file=None) would write to standard output
        print(sanitise(text), file=sys.stderr, flush=True)


def has_colour() -> bool:
    """Whether standard output is a terminal whose user wants colour (https://no-color.org)."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def styled(text: str, code: str) -> str:
    """The text in an SGR style such as "1;32", if the terminal has colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour() else text


class TextOutput:
    """Text for people. Standard output gets nothing but replies. On a terminal, their lines break between words."""

    def __init__(self) -> None:
        self._sanitiser = Sanitiser()
        self._wrapper = Wrapper(0)
        self._last = ""

    def begin(self, label: str) -> None:
        """A reply begins; `label` is printed before it."""
        # One sanitiser for a whole reply: an escape sequence may be split over several pieces.
        self._sanitiser, self._last = Sanitiser(), ""
        self._wrapper = Wrapper(terminal_width(), column=len(sanitise(label)))
        write(label)

    def text(self, text: str) -> None:
        """The next piece of the reply, as the model produced it."""
        self._put(self._wrapper.feed(self._sanitiser.feed(text)))

    def finish(self, stopped: bool) -> None:
        """The text of the reply is complete, or Ctrl-C stopped it."""
        self._put(self._wrapper.feed(self._sanitiser.finish()) + self._wrapper.finish())
        if stopped and sys.stdout.isatty():
            self._put(" [stopped]")
        if not self._last.endswith("\n"):
            self._put("\n")

    def end(self, values: dict[str, Any]) -> None:
        """The reply is recorded; `values` are finish_reason, seed, tokens and the timing's figures."""

    def note(self, text: str) -> None:
        note(text)

    def _put(self, text: str) -> None:
        self._last = text or self._last
        write(text)


class JsonOutput:
    """The same as JSON objects, one a line on standard output.

    Text is not sanitised. Every character beyond printable ASCII is an escape, so nothing can steer a terminal and
    nothing that the model wrote is lost.
    """

    def event(self, kind: str, **values: Any) -> None:
        write(json.dumps({"event": kind, **values}) + "\n")

    def begin(self, label: str) -> None:
        pass

    def text(self, text: str) -> None:
        if text:
            self.event("text", text=text)

    def finish(self, stopped: bool) -> None:
        pass

    def end(self, values: dict[str, Any]) -> None:
        self.event("end", **values)

    def note(self, text: str) -> None:
        self.event("note", text=text)


class Interrupts:
    """Presses of Ctrl-C."""

    def __init__(self) -> None:
        self.leave = False
        """Whether two presses came within a second, during a reply or at the prompt."""
        self.requested = False
        """Whether Ctrl-C was pressed during the latest reply."""
        self._last = -math.inf

    def press(self) -> None:
        before, self._last = self._last, time.monotonic()
        self.leave = self.leave or self._last - before < SECONDS_TO_LEAVE

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let Ctrl-C only set `requested`. An exception in a forward pass or a write could leave either half done."""

        def request(*_: object) -> None:
            self.requested = True
            self.press()

        self.requested = False
        previous = signal.signal(signal.SIGINT, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


class ReplyPrinter:
    """Prints the replies of a session as they are generated, with notes about them."""

    def __init__(self, session: "Session", output: TextOutput | JsonOutput, stats: bool = False) -> None:
        self.session = session
        self.output = output
        self.stats = stats
        """Whether speed and seed are printed after each reply, and once what the engine runs with."""
        self.interrupts = Interrupts()
        self._described: Engine | None = None
        """The engine whose choice of dtype and threads the user knows."""
        self._told: Session | None = None
        """The session in which exchanges were left out, once the user knows."""

    def print_reply(self, steps: Generator["Step", None, None], label: str = "") -> str:
        """Print one reply that the session has begun; returns its finish reason.

        "interrupted" means that Ctrl-C stopped it, which closes `steps`. Raises ParakeetError as the steps do.
        """
        self._note_dropped()
        finish_reason, stopped = "interrupted", False
        with self.interrupts.deferred():
            self.output.begin(label)
            try:
                with closing(steps):
                    for step in steps:
                        self.output.text(step.text)
                        finish_reason = step.finish_reason or finish_reason
                        if self.interrupts.requested:
                            break
                stopped = finish_reason == "interrupted"
            finally:
                self.output.finish(stopped)
        self._print_end(finish_reason)
        return finish_reason

    def print_notes(self) -> None:
        """Print what the session has to say about its file."""
        for text in self.session.notes:
            self.output.note(text)
        self.session.notes.clear()

    def _note_dropped(self) -> None:
        """One note when prompts begin to leave out exchanges, not one with every reply."""
        dropped = self.session.dropped
        if not self.session.exchanges:
            self._told = None
        if dropped and self._told is not self.session:
            self._told = self.session
            self.output.note(
                f"The context of {self.session.engine.context:,} tokens is full: from here on the oldest exchanges are "
                f"left out of the prompt ({dropped:,} so far)."
            )

    def _note_choice(self) -> None:
        """One note for each engine: what it runs with, and why."""
        engine = self.session.engine
        if engine.choice and self._described is not engine:
            self.output.note(f"Running on {engine.device} in {engine.choice.reason}.")
        self._described = engine

    def _print_end(self, finish_reason: str) -> None:
        timing, seed = self.session.engine.timing, self.session.last_seed
        values = {"finish_reason": finish_reason, "seed": seed, "tokens": timing.reply_tokens, **figures(timing)}
        self.output.end(values)
        self.print_notes()
        if finish_reason in ("length", "context"):
            why = "the context is full" if finish_reason == "context" else "max_tokens"
            self.output.note(f"Reply cut at {counted(timing.reply_tokens, 'token')} ({why}).")
        if self.stats:
            self._note_choice()
            self.output.note(stats_line(timing, seed, finish_reason))


def engine_facts(engine: "Engine") -> dict[str, Any]:
    """What generates the replies, as JSON values."""
    names = ("parameter_count", "context", "dtype", "device", "threads")
    return {name: getattr(engine, name) for name in names}


def figures(timing: "Timing") -> dict[str, Any]:
    """A reply's timing as JSON values: tokens, seconds, tokens a second, GB a second. Null: not measured."""
    return {
        "prompt_tokens": timing.prompt_tokens,
        "kept_tokens": timing.kept_tokens,
        "prompt_tokens_per_second": _rounded(timing.prefill_rate),
        "first_token_seconds": _rounded(timing.first_token_seconds),
        "tokens_per_second": _rounded(timing.decode_rate),
        "gigabytes_per_second": _rounded(timing.bandwidth),
        "drafted_tokens": timing.drafted_tokens,
        "accepted_tokens": timing.accepted_tokens,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def stats_line(timing: "Timing", seed: int | None, finish_reason: str) -> str:
    """What a reply cost, on one line, without the figures that were not measured."""
    cached = f" ({timing.kept_tokens:,} cached)" if timing.kept_tokens else ""
    prompt = f"prompt {counted(timing.prompt_tokens, 'token')}{cached}"
    if timing.prefill_rate is not None:
        prompt += f" at {timing.prefill_rate:,.0f} tokens/s"
    reply = counted(timing.reply_tokens, "token")
    if timing.decode_rate is not None:
        reply += f" at {timing.decode_rate:,.1f} tokens/s"
    parts = [prompt, f"first token {timing.first_token_seconds:.2f} s", reply]
    if timing.drafted_tokens:
        parts.append(f"{timing.accepted_tokens:,} of {counted(timing.drafted_tokens, 'drafted token')} accepted")
    if timing.bandwidth is not None:
        parts.append(f"{timing.bandwidth:,.1f} GB/s")
    return " · ".join([*parts, f"seed {seed}", finish_reason])
