"""One asset for each stage of a recipe: built if its fingerprint is new, else found."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from assets_defs.code import code_references
from assets_defs.keys import OWNER, asset_key, op_name, source_key
from assets_defs.metadata import metadata_of, record_of
from assets_defs.notices import decisions_of
from assets_defs.pipes import ObservingTrainer
from assets_defs.resources import FINGERPRINT_TAG, RECIPE_TAG, SHELL_TAG, ParakeetHome
from parakeet.artifact import Artifact
from parakeet.errors import ProcessDied
from parakeet.failures import explain
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.stage import ExternalFile, Stage
from parakeet.stages import EXTERNAL_FILES, STAGES, Build, stages_of

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
    return [
        *(_stage_asset(stage, recipe) for stage in stages_of(recipe)),
        *(_file_asset(file, recipe) for file in EXTERNAL_FILES),
    ]


def _stage_asset(stage: Stage, recipe: Recipe) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        asset_key(stage.name),
        deps=[
            *(asset_key(name) for name in (*stage.inputs(recipe), *stage.after(recipe))),
            *map(source_key, stage.local_sources(recipe)),
        ],
        group_name=stage.group,
        description=f"{stage.summary}\n\n{stage.detail}".strip(),
        owners=[OWNER],
        kinds=set(stage.kinds),
        code_version=code_version(stage, recipe),
        metadata={"dagster/code_references": code_references(type(stage).make)},
        automation_condition=_automation(stage),
        freshness_policy=_freshness(stage),
        skippable=stage.group == ORIGINAL_GROUP,
    )
    # All that tells of the data comes before weeks of training: of steps that could run, Dagster takes the highest.
    tags = {"dagster/priority": "1"} if stage.group in DATA_GROUPS[1:] else {}

    @dg.multi_asset(name=op_name(stage.name), specs=[spec], pool=stage.pool, op_tags=tags)
    def asset(
        context: dg.AssetExecutionContext,
        config: StageConfig,
        parakeet_home: dg.ResourceParam[ParakeetHome],
        trainer: ObservingTrainer,
    ) -> Iterator[dg.MaterializeResult]:
        if stage.group == ORIGINAL_GROUP and not _is_asked_for(context):
            return
        with failures_explained(f"making {stage.name}", parakeet_home.root):
            build = parakeet_home.build()
            # The run's recipe may not be the one that this graph was made from.
            own, name = build.stage(stage.name), build.recipe.name
            artifact, made = _ensure(context, parakeet_home.root, build, trainer, own, config)
            # Not as metadata of the result: Dagster would store that a second time, with the step's output.
            context.add_asset_metadata(metadata_of(own.figures(artifact), name, made) | record_of(artifact, made, name))
            result: dg.MaterializeResult = dg.MaterializeResult(
                data_version=dg.DataVersion(artifact.content),
                tags={RECIPE_TAG: name, FINGERPRINT_TAG: artifact.fingerprint},
            )
        yield result

    return asset


def _automation(stage: Stage) -> dg.AutomationCondition[dg.AssetKey] | None:
    """Of cheap stages: after a new artefact of those that it follows, and never past a blocking check that failed.

    Not after the others that it is made from: text that is new has no checkpoint yet, and the run would fail.
    """
    if not stage.follows:
        return None
    followed = dg.AssetSelection.assets(*map(asset_key, stage.follows))
    condition = dg.AutomationCondition.eager().allow(followed)
    return condition & dg.AutomationCondition.all_deps_blocking_checks_passed()


def _freshness(stage: Stage) -> dg.FreshnessPolicy | None:
    """A warning after the stage's days without a build, an error after three times as many."""
    days = timedelta(days=stage.fresh_days)
    return dg.FreshnessPolicy.time_window(fail_window=3 * days, warn_window=days) if days else None


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


def _file_asset(file: ExternalFile, recipe: Recipe) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(
        file.name,
        group_name=file.group,
        description=f"{file.summary}\n\n{file.detail}".strip(),
        owners=[OWNER],
        kinds=set(file.kinds),
        code_version=hashlib.sha256(recipe.original.model_dump_json().encode()).hexdigest()[:12],
        metadata={"dagster/code_references": code_references(type(file).obtain)},
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
            context.add_asset_metadata(metadata_of(found.figures, parakeet_home.recipe.name))
            result: dg.MaterializeResult = dg.MaterializeResult(data_version=dg.DataVersion(found.sha256))
        yield result

    return asset


def _ensure(
    context: dg.AssetExecutionContext,
    root: Path,
    build: Build,
    trainer: ObservingTrainer,
    stage: Stage,
    config: StageConfig,
) -> tuple[Artifact, bool]:
    progress = Progress()
    try:
        with failures_explained(f"making {stage.name}", root), decisions_of(stage, build, context.run_id):
            artifact, made = build.ensure(
                stage.name, progress, partial(trainer.launch, context), config.force, config.try_anyway
            )
    except dg.Failure as failure:
        if stage.group == "sources":
            # The other sources are still fetched, for hours, before the run ends with this.
            progress.say(f"{stage.name} failed: {failure.description}")
        raise
    how = f"made in {artifact.manifest['seconds']:,.1f} s" if made else "up to date"
    progress.say(f"{stage.name:<24}{how:<18}{stage.headline(artifact.counts)}")
    return artifact, made


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
