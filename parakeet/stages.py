"""The whole build on one page: every stage, what it reads of the recipe, and what it is made from.

Dagster's assets and the command line both go through `Build`; the stages' work is done in the rooms that
`make` names, which are imported only when a stage has to be made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, Make, Store, Work, replace_file
from parakeet.errors import ParakeetError
from parakeet.hashes import HashCache
from parakeet.home import hashes_file, models_folder, runs_folder
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import SOURCE_FILES, BucketSource, DownloadSource, FileSource, HubSource, RemoteSource
from parakeet.stage_settings import (
    checkpoint_settings,
    cleaning_settings,
    data_card_settings,
    deduplication_settings,
    documents_settings,
    evaluation_headline,
    evaluation_settings,
    packing_headline,
    packing_settings,
    release_settings,
)
from parakeet.training.job import CURVE_FILE, METRICS_FILE, SUMMARY_FILE
from parakeet.training.stage import Launch, expected_bytes, make_checkpoint

ACTIVE_RECIPE_FILE = "recipe.yaml"
DEFAULT_RECIPE = "demo"
ORIGINAL_CHECKPOINT = "original_checkpoint"


@dataclass(frozen=True)
class Stage:
    """One step of the build. `settings` is the part of the recipe that the stage reads, as JSON values.

    A higher `version` says that the code now makes something else of the same inputs. `headline` says in a few
    words what the counts of its manifest hold. `growth` times the bytes of the inputs is the disk space that
    the stage asks for before it begins. `after` names assets that are files of the user's, not artefacts. A `resumable`
    stage goes on inside itself after it was killed.
    """

    name: str
    group: str
    summary: str
    make: str
    settings: Callable[[Recipe], dict[str, Any]]
    headline: Callable[[dict[str, Any]], str]
    inputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    version: int = 1
    folder: str = ""
    records: tuple[str, ...] = ()
    growth: float = 1.5
    resumable: bool = False

    def inputs_for(self, recipe: Recipe) -> tuple[str, ...]:
        """The stages that this one is made from, for a recipe.

        Its remote sources are fetched first. cl100k_base is the same whatever the corpus holds, so new text does not
        make it anew.
        """
        if self.name == "documents":
            return tuple(f"{SOURCE_FILES}/{source.name}" for source in _remote(recipe.sources))
        if self.name == "clean_documents":
            sets = _remote(recipe.decontamination.sets)
            return (*self.inputs, *(f"{SOURCE_FILES}/{chosen.name}" for chosen in sets))
        if self.name == "data_card":  # it names every file, and two files may come to the same text
            return (*self.inputs, *(stage.name for stage in fetching_stages(recipe)))
        if self.name == "tokenizer" and recipe.tokenizer.kind == "cl100k_base":
            return ()
        return self.inputs


STAGES: tuple[Stage, ...] = (
    Stage(
        "documents",
        group="corpus",
        summary="Every record of the recipe's sources in one shape: turns with a role, a source and a licence.",
        make="parakeet.data.reading.collect:collect_documents",
        settings=documents_settings,
        headline=lambda c: f"{c['documents']:,} documents of {', '.join(c['sources'])}",
        version=3,
        resumable=True,
    ),
    Stage(
        "clean_documents",
        group="corpus",
        summary="Documents with normalised text, without rubbish and without what the model is to be tested on.",
        make="parakeet.data.cleaning.clean:clean_documents",
        settings=cleaning_settings,
        headline=lambda c: f"{c['documents']:,} kept, {c['dropped']:,} dropped",
        inputs=("documents",),
        version=3,
        resumable=True,
    ),
    Stage(
        "deduplicated_documents",
        group="corpus",
        summary="One document of each cluster of exact and near duplicates, split into training and held-out ones.",
        make="parakeet.data.deduplication.deduplicate:deduplicate_documents",
        settings=deduplication_settings,
        headline=lambda c: f"{c['documents']:,} kept, {c['exact_duplicates'] + c['near_duplicates']:,} duplicates",
        inputs=("clean_documents",),
        growth=3.0,
        version=3,
        resumable=True,
    ),
    Stage(
        "tokenizer",
        group="tokens",
        summary="The vocabulary and control tokens that turn text into ids.",
        make="parakeet.data.tokens.vocabulary:make_tokenizer",
        settings=lambda recipe: recipe.part("tokenizer"),
        headline=lambda c: f"{c['tokens']:,} tokens ({c['kind']})",
        inputs=("deduplicated_documents",),
        growth=0.0,
        version=2,
    ),
    Stage(
        "token_shards",
        group="tokens",
        summary="The corpus as ids, in Arrow files that memory-map, training and held-out documents apart.",
        make="parakeet.data.tokens.tokenise:make_token_shards",
        settings=lambda recipe: {**recipe.part("shards"), "sources": sorted(source.name for source in recipe.sources)},
        headline=lambda c: f"{c['train']['tokens']:,} tokens, {c['held_out']['tokens']:,} held out",
        inputs=("deduplicated_documents", "tokenizer"),
        growth=4.0,
        version=2,
        resumable=True,
    ),
    Stage(
        "packing_plan",
        group="tokens",
        summary="Which pieces of which documents share a training row, so that no token and hardly a slot is lost.",
        make="parakeet.data.tokens.packing:make_packing_plan",
        settings=packing_settings,
        headline=packing_headline,
        inputs=("token_shards",),
        version=3,
        growth=0.5,
    ),
    Stage(
        "data_card",
        group="tokens",
        summary="What the corpus holds, by source, as a page: sizes, licences, what was dropped and why, examples.",
        make="parakeet.data.card.make:make_data_card",
        settings=data_card_settings,
        headline=lambda c: f"{c['sources']} sources, {c['tokens']:,} tokens",
        inputs=("documents", "clean_documents", "deduplicated_documents", "tokenizer", "token_shards", "packing_plan"),
        growth=0.0,
    ),
    Stage(
        "checkpoint",
        group="model",
        summary="The trained weights, with the run's metrics and its loss curve.",
        make="parakeet.training.stage:make_checkpoint",
        settings=checkpoint_settings,
        headline=lambda c: f"{c['parameters']:,} parameters, {c['tokens']:,} tokens, loss {c['final_loss']:.3f}",
        inputs=("token_shards", "packing_plan", "tokenizer"),
        records=(METRICS_FILE, SUMMARY_FILE, CURVE_FILE),
        growth=0.0,
    ),
    Stage(
        "evaluation",
        group="model",
        summary="Held-out bits per byte beside two yardsticks, exact-match accuracy, and replies to fixed prompts.",
        make="parakeet.evaluation.report:evaluate",
        settings=evaluation_settings,
        headline=evaluation_headline,
        inputs=("checkpoint", "token_shards", "tokenizer", "documents"),
        version=2,
        growth=0.1,
    ),
    Stage(
        "release",
        group="release",
        summary="The model as a directory that needs nothing else: weights, tokenizer, card, evaluation, lineage.",
        make="parakeet.release.package:make_release",
        settings=release_settings,
        headline=lambda c: f"{c['name']}, {c['bytes'] / 1e6:,.1f} MB",
        inputs=("checkpoint", "tokenizer", "evaluation"),
        folder="releases",
    ),
    Stage(
        "original_model",
        group="original",
        summary="The published checkpoint as a release: the same weights, bit for bit, without a pickle.",
        make="parakeet.release.importing:make_original_model",
        settings=lambda recipe: {"file_name": recipe.original.file_name},
        headline=lambda c: f"{c['parameters']:,} parameters, {c['bytes'] / 1e6:,.1f} MB",
        after=(ORIGINAL_CHECKPOINT,),
        growth=1.05,
    ),
)


class Build:
    """One recipe's stages over one store of artefacts."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.store = Store(root)
        self.recipe = recipe
        self._hashes = HashCache(hashes_file(root))
        self._found: dict[str, Artifact] = {}

    def work(self, name: str) -> Work:
        """What has to be made for a stage; ParakeetError if one of its inputs has not been made."""
        stage = self._stage(name)
        inputs = {upstream: self.artifact(upstream) for upstream in stage.inputs_for(self.recipe)}
        files = self._files(name)
        return Work(
            stage=stage.name,
            version=stage.version,
            settings=stage.settings(self.recipe),
            inputs=inputs,
            files={label: digest for label, (_, digest) in files.items()},
            records=stage.records,
            expected_bytes=self._expected_bytes(stage, inputs, [path for path, _ in files.values()]),
            folder=stage.folder or stage.name,
            resumable=stage.resumable,
        )

    def find(self, name: str) -> Artifact | None:
        """The stage's artefact for this recipe, if it and everything before it have been made."""
        if name not in self._found:
            if any(self.find(upstream) is None for upstream in self._stage(name).inputs_for(self.recipe)):
                return None
            if name == "original_model" and not self.original_checkpoint.is_file():
                return None
            artifact = self.store.find(self.work(name))
            if artifact is None:
                return None
            self._found[name] = artifact
        return self._found[name]

    def artifact(self, name: str) -> Artifact:
        """The same, or a ParakeetError that says what to run."""
        artifact = self.find(name)
        if artifact is None:
            raise ParakeetError(
                f"{name} has not been made for recipe {self.recipe.name}. Run the same build with: --select {name}"
            )
        return artifact

    def ensure(
        self, name: str, progress: Progress, launch: Launch, force: bool = False, try_anyway: bool = False
    ) -> tuple[Artifact, bool]:
        """The stage's artefact, made now if need be, and whether it was.

        `launch` runs the trainer's process; `try_anyway` lets it start although the forecast says that it will not fit.
        """
        work = self.work(name)
        make = self._make(name, work, launch, force, try_anyway)
        artifact, made = self.store.ensure(work, make, progress, force)
        self._found[name] = artifact
        return artifact, made

    def _make(self, name: str, work: Work, launch: Launch, force: bool, try_anyway: bool) -> Make:
        if name == "checkpoint":
            runs = runs_folder(self.store.root)
            make = partial(make_checkpoint, launch=launch, runs=runs, fresh=force, try_anyway=try_anyway)
            return partial(make, self.recipe, work.inputs)
        module, function = self._stage(name).make.split(":")
        if name == "release":
            lineage = {upstream: self.artifact(upstream).manifest for upstream in self.upstream(name)}
            return partial(getattr(import_module(module), function), self.recipe, work.inputs, lineage)
        folders = {upstream: artifact.path for upstream, artifact in work.inputs.items()}
        if name == "original_model":
            folders[ORIGINAL_CHECKPOINT] = self.original_checkpoint
        if name.startswith(f"{SOURCE_FILES}/"):
            source = self._remote_source(name)
            limit = fetched_share(self.recipe, source.name)
            return partial(getattr(import_module(module), function), source, limit)
        return partial(getattr(import_module(module), function), self.recipe, folders)

    def upstream(self, name: str) -> list[str]:
        """The stages that a stage is made from, and those before them, in the order of the build."""
        needed: set[str] = set()
        waiting = list(self._stage(name).inputs_for(self.recipe))
        while waiting:
            if (one := waiting.pop()) not in needed:
                needed.add(one)
                waiting += self._stage(one).inputs_for(self.recipe)
        return [stage.name for stage in stages_of(self.recipe) if stage.name in needed]

    def _stage(self, name: str) -> Stage:
        for stage in stages_of(self.recipe):
            if stage.name == name:
                return stage
        raise ParakeetError(
            f"Recipe {self.recipe.name} has no {name}. If another recipe was made the active one, reload the "
            "definitions in Dagster."
        )

    def _remote_source(self, name: str) -> RemoteSource:
        wanted = name.removeprefix(f"{SOURCE_FILES}/")
        return next(source for source in remote_sources(self.recipe) if source.name == wanted)

    @property
    def original_checkpoint(self) -> Path:
        return models_folder(self.store.root) / self.recipe.original.file_name

    def _files(self, name: str) -> dict[str, tuple[Path, str]]:
        """Path and sha256 of the files outside the store that a stage reads, by label."""
        if name == "original_model":
            path = self.original_checkpoint
            if not path.is_file():
                raise ParakeetError(f"{path} is missing. Run the same build with: --select {ORIGINAL_CHECKPOINT}")
            return {path.name: (path, self._hashes.sha256([path])[path])}
        if name == "clean_documents":
            return self._read_files([s for s in self.recipe.decontamination.sets if isinstance(s, FileSource)])
        if name == "data_card":
            return self._files("documents") | self._files("clean_documents")
        if name == "documents":
            return self._read_files([source for source in self.recipe.sources if isinstance(source, FileSource)])
        return {}

    def _read_files(self, sources: Sequence[FileSource]) -> dict[str, tuple[Path, str]]:
        from parakeet.data.reading.sources import source_files, source_root

        files: dict[str, tuple[Path, str]] = {}
        for source in sources:
            root, found = source_root(source), source_files(source)
            digests = self._hashes.sha256(found)
            files |= {f"{source.name}/{path.relative_to(root).as_posix()}": (path, digests[path]) for path in found}
        return files

    def _expected_bytes(self, stage: Stage, inputs: dict[str, Artifact], files: list[Path]) -> int:
        if stage.name == "checkpoint":
            return expected_bytes(self.recipe, inputs, runs_folder(self.store.root))
        sizes = sum(artifact.n_bytes for artifact in inputs.values()) + sum(path.stat().st_size for path in files)
        return round(stage.growth * sizes)


STAGE_NAMES = tuple(stage.name for stage in STAGES)


def remote_sources(recipe: Recipe) -> list[RemoteSource]:
    """The sources and evaluation sets that are fetched first."""
    return _remote([*recipe.sources, *recipe.decontamination.sets])


def _remote(sources: Sequence[object]) -> list[RemoteSource]:
    return [source for source in sources if isinstance(source, DownloadSource | HubSource | BucketSource)]


def fetched_share(recipe: Recipe, name: str) -> float:
    """The recipe's limit for a source; of an evaluation set all is fetched, or a part of it would be trained on."""
    return 1.0 if any(chosen.name == name for chosen in recipe.decontamination.sets) else recipe.limit


def _fetching(source: RemoteSource) -> Stage:
    read = {"url", "drive_id", "files", "dataset", "revision", "path", "endpoint", "kind", "anonymous"}

    def settings(recipe: Recipe) -> dict[str, Any]:
        now = next(s for s in remote_sources(recipe) if s.name == source.name)
        # What is expected of files changes nothing of what they are: a hash that was learnt fetches nothing again.
        expected = {"files": {"__all__": {"sha256", "n_bytes"}}} if isinstance(now, DownloadSource) else None
        read_now = now.model_dump(mode="json", include=read, exclude=expected)
        return {"source": read_now, "limit": fetched_share(recipe, source.name)}

    return Stage(
        f"{SOURCE_FILES}/{source.name}",
        group="sources",
        summary=f"The files of the source {source.name}, as they were published ({source.licence}).",
        make="parakeet.download.sources:fetch_source",
        settings=settings,
        headline=lambda c: f"{c['files']:,} files, {c['bytes'] / 1e6:,.1f} MB",
        version=2,
        growth=0.0,
        resumable=True,
    )


def fetching_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """One stage for each remote source, so that each is fetched, and fetched again, alone."""
    return tuple(map(_fetching, remote_sources(recipe)))


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Every stage of a recipe's build, in order."""
    return (*fetching_stages(recipe), *STAGES)


def asset_names(recipe: Recipe) -> tuple[str, ...]:
    """What of a recipe's build can be selected, in order."""
    return (*(stage.name for stage in stages_of(recipe)), ORIGINAL_CHECKPOINT)


def stage_named(name: str) -> Stage:
    """One of the stages that every recipe has."""
    return STAGES[STAGE_NAMES.index(name)]


def active_recipe(root: Path) -> Recipe:
    """The recipe that Dagster builds: `recipe.yaml` under the root, or the demo where there is none."""
    path = root / ACTIVE_RECIPE_FILE
    return load_recipe(str(path) if path.is_file() else DEFAULT_RECIPE)


def use_recipe(root: Path, recipe: Recipe) -> None:
    """Make a recipe the active one."""
    path = root / ACTIVE_RECIPE_FILE
    text = f"# The active recipe, written by `parakeet use` and `parakeet build`.\n{recipe.to_yaml()}"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        root.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
