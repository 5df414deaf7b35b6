"""`parakeet chat`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from parakeet.cli.common import Whole
from parakeet.cli.completion import complete_models_and_folders, complete_runs, complete_sessions
from parakeet.cli.output import examples
from parakeet.errors import ParakeetError
from parakeet.sampling_settings import OPTIONS, parse_setting

if TYPE_CHECKING:
    from parakeet.chat.launch import ChatOptions


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
    if value is None:
        return None
    from parakeet.chat.storage import session_path
    from parakeet.home import home

    try:
        session_path(home(), value)
        return value
    except ParakeetError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what a model runs with: see `generation.choice.candidates`."""
    options = (
        click.option(
            "--dtype",
            type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
            default="auto",
            show_default=True,
            help="Precision of the weights. auto takes the fastest of fp32, bf16 and int8.",
        ),
        click.option(
            "--cache-dtype",
            type=click.Choice(["auto", "fp32", "bf16", "int8"]),
            default="auto",
            show_default=True,
            help="Precision of the key/value cache. auto is int8 for weights in int8 and int4, else theirs.",
        ),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps (untried)."),
        click.option("--threads", type=Whole(1, 1024), metavar="N", help="CPU threads.  [default: one a core]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


model_option = click.option(
    "--model",
    metavar="MODEL",
    envvar="PARAKEET_MODEL",
    show_envvar=True,
    shell_complete=complete_models_and_folders,
    help="Name or folder of a model, as `parakeet models` lists them.  [default: the promoted one]",
)
run_option = click.option(
    "--run",
    metavar="KEY[@STEP]",
    shell_complete=complete_runs,
    help="A checkpoint of a training run, which may still train. The newest, or of STEP.",
)


@click.command(
    epilog=examples(
        "parakeet chat",
        'parakeet chat "Who are you?"',
        'parakeet chat "What is this?" < notes.txt',
        'parakeet chat -m "Summarise @notes.txt" --temperature 0',
        'parakeet chat --raw "Once upon a time"',
        "parakeet chat --paragraphs < questions.txt",
        "parakeet chat --session trip",
        "parakeet chat --replay assets/sessions/trip.jsonl",
    )
)
@click.argument("prompt", nargs=-1)
@click.option("-m", "--message", help="The same as PROMPT.")
@click.option("--paragraphs", is_flag=True, help="Messages in standard input end at blank lines, not at each line.")
@model_option
@run_option
@click.option("--raw", is_flag=True, help="Continue texts as they are, without the chat template.")
@click.option("--system", default="", help="Start the conversation with this system message.")
@sampling_options
@engine_options
@click.option(
    "--no-prompt-lookup", "prompt_lookup", flag_value=False, default=True,
    help="Do not draft text that repeats (prompt lookup decoding). It changes the speed, not the replies.",
)  # fmt: skip
@click.option(
    "--server", metavar="URL", help="Chat with the model of a running `parakeet serve`, which is loaded already."
)
@click.option(
    "--api-key-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="File with its API key."
)
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
def chat(prompt: tuple[str, ...], **options: Any) -> None:
    """Chat with a model.

    Without PROMPT, holds a conversation on a terminal, or replies to each line of a pipe. With PROMPT, prints the reply
    to it and exits. A pipe follows the PROMPT as part of the message; - stands for standard input alone, @FILE for the
    text of a file. Unset options use the release's defaults. A conversation on a terminal is recorded in sessions/,
    beside the artefacts.
    """
    from parakeet.chat.launch import ChatOptions, launch_chat

    settings = {name: value for name in OPTIONS if (value := options.pop(name)) is not None}
    if prompt and options["message"] is not None:
        raise click.UsageError("Give the message as PROMPT or with -m, not both.")
    if prompt:
        options["message"] = " ".join(prompt)
    model_was_typed = options["model"] is not None and not is_from_environment("model")
    if options["run"] is not None or options["replay"] or options["server"] is not None:
        options["model"] = options["model"] if model_was_typed else None
    chosen = ChatOptions(settings=settings, **options)
    _check(chosen)
    sys.exit(launch_chat(chosen))


def _check(chosen: "ChatOptions") -> None:
    """Usage error if options contradict each other."""
    if chosen.model is not None and chosen.run is not None:
        raise click.UsageError("--model and --run both name a model: give one of them.")
    _check_server(chosen)
    if chosen.raw and chosen.system:
        raise click.UsageError("--raw has no system message: put the text into the prompt.")
    if chosen.paragraphs and chosen.message is not None:
        raise click.UsageError("--paragraphs divides standard input into messages: leave out the prompt.")
    if chosen.session is not None and not chosen.history:
        raise click.UsageError("--session records the conversation and --no-history does not: give one of them.")
    own = chosen.settings or chosen.session or chosen.system or chosen.as_json or chosen.raw or chosen.paragraphs
    if chosen.replay and (own or chosen.message is not None):
        raise click.UsageError("--replay takes its messages and settings from FILE and cannot be combined with others.")


def _check_server(chosen: "ChatOptions") -> None:
    """Usage error if --server is combined with what says how a model is loaded."""
    if chosen.server is None:
        if chosen.api_key_file is not None:
            raise click.UsageError("--api-key-file is the key of a server: give --server too.")
        return
    parameters = click.get_current_context().get_parameter_source
    for name in ("model", "run", "dtype", "cache_dtype", "device", "threads", "prompt_lookup", "replay"):
        if parameters(name) is ParameterSource.COMMANDLINE:
            option = {"prompt_lookup": "no-prompt-lookup"}.get(name, name).replace("_", "-")
            raise click.UsageError(f"--server has its model already: leave out --{option}.")


def is_from_environment(name: str) -> bool:
    """Whether an option of the present command was not typed, but comes from the environment."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.ENVIRONMENT
