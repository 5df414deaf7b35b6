"""`parakeet chat` from its options: opens and loads the release, then starts the conversation or the replay."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.home import home, latest_release

if TYPE_CHECKING:
    from parakeet.chat.storage import SessionLog


@dataclass(frozen=True)
class ChatOptions:
    """The options of `parakeet chat`, by the names that parakeet/cli.py gives them."""

    message: str | None = None
    model_path: Path | None = None
    """None for the latest release."""
    system: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Sampling options that were given, by name. The release's defaults hold for the others."""
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    """None leaves the choice to torch."""
    session: str | None = None
    replay: Path | None = None
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
    with _loading(shown=not options.as_json):
        # Imported here: these take most of the time for which "Loading …" is on the screen.
        from parakeet.release.verify import open_release

        release = open_release(options.model_path or _latest())
        from parakeet.generation.engine import load_engine

        engine = load_engine(release.directory, options.device, options.dtype, options.threads or 0)
    from parakeet.chat.output import write
    from parakeet.chat.replay import replay
    from parakeet.chat.session import Session
    from parakeet.chat.storage import session_header
    from parakeet.chat.terminal import run_chat
    from parakeet.sampling_settings import SamplingSettings
    from parakeet.sanitise import sanitise

    header = session_header(engine, release.name, release.weights_sha256)
    if options.replay:
        return 0 if replay(engine, options.replay, header, lambda line: write(sanitise(line) + "\n")) else 1
    settings = SamplingSettings(**{**release.generation.model_dump(), **options.settings})
    session = Session(engine, settings, options.system, _log(options, header))
    return run_chat(session, release, home(), options.message, options.as_json, options.stats, options.history)


def _log(options: ChatOptions, header: Mapping[str, Any]) -> "SessionLog | None":
    """Where the conversation is recorded: in the named session or, on a terminal, in one named by the time."""
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
            continue  # another chat began in the same second
    return None


def _latest() -> Path:
    latest = latest_release(home())
    if not latest.exists():
        raise ParakeetError(f"There is no released model in {home()} yet. Make one with: parakeet build")
    return latest.resolve()


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
