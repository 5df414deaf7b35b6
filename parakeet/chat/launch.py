"""`parakeet chat` from its options: opens and loads the release, then starts the conversation or the replay."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.home import home

if TYPE_CHECKING:
    from parakeet.chat.models import ModelOpener, OpenedModel
    from parakeet.chat.storage import SessionLog
    from parakeet.generation.engine import Engine


@dataclass(frozen=True)
class ChatOptions:
    """The options of `parakeet chat`, by the names that parakeet/cli/chat.py gives them."""

    message: str | None = None
    """As typed: `@file` and "-" for standard input are not resolved yet."""
    model: str | None = None
    """A release's folder or name, None for the latest release."""
    run: str | None = None
    """A training run, KEY or KEY@STEP, in place of a release."""
    system: str = ""
    raw: bool = False
    """Whether texts are continued without the chat template."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Sampling options that were given, by name. The release's defaults hold for the others."""
    dtype: str = "auto"
    cache_dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    """None is one for each core."""
    prompt_lookup: bool = True
    """Whether repeated text is drafted where that is faster."""
    server: str | None = None
    """The address of a `parakeet serve` whose model replies, in place of one of this machine."""
    api_key_file: Path | None = None
    session: str | None = None
    replay: Path | None = None
    paragraphs: bool = False
    as_json: bool = False
    stats: bool = False
    history: bool = True
    """Whether a conversation on a terminal without a name, and what is typed in it, is recorded."""


def launch_chat(options: ChatOptions) -> int:
    """Open a release and chat, or replay a session; returns the exit status of the process.

    Raises ParakeetError if something is wrong; with `as_json` it prints an event instead and returns 1.
    """
    if sys.stdout is None:
        raise ParakeetError("Standard output is closed: there is nowhere to write a reply.")
    try:
        return _launch(options)
    except BrokenPipeError:
        raise
    except (ParakeetError, OSError) as error:
        if not options.as_json:
            raise
        from parakeet.artifact import explain_os_error
        from parakeet.chat.output import JsonOutput

        known = explain_os_error(error, "running this command") if isinstance(error, OSError) else error
        JsonOutput().event("error", message=str(known))
        return 1


def _launch(options: ChatOptions) -> int:
    if options.replay and not options.replay.exists():
        raise ParakeetError(f"{options.replay} does not exist: give a session's file after --replay.")
    from parakeet.chat.files import with_files
    from parakeet.chat.message import one_message

    notes: list[str] = []
    message = None if options.message is None else one_message(options.message, notes.append)
    system = with_files(options.system, notes.append)
    with _loading(shown=not options.as_json):
        # Imported here: these take most of the time for which "Loading …" is on the screen.
        from parakeet.chat.models import ModelOpener, OpenedModel

        opener = ModelOpener(
            home(), options.device, options.dtype, options.threads or 0, options.cache_dtype, options.prompt_lookup
        )
        open_model: Callable[[str], OpenedModel] = opener.open_any
        if options.server is not None:
            from parakeet.chat.remote import Server, open_remote

            server = Server.parse(options.server, options.api_key_file)
            open_model = partial(open_remote, server, home())
            opened = open_model("")
        else:
            opened = _open_to_replay(options, opener) if options.replay else opener.open(options.model, options.run)
    from parakeet.chat.session import Session
    from parakeet.chat.storage import session_header
    from parakeet.chat.terminal import run_chat

    if options.replay:
        return _replay(options, opener, opened)
    engine, release = opened.engine, opened.release
    header = session_header(engine, release.name, release.weights_sha256)
    settings = replace(release.generation, **options.settings)
    session = Session(engine, settings, system, _log(options, header), options.raw)
    session.notes = [*notes, *opened.notes, *session.notes]
    return run_chat(
        session, release, home(), open_model, message, options.as_json, options.stats, options.history,
        options.paragraphs,
    )  # fmt: skip


def _open_to_replay(options: ChatOptions, opener: "ModelOpener") -> "OpenedModel":
    """The model that the session to replay began with, if it is still here and no other one was asked for."""
    from parakeet.chat.storage import load

    assert options.replay is not None
    recorded = load(options.replay).header
    return _find_to_replay(options, opener, recorded) or opener.as_recorded(recorded).open()


def _find_to_replay(options: ChatOptions, opener: "ModelOpener", recorded: Mapping[str, Any]) -> "OpenedModel | None":
    """The model that replied, or the one that was asked for, which gives all the replies; as it ran then."""
    if options.model is not None or options.run is not None:
        return opener.as_recorded(recorded).open(options.model, options.run)
    return opener.open_recorded(recorded)


def _replay(options: ChatOptions, opener: "ModelOpener", opened: "OpenedModel") -> int:
    from parakeet.chat.output import note, write
    from parakeet.chat.replay import replay
    from parakeet.chat.storage import session_header
    from parakeet.sanitise import sanitise

    def header(opened: "OpenedModel") -> dict[str, Any]:
        return session_header(opened.engine, opened.release.name, opened.release.weights_sha256)

    def find(recorded: Mapping[str, Any]) -> "tuple[Engine, Mapping[str, Any]] | None":
        found = _find_to_replay(options, opener, recorded)
        if found is None:
            return None
        tell(found)
        return found.engine, header(found)

    def tell(opened: "OpenedModel") -> None:
        for text in opened.notes:
            note(text)

    tell(opened)
    assert options.replay is not None
    same = replay(opened.engine, options.replay, header(opened), lambda line: write(sanitise(line) + "\n"), find)
    return 0 if same else 1


def _log(options: ChatOptions, header: Mapping[str, Any]) -> "SessionLog | None":
    """Where the conversation is recorded: in the named session or, on a terminal, in one named by the time."""
    from parakeet.chat.storage import SessionLog, free_names, session_path
    from parakeet.chat.terminal import is_interactive

    root = home()
    if options.session is not None:
        path = session_path(root, options.session)
        return SessionLog.open(path, header) if path.exists() else SessionLog.create(path, header)
    if not options.history or options.as_json or options.message is not None or not is_interactive():
        return None
    for name in free_names(root):
        try:
            return SessionLog.create(session_path(root, name), header)
        except ParakeetError:
            continue  # another chat began in the same second
    return None


@contextmanager
def _loading(shown: bool) -> Iterator[None]:
    """Show "Loading …" on a terminal, and let Ctrl-C end the process at once.

    KeyboardInterrupt would appear as a traceback from whatever module is being imported. Nothing is open yet that
    would have to be closed.
    """
    from parakeet.chat.input import is_dumb

    streams = (sys.stdout, sys.stderr)
    shown = shown and not is_dumb() and all(stream is not None and stream.isatty() for stream in streams)

    def erase() -> None:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def leave(*_: object) -> NoReturn:
        erase()
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    if shown:
        sys.stderr.write("Loading …")
        sys.stderr.flush()
    try:
        yield
    finally:
        erase()
        signal.signal(signal.SIGINT, before)
