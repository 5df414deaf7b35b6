"""`parakeet data`."""

from typing import Any

import click

from parakeet.cli.common import Share, Whole, limited, say
from parakeet.cli.completion import complete_assets, complete_recipes
from parakeet.cli.output import examples
from parakeet.errors import ParakeetError


@click.group()
def data() -> None:
    """Inspect the training text."""


@data.command(
    epilog=examples(
        "parakeet data inspect",
        'parakeet data inspect --reason "near duplicate" --examples 2',
        "parakeet data inspect --recipe my-recipe.yaml --stage clean_documents",
    )
)
@click.option(
    "--recipe",
    "recipe_name",
    shell_complete=complete_recipes,
    help="Shipped recipe or recipe file.  [default: the one built last]",
)
@click.option("--limit", type=Share(), metavar="SHARE", help="The share that was given to build: 0.1% or 0.001.")
@click.option(
    "--stage",
    metavar="ASSET",
    shell_complete=complete_assets,
    help="Show only what this stage dropped: documents, clean_documents, ...",
)
@click.option("--source", metavar="NAME", help="Show only what was dropped from this source.")
@click.option(
    "--reason", metavar="TEXT", help="Show examples that were dropped for this reason. A part of its name is enough."
)
@click.option(
    "--examples", type=Whole(1, 100), default=5, show_default=True, help="Examples for each row of the table."
)
def inspect(recipe_name: str | None, limit: float | None, stage: str | None, **shown: Any) -> None:
    """Show what was dropped from the training text, and why."""
    from parakeet.data.inspect import render_inspection
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import STAGES, Build, recipe_built_last

    examples_files = {one.name: one.examples_file for one in STAGES if one.examples_file}
    if stage is not None and stage not in examples_files:
        raise ParakeetError(f"{stage!r} drops no documents. These do: {', '.join(examples_files)}.")
    chosen = recipe_name or recipe_built_last(home())
    recipe = load_recipe(chosen, report_old_keys=recipe_name is not None)
    build = Build(home(), limited(recipe, limit))
    # An unfinished build shows what it has made so far.
    wanted = [stage] if stage else list(examples_files)
    made = [(found, examples_files[name]) for name in wanted if (found := build.find(name)) is not None]
    if not made:
        missing = wanted[-1]
        raise ParakeetError(
            f"{missing} has not been made for recipe {recipe.name}. Run: "
            f"parakeet build --recipe {chosen}{'' if limit is None else f' --limit {limit}'} --select {missing}"
        )
    say(render_inspection(made, **shown))
