"""What a stage of the build is. Each stage is one subclass, beside the code that does its work.

Stage modules are imported whenever the build is listed, so they import nothing heavy: the code that does the work is
imported inside `make`, and only there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.progress import Progress
from parakeet.recipe import Recipe

Launch = Callable[[Sequence[str]], str | None]
"""Runs a command to its end. Returns None if it succeeded, else a few words on how it ended."""


@dataclass(frozen=True)
class FigureTable:
    """Rows for people to read; integers are shown with thousands separators."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Markdown:
    """Text in Markdown."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG file that is shown where the artefact is shown."""

    path: Path


@dataclass(frozen=True)
class PageLink:
    """A file that a browser opens."""

    path: Path


Figures = dict[str, Any]
"""Values to show, by name: numbers, text, paths, or one of the four classes above. `row_count` is a table's size."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check."""

    passed: bool
    description: str | None = None
    figures: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Check:
    """A test of a finished artefact. `run` takes the artefact, those it was made from by stage name, and the recipe.

    If a `blocking` check fails, nothing after it is built.
    """

    name: str
    summary: str
    run: Callable[[Artifact, Mapping[str, Artifact], Recipe], Verdict]
    blocking: bool = False


@dataclass(frozen=True)
class MakeContext:
    """What a stage is given to make its artefact in the folder `output`.

    `manifests()` returns the manifest of every stage before this one. `launch` runs the trainer's process. With `force`
    nothing that an earlier try began may be used. `try_anyway` trains although the forecast exceeds the memory.
    `refuse_changed()` raises ParakeetError if a file outside the store has changed since it was hashed. It is called
    once the artefact is made; a stage that keeps work for a later try calls it before that.
    """

    recipe: Recipe
    root: Path
    inputs: Mapping[str, Artifact]
    manifests: Callable[[], dict[str, Mapping[str, Any]]]
    output: Path
    progress: Progress
    launch: Launch
    force: bool
    try_anyway: bool
    refuse_changed: Callable[[], None]

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each input."""
        return {name: artifact.path for name, artifact in self.inputs.items()}


class Stage(ABC):
    """One artefact of the build, and how it is made."""

    name: str
    group: str
    summary: str
    detail: str = ""
    """A second sentence for the asset's page."""
    kinds: frozenset[str]
    """Formats and libraries, shown as badges."""
    version: int = 1
    """Raised when the same inputs and settings would now give another artefact."""
    valid_versions: tuple[int, ...] = ()
    """Earlier versions whose artefacts a build still uses: an update rebuilds nothing unless it must."""
    folder: str = ""
    """Folder under the root; empty means the stage's name."""
    records: tuple[str, ...] = ()
    """Files that tell of the making (speeds, times). They are verified, but are no part of the content digest."""
    resumable: bool = False
    """Whether an interrupted try is continued."""
    pool: str | None = None
    """Runs that share a pool wait for each other."""
    verifies_files: bool = False
    """Whether its files are compared with their hashes as they are read. What becomes of them later does not matter
    then: training may take weeks."""
    examples_file: str = ""
    """The artefact's file with examples of what the stage dropped; empty if it drops nothing."""
    is_model: bool = False
    """Whether the artefact is a model to chat with, which `parakeet clean` never removes."""
    has_latest: bool = True
    """Whether links in the folder follow the artefact that was built last; those to releases move by promotion."""

    follows: tuple[str, ...] = ()
    """Stages whose new artefact Dagster may follow by making this one, if automation is on. Only for what is cheap."""
    fresh_days: int = 0
    """After how many days without a build Dagster shows a warning; 0 means never."""

    switch: str = ""
    """The key of a recipe that turns the stage on or off; empty if every build has it."""

    def is_wanted(self, recipe: Recipe) -> bool:
        """Whether a recipe's build has this stage."""
        return not self.switch or bool(attrgetter(self.switch)(recipe))

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        """Names of the stages that this one is made from."""
        return ()

    def inputs_before(self, recipe: Recipe) -> tuple[str, ...]:
        """The inputs, or those of them that the `valid_versions` had."""
        return self.inputs(recipe)

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        """Files outside the store that the stage reads, by label. Raises ParakeetError if one is missing."""
        return {}

    def local_sources(self, recipe: Recipe) -> tuple[str, ...]:
        """Names of the sources and evaluation sets whose `files` it reads, without looking for the files."""
        return ()

    def files_before(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        """The files as the `valid_versions` listed them; a path that they refused has none."""
        return self.files(recipe, root)

    def is_possible(self, recipe: Recipe, root: Path) -> bool:
        """Whether the external files that the stage needs are there."""
        return True

    def after(self, recipe: Recipe) -> tuple[str, ...]:
        """Names of external files (`ExternalFile`) that have to be there first."""
        return ()

    @abstractmethod
    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The part of the recipe that the stage reads, as JSON values. It is part of the fingerprint.

        Keys equal to their default are left out (`settings_of`), so that a new setting rebuilds nothing. Keys are
        left out by name and never picked by name: otherwise a new key would change the result and not the fingerprint.
        """

    def settings_before(self, recipe: Recipe) -> dict[str, Any]:
        """The settings as the `valid_versions` had them."""
        return self.settings(recipe)

    def settings_of_store(self, recipe: Recipe, root: Path, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
        """What else decides the artefact and is neither in the recipe nor an input, such as a promoted release.

        Like `settings` it is part of the fingerprint, and is JSON values.
        """
        return {}

    def check_requirements(self, recipe: Recipe) -> None:  # noqa: B027 (most stages have none)
        """Raise ParakeetError for what the stage needs and this machine lacks, before anything is built."""

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        """Disk space that the stage needs, given its inputs and the size of its files."""
        return round(1.5 * (sum(artifact.n_bytes for artifact in inputs.values()) + file_bytes))

    def run_folders(self, recipe: Recipe, inputs: Mapping[str, Artifact], root: Path) -> list[Path]:
        """Folders outside the artefact in which the stage keeps work that it continues."""
        return []

    def run_folders_of(self, artifact: Artifact, root: Path) -> list[Path]:
        """The same folders for a finished artefact of any recipe."""
        return []

    @abstractmethod
    def make(self, context: MakeContext) -> dict[str, Any]:
        """Fill the output folder. Returns the counts that the manifest keeps."""

    def conclude(self, root: Path, artifact: Artifact) -> None:  # noqa: B027
        """Act on the artefact each time that a build has it, made or found; most stages do nothing."""

    @abstractmethod
    def headline(self, counts: Mapping[str, Any]) -> str:
        """What the counts say, in a few words."""

    def figures(self, artifact: Artifact) -> Figures:
        """What of the artefact is worth showing on its page."""
        return {}

    def checks(self) -> tuple[Check, ...]:
        return ()


@dataclass(frozen=True)
class Obtained:
    """A file that is now there: what to show of it, in a line and as figures."""

    how: str
    headline: str
    sha256: str
    figures: Figures


class ExternalFile(ABC):
    """A file that the user or a download puts beside the store. The build needs it and never removes it."""

    name: str
    group: str
    summary: str
    detail: str = ""
    kinds: frozenset[str]
    check_name: str
    check_summary: str

    @abstractmethod
    def obtain(self, recipe: Recipe, root: Path, progress: Progress, force: bool) -> Obtained:
        """Find or fetch the file and check it. `force` checks again what was found whole before."""

    @abstractmethod
    def fault(self, recipe: Recipe, root: Path, progress: Progress) -> str | None:
        """What is wrong with the file, or None."""


def dropped_table(sources: Mapping[str, Mapping[str, Any]]) -> FigureTable:
    """Documents that a filter kept and dropped, by source and reason."""
    rows = [(name, "kept", source["kept"]) for name, source in sources.items()]
    rows += [(name, why, n) for name, source in sources.items() for why, n in source["dropped"].items()]
    return FigureTable(("source", "what", "documents"), rows)
