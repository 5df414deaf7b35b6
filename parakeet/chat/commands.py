"""The commands of a chat. One table is the source of what is obeyed, completed and explained."""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from parakeet.chat.output import count, write
from parakeet.chat.reading import Candidate
from parakeet.chat.session import Session
from parakeet.chat.showing import SECTIONS, first_words, render_help, render_sessions, show, table
from parakeet.chat.storage import SessionLog, list_sessions, session_path
from parakeet.chat.talk import Talk
from parakeet.errors import ParakeetError
from parakeet.sanitise import sanitise


@dataclass(frozen=True)
class Command:
    """`arguments` is shown to people: "" for none, NAME where it is needed, [NAME] where it may be left out."""

    name: str
    arguments: str
    meaning: str
    run: Callable[[Talk, str], None]
    choices: Callable[[Talk], Sequence[tuple[str, str]]] = lambda talk: ()
    """Completions of the argument, and what they mean."""


def parse(line: str) -> tuple[str | None, str]:
    """(name, argument) of a command, or (None, message), without blanks around it.

    A command is a slash and letters, then nothing or a space: "/usr/bin is full" is a message. Two slashes
    stand for one that begins a message.
    """
    line = line.strip()
    if line.startswith("//"):
        return None, line[1:]
    match = re.fullmatch(r"/([A-Za-z]+)(?:\s+(.*))?", line, flags=re.DOTALL)
    return (match[1].lower(), match[2] or "") if match else (None, line)


def obey(talk: Talk, name: str, argument: str) -> None:
    """Run a command. Raises ParakeetError where there is no such command, or not just one, or it cannot run."""
    command = find(name, argument)
    if argument and not command.arguments:
        raise ParakeetError(
            f"/{command.name} takes nothing after it. To send this as a message, double the slash: "
            f"//{name} {first_words(argument, 40)}"
        )
    if not argument and command.arguments and not command.arguments.startswith("["):
        raise ParakeetError(f"/{command.name} needs more: /{command.name} {command.arguments}")
    command.run(talk, argument)


def find(name: str, argument: str = "") -> Command:
    """The command with this name, or the only one whose name begins so."""
    if name in COMMANDS:
        return COMMANDS[name]
    found = [command for command in COMMANDS.values() if command.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ParakeetError(f"/{name} could be {_listed(found)}.")
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean /{close[0]}?" if close else "/help lists them."
    if argument:
        hint += f" To send this as a message, double the slash: //{name} {first_words(argument, 40)}"
    raise ParakeetError(f"There is no command /{name[:40]}: {hint}")


def _listed(commands: Sequence[Command]) -> str:
    names = [f"/{command.name}" for command in commands]
    return ", ".join(names[:-1]) + f" or {names[-1]}"


def complete(talk: Talk, line: str) -> Iterator[Candidate]:
    """Completions of an input so far: of a command's name, then of its argument."""
    match = re.fullmatch(r"/([A-Za-z]*)(?:(\s+)(\S*))?", line)
    if match is None:
        return
    typed, space, argument = match.groups()
    if space is None:
        matching = [command for command in COMMANDS.values() if command.name.startswith(typed)]
        yield from (Candidate("/" + command.name, len(line), command.meaning) for command in matching)
        return
    try:
        command = find(typed)
    except ParakeetError:
        return
    for choice, meaning in command.choices(talk):
        if choice.startswith(argument):
            yield Candidate(choice, len(argument), meaning)


def _help(talk: Talk, argument: str) -> None:
    groups = [
        (title, [(f"/{c.name} {c.arguments}".rstrip(), c.meaning) for c in commands]) for title, commands in _GROUPS
    ]
    write(render_help(groups))


def _exit(talk: Talk, argument: str) -> None:
    talk.leaving = True


def _clear(talk: Talk, argument: str) -> None:
    talk.session.clear()
    talk.tell("The conversation is forgotten.")


def _system(talk: Talk, argument: str) -> None:
    if not argument:
        talk.tell(talk.session.system or "There is no system message.")
        return
    talk.session.set_system("" if argument in ('""', "''") else argument)
    talk.tell("The system message is set." if talk.session.system else "There is no system message any more.")


def _set(talk: Talk, argument: str) -> None:
    from parakeet.generation.settings import describe, with_setting

    typed, _, value = argument.partition(" ")
    beginning = typed.lower().replace("-", "_")
    names = [name for name, _, _ in describe(talk.session.settings) if name.startswith(beginning)]
    if typed and (value or len(names) != 1):
        # An unknown name is refused here too, with the nearest one.
        settings = with_setting(talk.session.settings, names[0] if len(names) == 1 else typed, value.strip())
        talk.session.settings = settings
    talk.tell(table([row for row in describe(talk.session.settings) if row[0] in names]))


def _settings_choices(talk: Talk) -> Sequence[tuple[str, str]]:
    from parakeet.generation.settings import describe

    return [(name, f"{value}: {meaning}") for name, value, meaning in describe(talk.session.settings)]


def _seed(talk: Talk, argument: str) -> None:
    from parakeet.generation.settings import describe, with_setting

    if argument:
        talk.session.settings = with_setting(talk.session.settings, "seed", argument)
    value = next(value for name, value, _ in describe(talk.session.settings) if name == "seed")
    last = talk.session.last_seed
    drawn = "" if last is None or argument else f" The last reply was drawn with {last}."
    talk.tell(f"The seed is {value}.{drawn}")


def _stats(talk: Talk, argument: str) -> None:
    if argument not in ("", "on", "off"):
        raise ParakeetError(f"/stats is on or off, not {first_words(argument, 40)!r}.")
    talk.speaker.stats = argument == "on" if argument else not talk.speaker.stats
    talk.tell(f"Speed and seed are {'shown after each reply' if talk.speaker.stats else 'not shown'}.")


def _show(talk: Talk, argument: str) -> None:
    matching = [name for name in SECTIONS if name.startswith(argument.lower())] if argument else ["config"]
    if len(matching) != 1:
        raise ParakeetError(f"/show takes one of {', '.join(SECTIONS)}.")
    write(show(talk, matching[0]))


def _save(talk: Talk, argument: str) -> None:
    talk.session.save(session_path(talk.root, argument), talk.header())
    talk.tell(f"Saved as {argument}. The conversation goes on there.")


def _load(talk: Talk, argument: str) -> None:
    path = session_path(talk.root, argument)
    log = talk.session.log
    if log and log.path == path and log.begun:
        raise ParakeetError(f"This is the session {argument} already.")
    if not path.exists():
        raise ParakeetError(f"There is no session {argument}; /sessions lists them.")
    session = Session(talk.session.engine, talk.session.settings, "", SessionLog.open(path, talk.header()))
    talk.session.close()
    talk.speaker.session = session
    talk.speaker.tell_notes()
    talk.tell(f"{argument}: {count(len(session.exchanges), 'exchange')}. The conversation goes on there.")
    if session.exchanges:
        last = session.exchanges[-1]
        talk.tell(f"  Human: {first_words(last.message)}\n  Parakeet: {first_words(last.reply)}")


def _session_choices(talk: Talk) -> Sequence[tuple[str, str]]:
    return [(row.name, sanitise(row.first_words)) for row in list_sessions(talk.root) if not row.problem]


def _sessions(talk: Talk, argument: str) -> None:
    talk.tell(render_sessions(list_sessions(talk.root)))


def _retry(talk: Talk, argument: str) -> None:
    talk.say(talk.session.retry())


def _continue(talk: Talk, argument: str) -> None:
    talk.say(talk.session.continue_reply())


def _edit(talk: Talk, argument: str) -> None:
    if argument:
        talk.say(talk.session.edit(argument))
        return
    from parakeet.chat.editor import edit_text

    message = talk.session.last_message
    with talk.aside():
        edited = edit_text(message)
    if not edited.strip() or edited == message:
        talk.tell("The message is as it was.")
    else:
        talk.say(talk.session.edit(edited))


def _undo(talk: Talk, argument: str) -> None:
    exchange = talk.session.undo()
    talk.tell(f"Taken back: {first_words(exchange.message)}")


_GROUPS: tuple[tuple[str, tuple[Command, ...]], ...] = (
    (
        "Conversation",
        (
            Command("retry", "", "another reply to the last message", _retry),
            Command("continue", "", "let the last reply go on", _continue),
            Command("edit", "[TEXT]", "change the last message, here or in $EDITOR", _edit),
            Command("undo", "", "take back the last message and its reply", _undo),
            Command("clear", "", "forget the conversation, not the system message", _clear),
            Command("system", "[TEXT]", 'the system message; /system "" takes it away', _system),
        ),
    ),
    (
        "Settings",
        (
            Command("set", "[NAME VALUE]", "how replies are drawn: /set temperature 0.7", _set, _settings_choices),
            Command(
                "seed", "[N|random]", "repeat the same replies, or not", _seed, lambda talk: [("random", "a new one")]
            ),
            Command(
                "stats",
                "[on|off]",
                "speed and seed after each reply",
                _stats,
                lambda talk: [("on", ""), ("off", "")],
            ),
            Command("show", "[WHAT]", ", ".join(SECTIONS), _show, lambda talk: list(SECTIONS.items())),
        ),
    ),
    (
        "Sessions",
        (
            Command("sessions", "", "the conversations that were recorded", _sessions),
            Command("save", "NAME", "give this conversation a name", _save),
            Command("load", "NAME", "go on with another conversation", _load, _session_choices),
        ),
    ),
    (
        "Program",
        (
            Command("help", "", "this list", _help),
            Command("exit", "", "leave (also Ctrl-D)", _exit),
        ),
    ),
)

COMMANDS = {command.name: command for _, commands in _GROUPS for command in commands}
