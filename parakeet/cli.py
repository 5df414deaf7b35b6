"""`parakeet …`: every command imports what it needs when it runs, so that `--help` stays instant."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parakeet import __version__
from parakeet.benchmarks.commands import bench
from parakeet.errors import INTERRUPTED, ParakeetError

if TYPE_CHECKING:
    from parakeet.recipe import Recipe


class Commands(click.Group):
    """Prints a user's mistake as one message and ends with status 1; a traceback is always our own fault."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise
        except (ParakeetError, OSError) as error:
            from parakeet.artifact import explain_os_error
            from parakeet.sanitise import sanitise

            known = error if isinstance(error, ParakeetError) else explain_os_error(error, "running this command")
            click.echo(f"Error: {sanitise(str(known))}", err=True)
            context.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            context.exit(INTERRUPTED)


class Share(click.ParamType):
    """A share of the whole, as 0.1% or as 0.001."""

    name = "share"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        from decimal import Decimal, InvalidOperation

        text = str(value).strip()
        try:
            share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except InvalidOperation:
            share = Decimal(0)
        # Not `0 < share <= 1`: Decimal raises for NaN.
        if not share.is_finite() or share <= 0 or share > 1 or float(share) == 0.0:
            self.fail(
                f"{text!r} is no share: write it like 0.1% or 0.001, above 0 and at most 100%.", parameter, context
            )
        return float(share)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="parakeet")
def main() -> None:
    """Build a tiny language model from text, and talk to it.

    Artefacts lie in the checkout's assets/ folder, or where PARAKEET_HOME points.
    """


@main.command()
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@click.option(
    "--data", multiple=True, metavar="FILE", help="File, folder or glob in place of the recipe's sources. Repeatable."
)
@click.option("--limit", type=Share(), metavar="SHARE", help="Take only this share of every source: 0.1%, or 0.001.")
@click.option("--select", multiple=True, metavar="ASSET", help="Build this and all before it only. Repeatable.")
@click.option("--force", multiple=True, metavar="ASSET", help="Make this anew though nothing changed. Repeatable.")
@click.option("--try-anyway", is_flag=True, help="Train although the forecast says that it will not fit the memory.")
def build(
    recipe_name: str,
    data: Sequence[str],
    limit: float | None,
    select: Sequence[str],
    force: Sequence[str],
    try_anyway: bool,
) -> None:
    """Build a model from text, making only what is not made yet."""
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.recipe_file import load_recipe

    recipe = load_recipe(recipe_name)
    if data:
        recipe = _with_sources(recipe, data)
    recipe = _limited(recipe, limit)
    for name in (*select, *force):
        _check_asset(name, recipe)
    # The one place where the library reaches up: the assets are Dagster's, and building is materialising them.
    from pipelines.build import run_build

    sys.exit(run_build(home(), recipe, select, force, try_anyway, Progress()))


@main.command()
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@click.option("--limit", type=Share(), metavar="SHARE", help="Take only this share of every source: 0.1%, or 0.001.")
@click.option("--card", "card_name", metavar="NAME", help='Plan training for this card: "RTX 3080 Ti".')
@click.option("--memory", metavar="AMOUNT", help="Memory that training may take: 11.2GiB, 12GB.  [default: the card's]")
def plan(recipe_name: str, limit: float | None, card_name: str | None, memory: str | None) -> None:
    """Print what follows from a recipe, and train nothing.

    Sources with their shares and sizes, parameters by part, tokens, steps, FLOPs, disk space; what a training step
    takes of the memory, and which policies fit it; for a card the time and energy too.
    """
    from parakeet.plan import render_plan
    from parakeet.recipe_file import load_recipe
    from parakeet.training.gpus import gpu_named
    from parakeet.training.memory import parse_memory

    card = gpu_named(card_name) if card_name is not None else None
    n_bytes = parse_memory(memory) if memory is not None else None
    _say(render_plan(_limited(load_recipe(recipe_name), limit), card, n_bytes))


@main.command()
@click.argument("recipe_name", metavar="RECIPE")
def use(recipe_name: str) -> None:
    """Make RECIPE the one that Dagster builds."""
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import use_recipe

    recipe = load_recipe(recipe_name)
    use_recipe(home(), recipe)
    _say(f"{recipe.name} is the active recipe. Reload the definitions in Dagster if it is running.")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def verify(path: Path) -> None:
    """Check the files of an artefact or a release by hash."""
    from parakeet.artifact import MANIFEST_FILE, Artifact
    from parakeet.release.verify import SUMS_FILE, verify_release

    if not path.is_dir():
        raise ParakeetError(f"{path} is no folder: give the folder of an artefact or of a release.")
    checked = 0
    if (path / SUMS_FILE).is_file():
        checked = verify_release(path)
    if (path / MANIFEST_FILE).is_file() or not checked:
        artifact = Artifact.open(path)
        artifact.check(thorough=True)
        checked = len(artifact.manifest["files"])
    _say(f"{path}: {checked} files, all as they were made.")


@main.command()
@click.option("--yes", is_flag=True, help="Remove what is listed.")
def clean(yes: bool) -> None:
    """List what nothing refers to; remove it with --yes."""
    from parakeet.clean import remove, unreferenced
    from parakeet.home import home

    entries = unreferenced(home())
    for entry in entries:
        _say(f"{entry.n_bytes / 1e6:10,.1f} MB  {entry.path}")
    total = sum(entry.n_bytes for entry in entries) / 1e6
    if not entries:
        click.echo("Nothing to remove: everything is referred to.")
    elif yes:
        remove(entries)
        click.echo(f"Removed {len(entries)}, {total:,.1f} MB.")
    else:
        click.echo(f"{len(entries)} to remove, {total:,.1f} MB. Remove them with: parakeet clean --yes")


@main.command()
def models() -> None:
    """List the models that were made or imported here; chat opens the one marked *."""
    from parakeet.home import home
    from parakeet.release.verify import released_models

    listed = list(released_models(home()))
    if not listed:
        raise ParakeetError("There is no model yet. Make one with: parakeet build")
    for model in listed:
        mark = "*" if model.latest else " "
        bits = ", ".join(f"{name} {value:.3f}" for name, value in model.bits_per_byte.items() if value is not None)
        _say(f"{mark} {model.name:<16} {model.parameters:>13,} parameters  {model.made}  {model.directory}")
        _say(f"    bits per byte: {bits or 'not measured'}")


@main.command()
@click.option("-m", "--message", help="Say this, print the reply, and end.")
@click.option("--model", "model_path", type=click.Path(path_type=Path), help="A release folder.  [default: the latest]")
@click.option("--system", default="", help="A system message before the conversation.")
@click.option("--temperature", metavar="NUMBER", help="0 to 10; 0 always takes the likeliest token.")
@click.option("--top-k", metavar="N", help="Draw from the N likeliest tokens only; 0 keeps all.")
@click.option("--top-p", metavar="NUMBER", help="Draw from the likeliest tokens that hold this share; 1 keeps all.")
@click.option("--min-p", metavar="NUMBER", help="Leave out tokens below this share of the likeliest; 0 keeps all.")
@click.option("--repetition-penalty", metavar="NUMBER", help="Scale down tokens already said; 1 is off.")
@click.option("--frequency-penalty", metavar="NUMBER", help="-2 to 2, for each time a token was said.")
@click.option("--presence-penalty", metavar="NUMBER", help="-2 to 2, once a token was said.")
@click.option("--max-tokens", metavar="N", help="Longest reply.")
@click.option("--seed", metavar="N", help="Repeat the same replies.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End a reply before this text. Repeatable.")
@click.option("--rolling", is_flag=True, help="Go on past the context, forgetting its oldest tokens.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="Precision of the weights in memory.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads.  [default: torch's choice]")
@click.option("--session", metavar="NAME", help="Continue the session of this name, or begin it.")
@click.option("--replay", type=click.Path(path_type=Path), metavar="FILE", help="Generate a session's replies again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line.")
@click.option("--stats", is_flag=True, help="Print each reply's speed and seed.")
@click.option("--no-history", is_flag=True, help="Record nothing unasked.")
def chat(
    message: str | None,
    model_path: Path | None,
    system: str,
    stop: tuple[str, ...],
    rolling: bool,
    dtype: str,
    device: str,
    threads: int | None,
    session: str | None,
    replay: Path | None,
    as_json: bool,
    stats: bool,
    no_history: bool,
    **settings: str | None,
) -> None:
    """Talk to a released model.

    On a terminal, with -m for one message, or line by line through a pipe. What the options of replies leave
    open is the release's own choice. A conversation on a terminal is recorded in sessions/ beside the artefacts.
    """
    from parakeet.chat.launch import ChatOptions, UsageError, launch_chat

    given = {name: value for name, value in settings.items() if value is not None}
    others = {"-m": message, "--session": session, "--json": as_json, "--system": system, "--stop": stop} | given
    if replay and any(value not in (None, False, "", ()) for value in others.values()):
        raise click.UsageError("--replay takes messages and settings from its file, and goes with no other of them.")
    options = ChatOptions(
        message, model_path, system, given, stop, rolling, dtype, device, threads or 0, session, replay, as_json, stats,
        history=not no_history,
    )  # fmt: skip
    try:
        sys.exit(launch_chat(options))
    except UsageError as error:
        raise click.UsageError(str(error)) from None


@main.command()
@click.argument("run", required=False, default="")
def runs(run: str) -> None:
    """List the training runs here, or tell all about RUN.

    RUN is the beginning of its key.
    """
    import shutil

    from parakeet.home import home, runs_folder
    from parakeet.training.run_tables import render_run, render_runs

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    folder = runs_folder(home())
    _say(render_run(folder, run) if run else render_runs(folder, width))


@main.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw both loss curves.")
def compare(first: str, second: str, output: Path | None) -> None:
    """Compare two training runs: settings, loss at equal tokens, speed.

    A and B are the beginnings of their keys.
    """
    from parakeet.home import home, runs_folder
    from parakeet.training.run_tables import render_comparison

    _say(render_comparison(runs_folder(home()), first, second, output))


@main.command("import")
@click.argument("file", metavar="FILE.pth", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to make.  [default: imported/NAME]")
@click.option("--heads", type=click.IntRange(1), help="Attention heads, where the file's name does not say.")
@click.option("--context", type=click.IntRange(1), help="Context in tokens, where the file's name does not say.")
def import_command(file: Path, output: Path | None, heads: int | None, context: int | None) -> None:
    """Turn an original checkpoint into a release.

    Nothing in the file is executed: it is read in a process of its own, as tensors only.
    """
    from parakeet.progress import Progress
    from parakeet.release.importing import import_file

    directory = import_file(file, output, heads, context, Progress())
    _say(f"Imported. Talk to it with: parakeet chat --model {directory}")


@main.command()
@click.argument("release", metavar="RELEASE", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--format", "layout", type=click.Choice(["original"]), required=True, help="The original's .pth layout.")
def export(release: Path, file: Path, layout: str) -> None:
    """Write a release's weights in the layout of another program."""
    from parakeet.release.importing import export_original

    export_original(release, file)
    _say(f"{file}: the weights of {release} in the {layout} layout.")


@main.group()
def data() -> None:
    """Look into the training text."""


@data.command()
@click.option("--recipe", "recipe_name", help="Shipped recipe or recipe file.  [default: the active one]")
@click.option("--limit", type=Share(), metavar="SHARE", help="As in the build: 0.1%, or 0.001.")
@click.option("--stage", metavar="ASSET", help="What this one dropped only: documents, clean_documents, ...")
@click.option("--source", metavar="NAME", help="What was dropped of this source only.")
@click.option("--reason", metavar="TEXT", help="Show examples of what was dropped for this reason, or part of one.")
@click.option("--examples", type=click.IntRange(1, 100), default=5, show_default=True, help="Examples of each row.")
def inspect(recipe_name: str | None, limit: float | None, stage: str | None, **shown: Any) -> None:
    """Tell what was dropped on the way to the training text, and why."""
    from parakeet.data.inspect import DROPPING_STAGES, render_inspection
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import ACTIVE_RECIPE_FILE, DEFAULT_RECIPE, Build, active_recipe

    if stage is not None and stage not in DROPPING_STAGES:
        raise ParakeetError(f"{stage!r} drops no documents; these do: {', '.join(DROPPING_STAGES)}.")
    active = home() / ACTIVE_RECIPE_FILE
    recipe = load_recipe(recipe_name) if recipe_name is not None else active_recipe(home())
    build = Build(home(), _limited(recipe, limit))
    # Of a build that is under way, what has been made so far.
    made = [found for name in ([stage] if stage else DROPPING_STAGES) if (found := build.find(name)) is not None]
    if not made:
        missing = stage or DROPPING_STAGES[-1]
        chosen = recipe_name or (active if active.is_file() else DEFAULT_RECIPE)
        raise ParakeetError(
            f"{missing} has not been made for recipe {recipe.name}. Run: "
            f"parakeet build --recipe {chosen}{'' if limit is None else f' --limit {limit}'} --select {missing}"
        )
    _say(render_inspection(made, **shown))


main.add_command(bench)


def _say(text: str) -> None:
    """Print text that holds names and words of other people's."""
    from parakeet.sanitise import sanitise

    click.echo(sanitise(text))


def _check_asset(name: str, recipe: "Recipe") -> None:
    import difflib

    from parakeet.stages import asset_names

    names = asset_names(recipe)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ParakeetError(f"There is no asset {name!r}: {hint}The assets are: {', '.join(names)}.")


def _with_sources(recipe: "Recipe", paths: Sequence[str]) -> "Recipe":
    """The recipe with each path as a source of its own, named after its file."""
    import re

    from parakeet.recipe import Recipe

    sources: list[dict[str, str]] = []
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).name.split(".")[0]).strip("-._") or "data"
        taken = {source["name"] for source in sources}
        name = next(n for n in (stem[:60], *(f"{stem[:60]}-{i}" for i in range(2, 1000))) if n not in taken)
        sources.append({"kind": "files", "name": name, "path": str(Path(os.path.expanduser(path)).absolute())})
    return Recipe.model_validate({**recipe.model_dump(), "sources": sources})


def _limited(recipe: "Recipe", limit: float | None) -> "Recipe":
    return recipe if limit is None else recipe.model_copy(update={"limit": limit})


if __name__ == "__main__":
    main()
