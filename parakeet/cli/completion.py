"""`parakeet completion`, and the values that a shell completes. Names are read from folders, without pydantic or torch.

A completion that fails offers nothing: its message would appear in the middle of a line that is being typed.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from parakeet.cli.output import examples

Values = Callable[[click.Context, str], Iterable[str]]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_PARAKEET_COMPLETE"


@click.command(
    short_help="Print a shell's completion script.",
    epilog=examples(
        'eval "$(parakeet completion bash)"  # in ~/.bashrc',
        'eval "$(parakeet completion zsh)"  # in ~/.zshrc',
        "parakeet completion fish > ~/.config/fish/completions/parakeet.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete commands, options, recipes, assets, runs, sessions and models."""
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "parakeet", VARIABLE).source())


def completing(values: Values, or_file: bool = False) -> Complete:
    """A `shell_complete` that offers the values that begin with what is typed; `or_file` offers files too."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found: list[str] = []
        with suppress(Exception):
            found = sorted({value for value in values(context, incomplete) if value.startswith(incomplete)})
        items = [CompletionItem(value) for value in found if value.isprintable()]
        # First: click's function for bash forgets the items before it.
        return [CompletionItem(incomplete, type="file"), *items] if or_file else items

    return complete


def _recipes(context: click.Context, incomplete: str) -> Iterable[str]:
    folder = Path(__file__).parents[1] / "recipes"
    return [path.stem for path in folder.glob("*.yaml")]


def _studies(context: click.Context, incomplete: str) -> Iterable[str]:
    folder = Path(__file__).parents[1] / "studies"
    return [path.stem for path in folder.glob("*.yaml")]


def _runs(context: click.Context, incomplete: str) -> Iterable[str]:
    from parakeet.home import home, runs_folder

    return _names(os.scandir(runs_folder(home())))


def _sessions(context: click.Context, incomplete: str) -> Iterable[str]:
    from parakeet.home import home

    return [name.removesuffix(".jsonl") for name in _names(os.scandir(home() / "sessions")) if name.endswith(".jsonl")]


def _models(context: click.Context, incomplete: str) -> Iterable[str]:
    """Names of models. One name of several models is offered as their folders."""
    from parakeet.home import home

    folders: dict[str, list[str]] = {}
    for file in home().glob("*/*/generation_config.json"):
        if file.parent.parent.name in ("releases", "original_model", "imported") and not file.parent.is_symlink():
            with suppress(OSError, ValueError, KeyError, TypeError):
                name = str(json.loads(file.read_text(encoding="utf-8"))["name"])
                folders.setdefault(name, []).append(file.parent.name)
    return [one for name, several in folders.items() for one in ([name] if len(several) == 1 else several)]


def _assets(context: click.Context, incomplete: str) -> Iterable[str]:
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import asset_names

    return asset_names(load_recipe(context.params.get("recipe_name") or "demo", report_old_keys=False))


def _settings(context: click.Context, incomplete: str) -> Iterable[str]:
    from parakeet.recipe_changes import setting_keys
    from parakeet.recipe_file import load_recipe

    return setting_keys(load_recipe(context.params.get("recipe_name") or "demo", report_old_keys=False), incomplete)


def _names(entries: Iterable[Any]) -> Sequence[str]:
    return [entry.name for entry in entries if not entry.name.startswith(".")]


complete_recipes = completing(_recipes, or_file=True)
complete_studies = completing(_studies, or_file=True)
complete_runs = completing(_runs)
complete_sessions = completing(_sessions)
complete_models = completing(_models)
complete_models_and_folders = completing(_models, or_file=True)
complete_assets = completing(_assets)
complete_settings = completing(_settings)
