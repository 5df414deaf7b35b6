"""From the command line's words to a conversation: find the release, load it, hand over to the terminal."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.home import home, latest_release

if TYPE_CHECKING:
    from parakeet.chat.storage import SessionLog
    from parakeet.generation.settings import SamplingSettings
    from parakeet.recipe import Generation


class UsageError(ParakeetError):
    """An option that has no such value; ends with status 2."""


@dataclass(frozen=True)
class ChatOptions:
    """The options of `parakeet chat`. `settings` holds those of replies as text, by name, as /set takes them."""

    message: str | None = None
    model_path: Path | None = None
    """None for the latest release."""
    system: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    stop: Sequence[str] = ()
    rolling: bool = False
    dtype: str = "auto"
    device: str = "auto"
    threads: int = 0
    """0 leaves the choice to torch."""
    session: str | None = None
    replay: Path | None = None
    as_json: bool = False
    stats: bool = False
    history: bool = True
    """Whether an interactive conversation, and what is typed in it, is recorded unasked."""


def launch_chat(options: ChatOptions) -> int:
    """Open a release and talk, or replay a session; the process's exit status.

    Raises UsageError for options out of range, before the model is loaded, and ParakeetError as everything
    below it; with `as_json` the latter is an event on standard output and status 1.
    """
    if sys.stdout is None:
        raise ParakeetError("Standard output is closed: there is nowhere to write a reply.")
    try:
        return _launch(options)
    except (BrokenPipeError, UsageError):
        raise
    except (ParakeetError, OSError) as error:
        if not options.as_json:
            raise
        from parakeet.artifact import explain_os_error
        from parakeet.chat.output import JsonReporter

        known = explain_os_error(error, "running this command") if isinstance(error, OSError) else error
        JsonReporter().event("error", message=str(known))
        return 1


def _launch(options: ChatOptions) -> int:
    from parakeet.chat.storage import session_header
    from parakeet.release.verify import open_release

    with _loading(shown=not options.as_json):
        directory = options.model_path or _latest()
        _check(options)
        release = open_release(directory)
        from parakeet.generation.engine import load_engine

        engine = load_engine(release.directory, options.device, options.dtype, options.threads)
    from parakeet.chat.session import Session
    from parakeet.chat.talk import Model
    from parakeet.chat.terminal import run_chat

    model = Model(release.name, release.weights_sha256, release.directory)
    header = session_header(engine, model.name, model.sha256)
    if options.replay:
        from parakeet.chat.output import write
        from parakeet.chat.replay import replay
        from parakeet.sanitise import sanitise

        return 0 if replay(engine, options.replay, header, lambda line: write(sanitise(line) + "\n")) else 1
    session = Session(engine, _settings(release.generation, options), options.system, _log(options, header))
    return run_chat(session, model, home(), options.message, options.as_json, options.stats, options.history)


def _check(options: ChatOptions) -> None:
    """Refuse what can be refused before hashing and loading gigabytes."""
    from parakeet.chat.storage import session_path
    from parakeet.recipe import Generation

    try:
        _settings(Generation(), options)
        if options.session is not None:
            session_path(home(), options.session)
    except ParakeetError as error:
        raise UsageError(str(error)) from None
    if options.replay and not options.replay.exists():
        raise ParakeetError(f"{options.replay} does not exist: give a session's file after --replay.")


def _settings(defaults: "Generation", options: ChatOptions) -> "SamplingSettings":
    from parakeet.generation.settings import SamplingSettings, with_setting

    settings = SamplingSettings(**defaults.model_dump())
    given = dict(options.settings)
    if options.stop:
        given["stop"] = json.dumps(options.stop)
    if options.rolling:
        given["rolling"] = "on"
    for name, text in given.items():
        settings = with_setting(settings, name, text)
    return settings


def _log(options: ChatOptions, header: Mapping[str, Any]) -> "SessionLog | None":
    """Where the conversation is recorded: in the named session, or, on a terminal, in one named by the time."""
    from parakeet.chat.storage import SessionLog, session_path
    from parakeet.chat.terminal import is_interactive

    root = home()
    if options.session is not None:
        path = session_path(root, options.session)
        return SessionLog.open(path, header) if path.exists() else SessionLog.create(path, header)
    if not options.history or options.as_json or options.message is not None or not is_interactive():
        return None
    name = time.strftime("%Y-%m-%d-%H%M%S")
    paths = [session_path(root, name), *(session_path(root, f"{name}-{number}") for number in range(2, 100))]
    for path in paths:
        try:
            return SessionLog.create(path, header)
        except ParakeetError:
            continue  # another chat was begun in this very second
    return None


def _latest() -> Path:
    latest = latest_release(home())
    if not latest.exists():
        raise ParakeetError(f"There is no released model in {home()} yet. Make one with: parakeet build")
    return latest.resolve()


@contextmanager
def _loading(shown: bool) -> Iterator[None]:
    """Say on a terminal what takes the seconds, and let Ctrl-C end them at once.

    An exception would come out of whatever is being imported as a traceback of somebody else's; nothing is
    open yet that would have to be closed.
    """
    from parakeet.chat.reading import is_dumb

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
