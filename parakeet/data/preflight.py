"""Checks for everything that the data stages need, before hours of downloading and reading."""

import shutil
from importlib.util import find_spec

from parakeet.benchmark_files import searched_sets
from parakeet.data.cleaning.language import language_guesser
from parakeet.data.reading.sources import source_files
from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_sources import FileSource


def refuse_unmet_data(recipe: Recipe) -> None:
    """ParakeetError if a file, a package, a command or a language that the recipe's data stages need is missing."""
    for source in (*recipe.sources, *searched_sets(recipe).sets):
        if isinstance(source, FileSource):
            source_files(source)
        if missing := source.missing_package():
            raise ParakeetError(missing)
    if recipe.clean.languages:
        language_guesser(recipe.clean.languages)
    if recipe.executor.kind == "ray" and find_spec("ray") is None:
        raise ParakeetError("executor.kind ray needs Ray: pip install 'parakeet-lm[ray]'")
    if recipe.executor.kind == "slurm" and shutil.which("sbatch") is None:
        raise ParakeetError("executor.kind slurm needs Slurm's commands: sbatch is not on this machine.")
