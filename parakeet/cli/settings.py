"""The recipe that `build` and `plan` take: a recipe's file, changed by --data, --limit, --held-out and --set."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parakeet.cli.common import Share, limited
from parakeet.cli.completion import complete_recipes, complete_settings
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.recipe import Recipe

DEFAULT_RECIPE = "demo"
OWN_TEXT_RECIPE = "own-text"
"""In place of the default recipe's settings for `--data`: the vocabulary and the rates of `demo` fit its small talk."""
HELD_OUT = "deduplication.held_out_fraction"


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `chosen_recipe` reads, under the names of its parameters."""
    return click.option(
        "--recipe", "recipe_name", default=DEFAULT_RECIPE, show_default=True, help="Shipped recipe or recipe file.",
        shell_complete=complete_recipes,
    )(change_options(command))  # fmt: skip


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same without --recipe."""
    options = (
        click.option(
            "--data", multiple=True, metavar="FILE", type=click.Path(),
            help="Train on this file, folder or glob instead of the recipe's sources. Repeatable.",
        ),
        click.option(
            "--set", "changes", multiple=True, metavar="KEY=VALUE", shell_complete=complete_settings,
            help="Change a key of the recipe: training.tokens=1e6, sources.0.weight=2. Repeatable.",
        ),
        click.option(
            "--held-out", type=Share(or_nothing=True, most=0.5), metavar="SHARE",
            help="Share of the text to keep for measuring the model, up to 50%: 5%. 0 measures nothing.  "
            "[default: the recipe's]",
        ),
        click.option(
            "--limit", type=Share(), metavar="SHARE", help="Use only this share of every source: 0.1% or 0.001."
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def chosen_recipe(
    recipe_name: str,
    data: Sequence[str],
    changes: Sequence[str],
    held_out: float | None,
    limit: float | None,
    root: Path | None = None,
) -> "Recipe":
    """The recipe with what the options change. Raises ParakeetError if an option does not fit.

    With `data` and a model to start from, shape and tokenizer are that model's, where the options do not set them.
    A shipped recipe that trains on `data` is called after the data, so that the model is not called "demo". It keeps
    its own name if the store `root` has that corpus under it, as an earlier Parakeet called it: a new name would make
    the data card and the release again. To find out, the files are hashed.
    """
    from parakeet.recipe_changes import changed
    from parakeet.recipe_file import load_recipe, shipped_recipes

    shipped = load_recipe(recipe_name)
    base = shipped
    if data and recipe_name == DEFAULT_RECIPE:
        base = load_recipe(OWN_TEXT_RECIPE).model_copy(
            update={"name": shipped.name, "description": shipped.description}
        )
    unchanged = limited(with_sources(base, data) if data else base, limit)
    share = [] if held_out is None else [f"{HELD_OUT}={held_out}"]
    if held_out == 0:
        share.append("shards.min_held_out_bytes=0")
    asked = [*share, *changes]
    recipe = changed(unchanged, asked)
    if data and recipe_name == DEFAULT_RECIPE and recipe.training.start is not None:
        from parakeet.home import home
        from parakeet.release.start import shape_of_start

        # Nobody chose the shape of OWN_TEXT_RECIPE.
        same = [f"{key}={value}" for key, value in shape_of_start(recipe, home()).items()]
        recipe = changed(unchanged, [*same, *asked])
    if not data or recipe_name not in shipped_recipes():
        return recipe
    own: dict[str, str] = {}
    if recipe.name == shipped.name:
        own["name"] = _name_of(data)
    if recipe.description == shipped.description:
        texts = ", ".join(source.name for source in recipe.sources)
        own["description"] = f"A model of the shape of {shipped.name}, trained on {texts}."
    renamed = recipe.model_copy(update=own)
    return recipe if root is not None and _has_corpus(root, recipe) else renamed


def _has_corpus(root: Path, recipe: "Recipe") -> bool:
    from parakeet.stages import Build

    if not (root / "data_card").is_dir():
        return False
    try:
        return Build(root, recipe).find("data_card") is not None
    except ParakeetError:
        return False


def with_sources(recipe: "Recipe", paths: Sequence[str]) -> "Recipe":
    """The recipe with each path as a source, named after its file."""
    from parakeet.recipe import Recipe
    from parakeet.recipe_changes import absolute

    sources: list[dict[str, str]] = []
    for path in paths:
        if not path.strip():
            raise ParakeetError("--data is empty: name a file, a folder or a glob.")
        stem = _slug(Path(path).name.split(".")[0]) or "data"
        taken = {source["name"] for source in sources}
        name = next(n for n in (stem[:60], *(f"{stem[:60]}-{i}" for i in range(2, 1000))) if n not in taken)
        sources.append({"kind": "files", "name": name, "path": absolute(path)})
    return Recipe.model_validate({**recipe.all_values(), "sources": sources})


def _name_of(paths: Sequence[str]) -> str:
    """A recipe's name for the data: `notes`, or `notes-and-2-more`. A glob is called after its folder."""
    import glob

    from parakeet.recipe_changes import absolute

    path = Path(absolute(paths[0]))
    while glob.has_magic(path.name) and not os.path.lexists(path):
        path = path.parent
    more = f"-and-{len(paths) - 1}-more" if len(paths) > 1 else ""
    return (_slug(path.name.split(".")[0])[: 64 - len(more)] or "data") + more


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
