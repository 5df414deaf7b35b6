"""Stages `release` and `original_model`, and the external file `original_checkpoint`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_time
from parakeet.home import models_folder
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_sources import settings_of
from parakeet.release.history import FORCED, PROMOTED, Decision
from parakeet.release.pointers import incumbent, recipe_of
from parakeet.release.promotion import Judgement, compared_with, refuse
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.stage import Check, ExternalFile, Figures, FigureTable, MakeContext, Markdown, Obtained, Stage, Verdict

DECIMALS = 4


class ReleaseStage(Stage):
    name = "release"
    group = "release"
    summary = "The model as a directory that needs nothing else: weights, tokenizer, card, evaluation, lineage."
    detail = "It is kept whatever becomes of it. `promotion` decides whether it replaces the one before it."
    kinds = frozenset({"safetensors"})
    version = 2
    valid_versions = (2,)
    folder = "releases"
    is_model = True
    has_latest = False
    fresh_days = 30

    def inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return (*self.inputs_before(recipe), "report")

    def inputs_before(self, recipe: Recipe) -> tuple[str, ...]:
        """Releases without a report, which are of version 2 too."""
        return ("checkpoint", "tokenizer", "evaluation")

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        licences = {source.name: source.licence for source in recipe.sources}
        names = {"name": recipe.name, "description": recipe.description}
        return {**names, "generation": settings_of(recipe.generation), "licences": licences}

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.release.package import make_release

        return make_release(context.recipe, context.inputs, context.manifests(), context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['name']}, {format_bytes(counts['bytes'])}"

    def figures(self, artifact: Artifact) -> Figures:
        counts = artifact.counts
        bits = {name: value for name, value in counts.get("bits_per_byte", {}).items() if value is not None}
        before = compared_with(artifact.path.parents[1], artifact, str(counts["name"]))
        return {
            **{f"bits_per_byte_{source}": round(value, DECIMALS) for source, value in bits.items()},
            "name": counts["name"],
            "data_read": _data_read(artifact),
            "beside_the_promoted": beside(artifact.path, before),
            "parameters": counts["parameters"],
            "card": _card(artifact),
        }

    def checks(self) -> tuple[Check, ...]:
        verifies = "Every file of the release has the hash that SHA256SUMS gives it."
        answers = "Loaded from its own files alone, the model writes text that can be seen."
        return (
            Check("release_verifies", verifies, _release_verifies, blocking=True),
            Check("release_answers", answers, _release_answers, blocking=True),
        )


def _data_read(release: Artifact) -> str:
    """When the sources were read, as the release's lineage has it."""
    try:
        lineage = json.loads((release.path / TRAINING_MANIFEST_FILE).read_text(encoding="utf-8"))
        return format_time(str(lineage["stages"]["documents"]["made"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def beside(release: Path, before: Path | None) -> FigureTable:
    """Bits per byte by source beside those of the release before it, each on its own held-out text.

    One that was removed or damaged has no figures.
    """
    earlier = _bits(before) if before is not None else {}
    columns = ("source", release.name, before.name if before is not None else "no earlier release")
    rows = [(source, _shown(bits), _shown(earlier.get(source))) for source, bits in _bits(release).items()]
    return FigureTable(columns, rows)


def _bits(release: Path) -> dict[str, float | None]:
    try:
        return dict(Artifact.open(release).counts.get("bits_per_byte", {}))
    except (ParakeetError, OSError):
        return {}


def _shown(bits: float | None) -> str:
    return "–" if bits is None else f"{bits:.{DECIMALS}f}"


def _release_verifies(artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    from parakeet.release.verify import verify_release

    try:
        return Verdict(True, figures={"files": verify_release(artifact.path)})
    except ParakeetError as error:
        _refuse(artifact, str(error))
        return Verdict(False, str(error))


def _release_answers(artifact: Artifact, inputs: Mapping[str, Artifact], recipe: Recipe) -> Verdict:
    if recipe.gates is None:
        return Verdict(True, "The recipe has no gates.")
    from parakeet.release.smoke import visible_text

    try:
        prompt, reply = visible_text(artifact.path, recipe.evaluation.prompts)
    except ParakeetError as error:
        _refuse(artifact, str(error))
        return Verdict(False, str(error))
    if not reply:
        fault = "It answers no prompt with a visible character, and writes none on its own. Train it for longer."
        decision = _refuse(artifact, fault)
        if decision.action in (PROMOTED, FORCED):
            return Verdict(True, f"Failed, and promoted all the same on {format_time(decision.time)}. {fault}")
        return Verdict(False, fault)
    return Verdict(True, figures={"prompt": prompt, "reply": reply})


def _refuse(release: Artifact, reason: str) -> Decision:
    """Record that a release failed a check: Dagster then skips the comparison, which would do so."""
    root = release.path.parents[1]
    now = incumbent(root, recipe_of(release.path))
    before = now.name if now is not None and now.name != release.path.name else None
    return refuse(root, release, Judgement(release.path.name, before, (reason,), {}))


class OriginalModelStage(Stage):
    name = "original_model"
    group = "original"
    summary = "The published checkpoint as a release: the same weights, bit for bit, without a pickle."
    detail = "Read as tensors only, in a process of its own: nothing in the file is executed."
    kinds = frozenset({"safetensors"})
    version = 2
    is_model = True

    def after(self, recipe: Recipe) -> tuple[str, ...]:
        return (OriginalCheckpointFile.name,)

    def is_possible(self, recipe: Recipe, root: Path) -> bool:
        return OriginalCheckpointFile.path(recipe, root).is_file()

    def files(self, recipe: Recipe, root: Path) -> dict[str, Path]:
        path = OriginalCheckpointFile.path(recipe, root)
        if not path.is_file():
            raise ParakeetError(f"{path} is missing. Run the same build with: --select {OriginalCheckpointFile.name}")
        return {path.name: path}

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        return {"file_name": recipe.original.file_name}

    def expected_bytes(self, recipe: Recipe, inputs: Mapping[str, Artifact], file_bytes: int, root: Path) -> int:
        return round(1.05 * file_bytes)

    def make(self, context: MakeContext) -> dict[str, Any]:
        from parakeet.release.importing import make_original_model

        checkpoint = OriginalCheckpointFile.path(context.recipe, context.root)
        folders = {OriginalCheckpointFile.name: checkpoint}
        return make_original_model(context.recipe, folders, context.output, context.progress)

    def headline(self, counts: Mapping[str, Any]) -> str:
        return f"{counts['parameters']:,} parameters, {format_bytes(counts['bytes'])}"

    def figures(self, artifact: Artifact) -> Figures:
        shown = ("name", "parameters", "source_bytes", "source_sha256", "softmax")
        # An artefact of an earlier version has no `softmax`.
        return {**{key: artifact.counts[key] for key in shown if key in artifact.counts}, "card": _card(artifact)}


class OriginalCheckpointFile(ExternalFile):
    name = "original_checkpoint"
    group = "original"
    summary = "The checkpoint that the original model's author published, as a file in `models/`."
    detail = (
        "A file that is there already is used. Otherwise it is fetched from the recipe's mirrors or from Google Drive."
    )
    kinds = frozenset({"pytorch"})
    check_name = "original_checkpoint_is_whole"
    check_summary = (
        "The archive is whole and plain, every member has its CRC-32, and its pickle names no program. A file that "
        "passed is not read again while its size and time stay the same."
    )

    @staticmethod
    def path(recipe: Recipe, root: Path) -> Path:
        return models_folder(root) / recipe.original.file_name

    def obtain(self, recipe: Recipe, root: Path, progress: Progress, force: bool) -> Obtained:
        from parakeet.download.original import obtain_original

        how = "fetched"
        if self.path(recipe, root).is_file():
            how = "checked again" if force else "up to date"
        checked = obtain_original(root, recipe.original, progress, force=force)
        figures = {
            "path": checked.path,
            "size_bytes": checked.n_bytes,
            "sha256": checked.sha256,
            "source": checked.source,
        }
        return Obtained(how, f"{format_bytes(checked.n_bytes)}, {checked.source}", checked.sha256, figures)

    def fault(self, recipe: Recipe, root: Path, progress: Progress) -> str | None:
        from parakeet.download.original import fault_of_original

        fault = fault_of_original(root, recipe.original, progress)
        return f"{self.path(recipe, root)}: {fault}" if fault else None


def _card(artifact: Artifact) -> Markdown:
    from parakeet.release.card import card_body

    return Markdown(card_body((artifact.path / "README.md").read_text(encoding="utf-8")))
