"""`parakeet serve`."""

import sys
from pathlib import Path
from typing import Any

import click

from parakeet.cli.chat import engine_options, run_option
from parakeet.cli.common import Whole, say, warn
from parakeet.cli.completion import complete_models_and_folders
from parakeet.cli.output import examples


@click.command(
    short_help="Serve a model to OpenAI clients and browsers.",
    epilog=examples(
        "parakeet serve",
        "parakeet serve --open --follow",
        "parakeet serve my-model --port 9000",
        "parakeet serve --host 0.0.0.0 --api-key-file key.txt",
    ),
)
@click.argument("model", required=False, shell_complete=complete_models_and_folders)
@run_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=Whole(0, 65535), default=8000, show_default=True, metavar="N", help="Port to listen on. 0 is any."
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File with the key that clients must give. Needed for a --host that other machines reach.",
)
@click.option("--no-key", is_flag=True, help="Let other machines connect without a key.")
@click.option(
    "--batch", type=Whole(1, 64), default=8, show_default=True, metavar="N", help="Replies that are generated at once."
)
@engine_options
@click.option("--follow", is_flag=True, help="Take up each newly promoted release, as SIGHUP does once.")
@click.option("--open", "open_browser", is_flag=True, help="Open the chat in a browser.")
def serve(**options: Any) -> None:
    """Serve MODEL over HTTP: to OpenAI clients, and to browsers as a chat.

    Without MODEL it serves the promoted one. Only programs on this machine can connect, unless --host says otherwise.
    """
    from parakeet.server.serving import ServeOptions
    from parakeet.server.serving import serve as run

    if options["model"] is not None and options["run"] is not None:
        raise click.UsageError("MODEL and --run both name a model: give one of them.")
    if options["follow"] and (options["model"] is not None or options["run"] is not None):
        raise click.UsageError("--follow takes up what is promoted: name no other model.")
    if options["api_key_file"] is not None and options["no_key"]:
        raise click.UsageError("--api-key-file and --no-key contradict each other: give one of them.")
    sys.exit(run(ServeOptions(**options), say, warn))
