"""The asset checks that the stages and external files ask for."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets_defs.assets import failures_explained
from assets_defs.keys import asset_key
from assets_defs.metadata import metadata_of
from assets_defs.notices import decisions_of
from assets_defs.resources import ParakeetHome
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.stage import Check, ExternalFile, Stage
from parakeet.stages import EXTERNAL_FILES, stages_of


def make_checks(recipe: Recipe) -> list[dg.AssetChecksDefinition]:
    """The checks of a recipe's build."""
    checks = [_stage_check(stage, check) for stage in stages_of(recipe) for check in stage.checks()]
    return [*checks, *map(_file_check, EXTERNAL_FILES)]


def _stage_check(stage: Stage, check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset_key(stage.name), name=check.name, description=check.summary, blocking=check.blocking)
    def checked(
        context: dg.AssetCheckExecutionContext, parakeet_home: dg.ResourceParam[ParakeetHome]
    ) -> dg.AssetCheckResult:
        root, build = parakeet_home.root, parakeet_home.build()
        # A check of a release records a refusal.
        with failures_explained(f"checking {stage.name}", root), decisions_of(stage, build, context.run.run_id):
            verdict = check.run(build.artifact(stage.name), build.inputs(stage.name), build.recipe)
        severity = dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN
        figures = metadata_of(verdict.figures or {}, parakeet_home.recipe.name)
        return _result(context, verdict.passed, verdict.description, figures, severity)

    return checked


def _file_check(file: ExternalFile) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=file.name, name=file.check_name, description=file.check_summary, blocking=True)
    def checked(
        context: dg.AssetCheckExecutionContext, parakeet_home: dg.ResourceParam[ParakeetHome]
    ) -> dg.AssetCheckResult:
        with failures_explained(f"checking {file.name}", parakeet_home.root):
            fault = file.fault(parakeet_home.recipe, parakeet_home.root, Progress())
        return _result(context, fault is None, fault, {}, dg.AssetCheckSeverity.ERROR)

    return checked


def _result(
    context: dg.AssetCheckExecutionContext,
    passed: bool,
    description: str | None,
    metadata: Mapping[str, Any],
    severity: dg.AssetCheckSeverity,
) -> dg.AssetCheckResult:
    if not passed and severity is dg.AssetCheckSeverity.ERROR:
        # Dagster ends the step with a traceback that only names the check.
        context.log.error(f"{context.check_specs[0].name}: {description or 'The check failed.'}")
    return dg.AssetCheckResult(passed=passed, description=description, metadata=metadata, severity=severity)
