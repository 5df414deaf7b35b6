"""Where a chat's words go: replies to standard output, notes to standard error, or both as JSON events.

Whatever a model or a file says goes through the sanitiser, or through JSON's escapes.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from parakeet.sanitise import Sanitiser, sanitise

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine, Timing


def write(text: str) -> None:
    """Put text on standard output now. BrokenPipeError where nobody reads it any more."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def note(text: str) -> None:
    """A line of ours on standard error, where there is one."""
    if sys.stderr is not None:  # print(file=None) would write to standard output
        print(sanitise(text), file=sys.stderr, flush=True)


def count(number: int, noun: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def has_colour() -> bool:
    """Whether standard output is a terminal whose user wants colour (https://no-color.org)."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def styled(text: str, code: str) -> str:
    """The text in an SGR style such as "1;32", where there is colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour() else text


class Line(Protocol):
    """Takes a reply's text piece by piece."""

    def write(self, text: str) -> None: ...

    def mark(self, text: str) -> None:
        """Our own words behind the model's."""


class Reporter(Protocol):
    """What a program that talks says, in one of two forms."""

    def reply(self, label: str) -> Any:
        """A context manager that gives the `Line` of one reply, with our label before it."""

    def end(self, values: dict[str, Any]) -> None:
        """The reply is over; values are finish_reason, seed, tokens and the timing's figures."""

    def note(self, text: str) -> None: ...


class TextReporter:
    """Text for people: nothing but replies on standard output."""

    @contextmanager
    def reply(self, label: str) -> Iterator[Line]:
        line = _SafeLine()
        write(label)
        try:
            yield line
        finally:
            line.finish()

    def end(self, values: dict[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        note(text)


class _SafeLine:
    """Writes pieces of a model's text, sanitised as one stream, and leaves the cursor on a new line."""

    def __init__(self) -> None:
        self._sanitiser = Sanitiser()
        self._last = ""

    def write(self, text: str) -> None:
        self._put(self._sanitiser.feed(text))

    def mark(self, text: str) -> None:
        """Out of reach of a sequence that the model left open."""
        if sys.stdout.isatty():
            self._put(self._sanitiser.finish() + text)

    def finish(self) -> None:
        self._put(self._sanitiser.finish())
        if not self._last.endswith("\n"):
            self._put("\n")

    def _put(self, text: str) -> None:
        self._last = text or self._last
        write(text)


class JsonReporter:
    """One JSON object a line on standard output, for programs.

    Text is not sanitised: every character beyond printable ASCII is an escape, so that nothing steers a
    terminal and nothing of what the model said is lost.
    """

    def event(self, kind: str, **values: Any) -> None:
        write(json.dumps({"event": kind, **values}) + "\n")

    @contextmanager
    def reply(self, label: str) -> Iterator[Line]:
        yield _JsonLine(self)

    def end(self, values: dict[str, Any]) -> None:
        self.event("end", **values)

    def note(self, text: str) -> None:
        self.event("note", text=text)


class _JsonLine:
    def __init__(self, reporter: JsonReporter) -> None:
        self._reporter = reporter

    def write(self, text: str) -> None:
        if text:
            self._reporter.event("text", text=text)

    def mark(self, text: str) -> None:
        pass


def engine_facts(engine: "Engine") -> dict[str, Any]:
    """What answers, as JSON values."""
    names = ("parameter_count", "context", "dtype", "device", "threads")
    return {name: getattr(engine, name) for name in names}


def figures(timing: "Timing") -> dict[str, Any]:
    """A reply's timing as JSON values: tokens, seconds, tokens a second, GB a second (null: not measured)."""
    return {
        "prompt_tokens": timing.prompt_tokens,
        "kept_tokens": timing.kept_tokens,
        "prompt_tokens_per_second": _rounded(timing.prefill_rate),
        "first_token_seconds": _rounded(timing.first_token_seconds),
        "tokens_per_second": _rounded(timing.decode_rate),
        "gigabytes_per_second": _rounded(timing.bandwidth),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def stats_line(timing: "Timing", seed: int | None, finish_reason: str) -> str:
    """What a reply cost, on one line; figures that were not measured are left out."""
    kept = f" ({timing.kept_tokens:,} kept)" if timing.kept_tokens else ""
    prompt = f"prompt {count(timing.prompt_tokens, 'token')}{kept}"
    if timing.prefill_rate is not None:
        prompt += f" at {timing.prefill_rate:,.0f} tokens/s"
    reply = count(timing.reply_tokens, "token")
    if timing.decode_rate is not None:
        reply += f" at {timing.decode_rate:,.1f} tokens/s"
    parts = [prompt, f"first token {timing.first_token_seconds:.2f} s", reply]
    if timing.bandwidth is not None:
        parts.append(f"{timing.bandwidth:,.1f} GB/s")
    return " · ".join([*parts, f"seed {seed}", finish_reason])
