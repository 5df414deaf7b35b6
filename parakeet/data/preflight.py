"""Checks for everything that the data stages need, before hours of downloading and reading."""

import shutil
from importlib.util import find_spec

from parakeet.data.cleaning.language import language_guesser
from parakeet.data.reading.sources import source_files
from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_sources import BucketSource, FileSource


def refuse_unmet_data(recipe: Recipe) -> None:
    """ParakeetError if a file, a package, a command or a language that the recipe's data stages need is missing."""
    named = (*recipe.sources, *recipe.decontamination.sets)
    for source in named:
        if isinstance(source, FileSource):
            source_files(source)
    if recipe.clean.languages:
        language_guesser(recipe.clean.languages)
    if any(isinstance(source, BucketSource) for source in named) and find_spec("s3fs") is None:
        raise ParakeetError("Sources of kind bucket need s3fs: pip install 'parakeet-lm[s3]'")
    if recipe.executor.kind == "ray" and find_spec("ray") is None:
        raise ParakeetError("executor.kind ray needs Ray: pip install 'parakeet-lm[ray]'")
    if recipe.executor.kind == "slurm" and shutil.which("sbatch") is None:
        raise ParakeetError("executor.kind slurm needs Slurm's commands: sbatch is not on this machine.")
