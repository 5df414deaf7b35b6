"""What the commands of a chat display: help, settings, sessions, the prompt. Fits a terminal of 80 columns."""

import datetime
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from parakeet.chat.output import count, styled
from parakeet.chat.session import Session
from parakeet.chat.storage import SessionRow
from parakeet.sampling_settings import describe
from parakeet.sanitise import sanitise

if TYPE_CHECKING:
    from parakeet.release.verify import Release

WIDTH = 80

KEYS = """\
The start of a command is enough: /ret. Tab completes it.
To begin a message with a slash, double it: //like this.
Alt-Enter begins a new line; so does Enter between \"\"\" and \"\"\".
Ctrl-C stops a reply and keeps what it said; twice in a second leaves."""


def first_words(text: str, width: int = 60) -> str:
    """The beginning of a text as one sanitised line of at most `width` characters."""
    line = " ".join(sanitise(text[: 4 * width]).split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"


def table(rows: Sequence[tuple[str, ...]], indent: str = "  ") -> str:
    """Rows in aligned columns. The last column is wrapped; it starts below a cell that leaves it no room."""
    rows = [tuple(sanitise(cell) for cell in row) for row in rows]
    fixed = [min(max(len(row[column]) for row in rows), 24) for column in range(len(rows[0]) - 1)]
    begin = len(indent) + sum(fixed) + 2 * len(fixed)
    lines: list[str] = []
    for *cells, last in rows:
        left = indent + "".join(cell.ljust(width) + "  " for cell, width in zip(cells, fixed, strict=True))
        wrapped = textwrap.wrap(last, WIDTH - begin) or [""]
        if len(left) > begin:
            lines.append(left.rstrip())
            left = " " * begin
        lines += [(left + wrapped[0]).rstrip(), *(" " * begin + line for line in wrapped[1:])]
    return "\n".join(lines)


def render_help(groups: dict[str, list[tuple[str, str]]]) -> str:
    """(command with its arguments, help) by group, one column for all of them, and the keys."""
    parts: list[str] = []
    for title, rows in groups.items():
        parts.append(styled(title, "1"))
        parts += [f"  {usage:<20}{help}" for usage, help in rows]
    return "\n".join([*parts, styled("Keys", "1"), textwrap.indent(KEYS, "  ")]) + "\n"


def render_sessions(rows: Sequence[SessionRow]) -> str:
    """The recorded sessions, the latest first, with the local time of their last reply."""
    if not rows:
        return "No conversation is recorded yet."
    readable = [
        (row.name, _local(row.when), f"{row.exchanges:>9}", first_words(row.first_words, 32))
        for row in rows
        if not row.problem
    ]
    head = ("session", "last reply", "exchanges", "begins with")
    listed = [table([head, *readable], indent="")] if readable else []
    return "\n".join([*listed, *(f"{row.name}: {sanitise(row.problem)}" for row in rows if row.problem)])


def _local(when: str) -> str:
    """A session's time by the user's clock. A file may hold something that is not a time."""
    try:
        return datetime.datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return first_words(when, 16)


def _config(session: Session, release: "Release") -> str:
    engine = session.engine
    weights = f"{engine.parameter_count:,} parameters in {engine.dtype}, sha256 {release.weights_sha256[:16]}…"
    return table(
        [
            ("model", release.name),
            ("folder", str(release.directory)),
            ("weights", weights),
            ("runs on", f"{engine.device}, {count(engine.threads, 'thread')}"),
            ("context", count(engine.context, "token")),
            ("recorded in", str(session.log.path) if session.log else "nowhere; /save records it"),
        ]
    )


def _settings(session: Session, release: "Release") -> str:
    return table(describe(session.settings))


def _context(session: Session, release: "Release") -> str:
    used, context = len(session.prompt_ids()), session.engine.context
    rows = [
        ("used", f"{used:,} of {count(context, 'token')} ({used / context:.0%})"),
        ("conversation", count(len(session.exchanges), "exchange")),
    ]
    if session.dropped:
        rows.append(("left out", f"{count(session.dropped, 'old exchange')} that did not fit"))
    return table(rows)


def _prompt(session: Session, release: "Release") -> str:
    """Control tokens are bold on a terminal with colour, unlike text that only looks like them."""
    tokenizer = session.engine.tokenizer
    controls = {token_id: name for name, token_id in tokenizer.controls.items()}
    ids = session.prompt_ids()
    parts: list[str] = []
    start = 0
    for position in [*(i for i, token_id in enumerate(ids) if token_id in controls), len(ids)]:
        parts.append(sanitise(tokenizer.decode(ids[start:position])))
        if position < len(ids):
            parts.append(re.sub(r"\S(.*\S)?", lambda match: styled(match[0], "1"), controls[ids[position]]))
        start = position + 1
    return f"{''.join(parts)}\n({count(len(ids), 'token')})".lstrip("\n")


def _system(session: Session, release: "Release") -> str:
    return sanitise(session.system) or "There is no system message."


SECTIONS: dict[str, tuple[str, Callable[[Session, "Release"], str]]] = {
    "config": ("the model, and where the session is recorded", _config),
    "settings": ("the sampling settings", _settings),
    "context": ("how much of the context is used", _context),
    "prompt": ("the text with which the next prompt begins", _prompt),
    "system": ("the system message", _system),
}
"""Arguments of /show, with their help and their (sanitised) text."""
