"""What the commands share: how errors end them, and the types of their options."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parakeet.errors import INTERRUPTED, ParakeetError

if TYPE_CHECKING:
    from parakeet.recipe import Recipe


class Commands(click.Group):
    """Prints an error as one message and exits with status 1. That of a bug names the file with its details."""

    def invoke(self, context: click.Context) -> Any:
        _print_any_text()
        try:
            return super().invoke(context)
        except (BrokenPipeError, click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from parakeet.sanitise import sanitise

            click.echo(f"Error: {sanitise(str(_explained(error)))}", err=True)
            context.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            context.exit(INTERRUPTED)


def _explained(error: Exception) -> ParakeetError:
    from parakeet.failures import explain
    from parakeet.home import home

    try:
        root = home()
    except ParakeetError as fault:
        return fault
    return explain(error, "running this command", root)


def _print_any_text() -> None:
    """On a terminal that is not UTF-8, print a character that it lacks as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def open_in_browser(page: Path) -> None:
    """Raises ParakeetError if there is no browser."""
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        raise ParakeetError(f"No browser could be opened. Open {page} yourself.")


class Whole(click.IntRange):
    """A whole number. Its range reads `from 1 to 100` or `at least 1`, as that of the sampling options does."""

    name = "whole number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N"

    def _describe_range(self) -> str:  # click has no public name for it; without it only the words differ
        return f"at least {self.min}" if self.max is None else f"from {self.min} to {self.max}"


class Share(click.ParamType):
    """A share of the whole, written as 0.1% or 0.001."""

    name = "share"

    def __init__(self, or_nothing: bool = False, most: float = 1.0) -> None:
        """`or_nothing`: 0 is allowed too. `most` is the largest share."""
        self.range = f"from 0 to {most:.0%}" if or_nothing else f"above 0 and at most {most:.0%}"
        self.or_nothing = or_nothing
        self.most = most

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        from parakeet.formatting import parse_share

        try:
            share = parse_share(str(value))
        except ValueError:
            share = -1.0
        if not (0.0 < share <= self.most or (self.or_nothing and share == 0.0)):
            self.fail(
                f"{str(value).strip()!r} is not a share {self.range}: write it like 0.1% or 0.001.",
                parameter,
                context,
            )
        return share


def say(text: str) -> None:
    """Print text that may contain names and words we did not write."""
    from parakeet.sanitise import sanitise

    click.echo(sanitise(text))


def warn(text: str) -> None:
    """The same to standard error."""
    from parakeet.sanitise import sanitise

    click.echo(sanitise(text), err=True)


def limited(recipe: "Recipe", limit: float | None) -> "Recipe":
    """The recipe with --limit."""
    return recipe if limit is None else recipe.model_copy(update={"limit": limit})
