"""`parakeet build`, `retrain`, `plan`, `use` and `clean`."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from click.core import ParameterSource

from parakeet.cli.common import say
from parakeet.cli.completion import complete_assets, complete_recipes, complete_runs
from parakeet.cli.output import examples, json_option, say_json
from parakeet.cli.settings import change_options, chosen_recipe, recipe_options
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parakeet.artifact import Artifact
    from parakeet.progress import Progress
    from parakeet.recipe import Recipe

PROMOTION = "promotion"
"""As `parakeet.stages` names it, which --help does not import."""

try_anyway_option = click.option(
    "--try-anyway", is_flag=True, help="Train even if the memory forecast says that it will not fit."
)


@click.command(
    epilog=examples(
        "parakeet build",
        "parakeet build --data notes.txt --data letters/ --held-out 5%",
        "parakeet build --data talks.jsonl --set training.tokens=3e6 --set model.layers=6",
        "parakeet build --recipe my-recipe.yaml --select data_card",
    )
)
@recipe_options
@click.option(
    "--select",
    multiple=True,
    metavar="ASSET",
    shell_complete=complete_assets,
    help="Build only this asset and what it needs. Repeatable.",
)
@click.option(
    "--force",
    multiple=True,
    metavar="ASSET",
    shell_complete=complete_assets,
    help="Rebuild this asset even if it is up to date. Repeatable.",
)
@try_anyway_option
@click.option(
    "--run",
    "run_key",
    metavar="RUN",
    shell_complete=complete_runs,
    help="Finish this unfinished training run as it was begun, with its own recipe and text.",
)
@click.pass_context
def build(
    context: click.Context,
    recipe_name: str,
    data: Sequence[str],
    changes: Sequence[str],
    held_out: float | None,
    limit: float | None,
    select: Sequence[str],
    force: Sequence[str],
    try_anyway: bool,
    run_key: str | None,
) -> None:
    """Build a model from text. What is already built is reused."""
    from parakeet.home import home
    from parakeet.progress import Progress

    if run_key is not None:
        _finish(context, run_key, try_anyway)
    recipe = chosen_recipe(recipe_name, data, changes, held_out, limit, home())
    for name in (*select, *force):
        _check_asset(name, recipe)
    if PROMOTION in force:
        raise ParakeetError(
            "promotion makes nothing that --force could make again. To promote a release whatever the gates say: "
            "parakeet release promote NAME --force REASON"
        )
    progress = Progress()
    status = _materialize(recipe, select, force, try_anyway, progress)
    if status == 0:  # else the last line is what went wrong
        _say_in_use(recipe, context, progress)
    sys.exit(status)


def _materialize(
    recipe: "Recipe", select: Sequence[str], force: Sequence[str], try_anyway: bool, progress: "Progress"
) -> int:
    """Build a recipe and say what came of it. Returns the exit status."""
    from parakeet.home import home

    # This module alone reaches up: the assets are Dagster's, and building is materialising them.
    from pipelines.build import run_build

    status = run_build(home(), recipe, select, force, try_anyway, progress)
    _say_result(recipe, {*select, *force} if select else {PROMOTION}, status, progress)
    return status


@click.command(epilog=examples("parakeet retrain", "parakeet retrain --from-scratch --anyway"))
@click.option(
    "--recipe",
    "recipe_name",
    metavar="RECIPE",
    shell_complete=complete_recipes,
    help="Shipped recipe or recipe file.  [default: the recipe in use]",
)
@click.option("--from-scratch", is_flag=True, help="Train the whole recipe on all text, from new weights.")
@click.option("--anyway", is_flag=True, help="Train even if too little is new, or if the same was tried and refused.")
@try_anyway_option
def retrain(recipe_name: str | None, from_scratch: bool, anyway: bool, try_anyway: bool) -> None:
    """Train the promoted release on new text, as the schedule weekly_retraining does.

    Nothing is done if too little is new. The new model replaces the released one only if it passes its gates.
    """
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.recipe_file import load_recipe
    from parakeet.retraining import plan_retraining, training_now
    from parakeet.stages import active_recipe

    root = home()
    recipe = load_recipe(recipe_name) if recipe_name is not None else active_recipe(root)
    _refuse_without_release(root, recipe, recipe_name)
    if busy := training_now(root):
        raise ParakeetError(f"Run {busy[0][:8]} is being trained: run this again when it has ended.")
    planned = plan_retraining(root, recipe, from_scratch, anyway)
    progress = Progress()
    progress.say(planned.reason)
    if planned.recipe is None:
        return
    sys.exit(_materialize(planned.recipe, (), (), try_anyway, progress))


def _refuse_without_release(root: Path, recipe: "Recipe", recipe_name: str | None) -> None:
    """To train a first model is a decision of its own. Raises ParakeetError with the commands."""
    from parakeet.release.pointers import incumbent, promoted_recipes
    from parakeet.stages import ACTIVE_RECIPE_FILE, DEFAULT_RECIPE

    if incumbent(root, recipe.name) is not None:
        return
    in_use = root / ACTIVE_RECIPE_FILE
    name = recipe_name or (str(in_use) if in_use.is_file() else DEFAULT_RECIPE)
    chosen = "" if recipe_name else ", the recipe in use," if in_use.is_file() else " (no recipe is in use)"
    released = [other for other in promoted_recipes(root) if incumbent(root, other) is not None]
    others = (
        f" Promoted releases are there of: {', '.join(released)}. To train one of them, name its recipe: parakeet "
        "retrain --recipe NAME, or first: parakeet use NAME."
        if released
        else ""
    )
    raise ParakeetError(
        f"Recipe {recipe.name}{chosen} has no promoted release to train on new text.{others} To train the first model "
        f"of {recipe.name}, run: parakeet build --recipe {shlex.quote(name)}"
    )


@click.command(
    epilog=examples(
        "parakeet plan --data letters/",
        'parakeet plan --recipe parakeet-378m --gpu "RTX 3080 Ti"',
        "parakeet plan --set model.width=512 --set training.tokens=1e8 --json",
    )
)
@recipe_options
@click.option("--gpu", "--card", "gpu_name", metavar="NAME", help='GPU to plan training for: "RTX 3080 Ti".')
@click.option("--memory", metavar="AMOUNT", help="Memory that training may use: 11.2GiB, 12GB.  [default: the GPU's]")
@json_option
def plan(
    recipe_name: str,
    data: Sequence[str],
    changes: Sequence[str],
    held_out: float | None,
    limit: float | None,
    gpu_name: str | None,
    memory: str | None,
    as_json: bool,
) -> None:
    """Show what a recipe would build, without building it.

    Lists the sources with their shares and sizes, parameters, tokens, steps, FLOPs, disk space, and the memory of a
    training step. With --gpu it adds the settings that fit, the time and the energy.
    """
    from parakeet.data.reading.stage import local_files
    from parakeet.home import home
    from parakeet.plan import plan_document, render_plan
    from parakeet.release.start import find_start
    from parakeet.training.forecast import parse_memory
    from parakeet.training.gpus import gpu_named

    advice = "For a GPU that is not in the table, give --memory instead."
    gpu = gpu_named(gpu_name, advice) if gpu_name is not None else None
    n_bytes = parse_memory(memory) if memory is not None else None
    recipe = chosen_recipe(recipe_name, data, changes, held_out, limit)
    if data:
        local_files(list(recipe.sources))  # raises if a file is missing
    start = find_start(recipe, home())  # raises if it does not fit
    if as_json:
        say_json(plan_document(recipe, gpu, n_bytes, start))
    else:
        say(render_plan(recipe, gpu, n_bytes, start))


@click.command(
    epilog=examples(
        "parakeet use parakeet-378m", "parakeet use my-recipe.yaml", "parakeet use demo --data notes.txt --held-out 5%"
    )
)
@click.argument("recipe_name", metavar="RECIPE", shell_complete=complete_recipes)
@change_options
def use(
    recipe_name: str, data: Sequence[str], changes: Sequence[str], held_out: float | None, limit: float | None
) -> None:
    """Make RECIPE the recipe in use, which Dagster shows and builds on schedule.

    `parakeet build` builds any recipe and leaves the one in use as it is.
    """
    from parakeet.home import home
    from parakeet.stages import use_recipe

    recipe = chosen_recipe(recipe_name, data, changes, held_out, limit, home())
    # As for `build`: what Dagster needs to open this home.
    from pipelines.instance import prepare_history

    history = prepare_history(home())
    use_recipe(home(), recipe)
    say(
        f"{recipe.name} is the recipe in use, which Dagster shows and schedules. A running `dagster dev` follows "
        "within a minute. Runs that it has queued or started keep the recipe that they were launched with."
    )
    if history is not None and not os.environ.get("DAGSTER_HOME"):
        say(f"To start it on this home: DAGSTER_HOME={_quoted(history)} dagster dev")


@click.command(
    short_help="Remove artefacts that nothing refers to.",
    epilog=examples(
        "parakeet clean", "parakeet clean --yes", "parakeet clean --unfinished --yes  # other recipes' work too"
    ),
)
@click.option("--yes", is_flag=True, help="Remove what is listed.")
@click.option("--unfinished", is_flag=True, help="Include unfinished work of other recipes.")
def clean(yes: bool, unfinished: bool) -> None:
    """List artefacts that nothing refers to, and remove them with --yes.

    Unfinished training runs and data stages are listed separately. They are removed only with --unfinished --yes.
    """
    from parakeet.clean import leftovers, remove
    from parakeet.formatting import format_bytes, format_duration, render_table
    from parakeet.home import home
    from parakeet.studies.state import studies_kept

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
    for line in studies_kept(home()):
        say(line)
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

    from parakeet.stages import STAGES, asset_names

    names = asset_names(recipe)
    if name not in names:
        if switches := [stage.switch for stage in STAGES if stage.name == name]:
            raise ParakeetError(f"Recipe {recipe.name} has no {name}: set its {switches[0]} to true.")
        close = difflib.get_close_matches(name, names, n=1)
        hint = f": did you mean {close[0]}?" if close else "."
        raise ParakeetError(f"There is no asset {name!r}{hint} The assets are: {', '.join(names)}.")


def _finish(context: click.Context, run_key: str, try_anyway: bool) -> NoReturn:
    """Finish a run, and end with the exit status."""
    from parakeet.home import home
    from parakeet.progress import Progress
    from parakeet.training.recorded import load_begun

    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in (None, "run_key", "try_anyway")
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise ParakeetError(f"--run finishes a run with its own recipe: leave out {', '.join(given)}.")
    begun = load_begun(home(), run_key)
    from pipelines.build import finish_run

    progress = Progress()
    status = finish_run(home(), begun, try_anyway, progress)
    _say_result(begun.recipe, {PROMOTION}, status, progress, begun.artifacts)
    sys.exit(status)


def _say_in_use(recipe: "Recipe", context: click.Context, progress: "Progress") -> None:
    """Say which recipe Dagster builds if it is another one: a build does not change that."""
    import shlex

    from parakeet.command_line import without_secrets
    from parakeet.home import home
    from parakeet.stages import active_recipe

    try:
        in_use = active_recipe(home())
    except ParakeetError:
        return  # a broken recipe.yaml: Dagster says so
    if recipe == in_use:
        return
    given = context.params
    command = ["parakeet", "use", given["recipe_name"]]
    for option, key in (("--data", "data"), ("--set", "changes")):
        command += [word for value in without_secrets(given[key]) for word in (option, value)]
    for option, key in (("--held-out", "held_out"), ("--limit", "limit")):
        command += [option, str(given[key])] if given[key] is not None else []
    named = in_use.name if in_use.name != recipe.name else f"{in_use.name} as it was chosen before"
    progress.say(f"Dagster and its schedules go on with {named}. To let them build this: {shlex.join(command)}")


def _say_result(
    recipe: "Recipe",
    built: set[str],
    status: int,
    progress: "Progress",
    given: "Mapping[str, Artifact] | None" = None,
) -> None:
    """Say which commands open the models that were built, and what became of a release that was refused."""
    from parakeet.home import home
    from parakeet.release.history import REFUSED, decision_on
    from parakeet.release.pointers import find_opened
    from parakeet.release.promotion import kept_all_the_same
    from parakeet.stages import Build

    build, opened = Build(home(), recipe, given), find_opened(home())[0]
    for stage in build.stages.values():
        is_built = stage.name in built or (stage.name == "release" and PROMOTION in built)
        try:
            model = build.find(stage.name) if stage.is_model and is_built else None
        except ParakeetError:  # the build said so
            continue
        if model is None:
            continue
        if status == 0:
            # PARAKEET_MODEL names another model for `parakeet chat` alone.
            by_default = opened is not None and model.path.resolve() == opened.resolve()
            by_default = by_default and not os.environ.get("PARAKEET_MODEL")
            how = "parakeet chat" if by_default else f"parakeet chat --model {_quoted(model.path)}"
            progress.say(f"Talk to it with: {how}")
            continue
        decision = decision_on(home(), model.path.name)
        if PROMOTION in built and decision is not None and decision.action == REFUSED:
            progress.say(kept_all_the_same(home(), decision))


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
