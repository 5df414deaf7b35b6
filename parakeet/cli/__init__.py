"""The `parakeet` command. Every subcommand imports what it needs when it runs, so that `--help` is instant."""

import click

from parakeet import __version__
from parakeet.benchmarks.commands import bench
from parakeet.cli.build import build, clean, plan, use
from parakeet.cli.chat import chat
from parakeet.cli.common import Commands
from parakeet.cli.data import data
from parakeet.cli.models import export, import_command, models, verify
from parakeet.cli.runs import compare, runs
from parakeet.cli.tokens import tokens


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="parakeet")
def main() -> None:
    """Build a tiny language model from text, and chat with it.

    Artefacts are stored in assets/ in the checkout, or in $PARAKEET_HOME.
    """


for command in (build, plan, use, verify, clean, models, chat, runs, compare, import_command, export, data, bench):
    main.add_command(command)
main.add_command(tokens)
