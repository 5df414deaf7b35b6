"""The `parakeet` command. Every subcommand imports what it needs when it runs, so that `--help` is instant."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parakeet import __version__
from parakeet.benchmarks.commands import bench
from parakeet.errors import INTERRUPTED, ParakeetError
from parakeet.sampling_settings import OPTIONS, parse_setting

if TYPE_CHECKING:
    from parakeet.recipe import Recipe


class Commands(click.Group):
    """Prints a user's mistake as one message and exits with status 1. A traceback is always a bug."""

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
    """A share of the whole, written as 0.1% or 0.001."""

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
                f"{text!r} is not a share: write it like 0.1% or 0.001, above 0 and at most 100%.", parameter, context
            )
        return float(share)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="parakeet")
def main() -> None:
    """Build a tiny language model from text, and chat with it.

    Artefacts are stored in assets/ in the checkout, or in $PARAKEET_HOME.
    """


@main.command()
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
    recipe = _limited(recipe, limit)
    for name in (*select, *force):
        _check_asset(name, recipe)
    # The one place where the library reaches up: the assets are Dagster's, and building is materialising them.
    from pipelines.build import run_build

    sys.exit(run_build(home(), recipe, select, force, try_anyway, Progress()))


@main.command()
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
    _say(render_plan(_limited(load_recipe(recipe_name), limit), gpu, n_bytes))


@main.command()
@click.argument("recipe_name", metavar="RECIPE")
def use(recipe_name: str) -> None:
    """Make RECIPE the active recipe, which Dagster shows and builds."""
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import use_recipe

    recipe = load_recipe(recipe_name)
    use_recipe(home(), recipe)
    _say(f"{recipe.name} is the active recipe. If Dagster is running, reload its definitions.")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def verify(path: Path) -> None:
    """Check the files of an artefact or a release against their hashes."""
    from parakeet.artifact import MANIFEST_FILE, Artifact
    from parakeet.release.verify import SUMS_FILE, verify_release

    if not path.is_dir():
        raise ParakeetError(f"{path} is not a folder: give the folder of an artefact or a release.")
    checked = 0
    if (path / SUMS_FILE).is_file():
        checked = verify_release(path)
    if (path / MANIFEST_FILE).is_file() or not checked:
        artifact = Artifact.open(path)
        artifact.check(thorough=True)
        checked = len(artifact.manifest["files"])
    _say(f"{path}: {checked} files, all match.")


@main.command()
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
        _say(render_table(("size", "path"), [(format_bytes(e.n_bytes), e.path) for e in found.unreferenced], {0}))
    if found.unfinished:
        _say("Unfinished work:" if unfinished else "Unfinished work, which stays unless you add --unfinished:")
        rows = [
            (format_bytes(e.n_bytes), e.stage, e.recipe or "unknown", format_duration(e.seconds_idle), e.path)
            for e in found.unfinished
        ]
        _say(render_table(("size", "stage", "recipe", "last written", "path"), rows, {0}))
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


@main.command()
def models() -> None:
    """List the models that were built or imported here. `parakeet chat` opens the one marked *."""
    from parakeet.formatting import render_table
    from parakeet.home import home
    from parakeet.release.verify import released_models

    listed = list(released_models(home()))
    if not listed:
        raise ParakeetError("There is no model yet. Make one with: parakeet build")
    rows = []
    for model in listed:
        bits = ", ".join(f"{name} {value:.3f}" for name, value in model.bits_per_byte.items() if value is not None)
        mark = "*" if model.latest else ""
        rows.append((mark, model.name, model.parameters, model.made, bits or "not measured", model.directory))
    _say(render_table(("", "Model", "Parameters", "Built", "Bits per byte", "Folder"), rows))


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a command-line option for each of `sampling_settings.OPTIONS`; one that is not given is None."""
    for name, option in reversed(OPTIONS.items()):
        form: dict[str, Any] = {"metavar": option.metavar, "multiple": option.repeatable}
        if not option.metavar:
            form = {"flag_value": "on", "default": None}
        text = option.help[0].upper() + option.help[1:] + (". Repeatable." if option.repeatable else ".")
        if option.limits and "le" in option.limits:
            text += f"  [{option.expected.removeprefix('a number ')}]"
        command = click.option("--" + name.replace("_", "-"), help=text, callback=_sampling_value, **form)(command)
    return command


def _sampling_value(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value in (None, ()):
        return None
    try:
        return parse_setting(str(parameter.name), json.dumps(value) if isinstance(value, tuple) else value)
    except ParakeetError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _session_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from parakeet.chat.storage import session_path
    from parakeet.home import home

    try:
        if value is not None:
            session_path(home(), value)
        return value
    except ParakeetError as error:
        raise click.BadParameter(str(error), context, parameter) from None


@main.command()
@click.option("-m", "--message", help="Send one message, print the reply and exit.")
@click.option("--model", "model_path", type=click.Path(path_type=Path), help="A release folder.  [default: the latest]")
@click.option("--system", default="", help="Start the conversation with this system message.")
@sampling_options
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "int8", "int4"]),
    default="auto",
    show_default=True,
    help="Precision of the weights. Fewer bits are faster.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads.  [default: torch's choice]")
@click.option(
    "--session", metavar="NAME", callback=_session_name, help="Continue the session with this name, or start it."
)
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Generate the replies of a recorded session again, and compare them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON events, one a line.")
@click.option("--stats", is_flag=True, help="Print the speed and seed of each reply.")
@click.option(
    "--no-history", "history", flag_value=False, default=True, help="Do not save the conversation or the input history."
)
def chat(**options: Any) -> None:
    """Chat with a released model.

    Works on a terminal, with -m for one message, or through a pipe, one message a line. Unset options use the release's
    defaults. A conversation on a terminal is recorded in sessions/, beside the artefacts.
    """
    from parakeet.chat.launch import ChatOptions, launch_chat

    settings = {name: value for name in OPTIONS if (value := options.pop(name)) is not None}
    chosen = ChatOptions(settings=settings, **options)
    if chosen.replay and (settings or chosen.message or chosen.session or chosen.system or chosen.as_json):
        raise click.UsageError("--replay takes its messages and settings from FILE and cannot be combined with others.")
    sys.exit(launch_chat(chosen))


@main.command()
@click.argument("run", required=False, default="")
def runs(run: str) -> None:
    """List the training runs, or show RUN in detail.

    RUN is the key of a run, or its first characters.
    """
    import shutil

    from parakeet.home import home, runs_folder
    from parakeet.training.runs import render_run, render_runs

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    folder = runs_folder(home())
    _say(render_run(folder, run) if run else render_runs(folder, width))


@main.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.png", help="Save a plot of both loss curves."
)
def compare(first: str, second: str, output: Path | None) -> None:
    """Compare two training runs: settings, loss at equal tokens, speed.

    A and B are keys of runs, or their first characters.
    """
    from parakeet.home import home, runs_folder
    from parakeet.training.runs import render_comparison

    _say(render_comparison(runs_folder(home()), first, second, output))


@main.command("import")
@click.argument("file", metavar="FILE.pth", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to create.  [default: imported/NAME]")
@click.option("--heads", type=click.IntRange(1), help="Attention heads, if not in the file's name.")
@click.option("--context", type=click.IntRange(1), help="Context in tokens, if not in the file's name.")
def import_command(file: Path, output: Path | None, heads: int | None, context: int | None) -> None:
    """Convert an original checkpoint (.pth) to a release.

    Nothing in the file is executed: a separate process reads only its tensors.
    """
    from parakeet.progress import Progress
    from parakeet.release.importing import import_file

    directory = import_file(file, output, heads, context, Progress())
    _say(f"Imported. Talk to it with: parakeet chat --model {directory}")


@main.command()
@click.argument("release", metavar="RELEASE", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["original"]),
    required=True,
    help="original: the .pth file of the original model.",
)
def export(release: Path, file: Path, layout: str) -> None:
    """Write the weights of a release in another format."""
    from parakeet.release.importing import export_original

    export_original(release, file)
    _say(f"{file}: the weights of {release} in the {layout} layout.")


@main.group()
def data() -> None:
    """Inspect the training text."""


@data.command()
@click.option("--recipe", "recipe_name", help="Shipped recipe or recipe file.  [default: the active one]")
@click.option("--limit", type=Share(), metavar="SHARE", help="The share that was given to build: 0.1% or 0.001.")
@click.option("--stage", metavar="ASSET", help="Show only what this stage dropped: documents, clean_documents, ...")
@click.option("--source", metavar="NAME", help="Show only what was dropped from this source.")
@click.option(
    "--reason", metavar="TEXT", help="Show examples that were dropped for this reason. A part of its name is enough."
)
@click.option(
    "--examples", type=click.IntRange(1, 100), default=5, show_default=True, help="Examples for each row of the table."
)
def inspect(recipe_name: str | None, limit: float | None, stage: str | None, **shown: Any) -> None:
    """Show what was dropped from the training text, and why."""
    from parakeet.data.inspect import render_inspection
    from parakeet.home import home
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import ACTIVE_RECIPE_FILE, DEFAULT_RECIPE, STAGES, Build, active_recipe

    examples_files = {one.name: one.examples_file for one in STAGES if one.examples_file}
    if stage is not None and stage not in examples_files:
        raise ParakeetError(f"{stage!r} drops no documents. These do: {', '.join(examples_files)}.")
    active = home() / ACTIVE_RECIPE_FILE
    recipe = load_recipe(recipe_name) if recipe_name is not None else active_recipe(home())
    build = Build(home(), _limited(recipe, limit))
    # An unfinished build shows what it has made so far.
    wanted = [stage] if stage else list(examples_files)
    made = [(found, examples_files[name]) for name in wanted if (found := build.find(name)) is not None]
    if not made:
        missing = wanted[-1]
        chosen = recipe_name or (active if active.is_file() else DEFAULT_RECIPE)
        raise ParakeetError(
            f"{missing} has not been made for recipe {recipe.name}. Run: "
            f"parakeet build --recipe {chosen}{'' if limit is None else f' --limit {limit}'} --select {missing}"
        )
    _say(render_inspection(made, **shown))


main.add_command(bench)


def _say(text: str) -> None:
    """Print text that may contain names and words we did not write."""
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


def _limited(recipe: "Recipe", limit: float | None) -> "Recipe":
    return recipe if limit is None else recipe.model_copy(update={"limit": limit})


if __name__ == "__main__":
    main()
