"""`parakeet sessions`: the recorded conversations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parakeet.cli.common import say
from parakeet.cli.completion import complete_sessions
from parakeet.cli.output import (
    check_new_file,
    confirm,
    examples,
    json_option,
    list_by_default,
    say_json,
    terminal_width,
    yes_option,
)
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.chat.events import Exchange
    from parakeet.chat.storage import Loaded, SessionRow

FORMATS = ("md", "json", "jsonl")
WORDS_SHOWN = 18

name_argument = click.argument("name", metavar="NAME", shell_complete=complete_sessions)


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "parakeet sessions",
        "parakeet sessions show 2026-11-27",
        "parakeet sessions export lesson lesson.jsonl",
        "parakeet build --data lesson.jsonl",
        "parakeet chat --session lesson",
    ),
)
@json_option
@click.pass_context
def sessions(context: click.Context, as_json: bool) -> None:
    """List, show, remove or export recorded conversations.

    NAME is a session's name, or its first characters. `parakeet sessions` alone lists them.
    """
    list_by_default(context, list_sessions_command, as_json)


@sessions.command("list", epilog=examples("parakeet sessions list", "parakeet sessions list --json"))
@json_option
def list_sessions_command(as_json: bool = False) -> None:
    """List the recorded conversations, the latest first."""
    from parakeet.chat.storage import list_sessions
    from parakeet.formatting import format_time, one_line, render_table
    from parakeet.home import home

    rows = list_sessions(home())
    if as_json:
        say_json({"sessions": [_as_row(row) for row in rows]})
        return
    if not rows:
        say("No conversation is recorded yet. Start one with: parakeet chat")
        return
    cells = [
        (row.name, format_time(row.when), row.exchanges, row.model, _cut(one_line(row.first_words)))
        for row in rows
        if not row.problem
    ]
    head = ("SESSION", "LAST REPLY", "EXCHANGES", "MODEL", "BEGINS WITH")
    if cells:
        say(render_table(head, cells, right=(2,), width=terminal_width()))
    for row in rows:
        if row.problem:
            say(f"{row.name}: {row.problem}")


@sessions.command(epilog=examples("parakeet sessions show lesson", "parakeet sessions show lesson --json"))
@name_argument
@json_option
def show(name: str, as_json: bool) -> None:
    """Print a conversation."""
    path, loaded = _load(name)
    if as_json:
        say_json(_as_document(path, loaded))
    else:
        say(_as_markdown(path, loaded))


@sessions.command(epilog=examples("parakeet sessions rm lesson", "parakeet sessions rm --yes lesson 2026-11-27"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_sessions)
@yes_option
def rm(names: Sequence[str], yes: bool) -> None:
    """Remove recorded conversations. One that is open in a chat stays."""
    from parakeet.chat.storage import find_session, remove_session
    from parakeet.home import home

    paths = list(dict.fromkeys(find_session(home(), name) for name in names))
    confirm(f"Remove {', '.join(path.stem for path in paths)}?", yes)
    for path in paths:
        remove_session(path)
        say(f"Removed {path.stem}.")


@sessions.command(
    epilog=examples(
        "parakeet sessions export lesson > lesson.md",
        "parakeet sessions export lesson lesson.jsonl",
        "parakeet sessions export --format jsonl lesson >> talks.jsonl",
    )
)
@name_argument
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--format", "layout", type=click.Choice(FORMATS), help="Format.  [default: by the ending of FILE, else md]"
)
def export(name: str, file: Path | None, layout: str | None) -> None:
    """Write a conversation to FILE, or to standard output.

    md is for people. json and jsonl hold the messages in the form that `parakeet build --data` reads.
    """
    if file is not None:
        check_new_file(file)
    if layout is None:
        layout = file.suffix.removeprefix(".").lower() if file else "md"
        layout = {"markdown": "md", "ndjson": "jsonl"}.get(layout, layout)
    if layout not in FORMATS:
        raise ParakeetError(f"{file}: the ending says no format. Use .md, .json or .jsonl, or give --format.")
    path, loaded = _load(name)
    if layout == "md":
        text, note = _as_markdown(path, loaded), ""
    else:
        records, left_out = _training_records(loaded)
        if not records:
            raise ParakeetError(f"The session {path.stem} holds no message with a reply: there is nothing to train on.")
        # A line for each record, or one array.
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        text = "\n".join(lines) if layout == "jsonl" else json.dumps(records, ensure_ascii=False, indent=2)
        note = f" Left out without a reply: {left_out}" if left_out else ""
    if file is None:
        click.echo(text)
        return
    from parakeet.artifact import replace_file

    replace_file(file, text + "\n")
    say(f"{file}: the session {path.stem}.{note}")


def _as_row(row: "SessionRow") -> dict[str, Any]:
    """What is not known of an unreadable session is null."""
    return {
        "name": row.name,
        "exchanges": row.exchanges,
        "last_reply": row.when or None,
        "model": row.model or None,
        "first_words": row.first_words,
        "problem": row.problem or None,
    }


def _load(name: str) -> "tuple[Path, Loaded]":
    from parakeet.chat.storage import find_session, load
    from parakeet.home import home

    path = find_session(home(), name)
    return path, load(path)


def _as_document(path: Path, loaded: "Loaded") -> dict[str, Any]:
    from dataclasses import asdict

    from parakeet.chat.events import fold

    conversation = fold(loaded.events)
    return {
        "name": path.stem,
        "path": str(path),
        "created": loaded.header.get("created"),
        **loaded.identity,
        "system": conversation.system or None,
        "exchanges": [asdict(exchange) for exchange in conversation.exchanges],
        "notes": loaded.notes,
    }


def _as_markdown(path: Path, loaded: "Loaded") -> str:
    from parakeet.chat.events import fold
    from parakeet.formatting import counted, format_time
    from parakeet.sanitise import sanitise

    conversation = fold(loaded.events)
    begun = format_time(str(loaded.header.get("created", ""))) or "at an unknown time"
    model = loaded.identity["model"] or "an unknown model"
    parts = [f"# {path.stem}", f"{counted(len(conversation.exchanges), 'exchange')} with {model}, begun {begun}"]
    if conversation.system:
        parts += ["## System", conversation.system]
    for exchange in conversation.exchanges:
        if exchange.raw:
            parts += ["## Text, continued by Parakeet", exchange.message + exchange.reply]
        else:
            parts += ["## Human", exchange.message, "## Parakeet", exchange.reply]
    return sanitise("\n\n".join([*parts, *loaded.notes]))


def _training_records(loaded: "Loaded") -> tuple[list[dict[str, Any]], int]:
    """The conversation as one record of `messages`, then a record of `text` for each text that the model continued
    without the chat template; and the number of exchanges without a message or a reply, which are left out.
    """
    from parakeet.chat.events import fold

    conversation = fold(loaded.events)
    whole = [one for one in conversation.exchanges if one.message.strip() and one.reply.strip()]
    raw = [one for one in whole if one.raw]
    turns = [turn for one in whole if one not in raw for turn in _turns(one)]
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    talk = [{"messages": [*system, *turns]}] if turns else []
    texts = [{"text": one.message + one.reply} for one in raw]
    return [*talk, *texts], len(conversation.exchanges) - len(whole)


def _turns(exchange: "Exchange") -> tuple[dict[str, str], dict[str, str]]:
    return {"role": "user", "content": exchange.message}, {"role": "assistant", "content": exchange.reply}


def _cut(line: str) -> str:
    """The beginning of a line in WORDS_SHOWN columns; a Chinese character takes two."""
    from rich.text import Text

    text = Text(line)
    text.truncate(WORDS_SHOWN, overflow="ellipsis")
    return text.plain
