"""Free space on the disk of the artefacts, beside what the next training writes there. Imports no torch."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from parakeet.artifact import SPARE_BYTES
from parakeet.formatting import format_bytes
from parakeet.home import runs_folder
from parakeet.model.config import ModelConfig
from parakeet.plan import vocabulary_rows
from parakeet.recipe import Recipe
from parakeet.training.forecast import bytes_on_disk, run_bytes
from parakeet.training.recorded import recorded_recipe
from parakeet.training.runs import list_runs

LEAST_FREE = 1 << 30
"""Logs, the history and the data stages of a small recipe need space too."""
LEAST_FREE_FILES = 1_000
"""A file system without free entries is as full as one without free blocks."""


@dataclass(frozen=True)
class Space:
    """Bytes free on the disk of `folder`, and bytes that are `needed` there for `purpose`."""

    folder: Path
    free: int
    needed: int
    purpose: str
    free_files: int | None = None

    @property
    def is_low(self) -> bool:
        return self.free < self.needed or self.lacks_files

    @property
    def has_recovered(self) -> bool:
        """A tenth more than needed, so that a disk at the limit is not reported again and again."""
        return 10 * self.free >= 11 * self.needed and not self.lacks_files

    @property
    def lacks_files(self) -> bool:
        return self.free_files is not None and self.free_files < LEAST_FREE_FILES

    def __str__(self) -> str:
        if self.lacks_files:
            return f"{self.folder}: room for only {self.free_files:,} more files"
        return f"{self.folder}: {format_bytes(self.free)} free, {format_bytes(self.needed)} needed for {self.purpose}"


def training_space(root: Path, recipe: Recipe) -> Space:
    """For the training that is going on, or else for the next one of `recipe`. OSError if the disk does not answer."""
    running = [run.path for run in list_runs(runs_folder(root))[0] if run.state == "training"]
    trained = next(((known, run) for run in running if (known := recorded_recipe(run)) is not None), None)
    chosen, run = trained or (recipe, None)
    config = ModelConfig.from_recipe(chosen.model, vocabulary_rows(chosen))
    needed = run_bytes(config, chosen.training) - (bytes_on_disk(run) if run is not None else 0)
    purpose = f"{'the rest of the' if run is not None else 'the next'} training of {chosen.name}"
    return space_for(root, max(0, needed) + SPARE_BYTES, purpose)


def space_for(folder: Path, needed: int, purpose: str) -> Space:
    """The same for what takes `needed` bytes. `folder` need not exist yet."""
    there = _existing(folder)
    if needed < LEAST_FREE:
        needed, purpose = LEAST_FREE, "logs and small files"
    system = os.statvfs(there)
    files = system.f_favail if system.f_files else None  # btrfs has no fixed number
    return Space(folder, shutil.disk_usage(there).free, needed, purpose, files)


def on_one_disk(one: Path, other: Path) -> bool:
    """Whether both folders, which need not exist yet, share their space."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
