"""`parakeet reproduce`."""

import shlex
import sys
from pathlib import Path

import click

from parakeet.cli.common import say
from parakeet.cli.completion import complete_runs
from parakeet.cli.output import examples, terminal_width
from parakeet.errors import INTERRUPTED


@click.command(
    short_help="Train a run again and compare.",
    epilog=examples(
        "parakeet reproduce c02e2d1b --dry-run",
        "parakeet reproduce c02e2d1b",
        "parakeet reproduce demo --output /data/again",
    ),
)
@click.argument("run", shell_complete=complete_runs)
@click.option("--dry-run", is_flag=True, help="Only say what is different now.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Train in this folder, and keep it."
)
@click.option("--try-anyway", is_flag=True, help="Train even if the memory forecast says that it will not fit.")
def reproduce(run: str, dry_run: bool, output: Path | None, try_anyway: bool) -> None:
    """Say what is different now from when RUN was trained, train it again, and compare the weights.

    RUN is the key of a run, its first characters, or the name of a model that was made of it. It is trained from the
    same tokens, in a folder of its own: nothing in the home changes. Exit status 0 if the weights are identical, 1 if
    they differ.
    """
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.reproduction.comparison import compare
    from parakeet.reproduction.differences import differences, pinned_recipe, render_differences
    from parakeet.reproduction.rerun import (
        Interrupted,
        discard,
        prepared,
        refuse_unfinished,
        train_again,
        with_original_start,
    )
    from parakeet.reproduction.trained import find_trained

    root, progress = home(), Progress()
    trained = find_trained(root, run)
    recipe, pinned = pinned_recipe(trained)
    say(render_differences(trained, pinned, differences(trained, recipe, root), terminal_width()))
    if dry_run:
        return
    refuse_unfinished(trained)
    recipe = with_original_start(root, trained, recipe)
    with prepared(root, trained, output, progress) as place:
        say(f"Training again in {place}.")
        try:
            again = train_again(root, trained, recipe, place, try_anyway, progress)
        except Interrupted:
            progress.say("Stopped with a checkpoint. Run the same command again to continue.")
            sys.exit(INTERRUPTED)
        identical, text = compare(trained, again)
        say(text)
        if output is None and identical:
            discard(place)
        elif output is None:
            say(f"The second training is in {place}. Remove it with: rm -r {shlex.quote(str(place))}")
        else:
            say(f"The second training is in {place}.")
    sys.exit(0 if identical else 1)
