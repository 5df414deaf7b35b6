"""`parakeet status`."""

import click

from parakeet.cli.common import say
from parakeet.cli.output import examples, json_option, say_json


@click.command(
    short_help="Show what is released and going on.", epilog=examples("parakeet status", "parakeet status --json")
)
@json_option
def status(as_json: bool) -> None:
    """Show the promoted releases, what is being built and what waits, the next retraining, and the disk.

    It only reads, and works without Dagster.
    """
    import time

    from parakeet.home import home
    from parakeet.status import render_status, status_document

    now = time.time()
    document = status_document(home(), now)
    if as_json:
        say_json(document)
    else:
        say(render_status(document, now))
