"""Local sources in the graph: what of them Dagster knows, and how it learns of a change.

They are external assets: nothing makes them here. A materialization that is only reported gives each its data version,
and whatever was made from another version is out of date. A sensor reports between runs, and each run as it starts: a
step reads the versions of its inputs before it begins. Dagster's `observable_source_asset` is in beta, and would be a
step of its own in a run. Of an external asset that is not observable, Dagster 1.13 ignores observations.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import dagster as dg

from assets_defs.keys import OWNER, source_key
from parakeet.benchmark_files import searched_sets
from parakeet.data.reading.sources import find_files
from parakeet.errors import ParakeetError
from parakeet.formatting import counted, format_bytes
from parakeet.recipe import Recipe
from parakeet.recipe_sources import FileSource
from parakeet.stages import stages_of

VERSION_TAG, GIVEN_TAG = "dagster/data_version", "dagster/data_version_is_user_provided"


def make_sources(recipe: Recipe) -> list[dg.AssetSpec]:
    """One external asset for each local source or evaluation set that a stage of the recipe reads."""
    wanted = sorted({name for stage in stages_of(recipe) for name in stage.local_sources(recipe)})
    return [
        dg.AssetSpec(
            source_key(name),
            group_name="sources",
            owners=[OWNER],
            kinds={"file"},
            description=f"The files of the source {name}, where the recipe says that they are. Parakeet only reads "
            "them.\n\nThe data version changes when a file is added, removed, resized or written to.",
        )
        for name in wanted
    ]


class FileState(NamedTuple):
    """What a file is known by, without reading it: its path from the source's folder, its size and two times, in ns.

    A copy that keeps the time of the last change (`rsync -t`, `cp -p`) changes the second, of the entry itself.
    """

    name: str
    size: int
    changed: int
    entry_changed: int


def local_sources_of(recipe: Recipe) -> list[FileSource]:
    """The sources, evaluation sets and benchmarks of a recipe on this machine. ParakeetError without the benchmarks."""
    return [source for source in (*recipe.sources, *searched_sets(recipe).sets) if isinstance(source, FileSource)]


def file_states(source: FileSource) -> list[FileState]:
    """The files of a source as they are now. Of 20,000 files it takes about half a second of CPU time.

    Raises ParakeetError if it has no file or a folder cannot be listed, OSError if a file vanishes meanwhile.
    """
    found = find_files(source)
    folder, states = os.path.join(found.root, ""), []  # `Path.relative_to` would take as long again
    for path in map(str, found.files):
        status = os.stat(path)
        states.append(FileState(path.removeprefix(folder), status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return states


def changes(recipe: Recipe, instance: dg.DagsterInstance) -> Iterator[dg.AssetMaterialization]:
    """A new version of each local source whose files are not as Dagster last saw them.

    The version is a hash of their states. Contents would be exact, but a sensor would read gigabytes at a tick. A file
    that was only touched makes `documents` out of date until the next build, which finds its hash unchanged and makes
    nothing. A source that cannot be read counts as one without files.
    """
    try:
        sources = local_sources_of(recipe)
    except ParakeetError:  # the folder of the benchmarks
        sources = [one for one in (*recipe.sources, *recipe.decontamination.sets) if isinstance(one, FileSource)]
    for source in sources:
        states: list[FileState] = []
        fault = ""
        try:
            states = file_states(source)
        except (ParakeetError, OSError) as error:
            fault = str(error)
        version = hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]
        if version == last_version(instance, source.name):
            continue
        n_bytes = sum(state.size for state in states)
        metadata: dict[str, Any] = {"files": len(states), "size_mib": round(n_bytes / 2**20, 3)}
        if states:
            metadata["changed"] = dg.MetadataValue.timestamp(max(state.changed for state in states) / 1e9)
        yield dg.AssetMaterialization(
            source_key(source.name),
            description=fault or f"{counted(len(states), 'file')}, {format_bytes(n_bytes)}",
            metadata={**metadata, "path": dg.MetadataValue.path(source.path)},
            tags={VERSION_TAG: version, GIVEN_TAG: "true"},
        )


def last_version(instance: dg.DagsterInstance, name: str) -> str | None:
    """The data version that Dagster has of a source; None if it has never seen it."""
    event = instance.get_latest_materialization_event(source_key(name))
    materialization = event.asset_materialization if event is not None else None
    return (materialization.tags or {}).get(VERSION_TAG) if materialization is not None else None
