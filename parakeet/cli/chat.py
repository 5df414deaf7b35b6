"""`parakeet chat`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from parakeet.cli.completion import complete_models_and_folders, complete_sessions
from parakeet.cli.output import examples
from parakeet.errors import ParakeetError
from parakeet.sampling_settings import OPTIONS, parse_setting


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a command-line option for each of `sampling_settings.OPTIONS`; one that is not given is None."""
    for name, option in reversed(OPTIONS.items()):
        form: dict[str, Any] = {"metavar": option.metavar, "multiple": option.repeatable}
        if not option.metavar:
            form = {"flag_value": "on", "default": None}
        text = option.help[0].upper() + option.help[1:] + (". Repeatable." if option.repeatable else ".")
        if option.limits and "le" in option.limits:
            text += f"  [{option.expected.removeprefix('a number ')}]"
        command = click.option("--" + name.replace("_", "-"), help=text, callback=_sampling_value, **form)(command)
    return command


def _sampling_value(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value in (None, ()):
        return None
    try:
        return parse_setting(str(parameter.name), json.dumps(value) if isinstance(value, tuple) else value)
    except ParakeetError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _session_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from parakeet.chat.storage import session_path
    from parakeet.home import home

    try:
        if value is not None:
            session_path(home(), value)
        return value
    except ParakeetError as error:
        raise click.BadParameter(str(error), context, parameter) from None


@click.command(
    epilog=examples(
        "parakeet chat",
        'parakeet chat -m "Who are you?" --temperature 0',
        "parakeet chat --session lesson",
        "parakeet chat --replay assets/sessions/lesson.jsonl",
    )
)
@click.option("-m", "--message", help="Send one message, print the reply and exit.")
@click.option(
    "--model",
    "model_path",
    type=click.Path(path_type=Path),
    shell_complete=complete_models_and_folders,
    help="A release folder.  [default: the latest]",
)
@click.option("--system", default="", help="Start the conversation with this system message.")
@sampling_options
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="Precision of the weights. Fewer bits are faster.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads.  [default: torch's choice]")
@click.option(
    "--session",
    metavar="NAME",
    callback=_session_name,
    shell_complete=complete_sessions,
    help="Continue the session with this name, or start it.",
)
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Generate the replies of a recorded session again, and compare them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON events, one a line.")
@click.option("--stats", is_flag=True, help="Print the speed and seed of each reply.")
@click.option(
    "--no-history", "history", flag_value=False, default=True, help="Do not save the conversation or the input history."
)
def chat(**options: Any) -> None:
    """Chat with a released model.

    Works on a terminal, with -m for one message, or through a pipe, one message a line. Unset options use the release's
    defaults. A conversation on a terminal is recorded in sessions/, beside the artefacts.
    """
    from parakeet.chat.launch import ChatOptions, launch_chat

    settings = {name: value for name in OPTIONS if (value := options.pop(name)) is not None}
    chosen = ChatOptions(settings=settings, **options)
    if chosen.replay and (settings or chosen.message or chosen.session or chosen.system or chosen.as_json):
        raise click.UsageError("--replay takes its messages and settings from FILE and cannot be combined with others.")
    sys.exit(launch_chat(chosen))
