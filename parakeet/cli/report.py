"""`parakeet report`."""

import click

from parakeet.cli.common import open_in_browser, say
from parakeet.cli.completion import complete_models_and_folders
from parakeet.cli.output import examples


@click.command(
    short_help="Show the report of a model.",
    epilog=examples("parakeet report --open", "parakeet report demo", "parakeet report assets/releases/latest --open"),
)
@click.argument("release", metavar="[RELEASE]", required=False, shell_complete=complete_models_and_folders)
@click.option("--open", "in_browser", is_flag=True, help="Open it in the browser.")
def report(release: str | None, in_browser: bool) -> None:
    """Print where the report of RELEASE is: its text, training, scores and samples on one page.

    RELEASE is a folder, or a model by name. Without it, the latest release is chosen.
    """
    from parakeet.home import home
    from parakeet.release.listing import latest_model_folder, model_folder
    from parakeet.release.report import report_of

    folder = latest_model_folder(home()) if release is None else model_folder(home(), release)
    page = report_of(folder, home())
    say(str(page))
    if in_browser:
        open_in_browser(page)
