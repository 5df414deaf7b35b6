"""Every command line and option that README.md and docs/ mention exists, with its value; nothing is run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from parakeet.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SHELLS = ("", "sh", "bash", "shell", "console")


def shell_lines(text: str) -> Iterator[str]:
    """Lines of the fenced shell blocks of a page, without prompts, comments and line continuations."""
    for language, block in BLOCK.findall(text):
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines() if language in SHELLS else ():
            # A comment follows after a #, or after two spaces.
            yield re.split(r"(?:^|\s)#|\s\s", line.strip().removeprefix("$ "))[0]


def spans(text: str) -> list[str]:
    """`code` within sentences."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def invocations(line: str) -> Iterator[list[str]]:
    """The arguments of each `parakeet` in a shell line, also in pipes and lists."""
    if "parakeet" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";|&()<>"):
            words.append(word)
            continue
        while words and re.fullmatch(r"\w+=.*", words[0]):  # variables of the environment
            del words[0]
        if words and Path(words[0]).name == "parakeet":
            yield words[1:]
        elif words[1:3] == ["-m", "parakeet.cli"]:
            yield words[3:]
        words = []


def parse(arguments: list[str]) -> None:
    """Read the arguments as `parakeet` does, without running it. Raises click.UsageError as it does."""
    command: click.Command = main
    context = main.make_context("parakeet", [*arguments])
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        name, chosen, arguments = command.resolve_command(context, rest)
        assert chosen is not None
        command, context = chosen, chosen.make_context(str(name), arguments, parent=context)


def problem(arguments: list[str], complete: bool = True) -> str:
    """Why `parakeet` refuses these arguments, or "". If not `complete`, required ones may be missing."""
    try:
        parse(arguments)
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):  # --help, --version, or `parakeet` alone
        return ""
    except click.UsageError as error:
        return "" if isinstance(error, click.MissingParameter) and not complete else error.format_message()
    return ""


def options(command: click.Command) -> Iterator[tuple[click.Command, click.Option]]:
    """All options of a command and of the commands in it."""
    yield from ((command, option) for option in command.params if isinstance(option, click.Option))
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        yield from options(child)


def option_problem(name: str, value: str | None) -> str:
    """Why no command has this option with this value, or ""."""
    reason = f"no command has {name}"
    for command, option in options(main):
        if name not in option.opts:
            continue
        if value is None:
            return ""
        if option.is_flag:
            reason = f"{name} takes no value"
            continue
        try:
            option.process_value(click.Context(command), (value,) if option.multiple else value)
        except click.UsageError as error:
            reason = error.format_message()
        else:
            return ""
    return reason


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and those in it, by their whole names."""
    yield name, command
    for child, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(f"{name} {child}", inner)


def example_lines(command: click.Command) -> list[str]:
    """The lines of a command's help that a person can type."""
    lines = f"{command.help}\n{command.epilog or ''}".splitlines()
    return [line.strip() for line in lines if re.match(r"""\s*(parakeet |eval "\$\(parakeet )""", line)]


@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(*found, id=found[0]) for found in commands("parakeet", main)]
)
def test_every_help_has_examples_that_are_accepted(name: str, command: click.Command) -> None:
    examples = example_lines(command)
    if not isinstance(command, click.Group) or command.invoke_without_command:
        assert any(name in line for line in examples), "no example of its own"
    for line in examples:
        (arguments, *_) = list(invocations(line.split("  #")[0].removeprefix('eval "$(').replace(')"', "")))
        assert problem(arguments) == "", line


def test_every_environment_variable_of_the_help_is_documented() -> None:
    named = re.findall(r"^  ([A-Z_]{4,})  ", main.epilog or "", flags=re.MULTILINE)
    assert len(named) > 4
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in named if f"`{name}`" not in pages] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_commands_are_accepted(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    problems = [(line, problem(arguments)) for line in shell_lines(text) for arguments in invocations(line)]
    mentions = [span for span in spans(text) if span.startswith("parakeet ") and "…" not in span and "..." not in span]
    problems += [(span, problem(arguments, False)) for span in mentions for arguments in invocations(span)]
    for span in spans(text):
        # An option that stands alone; a value in capitals is a placeholder.
        if match := re.fullmatch(r"(--[a-z][a-z-]*)(?:[ =](\S+))?", span):
            name, value = match.groups()
            problems.append((span, option_problem(name, None if value is None or value.isupper() else value)))
    assert [found for found in problems if found[1]] == []


def test_the_readme_has_commands_to_check() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in list(shell_lines(text))
    assert len([arguments for line in shell_lines(text) for arguments in invocations(line)]) > 12


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("parakeet chat --temprature 1", "No such option"),
        (".venv/bin/parakeet chat -m hi | head -1", ""),
        ("printf 'a; b' | A=1 ./parakeet chat --dtype fp8", "'fp8' is not one of"),
        ("parakeet chat --temperature 11 && true", "temperature must be a number from 0 to 10, not 11."),
        ("python -m parakeet.cli chat --threads many", "'many' is not a valid whole number"),
        ("parakeet build --limit 150%", "'150%' is not a share"),
        ("parakeet compare one", "Missing argument 'B'"),
        ("parakeet bench nothing", "No such command 'nothing'"),
        ("parakeet use demo extra", "unexpected extra argument"),
        ("parakeet chat --help", ""),
        ("parakeet", ""),
    ],
)
def test_what_click_refuses_is_found(line: str, expected: str) -> None:
    ((found, arguments),) = [(problem(arguments), arguments) for arguments in invocations(line)]
    assert (expected in found) if expected else (found == ""), (arguments, found)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("--dtype", "int4", ""),
        ("--dtype", "int5", "is not one of"),
        ("--stop", "END", ""),
        ("--stats", "yes", "takes no value"),
        ("--nonsense", None, "no command has --nonsense"),
    ],
)
def test_an_option_alone_is_found_with_its_value(name: str, value: str | None, expected: str) -> None:
    found = option_problem(name, value)
    assert (expected in found) if expected else (found == "")


def test_shell_blocks_are_read_as_a_person_reads_them() -> None:
    page = "```sh\n# first\n$ parakeet chat \\\n  -m hi   # say hi\nparakeet models     all of them\n```\n"
    page += "```yaml\nparakeet x\n```\n"
    assert [line for line in shell_lines(page) if line] == ["parakeet chat -m hi", "parakeet models"]
