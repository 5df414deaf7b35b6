"""`parakeet build`, `plan`, `use` and `clean`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parakeet.cli.common import Share, limited, say
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.recipe import Recipe


@click.command()
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@click.option(
    "--data",
    multiple=True,
    metavar="FILE",
    help="Train on this file, folder or glob instead of the recipe's sources. Repeatable.",
)
@click.option("--limit", type=Share(), metavar="SHARE", help="Use only this share of every source: 0.1% or 0.001.")
@click.option("--select", multiple=True, metavar="ASSET", help="Build only this asset and what it needs. Repeatable.")
@click.option(
    "--force", multiple=True, metavar="ASSET", help="Rebuild this asset even if it is up to date. Repeatable."
)
@click.option("--try-anyway", is_flag=True, help="Train even if the memory forecast says that it will not fit.")
def build(
    recipe_name: str,
    data: Sequence[str],
    limit: float | None,
    select: Sequence[str],
    force: Sequence[str],
    try_anyway: bool,
) -> None:
    """Build a model from text. What is already built is reused."""
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.recipe_file import load_recipe

    recipe = load_recipe(recipe_name)
    if data:
        recipe = _with_sources(recipe, data)
    recipe = limited(recipe, limit)
    for name in (*select, *force):
        _check_asset(name, recipe)
    # The one place where the library reaches up: the assets are Dagster's, and building is materialising them.
    from pipelines.build import run_build

    sys.exit(run_build(home(), recipe, select, force, try_anyway, Progress()))


@click.command()
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@click.option("--limit", type=Share(), metavar="SHARE", help="Use only this share of every source: 0.1% or 0.001.")
@click.option("--gpu", "--card", "gpu_name", metavar="NAME", help='GPU to plan training for: "RTX 3080 Ti".')
@click.option("--memory", metavar="AMOUNT", help="Memory that training may use: 11.2GiB, 12GB.  [default: the GPU's]")
def plan(recipe_name: str, limit: float | None, gpu_name: str | None, memory: str | None) -> None:
    """Show what a recipe would build, without building it.

    Lists the sources with their shares and sizes, parameters, tokens, steps, FLOPs, disk space, and the memory of a
    training step. With --gpu it adds the settings that fit, the time and the energy.
    """
    from parakeet.plan import render_plan
    from parakeet.recipe_file import load_recipe
    from parakeet.training.forecast import parse_memory
    from parakeet.training.gpus import gpu_named

    gpu = gpu_named(gpu_name) if gpu_name is not None else None
    n_bytes = parse_memory(memory) if memory is not None else None
    say(render_plan(limited(load_recipe(recipe_name), limit), gpu, n_bytes))


@click.command()
@click.argument("recipe_name", metavar="RECIPE")
def use(recipe_name: str) -> None:
    """Make RECIPE the active recipe, which Dagster shows and builds."""
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import use_recipe

    recipe = load_recipe(recipe_name)
    use_recipe(home(), recipe)
    say(f"{recipe.name} is the active recipe. If Dagster is running, reload its definitions.")


@click.command()
@click.option("--yes", is_flag=True, help="Remove what is listed.")
@click.option("--unfinished", is_flag=True, help="Include unfinished work of other recipes.")
def clean(yes: bool, unfinished: bool) -> None:
    """List artefacts that nothing refers to, and remove them with --yes.

    Unfinished training runs and data stages are listed separately. They are removed only with --unfinished --yes.
    """
    from parakeet.clean import leftovers, remove
    from parakeet.formatting import format_bytes, format_duration, render_table
    from parakeet.home import home

    found = leftovers(home(), unfinished)
    removable = [*found.unreferenced, *(found.unfinished if unfinished else [])]
    if found.unreferenced:
        say(render_table(("size", "path"), [(format_bytes(e.n_bytes), e.path) for e in found.unreferenced], {0}))
    if found.unfinished:
        say("Unfinished work:" if unfinished else "Unfinished work, which stays unless you add --unfinished:")
        rows = [
            (format_bytes(e.n_bytes), e.stage, e.recipe or "unknown", format_duration(e.seconds_idle), e.path)
            for e in found.unfinished
        ]
        say(render_table(("size", "stage", "recipe", "last written", "path"), rows, {0}))
    total = format_bytes(sum(entry.n_bytes for entry in removable))
    if not removable:
        click.echo(
            "Nothing to remove: everything else is referred to."
            if found.unfinished
            else "Nothing to remove: everything is referred to."
        )
    elif yes:
        remove(removable)
        click.echo(f"Removed {len(removable)}, {total}.")
    else:
        option = " --unfinished" if unfinished else ""
        click.echo(f"{len(removable)} to remove, {total}. Remove them with: parakeet clean{option} --yes")


def _check_asset(name: str, recipe: "Recipe") -> None:
    import difflib

    from parakeet.stages import asset_names

    names = asset_names(recipe)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ParakeetError(f"There is no asset {name!r}: {hint}The assets are: {', '.join(names)}.")


def _with_sources(recipe: "Recipe", paths: Sequence[str]) -> "Recipe":
    """The recipe with each path as a source, named after its file."""
    import re

    from parakeet.recipe import Recipe

    sources: list[dict[str, str]] = []
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).name.split(".")[0]).strip("-._") or "data"
        taken = {source["name"] for source in sources}
        name = next(n for n in (stem[:60], *(f"{stem[:60]}-{i}" for i in range(2, 1000))) if n not in taken)
        sources.append({"kind": "files", "name": name, "path": str(Path(os.path.expanduser(path)).absolute())})
    return Recipe.model_validate({**recipe.model_dump(), "sources": sources})
