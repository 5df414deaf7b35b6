"""One asset for each stage of a recipe: built if its fingerprint is new, else found."""

import base64
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from assets_defs.resources import SHELL_TAG, ParakeetHome
from parakeet.artifact import Artifact
from parakeet.errors import ProcessDied
from parakeet.failures import explain
from parakeet.formatting import markdown_table
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.stage import ExternalFile, Figures, FigureTable, Markdown, PageLink, Picture, Stage
from parakeet.stages import EXTERNAL_FILES, STAGES, Build, stages_of

OWNER = "team:parakeet"
DATA_GROUPS = ("sources", "corpus", "tokens")
ORIGINAL_GROUP = "original"
"""Assets that are made only if they are asked for."""

CRASHED = "process_died"
"""Metadata of a failure after which the same run can go on: `interrupted_runs` starts it again."""


class StageConfig(dg.Config):
    force: bool = False
    """Make the artefact again although nothing has changed."""
    try_anyway: bool = False
    """Train although the forecast exceeds the memory."""


def make_assets(recipe: Recipe) -> list[dg.AssetsDefinition]:
    """The assets of a recipe's build."""
    return [*(_stage_asset(stage, recipe) for stage in stages_of(recipe)), *map(_file_asset, EXTERNAL_FILES)]


def asset_key(name: str) -> dg.AssetKey:
    """`source_files/books` is the asset `books` in the folder `source_files`."""
    return dg.AssetKey(name.split("/"))


def op_name(name: str) -> str:
    """The name of an asset's op, which is its key in a run's config.

    Dagster allows letters, digits and underscores. Its own replacement would give `a.b` and `a-b` one name.
    """
    return name if "/" not in name else re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", name)


def _stage_asset(stage: Stage, recipe: Recipe) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        asset_key(stage.name),
        deps=[asset_key(name) for name in (*stage.inputs(recipe), *stage.after(recipe))],
        group_name=stage.group,
        description=f"{stage.summary}\n\n{stage.detail}".strip(),
        owners=[OWNER],
        kinds=set(stage.kinds),
        code_version=code_version(stage, recipe),
        skippable=stage.group == ORIGINAL_GROUP,
    )
    # All that tells of the data comes before weeks of training: of steps that could run, Dagster takes the highest.
    tags = {"dagster/priority": "1"} if stage.group in DATA_GROUPS[1:] else {}

    @dg.multi_asset(name=op_name(stage.name), specs=[spec], pool=stage.pool, op_tags=tags)
    def asset(
        context: dg.AssetExecutionContext,
        config: StageConfig,
        parakeet_home: dg.ResourceParam[ParakeetHome],
        trainer: dg.PipesSubprocessClient,
    ) -> Iterator[dg.MaterializeResult]:
        if stage.group == ORIGINAL_GROUP and not _is_asked_for(context):
            return
        with failures_explained(f"making {stage.name}", parakeet_home.root):
            build = parakeet_home.build()
            # The run's recipe may not be the one that this graph was made from.
            own = build.stage(stage.name)
            artifact = _ensure(context, parakeet_home.root, build, trainer, own, config)
            shown: Figures = {
                **own.figures(artifact),
                "path": artifact.path,
                "fingerprint": artifact.fingerprint,
                "bytes": artifact.n_bytes,
                "seconds": artifact.manifest["seconds"],
            }
            result: dg.MaterializeResult = dg.MaterializeResult(
                metadata=_metadata(shown), data_version=dg.DataVersion(artifact.content)
            )
        yield result

    return asset


def _is_asked_for(context: dg.AssetExecutionContext) -> bool:
    """Whether the original's assets are meant, and not everything that the page shows (*Materialize all*)."""
    run = context.run
    names = {stage.name for stage in STAGES if stage.group == ORIGINAL_GROUP} | {file.name for file in EXTERNAL_FILES}
    original = set(map(asset_key, names))
    chosen = set(run.asset_selection or context.job_def.asset_layer.executable_asset_keys)
    if chosen <= original or SHELL_TAG.items() <= run.tags.items():
        return True
    context.log.info(
        "Left out: the original model is fetched only if it is asked for. Launch the job import_original, or "
        "materialize the assets of the group original alone."
    )
    return False


def _file_asset(file: ExternalFile) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        file.name,
        group_name=file.group,
        description=f"{file.summary}\n\n{file.detail}".strip(),
        owners=[OWNER],
        kinds=set(file.kinds),
        skippable=True,
    )

    @dg.multi_asset(name=file.name, specs=[spec])
    def asset(
        context: dg.AssetExecutionContext, config: StageConfig, parakeet_home: dg.ResourceParam[ParakeetHome]
    ) -> Iterator[dg.MaterializeResult]:
        if not _is_asked_for(context):
            return
        progress = Progress()
        with failures_explained(f"fetching {file.name}", parakeet_home.root):
            found = file.obtain(parakeet_home.recipe, parakeet_home.root, progress, config.force)
            progress.say(f"{file.name:<24}{found.how:<18}{found.headline}")
            result: dg.MaterializeResult = dg.MaterializeResult(
                metadata=_metadata(found.figures), data_version=dg.DataVersion(found.sha256)
            )
        yield result

    return asset


def _ensure(
    context: dg.AssetExecutionContext,
    root: Path,
    build: Build,
    trainer: dg.PipesSubprocessClient,
    stage: Stage,
    config: StageConfig,
) -> Artifact:
    def launch(command: Sequence[str]) -> str | None:
        try:
            trainer.run(context=context, command=list(command))
        except dg.DagsterError as error:
            return str(error)
        return None

    progress = Progress()
    try:
        with failures_explained(f"making {stage.name}", root):
            artifact, made = build.ensure(stage.name, progress, launch, config.force, config.try_anyway)
    except dg.Failure as failure:
        if stage.group == "sources":
            # The other sources are still fetched, for hours, before the run ends with this.
            progress.say(f"{stage.name} failed: {failure.description}")
        raise
    how = f"made in {artifact.manifest['seconds']:,.1f} s" if made else "up to date"
    progress.say(f"{stage.name:<24}{how:<18}{stage.headline(artifact.counts)}")
    return artifact


@contextmanager
def failures_explained(doing: str, root: Path) -> Iterator[None]:
    """Raise any exception of the block as a Failure whose description is the whole message for the user.

    An error of the history's database stays as it is: it says nothing about the asset.
    """
    try:
        yield
    except (dg.Failure, SQLAlchemyError, sqlite3.Error):
        raise
    except Exception as error:
        metadata = {CRASHED: True} if isinstance(error, ProcessDied) else {}
        raise dg.Failure(str(explain(error, doing, root)), metadata=metadata, allow_retries=False) from None


def code_version(stage: Stage, recipe: Recipe) -> str:
    """The stage's version and a hash of what it reads of the recipe: what makes the asset stale."""
    settings = json.dumps(stage.settings(recipe), sort_keys=True)
    return f"{stage.version}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def _metadata(figures: Figures) -> dict[str, Any]:
    names = {"row_count": "dagster/row_count"}
    return {names.get(name, name): _metadata_value(value) for name, value in figures.items()}


def _metadata_value(value: Any) -> Any:
    if isinstance(value, FigureTable):
        return dg.MetadataValue.md(markdown_table(value.columns, value.rows))
    if isinstance(value, Markdown):
        return dg.MetadataValue.md(value.text)
    if isinstance(value, PageLink):
        return dg.MetadataValue.url(value.path.as_uri())
    if isinstance(value, Picture):
        # Inside the metadata itself, so that it outlives the file.
        encoded = base64.b64encode(value.path.read_bytes()).decode()
        return dg.MetadataValue.md(f"![{value.path.stem.replace('_', ' ')}](data:image/png;base64,{encoded})")
    return dg.MetadataValue.path(str(value)) if isinstance(value, Path) else value
