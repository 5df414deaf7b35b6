"""`parakeet chat` without a model, for tests that need a real process, a pipe or a terminal.

`python tests/chat/program.py --reply TEXT [--delay SECONDS] [-m MESSAGE] …`; sessions and history are in PARAKEET_HOME.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from parakeet.chat.models import OpenedModel
from parakeet.chat.session import Session
from parakeet.chat.storage import SessionLog, session_header, session_path
from parakeet.chat.terminal import run_chat
from parakeet.errors import ParakeetError
from parakeet.generation.engine import Engine
from parakeet.home import home
from parakeet.release.verify import Release
from parakeet.sampling_settings import SamplingSettings
from parakeet.sanitise import sanitise

TESTS = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reply", help="with Python's escapes; by default the seed and the length of the prompt")
    parser.add_argument("--bytes", action="store_true", help="generate the reply byte by byte, with the real engine")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--endless", action="store_true", help="repeat the reply without end")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--session")
    parser.add_argument("-m", dest="message")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stats", action="store_true")
    parser.add_argument("--no-history", action="store_true")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--paragraphs", action="store_true")
    options = parser.parse_args(arguments)
    engine = _engine(options)
    settings = SamplingSettings(
        temperature=0.0, top_p=1.0, min_p=0.0, frequency_penalty=0.0, presence_penalty=0.0,
        max_tokens=options.max_tokens, seed=options.seed,
    )  # fmt: skip
    release = Release(Path("nowhere"), "scripted", SamplingSettings(), "0" * 64)
    try:
        log = None
        if options.session:
            path = session_path(home(), options.session)
            header = session_header(engine, release.name, release.weights_sha256)
            log = SessionLog.open(path, header) if path.exists() else SessionLog.create(path, header)
        return run_chat(
            Session(engine, settings, "", log, options.raw), release, home(), lambda name: _open(name, options),
            options.message, options.json, options.stats, not options.no_history, options.paragraphs,
        )  # fmt: skip
    except ParakeetError as error:
        print(f"Error: {sanitise(str(error))}", file=sys.stderr)
        return 1


def _open(name: str, options: argparse.Namespace) -> OpenedModel:
    """`/model NAME` gives a model that replies with its name."""
    other = argparse.Namespace(**{**vars(options), "reply": f"I am {name}.", "bytes": False, "context": 256})
    return OpenedModel(Release(Path(name), name, SamplingSettings(temperature=0.5), name * 8), _engine(other))


def _engine(options: argparse.Namespace) -> Engine:
    scripted = runpy.run_path(str(TESTS / "scripted.py"))
    reply = None if options.reply is None else options.reply.encode().decode("unicode_escape").encode("latin-1")
    if options.bytes:
        return scripted["scripted_engine"](reply, options.context, options.delay, not options.endless)
    engine = runpy.run_path(str(TESTS / "chat" / "scripted_engine.py"))["ScriptedEngine"]

    def echo(prompt_ids: list[int], seed: int | None) -> str:
        return f"seed {seed} prompt {len(prompt_ids)}"

    return engine(
        echo if reply is None else [reply.decode()],
        scripted["byte_tokenizer"](),
        options.context,
        options.delay,
        not options.endless,
    )


if __name__ == "__main__":
    sys.exit(main())
