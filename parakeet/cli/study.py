"""`parakeet study`."""

import sys
from collections.abc import Callable, Sequence

import click

from parakeet.cli.common import Commands, Whole, say
from parakeet.cli.completion import complete_studies
from parakeet.cli.output import examples, json_option, say_json
from parakeet.cli.study_plan import plan
from parakeet.cli.study_report import report
from parakeet.cli.study_settings import SCALES, chosen_study, data_option, scale_option, set_option


def _study_argument(required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.argument("name", metavar="NAME", required=required, shell_complete=complete_studies)


@click.group(
    cls=Commands,
    short_help="Ask a question with many small models.",
    epilog=examples("parakeet study run size --scale smoke", "parakeet study status"),
)
def study() -> None:
    """Run a study: many small trainings that differ in one thing each, and what they answer.

    The shipped studies are size, saturation, memorisation and attention. A YAML file of your own is one too.
    """


@study.command(
    epilog=examples(
        "parakeet study run size --scale smoke",
        "parakeet study run memorisation --data books/ --workers 2",
        "parakeet study run my-study.yaml --set training.optimizer=adamw",
    )
)
@_study_argument(required=True)
@scale_option
@data_option
@set_option
@click.option("--workers", type=Whole(1), help="Runs side by side.  [default: as many as there are cores for]")
def run(name: str, scale: str, data: Sequence[str], changes: Sequence[str], workers: int | None) -> None:
    """Train what is missing of a study. Finished runs are kept; the same command goes on after any interruption.

    NAME is a shipped study or a file. Without --data and --set it goes on with those that it was begun with.
    """
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.studies.plan import refuse_over_budget
    from parakeet.studies.running import run_study

    root, progress = home(), Progress()
    chosen = chosen_study(name, scale, data, changes, root)
    refuse_over_budget(root, chosen, progress)
    # Dagster's side: each worker makes its runs through the study's job.
    command = [sys.executable, "-m", "pipelines.study_worker"]
    sys.exit(run_study(root, chosen, workers, command, progress))


@study.command(epilog=examples("parakeet study status", "parakeet study status size --scale cpu"))
@_study_argument(required=False)
@click.option("--scale", type=click.Choice(SCALES), help="Only this scale.  [default: all that were begun]")
@json_option
def status(name: str | None, scale: str | None, as_json: bool) -> None:
    """Show how far the studies are that were begun here: runs finished, running, failed and missing."""
    from parakeet.home import home
    from parakeet.studies.status import render_studies, studies_document

    document = studies_document(home(), name, scale)
    if as_json:
        say_json(document)
    else:
        say(render_studies(document))


study.add_command(plan)
study.add_command(report)
