"""`parakeet release`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parakeet.cli.common import say
from parakeet.cli.completion import complete_models
from parakeet.cli.output import examples, json_option, list_by_default, say_json, terminal_width
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.release.history import Decision
    from parakeet.release.listing import ListedModel

model_argument = click.argument("name", metavar="NAME", shell_complete=complete_models)


@click.group(
    invoke_without_command=True,
    short_help="List, promote or roll back releases.",
    epilog=examples(
        "parakeet release",
        "parakeet release show e2f4e047",
        'parakeet release rollback --reason "it repeats itself"',
        "parakeet release promote notes  # `parakeet chat` opens it",
        'parakeet release promote e2f4e047 --force "its text is better"',
    ),
)
@json_option
@click.pass_context
def release(context: click.Context, as_json: bool) -> None:
    """See which releases were promoted, refused or rolled back, and why; promote one, or roll it back.

    Each recipe has one promoted release. `parakeet chat` opens that of one recipe. NAME is a model's name or ID, or its
    first characters. `parakeet release` alone prints the history.
    """
    list_by_default(context, list_command, as_json)


@release.command("list", epilog=examples("parakeet release list", "parakeet release list --json"))
@json_option
def list_command(as_json: bool = False) -> None:
    """Print the history, the latest decision last. * marks promoted releases, ** the one that `parakeet chat` opens."""
    from parakeet.formatting import render_table
    from parakeet.home import home
    from parakeet.release.history import BEFORE_GATES, HISTORY_LOST, decisions
    from parakeet.release.pointers import about_promoted, find_incumbent, find_opened, promoted_link, promoted_recipes

    root = home()
    history, faults = decisions(root)
    promoted = {recipe: find_incumbent(root, recipe) for recipe in promoted_recipes(root)}
    opened, about_opened = find_opened(root)
    notes = [message for _, messages in promoted.values() for message in messages]
    messages = list(dict.fromkeys([*faults, *notes, *about_opened, *about_promoted(root)]))
    if as_json:
        say_json(
            {
                "decisions": [asdict(decision) for decision in history],
                "promoted": {recipe: found.name if found else None for recipe, (found, _) in promoted.items()},
                "opened": opened.name if opened else None,
                "messages": messages,
            }
        )
        return
    stand = {found.name for found, _ in promoted.values() if found is not None}
    last = {decision.release: number for number, decision in enumerate(history)}
    rows = []
    for number, decision in enumerate(history):
        stands = last[decision.release] == number and decision.release in stand
        mark = "" if not stands else "**" if opened is not None and decision.release == opened.name else "*"
        rows.append((mark, *_row(decision)))
    rows += [
        (
            "**" if found == opened else "*",
            "–",
            found.name,
            recipe,
            "promoted",
            "",
            HISTORY_LOST if promoted_link(root, recipe).is_symlink() else BEFORE_GATES,
        )
        for recipe, (found, _) in promoted.items()
        if found is not None and found.name not in last
    ]
    if rows:
        say(
            render_table(("", "TIME", "RELEASE", "RECIPE", "DECISION", "BITS/BYTE", "WHY"), rows, {5}, terminal_width())
        )
    for message in messages:
        say(message)
    if not rows and not messages:
        raise ParakeetError("No release was promoted or refused yet. Make one with: parakeet build")


@release.command(epilog=examples("parakeet release show demo", "parakeet release show e2f4e047 --json"))
@model_argument
@json_option
def show(name: str, as_json: bool) -> None:
    """Print every decision on one release, with its reasons and figures."""
    from parakeet.formatting import format_time, render_table
    from parakeet.home import home
    from parakeet.release.history import decisions

    root = home()
    model = _found(name)
    about = [decision for decision in decisions(root)[0] if decision.release == model.directory.name]
    if as_json:
        state = {"release": model.directory.name, "state": model.state, "latest": model.latest}
        say_json({**state, "decisions": [asdict(decision) for decision in about]})
        return
    lines = [f"{model.name}, {model.directory}", f"state: {model.state}"]
    if not about:
        lines.append("No decision on it is in the history.")
    for decision in about:
        lines += ["", f"{decision.action.replace('_', ' ')} on {format_time(decision.time)}"]
        facts: list[tuple[str, object]] = [("why", reason) for reason in decision.reasons]
        facts += [
            ("promoted since" if decision.action == "rolled_back" else "promoted before", decision.previous or "none"),
            *((key.replace("_", " "), _figure(value)) for key, value in decision.figures.items()),
            ("run", decision.run),
        ]
        rows = [(key, value) for key, value in facts if value is not None]
        lines += [f"  {line}" for line in render_table(("", ""), rows).splitlines()]
    say("\n".join(lines))


@release.command(
    epilog=examples("parakeet release promote notes", 'parakeet release promote e2f4e047 --force "its text is better"')
)
@model_argument
@click.option("--force", "reason", metavar="REASON", help="Promote it whatever the gates say. The reason is recorded.")
def promote(name: str, reason: str | None) -> None:
    """Promote a release, and let `parakeet chat` open it.

    Without --force it must be promoted already, or have passed the gates beside the release that it replaces.
    """
    from parakeet.artifact import Artifact
    from parakeet.home import home
    from parakeet.release.pointers import recipe_of
    from parakeet.release.promotion import open_in_chat, promote_by_hand

    root, model = home(), _found(name)
    recipe = recipe_of(model.directory)
    if reason is not None and not reason.strip():
        raise ParakeetError("--force needs a reason: the history keeps it.")
    if model.is_promoted:
        open_in_chat(root, recipe)
    elif reason is not None:
        promote_by_hand(root, Artifact.open(model.directory), reason.strip())
    else:
        _promote_as_judged(model.directory)
    say(f"{model.directory.name} is the promoted release of {recipe}. `parakeet chat` opens it.")


@release.command(
    epilog=examples(
        'parakeet release rollback --reason "it repeats itself"',
        'parakeet release rollback notes --reason "trained on the wrong file"',
    )
)
@click.argument("recipe", metavar="[RECIPE]", required=False, default=None)
@click.option("--reason", required=True, metavar="TEXT", help="Why. The history keeps it.")
def rollback(recipe: str | None, reason: str) -> None:
    """Take the promoted release of RECIPE back: the one promoted before it takes its place.

    Without RECIPE, it is the release that `parakeet chat` opens. A later build does not promote it again.
    """
    from parakeet.home import home
    from parakeet.release.pointers import find_opened_recipe
    from parakeet.release.promotion import rollback as take_back

    root = home()
    recipe = find_opened_recipe(root) if recipe is None else recipe
    if not reason.strip():
        raise ParakeetError("--reason is empty: say why, the history keeps it.")
    decision = take_back(root, recipe, reason.strip())
    say(f"{decision.release} is rolled back: {decision.previous} is the promoted release of {recipe} again.")
    for skipped in decision.reasons[1:]:
        say(skipped)
    say(
        f"A later build does not promote it again. To do so: parakeet release promote {decision.release} --force REASON"
    )


def _found(name: str) -> "ListedModel":
    """The release with this name or ID."""
    from parakeet.home import home, release_folder
    from parakeet.release.listing import find_model

    model = find_model(home(), name)
    if model.directory.parent != release_folder(home()):
        raise ParakeetError(
            f"{model.name} is no release but an imported model: it is not promoted. Talk to it with: parakeet chat "
            f"--model {model.directory}"
        )
    return model


def _promote_as_judged(folder: Path) -> None:
    """Promote a release whose comparison with the promoted one it passed."""
    from parakeet.artifact import Artifact, Store
    from parakeet.gates.stage import ComparisonStage, judgement_of
    from parakeet.home import home
    from parakeet.judgement import build_of, judged_by_present_gates, whole_judgement
    from parakeet.release.pointers import incumbent, recipe_of
    from parakeet.release.promotion import promote as promote_judged

    root, artifact = home(), Artifact.open(folder)
    recipe = recipe_of(folder)
    now = incumbent(root, recipe)
    judged = [
        comparison
        for comparison in Store(root).artifacts(ComparisonStage.name, release=artifact.content)
        if judgement_of(comparison).incumbent == (now.name if now else None)
        and judged_by_present_gates(root, comparison, recipe)
    ]
    if not judged:
        raise ParakeetError(
            f"{folder.name} was not compared with {now.name if now else 'any release'}, the promoted release of "
            f"{recipe}, by the gates that the recipe has now. Build its recipe again, or promote it by hand: parakeet "
            f"release promote {folder.name} --force REASON"
        )
    judged[-1].check(thorough=True)
    try:
        judgement = whole_judgement(build_of(root, artifact), judged[-1])
    except ParakeetError as error:
        raise ParakeetError(
            f"The checks of {folder.name} cannot be run again. {error} Build its recipe again, or promote it by hand: "
            f"parakeet release promote {folder.name} --force REASON"
        ) from None
    outcome = promote_judged(root, artifact, judgement, takes_chat=True)
    if not outcome.is_promoted:
        raise ParakeetError(" ".join(outcome.messages))


def _row(decision: "Decision") -> tuple[object, ...]:
    from parakeet.formatting import format_time

    bits = decision.figures.get("bits_per_byte")
    return (
        format_time(decision.time),
        decision.release,
        decision.recipe,
        decision.action.replace("_", " "),
        f"{bits:.3f}" if isinstance(bits, float) else "",
        " ".join(decision.reasons),
    )


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(map(_figure, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(inner)}" for key, inner in value.items())
    return f"{value:,}" if type(value) is int else str(value)
