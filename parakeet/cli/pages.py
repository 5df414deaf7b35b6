"""`parakeet pages`."""

import click

from parakeet.cli.common import say
from parakeet.cli.output import examples


@click.command(short_help="Serve reports and data cards to a browser.", epilog=examples("parakeet pages"))
def pages() -> None:
    """Serve the reports and data cards to browsers on this machine, until Ctrl-C. Links in Dagster lead there."""
    from parakeet.home import home
    from parakeet.page_server import ADDRESS, PORT, page_server

    with page_server(home()) as server:
        say(f"The pages of {home()}: http://{ADDRESS}:{PORT}/  (Ctrl-C ends)")
        server.serve_forever()
