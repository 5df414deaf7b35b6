"""`parakeet trace`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parakeet.cli.chat import is_from_environment, model_option
from parakeet.cli.common import Whole, say
from parakeet.cli.completion import complete_sessions
from parakeet.cli.output import check_new_file, examples, json_option, say_json, terminal_width
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.trace.tracer import Tracer


@dataclass(frozen=True)
class _Text:
    """What is traced."""

    text: str
    what: str
    """For people: "a text", "reply 3 of the session trip"."""
    session: str | None = None
    turn: int | None = None
    model_sha256: str | None = None
    """The hash of the model that wrote it, if that is known."""
    model: str | None = None


@click.command(
    epilog=examples(
        'parakeet trace "Once upon a time there was a small grey parrot."',
        "parakeet trace @essay.txt --html trace.html",
        "parakeet chat 'Tell me a story.' | parakeet trace",
        "parakeet trace --session trip",
        "parakeet trace --session trip --turn 2 --json",
    ),
)
@click.argument("text", nargs=-1)
@click.option(
    "--session",
    metavar="NAME|FILE",
    shell_complete=complete_sessions,
    help="Trace a reply of this recorded conversation.",
)
@click.option("--turn", type=Whole(1), help="Which reply, counted from 1.  [default: the last]")
@model_option
@click.option("--min-tokens", type=Whole(1, 1000), default=8, show_default=True, help="Tokens of the shortest span.")
@click.option(
    "--documents", type=Whole(0, 100), default=3, show_default=True, help="Documents to show of each span, at most."
)
@json_option
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page for a browser to FILE.")
def trace(
    text: tuple[str, ...],
    session: str | None,
    turn: int | None,
    model: str | None,
    min_tokens: int,
    documents: int,
    as_json: bool,
    html: Path | None,
) -> None:
    """Show which passages of TEXT stand verbatim in a model's training text, how often, and where.

    Without TEXT, or for -, the text is standard input; @FILE is the text of a file. Beside the share of the text that
    such passages cover stands that of held-out text. A match is evidence of wording, not proof of cause.

    The index of the training text is part of a build. `parakeet index build` makes one that is missing.
    """
    from parakeet.chat.output import has_colour, note, write

    if session is not None and text:
        raise click.UsageError("TEXT and --session both name a text: give one of them.")
    if turn is not None and session is None:
        raise click.UsageError("--turn names a reply of a conversation: give --session too.")
    if html is not None:
        check_new_file(html)
    chosen = _given(" ".join(text), note) if session is None else _reply(session, turn)
    tracer = _tracer(None if session is not None and is_from_environment("model") else model, chosen, note)
    found = tracer.trace(chosen.text, min_tokens, documents)
    about: dict[str, Any] = {
        "what": chosen.what, "session": chosen.session, "turn": chosen.turn, **tracer.about(),
    }  # fmt: skip
    if html is not None:
        from parakeet.artifact import replace_file
        from parakeet.trace.page import trace_page

        replace_file(html, trace_page(found, about))
    if as_json:
        from parakeet.trace.page import as_document

        say_json(as_document(found, about))
    elif html is not None:
        from parakeet.trace.terminal import summary

        say(f"{html}: {chosen.what}, looked up in {tracer.where}. {' '.join(summary(found))}")
    else:
        from parakeet.trace.terminal import render_trace

        write(render_trace(found, tracer.where, has_colour(), terminal_width()) + "\n")


def _given(typed: str, note: Callable[[str], None]) -> _Text:
    from parakeet.chat.events import encodable
    from parakeet.chat.message import one_message

    # Not joined with what is piped in, as a message is: here TEXT is all of it.
    return _Text(encodable(one_message(typed or "-", note, join=False)), "a text")


def _reply(session: str, turn: int | None) -> _Text:
    """The text of a reply. A session records no ids, so it is encoded again, as the next prompt would."""
    from parakeet.chat.storage import find_session, load
    from parakeet.home import home

    is_file = os.path.isfile(session) or os.sep in session or session.endswith(".jsonl")
    path = Path(session) if is_file else find_session(home(), session)
    replies = load(path).replies()
    if not replies:
        raise ParakeetError(f"The session {path.stem} holds no reply.")
    number = len(replies) if turn is None else turn
    if number > len(replies):
        held = "1 reply" if len(replies) == 1 else f"{len(replies):,} replies"
        raise ParakeetError(f"The session {path.stem} holds {held}: there is no --turn {number}.")
    exchange, writer = replies[number - 1]
    sha256 = writer.get("model_sha256")
    return _Text(
        exchange.reply, f"reply {number} of the session {path.stem}", path.stem, number,
        str(sha256) if sha256 else None, str(writer.get("model") or "another model"),
    )  # fmt: skip


def _tracer(model: str | None, chosen: _Text, note: Callable[[str], None]) -> "Tracer":
    """Of the named model; or else of the one that wrote the text, or else of the promoted one."""
    from parakeet.chat.models import find_release, recorded_release
    from parakeet.hashes import HashCache
    from parakeet.home import hashes_file, home
    from parakeet.release.listing import latest_model_folder
    from parakeet.release.verify import open_release
    from parakeet.tokenizer import Tokenizer
    from parakeet.trace.tracer import Tracer

    root = home()
    if model is not None:
        folder = find_release(root, model)
    else:
        folder = recorded_release(root, chosen.model_sha256) or latest_model_folder(root)
    release = open_release(folder, HashCache(hashes_file(root)).sha256_for_reader)
    if chosen.model_sha256 not in (None, release.weights_sha256):
        note(
            f"This reply came from {chosen.model}, and it is looked up in what {release.name} was trained on. "
            "Choose with --model."
        )
    return Tracer.open(release.name, folder, root, Tokenizer.load(folder))
