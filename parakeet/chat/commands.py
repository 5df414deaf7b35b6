"""The commands of a chat. A command is one function here: its decorator lists it for help, dispatch and completion."""

import datetime
import difflib
import re
import textwrap
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.chat.files import complete_path, with_files
from parakeet.chat.input import Completion, edit_text, unquoted
from parakeet.chat.output import ReplyPrinter, has_colour, note, styled, write
from parakeet.chat.pieces import piece, render_chances
from parakeet.chat.session import Session
from parakeet.chat.storage import SessionLog, SessionRow, list_sessions, session_header, session_path
from parakeet.chat.wrapping import terminal_width
from parakeet.errors import ParakeetError
from parakeet.formatting import counted, render_table
from parakeet.sampling_settings import OPTIONS, SamplingSettings, describe, with_setting
from parakeet.sanitise import sanitise

if TYPE_CHECKING:
    from parakeet.chat.models import OpenedModel
    from parakeet.generation.engine import Step
    from parakeet.release.verify import Release

WIDTH = 80

KEYS = """\
The start of a command is enough: /ret. Tab completes it.
To begin a message with a slash, double it: //like this.
@notes.txt puts the text of a file into a message. Tab completes its name.
Alt-Enter begins a new line; so does Enter between \"\"\" and \"\"\".
Ctrl-C stops a reply and keeps its text so far; twice in a second leaves."""

EMPTY = ('""', "''")
"""An argument that stands for an empty text."""

RECAP = 2
"""Exchanges that are shown again when a session is continued."""

TRACED_SPANS, TRACED_DOCUMENTS = 3, 1
"""What /trace shows below the text: spans, and documents of each."""

SHOWN_TOKENS, LAST_TOKENS = 10, 6
"""Rows of /probs, and how many tokens before them it shows."""


@dataclass
class Chat:
    """What the commands work on: the model, the current session with its printer, the root folder of artefacts."""

    release: "Release"
    printer: ReplyPrinter
    root: Path
    label: str
    """Printed before every reply."""
    open_model: "Callable[[str], OpenedModel]"
    """Opens a model by the name that `/model` was given."""
    aside: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered while another program has the terminal."""
    leaving: bool = False

    @property
    def session(self) -> Session:
        return self.printer.session

    def header(self) -> dict[str, Any]:
        """What a session file says about the model."""
        return session_header(self.session.engine, self.release.name, self.release.weights_sha256)

    def defaults(self) -> SamplingSettings:
        """The sampling settings that the model's release chose."""
        return self.release.generation

    def print_reply(self, steps: Generator["Step", None, None]) -> None:
        finish_reason = self.printer.print_reply(steps, self.label)
        if finish_reason == "stop" and not self.session.engine.timing.reply_tokens:
            note("The model added nothing: it ended its turn at once.")
        self.leaving = self.printer.interrupts.leave

    def print(self, text: str) -> None:
        """Print lines on standard output, sanitised."""
        write(sanitise(text) + "\n")


Choices = Callable[[Chat], Sequence[tuple[str, str]]]
"""Completions of a command's argument, each with its help."""


@dataclass(frozen=True)
class Command:
    name: str
    arguments: str
    """As help shows them: "" for none, NAME for a required one, [NAME] for an optional one."""
    group: str
    help: str
    run: Callable[[Chat, str], None]
    choices: Choices
    aliases: Sequence[str] = ()

    @property
    def takes_text(self) -> bool:
        """Whether the argument is a text for the model, which may be a block in three quotes or name a file."""
        return self.arguments == "[TEXT]"


COMMANDS: dict[str, Command] = {}
"""By name, in the order of /help."""


def chat_command(
    usage: str, group: str, help: str, choices: Choices = lambda chat: (), aliases: Sequence[str] = ()
) -> Callable:
    """Add a function to the commands; `usage` is its name and arguments: "load NAME"."""

    def add(run: Callable[[Chat, str], None]) -> Callable[[Chat, str], None]:
        name, _, arguments = usage.partition(" ")
        COMMANDS[name] = Command(name, arguments, group, help, run, choices, aliases)
        return run

    return add


def parse_input(line: str) -> tuple[str | None, str]:
    """(name, argument) of a command or (None, message), without surrounding blanks.

    A command is a slash and letters, then nothing or a space: "/usr/bin is full" is a message. A message that begins
    with a slash is typed with two.
    """
    line = line.strip()
    if line.startswith("//"):
        return None, line[1:]
    match = re.fullmatch(r"/([A-Za-z]+|\?)(?:\s+(.*))?", line, flags=re.DOTALL)
    return (match[1].lower(), match[2] or "") if match else (None, line)


def run_command(chat: Chat, name: str, argument: str, expand: Callable[[str], str] = str) -> None:
    """Run a command by its name or the start of it. Raises ParakeetError if there is not exactly one, or it fails.

    `expand` puts pastes into the argument, after the names of files in it were replaced.
    """
    command = find_command(name, expand(argument))
    if command.takes_text:
        block = unquoted(argument)
        argument = with_files(argument, note) if block is None else block or EMPTY[0]
    argument = expand(argument)
    if argument and not command.arguments:
        raise ParakeetError(
            f"/{command.name} takes no argument. To send this as a message, double the slash: "
            f"//{name} {first_words(argument, 40)}"
        )
    if not argument and command.arguments and not command.arguments.startswith("["):
        raise ParakeetError(f"/{command.name} needs an argument: /{command.name} {command.arguments}")
    command.run(chat, argument)


def find_command(name: str, argument: str = "") -> Command:
    """The command with this name, or the only one whose name begins with it."""
    if name in COMMANDS:
        return COMMANDS[name]
    for command in COMMANDS.values():
        if name in command.aliases:
            return command
    found = [command for command in COMMANDS.values() if command.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ParakeetError(f"/{name} could be {_either([f'/{command.name}' for command in found])}.")
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean /{close[0]}?" if close else "/help lists them."
    if argument:
        hint += f" To send this as a message, double the slash: //{name} {first_words(argument, 40)}"
    raise ParakeetError(f"There is no command /{name[:40]}: {hint}")


def complete(chat: Chat, line: str) -> Iterator[Completion]:
    """Completions of an input so far: of a file's name, of a command's name, then of its argument."""
    if file := re.search(r"(?<!\S)@((?:\\.|[^\s\\\"])*)$", line):
        yield from (Completion(path, len(file[1]), "") for path in complete_path(file[1]))
        return
    match = re.fullmatch(r"/([A-Za-z]*)(?:(\s+)(\S*))?", line)
    if match is None:
        return
    typed, space, argument = match.groups()
    if space is None:
        matching = [command for command in COMMANDS.values() if command.name.startswith(typed)]
        yield from (Completion("/" + command.name, len(line), command.help) for command in matching)
        for command in COMMANDS.values():
            yield from (
                Completion("/" + alias, len(line), command.help)
                for alias in command.aliases
                if typed and alias.startswith(typed)
            )
        return
    try:
        command = find_command(typed)
    except ParakeetError:
        return
    for choice, help in command.choices(chat):
        if choice.startswith(argument):
            yield Completion(choice, len(argument), help)


def first_words(text: str, width: int = 60) -> str:
    """The beginning of a text as one sanitised line of at most `width` characters."""
    line = " ".join(sanitise(text[: 4 * width]).split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"


def _either(names: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _table(rows: Sequence[Sequence[object]]) -> str:
    return textwrap.indent(render_table([""] * len(rows[0]), rows, width=WIDTH - 2), "  ")


@chat_command("retry", "Conversation", "another reply to the last message")
def _retry(chat: Chat, argument: str) -> None:
    chat.print_reply(chat.session.retry())


@chat_command("continue", "Conversation", "continue the last reply")
def _continue(chat: Chat, argument: str) -> None:
    exchanges = chat.session.exchanges
    # A stop string may have ended the reply, and the file does not say so: with stop strings, the model is asked.
    if exchanges and exchanges[-1].finish_reason == "stop" and not chat.session.settings.stop:
        chat.print("The reply is complete: the model ended it. /retry gives another one.")
        return
    chat.print_reply(chat.session.continue_reply())


@chat_command("edit [TEXT]", "Conversation", "change the last message, here or in $EDITOR")
def _edit(chat: Chat, argument: str) -> None:
    if argument:
        chat.print_reply(chat.session.edit("" if argument in EMPTY else argument))
        return
    message = chat.session.last_message
    with chat.aside():
        edited = edit_text(message)
    if not edited.strip() or edited == message:
        chat.print("The message is unchanged.")
    else:
        chat.print_reply(chat.session.edit(edited))


@chat_command("undo", "Conversation", "remove the last message and its reply")
def _undo(chat: Chat, argument: str) -> None:
    chat.print(f"Removed: {first_words(chat.session.undo().message)}")


@chat_command("clear", "Conversation", "forget the conversation, not the system message")
def _clear(chat: Chat, argument: str) -> None:
    chat.session.clear()
    chat.print("The conversation is forgotten.")


@chat_command("system [TEXT]", "Conversation", 'the system message; /system "" removes it')
def _system(chat: Chat, argument: str) -> None:
    if not argument:
        chat.print(chat.session.system or "There is no system message.")
        return
    if chat.session.raw:
        raise ParakeetError("With --raw there is no system message: each text is continued as it is.")
    chat.session.set_system("" if argument in EMPTY else argument)
    chat.print("The system message is set." if chat.session.system else "The system message is removed.")


def _setting_names(chat: Chat) -> Sequence[tuple[str, str]]:
    return [(name, f"{value}: {help}") for name, value, help in describe(chat.session.settings)]


def _change_setting(chat: Chat, name: str, text: str) -> None:
    """Change a setting to what was typed; `default` is the value that the release chose."""
    if text.lower() == "default" and name in OPTIONS:
        changes: dict[str, Any] = {name: getattr(chat.defaults(), name)}
        chat.session.settings = replace(chat.session.settings, **changes)
    else:
        chat.session.settings = with_setting(chat.session.settings, name, text)


@chat_command("set [NAME VALUE]", "Settings", "/set temperature 0.7, /set temperature default", _setting_names)
def _set(chat: Chat, argument: str) -> None:
    typed, _, value = argument.partition(" ")
    beginning = typed.lower().replace("-", "_")
    names = [name for name, _, _ in describe(chat.session.settings) if name.startswith(beginning)]
    if beginning in names:
        names = [beginning]
    if typed and value and len(names) > 1:
        raise ParakeetError(f"{typed!r} could be {_either(names)}.")
    if typed and (value or not names):
        # An unknown name is refused here too, with the nearest one.
        name = names[0] if names else typed
        _change_setting(chat, name, value.strip())
    chat.print(_table([row for row in describe(chat.session.settings) if row[0] in names]))


@chat_command(
    "seed [N|random]",
    "Settings",
    "set to repeat the same replies",
    lambda chat: [("random", "a new one every time")],
)
def _seed(chat: Chat, argument: str) -> None:
    if argument:
        _change_setting(chat, "seed", argument)
    seed, last = chat.session.settings.seed, chat.session.last_seed
    used = "" if last is None or argument else f" The last reply used {last}."
    chat.print(f"The seed is {'random' if seed is None else seed}.{used}")


@chat_command("stats [on|off]", "Settings", "speed and seed after each reply", lambda chat: [("on", ""), ("off", "")])
def _stats(chat: Chat, argument: str) -> None:
    if argument not in ("", "on", "off"):
        raise ParakeetError(f"/stats takes on or off, not {first_words(argument, 40)!r}.")
    chat.printer.stats = argument == "on" if argument else not chat.printer.stats
    chat.print(f"Speed and seed are {'shown after each reply' if chat.printer.stats else 'not shown'}.")


@chat_command("probs [TEXT]", "Settings", "the likeliest next tokens, or first ones of a reply")
def _probs(chat: Chat, argument: str) -> None:
    session = chat.session
    tokenizer, ids = session.engine.tokenizer, session.next_ids(argument)
    chat.print(f"After {' '.join(piece(tokenizer, token_id) for token_id in ids[-LAST_TOKENS:])}")
    chat.print(render_chances(tokenizer, session.engine.likeliest(ids, session.settings, SHOWN_TOKENS)))


@chat_command("trace [N]", "Conversation", "where the last reply stands in the training text")
def _trace(chat: Chat, argument: str) -> None:
    from parakeet.trace.terminal import render_trace
    from parakeet.trace.tracer import Tracer

    exchanges = chat.session.exchanges
    if not exchanges:
        raise ParakeetError("There is no reply to trace yet.")
    if argument and not (argument.isascii() and argument.isdigit() and 1 <= int(argument[:9]) <= len(exchanges)):
        raise ParakeetError(f"/trace takes the number of a reply, from 1 to {len(exchanges):,}: the last without one.")
    reply = exchanges[int(argument) - 1 if argument else -1].reply
    tracer = Tracer.open(chat.release.name, chat.release.directory, chat.root, chat.session.engine.tokenizer)
    found = tracer.trace(reply, documents=TRACED_DOCUMENTS)
    width = terminal_width() or None
    # Sanitised there: sanitising here would remove the colours.
    write(render_trace(found, tracer.where, has_colour(), width, TRACED_SPANS) + "\n")


def _model_names(chat: Chat) -> Sequence[tuple[str, str]]:
    from parakeet.chat.models import model_names

    return list(model_names(chat.root))


@chat_command("model [NAME]", "Settings", "list the models, or go on with another one", _model_names)
def _model(chat: Chat, argument: str) -> None:
    from parakeet.chat.models import render_models

    if not argument:
        what, place = _where(chat.session, chat.release)
        chat.print(f"{chat.release.name} replies ({place}).")
        if what == "folder":
            chat.print(render_models(chat.root, chat.release, WIDTH))
        return
    opened = chat.open_model(argument)
    changed = {
        name: value for name, value in asdict(chat.session.settings).items() if value != getattr(chat.defaults(), name)
    }
    before, chat.release = chat.header(), opened.release
    chat.session.switch(
        opened.engine,
        before,
        session_header(opened.engine, opened.release.name, opened.release.weights_sha256),
    )
    chat.session.settings = replace(chat.defaults(), **changed)
    for text in opened.notes:
        note(text)
    chat.print(f"{chat.release.name} replies from here on, {counted(opened.engine.parameter_count, 'parameter')}.")


def _where(session: Session, release: "Release") -> tuple[str, str]:
    """Where the model is: its folder, or the server that has it."""
    url = getattr(session.engine, "url", None)
    return ("folder", str(release.directory)) if url is None else ("server", url)


def _show_config(session: Session, release: "Release") -> str:
    engine = session.engine
    weights = f"{engine.parameter_count:,} parameters in {engine.dtype}, sha256 {release.weights_sha256[:16]}…"
    rows = [
        ("model", release.name),
        _where(session, release),
        ("weights", weights),
        ("runs on", f"{engine.device}, {counted(engine.threads, 'thread')}"),
    ]
    if engine.choice:
        rows.append(("chosen", engine.choice.reason))
    rows.append(("context", counted(engine.context, "token")))
    rows.append(("recorded in", str(session.log.path) if session.log else "nowhere; /save records it"))
    return _table(rows)


def _show_settings(session: Session, release: "Release") -> str:
    return _table(describe(session.settings))


def _show_context(session: Session, release: "Release") -> str:
    used, context = len(session.prompt_ids()), session.engine.context
    rows = [
        ("used", f"{used:,} of {counted(context, 'token')} ({used / context:.0%})"),
        ("conversation", counted(len(session.exchanges), "exchange")),
    ]
    if session.dropped:
        rows.append(("left out", f"{counted(session.dropped, 'old exchange')} that did not fit"))
    return _table(rows)


def _show_prompt(session: Session, release: "Release") -> str:
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
    return f"{''.join(parts)}\n({counted(len(ids), 'token')})".lstrip("\n")


def _show_system(session: Session, release: "Release") -> str:
    return sanitise(session.system) or "There is no system message."


SECTIONS: dict[str, tuple[str, Callable[[Session, "Release"], str]]] = {
    "config": ("the model, and where the session is recorded", _show_config),
    "settings": ("the sampling settings", _show_settings),
    "context": ("how much of the context is used", _show_context),
    "prompt": ("the text with which the next prompt begins", _show_prompt),
    "system": ("the system message", _show_system),
}
"""Arguments of /show, with their help and their (sanitised) text."""


def _section_names(chat: Chat) -> Sequence[tuple[str, str]]:
    return [(name, help) for name, (help, _) in SECTIONS.items()]


@chat_command("show [WHAT]", "Settings", ", ".join(SECTIONS), _section_names)
def _show(chat: Chat, argument: str) -> None:
    matching = [name for name in SECTIONS if name.startswith(argument.lower())] if argument else ["config"]
    if len(matching) > 1:
        raise ParakeetError(f"/show {argument} could be {_either(matching)}.")
    if not matching:
        raise ParakeetError(f"/show takes one of {', '.join(SECTIONS)}.")
    # Sanitised there: sanitising here would remove the colours.
    write(SECTIONS[matching[0]][1](chat.session, chat.release) + "\n")


def print_recap(session: Session) -> None:
    """Print how much was said in a continued session, when, and the last two exchanges."""
    exchanges = session.exchanges
    name = session.log.path.stem if session.log else "The session"
    lines = [f"{name}: {counted(len(exchanges), 'exchange')}, the last on {_local(session.last_time)}."]
    for exchange in exchanges[-RECAP:]:
        speakers = ("Text", "Continued") if exchange.raw else ("Human", "Parakeet")
        texts = (first_words(exchange.message), first_words(exchange.reply))
        lines += [f"  {speaker}: {text}" for speaker, text in zip(speakers, texts, strict=True)]
    if not exchanges:
        lines = [f"{name}: nothing was said yet."]
    write("".join(styled(sanitise(line), "2") + "\n" for line in lines))


def _sessions_table(rows: Sequence[SessionRow]) -> str:
    """The recorded sessions, the latest first, with the local time of their last reply."""
    if not rows:
        return "No conversation is recorded yet."
    readable = [
        (row.name, _local(row.when), row.exchanges, first_words(row.first_words, 32)) for row in rows if not row.problem
    ]
    head = ("session", "last reply", "exchanges", "begins with")
    listed = [render_table(head, readable, right=(2,), width=WIDTH)] if readable else []
    return "\n".join([*listed, *(f"{row.name}: {sanitise(row.problem)}" for row in rows if row.problem)])


def _local(when: str) -> str:
    """A session's time by the user's clock. A file may hold something that is not a time."""
    try:
        return datetime.datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return first_words(when, 16)


@chat_command("sessions", "Sessions", "list the recorded conversations")
def _sessions(chat: Chat, argument: str) -> None:
    chat.print(_sessions_table(list_sessions(chat.root)))


@chat_command("save NAME", "Sessions", "record this conversation under a name")
def _save(chat: Chat, argument: str) -> None:
    chat.session.save(session_path(chat.root, argument), chat.header())
    chat.print(f"Saved as {argument}. The conversation continues there.")


def _session_names(chat: Chat) -> Sequence[tuple[str, str]]:
    return [(row.name, sanitise(row.first_words)) for row in list_sessions(chat.root) if not row.problem]


@chat_command("load NAME", "Sessions", "continue another conversation", _session_names)
def _load(chat: Chat, argument: str) -> None:
    path = session_path(chat.root, argument)
    log = chat.session.log
    if log and log.path == path and log.begun:
        raise ParakeetError(f"The session {argument} is already open.")
    if not path.exists():
        raise ParakeetError(f"There is no session {argument}; /sessions lists them.")
    log, present = SessionLog.open(path, chat.header()), chat.session
    session = Session(present.engine, present.settings, "", log, present.raw)
    chat.session.close()
    chat.printer.session = session
    chat.printer.print_notes()
    print_recap(session)


def _help_text(groups: dict[str, list[tuple[str, str]]]) -> str:
    """(command with its arguments, help) by group, one column for all of them, and the keys."""
    parts: list[str] = []
    for title, rows in groups.items():
        parts.append(styled(title, "1"))
        parts += [f"  {usage:<20}{help}" for usage, help in rows]
    return "\n".join([*parts, styled("Keys", "1"), textwrap.indent(KEYS, "  ")]) + "\n"


@chat_command("help", "Program", "this list", aliases=("?",))
def _help(chat: Chat, argument: str) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for command in COMMANDS.values():
        also = f" (also {', '.join('/' + alias for alias in command.aliases)})" if command.aliases else ""
        usage = f"/{command.name} {command.arguments}".rstrip()
        groups.setdefault(command.group, []).append((usage, command.help + also))
    write(_help_text(groups))


@chat_command("exit", "Program", "leave; so does Ctrl-D", aliases=("bye", "quit", "q"))
def _exit(chat: Chat, argument: str) -> None:
    chat.leaving = True
