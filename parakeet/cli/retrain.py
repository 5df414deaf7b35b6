"""`parakeet retrain`: train the released model on what is new."""

import click

from parakeet.cli.build import materialize
from parakeet.cli.completion import complete_recipes
from parakeet.cli.output import examples
from parakeet.errors import ParakeetError


@click.command(epilog=examples("parakeet retrain", "parakeet retrain --from-scratch --anyway"))
@click.option(
    "--recipe",
    "recipe_name",
    metavar="RECIPE",
    shell_complete=complete_recipes,
    help="Shipped recipe or recipe file.  [default: the active recipe]",
)
@click.option("--from-scratch", is_flag=True, help="Train the whole recipe on all text, from new weights.")
@click.option("--anyway", is_flag=True, help="Train even if too little is new, or if the same was tried and refused.")
def retrain(recipe_name: str | None, from_scratch: bool, anyway: bool) -> None:
    """Train the released model on new text, as the schedule weekly_retraining does.

    Nothing is done if too little is new. The new model replaces the released one only if it passes its gates.
    """
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.recipe_file import load_recipe
    from parakeet.retraining import plan_retraining, training_now
    from parakeet.stages import active_recipe

    root = home()
    recipe = load_recipe(recipe_name) if recipe_name is not None else active_recipe(root)
    if busy := training_now(root):
        raise ParakeetError(f"Run {busy[0][:8]} is being trained: run this again when it has ended.")
    planned = plan_retraining(root, recipe, from_scratch, anyway)
    progress = Progress()
    progress.say(planned.reason)
    if planned.recipe is None:
        return
    materialize(planned.recipe, (), (), False, progress)
