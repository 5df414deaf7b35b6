"""What all assets share: one stage of `parakeet.stages` each, built if its fingerprint is new, else found."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from assets_defs.home import ParakeetHome
from parakeet.artifact import Artifact, explain_os_error
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.progress import Progress
from parakeet.stages import Stage, active_recipe, stage_named

OWNER = "team:parakeet"
TRAINING_POOL = "training"

Metadata = Callable[[Artifact], dict[str, Any]]


class StageConfig(dg.Config):
    force: bool = False
    """Make the artefact anew although nothing has changed."""
    try_anyway: bool = False
    """Of `checkpoint`: train although the forecast says that it will not fit the memory."""


def stage_asset(
    stage: Stage | str, kinds: set[str], pool: str | None = None
) -> Callable[[Metadata], dg.AssetsDefinition]:
    """Make an asset of a function that says what of the stage's artefact is worth reading."""
    chosen = stage_named(stage) if isinstance(stage, str) else stage

    def decorate(metadata: Metadata) -> dg.AssetsDefinition:
        spec = dg.AssetSpec(
            asset_key(chosen.name),
            deps=[asset_key(name) for name in (*chosen.inputs_for(active_recipe(home())), *chosen.after)],
            group_name=chosen.group,
            description=f"{chosen.summary}\n\n{metadata.__doc__ or ''}".strip(),
            owners=[OWNER],
            kinds=kinds,
            code_version=code_version(chosen),
        )

        @dg.multi_asset(name=op_name(chosen.name), specs=[spec], pool=pool, op_tags=_tags(chosen))
        def asset(
            context: dg.AssetExecutionContext,
            config: StageConfig,
            parakeet_home: ParakeetHome,
            trainer: dg.PipesSubprocessClient,
        ) -> dg.MaterializeResult:
            artifact = _ensure(context, parakeet_home, trainer, chosen, config)
            shown: dict[str, Any] = {
                "path": dg.MetadataValue.path(str(artifact.path)),
                "fingerprint": artifact.fingerprint,
            }
            sizes = {"bytes": artifact.n_bytes, "seconds": artifact.manifest["seconds"]}
            return dg.MaterializeResult(
                metadata={**metadata(artifact), **shown, **sizes}, data_version=dg.DataVersion(artifact.content)
            )

        return asset

    return decorate


def _tags(stage: Stage) -> dict[str, str]:
    """All that tells of the data comes before weeks of training; of steps that could run, Dagster takes the highest."""
    return {"dagster/priority": "1"} if stage.group in ("corpus", "tokens") else {}


def asset_key(name: str) -> dg.AssetKey:
    """`source_files/books` is the asset `books` in the folder `source_files`."""
    return dg.AssetKey(name.split("/"))


def op_name(name: str) -> str:
    """The name of an asset's op, which is its key in a run's config.

    Dagster allows letters, digits and underscores, and its own way to come there gives `a.b` and `a-b` one name.
    """
    return name if "/" not in name else re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", name)


def _ensure(
    context: dg.AssetExecutionContext,
    parakeet_home: ParakeetHome,
    trainer: dg.PipesSubprocessClient,
    stage: Stage,
    config: StageConfig,
) -> Artifact:
    name = stage.name

    def launch(command: Sequence[str]) -> str | None:
        try:
            trainer.run(context=context, command=list(command))
        except DagsterPipesExecutionError as error:
            return str(error)
        return None

    progress = Progress()
    try:
        artifact, made = parakeet_home.build().ensure(name, progress, launch, config.force, config.try_anyway)
    except (ParakeetError, OSError) as error:
        known = error if isinstance(error, ParakeetError) else explain_os_error(error, f"making {name}")
        if stage.group == "sources":
            # The others go on, for hours, before the run ends with this.
            progress.say(f"{name} failed: {known}")
        raise dg.Failure(description=str(known), allow_retries=False) from None
    headline = stage.headline(artifact.counts)
    how = f"made in {artifact.manifest['seconds']:,.1f} s" if made else "up to date"
    progress.say(f"{name:<24}{how:<18}{headline}")
    return artifact


def artifact_of(parakeet_home: ParakeetHome, name: str) -> Artifact:
    """The artefact that a check looks at; dg.Failure if it is missing or was changed."""
    try:
        return parakeet_home.build().artifact(name)
    except ParakeetError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None


def code_version(stage: Stage) -> str:
    """The stage's version constant and a hash of what it reads of the active recipe: what makes it stale."""
    settings = json.dumps(stage.settings(active_recipe(home())), sort_keys=True)
    return f"{stage.version}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def image(path: Path) -> dg.MarkdownMetadataValue:
    """A picture inside the metadata itself, so that it outlives the file."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return dg.MetadataValue.md(f"![{path.stem.replace('_', ' ')}](data:image/png;base64,{encoded})")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """A table with numbers grouped by thousands."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def dropped_table(sources: Mapping[str, Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """By source and reason, what a filter took out."""
    rows = [(name, "kept", source["kept"]) for name, source in sources.items()]
    rows += [(name, why, n) for name, source in sources.items() for why, n in source["dropped"].items()]
    return markdown_table(("source", "what", "documents"), rows)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
