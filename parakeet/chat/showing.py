"""What the commands of a chat show: help, settings, the session, the prompt. Fits a terminal of 80 columns."""

import datetime
import re
import textwrap
from collections.abc import Iterable, Sequence

from parakeet.chat.output import count, styled
from parakeet.chat.storage import SessionRow
from parakeet.chat.talk import Talk
from parakeet.sanitise import sanitise

WIDTH = 80

SECTIONS = {
    "config": "the model, and where the session is recorded",
    "settings": "how replies are drawn",
    "context": "how much of the context is in use",
    "prompt": "the text that the next prompt begins with",
    "system": "the system message",
}
"""Arguments of /show and their meanings."""

KEYS = """\
The beginning of a command is enough: /ret. Tab completes it.
To begin a message with a slash, double it: //like this.
Alt-Enter begins a new line; so does Enter between \"\"\" and \"\"\".
Ctrl-C stops a reply, and what was said stays. Twice in a second, it leaves."""


def first_words(text: str, width: int = 60) -> str:
    """The beginning of a text as one sanitised line of at most `width` characters."""
    line = " ".join(sanitise(text[: 4 * width]).split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"


def table(rows: Sequence[tuple[str, ...]], indent: str = "  ") -> str:
    """Rows in aligned columns; the last one is wrapped, and goes below a column that leaves it no room."""
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


def render_help(groups: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Groups of (command with its arguments, meaning), one column for all of them, and the keys."""
    parts: list[str] = []
    for title, rows in groups:
        parts.append(styled(title, "1"))
        parts += [f"  {usage:<20}{meaning}" for usage, meaning in rows]
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
    """A session's time, as its user's clock has it; what a file says is not always a time."""
    try:
        return datetime.datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return first_words(when, 16)


def show(talk: Talk, section: str) -> str:
    """The text of a section, sanitised, with a newline behind it."""
    return {
        "config": _config,
        "settings": _settings,
        "context": _context,
        "prompt": _prompt,
        "system": _system,
    }[section](talk) + "\n"


def _config(talk: Talk) -> str:
    session = talk.session
    engine = session.engine
    return table(
        [
            ("model", talk.model.name),
            ("folder", str(talk.model.directory)),
            ("weights", f"{engine.parameter_count:,} parameters in {engine.dtype}, sha256 {talk.model.sha256[:16]}…"),
            ("runs on", f"{engine.device}, {count(engine.threads, 'thread')}"),
            ("context", count(engine.context, "token")),
            ("recorded in", str(session.log.path) if session.log else "nowhere; /save keeps it"),
        ]
    )


def _settings(talk: Talk) -> str:
    from parakeet.generation.settings import describe

    return table(describe(talk.session.settings))


def _context(talk: Talk) -> str:
    session = talk.session
    used, context = session.prompt_tokens(), session.engine.context
    rows = [
        ("in use", f"{used:,} of {count(context, 'token')} ({used / context:.0%})"),
        ("said", count(len(session.exchanges), "exchange")),
    ]
    if session.dropped:
        rows.append(("left out", f"{count(session.dropped, 'oldest exchange')}: beyond the context"))
    return table(rows)


def _prompt(talk: Talk) -> str:
    """Control tokens stand out in bold where there is colour: words that only look like them do not."""
    tokenizer = talk.session.engine.tokenizer
    controls = {token_id: name for name, token_id in tokenizer.controls.items()}
    ids = talk.session.prompt_ids()
    parts: list[str] = []
    start = 0
    for position in [*(i for i, token_id in enumerate(ids) if token_id in controls), len(ids)]:
        parts.append(sanitise(tokenizer.decode(ids[start:position])))
        if position < len(ids):
            parts.append(re.sub(r"\S(.*\S)?", lambda match: styled(match[0], "1"), controls[ids[position]]))
        start = position + 1
    return f"{''.join(parts)}\n({count(len(ids), 'token')})".lstrip("\n")


def _system(talk: Talk) -> str:
    return sanitise(talk.session.system) or "There is no system message."
