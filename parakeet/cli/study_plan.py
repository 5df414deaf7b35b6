"""`parakeet study plan`."""

from collections.abc import Sequence

import click

from parakeet.cli.common import say
from parakeet.cli.output import examples, json_option, say_json
from parakeet.cli.study_settings import chosen_study, data_option, scale_option, set_option


@click.command(
    epilog=examples(
        "parakeet study plan size",
        'parakeet study plan saturation --scale gpu --gpu "RTX 4090"',
        "parakeet study plan my-study.yaml --data books/ --json",
    )
)
@click.argument("name", metavar="NAME")
@scale_option
@data_option
@set_option
@click.option("--gpu", "gpu_name", metavar="NAME", help='Plan for this GPU: "RTX 3080 Ti".  [default: the scale\'s]')
@json_option
def plan(
    name: str, scale: str, data: Sequence[str], changes: Sequence[str], gpu_name: str | None, as_json: bool
) -> None:
    """Show what a study takes, without running it: runs, tokens, FLOPs and time.

    NAME is a shipped study or a file. Without --data and --set, one that was begun is planned with those that it was
    begun with. On this machine's processor a few steps of each model are measured; finished runs count as they were.
    On a GPU the time follows from the FLOPs.
    """
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.studies.plan import plan_study
    from parakeet.training.gpus import gpu_named

    root = home()
    study = chosen_study(name, scale, data, changes, root)
    chosen = gpu_name or study.scale.gpu
    planned = plan_study(root, study, Progress(), gpu_named(chosen) if chosen else None)
    if as_json:
        say_json(planned.as_json())
    else:
        say(planned.render())
