"""The study that the commands of `parakeet study` mean."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parakeet.cli.completion import complete_settings

if TYPE_CHECKING:
    from parakeet.studies.study import Study

SCALES = ("smoke", "cpu", "night", "gpu")
"""As `parakeet.studies.study` has them, which --help does not import."""

scale_option = click.option(
    "--scale", type=click.Choice(SCALES), default="cpu", show_default=True, help="How much of the study to run."
)
data_option = click.option(
    "--data", multiple=True, metavar="FILE", type=click.Path(),
    help="Train on this file, folder or glob in place of the study's text. Repeatable.",
)  # fmt: skip
set_option = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", shell_complete=complete_settings,
    help="Change a key of the recipe that all runs are made from. Repeatable.",
)  # fmt: skip


def chosen_study(name: str, scale: str, data: Sequence[str], changes: Sequence[str], root: Path) -> "Study":
    """The study at a scale, on the text and with the settings that the options name, or that it was begun with.

    With `data` the recipe's own `limit` does not hold: it is the share of a text that others chose. Raises
    ParakeetError.
    """
    from parakeet.cli.settings import with_sources
    from parakeet.recipe_changes import changed
    from parakeet.recipe_file import load_recipe
    from parakeet.stages import refuse_missing_files
    from parakeet.studies.records import noted_study
    from parakeet.studies.study import make_study, shipped_studies

    is_file = name in shipped_studies() or Path(name).is_file()
    noted = noted_study(root, Path(name).stem if is_file else name, scale)
    # A name of neither is that of a user's file, which was run here and is elsewhere now.
    study = noted if noted is not None and not is_file else make_study(name, scale)
    if not (data or changes):
        if noted is None or noted.file.recipe != study.file.recipe:
            return study
        return replace(study, base=noted.base)
    base = load_recipe(study.file.recipe)
    if data:
        base = with_sources(base, data).model_copy(update={"limit": 1.0})
    base = changed(base, changes)
    refuse_missing_files(root, base)
    return replace(study, base=base)
