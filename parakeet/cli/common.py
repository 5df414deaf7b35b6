"""What the commands share: how errors end them, and the types of their options."""

from typing import TYPE_CHECKING, Any

import click

from parakeet.errors import INTERRUPTED, ParakeetError

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

    def __init__(self, or_nothing: bool = False) -> None:
        """`or_nothing`: 0 is allowed too."""
        self.least = "from 0" if or_nothing else "above 0"
        self.or_nothing = or_nothing

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        from parakeet.formatting import parse_share

        try:
            share = parse_share(str(value))
        except ValueError:
            share = -1.0
        if not (0.0 < share <= 1.0 or (self.or_nothing and share == 0.0)):
            self.fail(
                f"{str(value).strip()!r} is not a share: write it like 0.1% or 0.001, {self.least} and at most 100%.",
                parameter,
                context,
            )
        return share


def say(text: str) -> None:
    """Print text that may contain names and words we did not write."""
    from parakeet.sanitise import sanitise

    click.echo(sanitise(text))


def limited(recipe: "Recipe", limit: float | None) -> "Recipe":
    """The recipe with --limit."""
    return recipe if limit is None else recipe.model_copy(update={"limit": limit})
