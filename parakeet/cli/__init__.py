"""The `parakeet` command. Every subcommand imports what it needs when it runs, so that `--help` is instant."""

import click

from parakeet import __version__
from parakeet.cli.bench import bench
from parakeet.cli.build import build, clean, plan, retrain, use
from parakeet.cli.chat import chat
from parakeet.cli.common import Commands
from parakeet.cli.completion import completion
from parakeet.cli.data import data
from parakeet.cli.evaluate import evaluate
from parakeet.cli.index import index
from parakeet.cli.models import export, import_command, models, verify
from parakeet.cli.output import examples
from parakeet.cli.pages import pages
from parakeet.cli.push import push
from parakeet.cli.release import release
from parakeet.cli.report import report
from parakeet.cli.reproduce import reproduce
from parakeet.cli.runs import compare, runs
from parakeet.cli.serve import serve
from parakeet.cli.sessions import sessions
from parakeet.cli.status import status
from parakeet.cli.study import study
from parakeet.cli.tokens import tokens
from parakeet.cli.trace import trace

ENVIRONMENT = """\b
Environment:
  PARAKEET_HOME       Folder of artefacts, training runs and sessions.
  PARAKEET_MODEL      Model that `parakeet chat` opens.  [default: the promoted one]
  DAGSTER_HOME        Folder of Dagster's history.
  TIKTOKEN_CACHE_DIR  Folder with the cl100k_base vocabulary, for work offline.
  HF_TOKEN            Token for the Hugging Face hub: gated datasets, and parakeet push.
  NO_COLOR            If set, a chat or a trace has no colours."""


class InOrder(Commands):
    """Lists its commands in the order in which they were added: that of the work."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples("parakeet build --data notes.txt", "parakeet chat") + "\n\n" + ENVIRONMENT,
)
@click.version_option(__version__, prog_name="parakeet")
def main() -> None:
    """Build a tiny language model from text, and chat with it.

    Artefacts are stored in assets/ in the checkout, or in $PARAKEET_HOME.
    """


for command in (
    build, retrain, plan, chat, serve, trace, tokens, sessions, models, release, status, report, pages, verify,
    evaluate, runs, compare, reproduce, study, data, index, use, clean, import_command, export, push, bench, completion,
):  # fmt: skip
    main.add_command(command)
