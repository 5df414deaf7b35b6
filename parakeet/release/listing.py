"""The models under a root: listed, found by name, and described. Only their records are read. Imports no torch."""

import datetime
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from parakeet.artifact import MANIFEST_FILE, Artifact
from parakeet.errors import ParakeetError
from parakeet.formatting import format_bytes, format_percent, format_time, render_table
from parakeet.home import release_folder
from parakeet.lineage import began_with
from parakeet.model.config import ModelConfig
from parakeet.names import MOST_SHOWN
from parakeet.release.foreign import refuse_foreign, refuse_missing, refuse_ollama_name
from parakeet.release.history import REFUSED, ROLLED_BACK, Decision, decisions
from parakeet.release.pointers import about_promoted, find_opened, incumbent, promoted_recipes
from parakeet.release.verify import GENERATION_FILE, IMPORTED_FOLDER, SUMS_FILE, TRAINING_MANIFEST_FILE

ID_CHARACTERS = 8
NO_RELEASE = "There is no released model in {} yet. Make one with: parakeet build"


@dataclass(frozen=True)
class ListedModel:
    """One line of `parakeet models`. `bits_per_byte` is empty for an imported model, `made` is in ISO 8601."""

    directory: Path
    name: str
    parameters: int
    bits_per_byte: dict[str, float | None]
    made: str
    latest: bool
    n_bytes: int = 0
    """Size of its files."""
    state: str = ""
    """`promoted`, `earlier` (it was promoted), `rolled back`, `refused`, or `not judged`; empty if it is no release."""
    reasons: tuple[str, ...] = ()
    """Why, if the last decision on it gave reasons."""

    @property
    def is_promoted(self) -> bool:
        return self.state == PROMOTED


PROMOTED = "promoted"


def list_models(root: Path) -> tuple[list[ListedModel], list[str]]:
    """The models under a root that a chat can open, oldest first, and a message for each that cannot be read."""
    listed, faults = [], []
    kinds: tuple[tuple[Path, str, Callable[[Path], ListedModel]], ...] = (
        (release_folder(root), f"*-*/{MANIFEST_FILE}", partial(_released, _Standing.of(root))),
        (root / "original_model", f"*-*/{MANIFEST_FILE}", _built),
        (root / IMPORTED_FOLDER, f"*/{GENERATION_FILE}", _imported),
    )
    for folder, pattern, read in kinds:
        for path in sorted(folder.glob(pattern)):
            if path.parent.name.startswith(".") or path.parent.is_symlink():
                continue
            try:
                listed.append(read(path.parent))
            except ParakeetError as error:
                faults.append(str(error))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                faults.append(f"{path} cannot be read as the record of a model: {error}.")
    # A release without a readable manifest is among the faults already.
    named = tuple(model.directory.name for model in listed)
    faults += [message for message in about_promoted(root) if message.startswith(named)]
    return sorted(listed, key=lambda model: (model.made, model.directory)), faults


def released_models(root: Path) -> Iterator[ListedModel]:
    """The models that can be read, oldest first."""
    yield from list_models(root)[0]


@dataclass(frozen=True)
class _Standing:
    """Which release a chat opens, which ones are promoted, and the last decision on each, by folder name."""

    opened: str | None
    promoted: frozenset[str]
    decided: Mapping[str, Decision]

    @classmethod
    def of(cls, root: Path) -> "_Standing":
        opened = find_opened(root)[0]
        promoted = {found.name for recipe in promoted_recipes(root) if (found := incumbent(root, recipe)) is not None}
        decided = {decision.release: decision for decision in decisions(root)[0]}
        return cls(opened.name if opened else None, frozenset(promoted), decided)

    def state(self, name: str) -> str:
        if name in self.promoted:
            return PROMOTED
        decision = self.decided.get(name)
        if decision is None:
            return "not judged"
        return {REFUSED: "refused", ROLLED_BACK: "rolled back"}.get(decision.action, "earlier")


def _released(standing: _Standing, directory: Path) -> ListedModel:
    decision = standing.decided.get(directory.name)
    return replace(
        _built(directory),
        latest=directory.name == standing.opened,
        state=standing.state(directory.name),
        reasons=decision.reasons if decision else (),
    )


def preferred(models: Iterable[ListedModel]) -> ListedModel:
    """Of several models with one name: the one that `parakeet chat` opens, else the promoted one, else the newest."""
    return max(models, key=lambda model: (model.latest, model.is_promoted, model.made))


def _built(directory: Path) -> ListedModel:
    artifact = Artifact.open(directory)
    counts = artifact.counts
    return ListedModel(
        directory,
        str(counts["name"]),
        int(counts["parameters"]),
        dict(counts.get("bits_per_byte", {})),
        str(artifact.manifest["made"]),
        False,
        _size(directory),
    )


def _imported(directory: Path) -> ListedModel:
    """A model of `parakeet import`: its folder has no manifest, and appeared when it was complete."""
    name = str(json.loads((directory / GENERATION_FILE).read_text(encoding="utf-8"))["name"])
    made = datetime.datetime.fromtimestamp(directory.stat().st_mtime, datetime.UTC).isoformat(timespec="seconds")
    return ListedModel(directory, name, ModelConfig.load(directory).parameter_count, {}, made, False, _size(directory))


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir() if file.is_file())


def short_ids(models: Sequence[ListedModel]) -> list[str]:
    """The first eight characters of each model's folder, or as many as tell the models apart."""
    ids = [model.directory.name for model in models]
    for length in range(ID_CHARACTERS, max(map(len, ids), default=0)):
        if len({one[:length] for one in ids}) == len(ids):
            return [one[:length] for one in ids]
    return ids


def find_model(root: Path, name: str, only_one: bool = False) -> ListedModel:
    """The model with this name or ID, or the only one whose name or ID begins so; the folder of one will do too.

    Of several models with one name it is the `preferred` one, as for `parakeet chat --model`.
    Raises ParakeetError with the candidates if there is none, or several: with `only_one` also several of one name.
    """
    models, _ = list_models(root)
    folder = Path(os.path.expanduser(name)).absolute()
    tests = (
        lambda model: os.path.isdir(folder) and model.directory.resolve() == folder.resolve(),
        lambda model: model.directory.name == name,
        lambda model: model.name == name,
        lambda model: bool(name) and (model.name.startswith(name) or model.directory.name.startswith(name)),
    )
    for fits in tests if models else ():
        found = [model for model in models if fits(model)]
        one_name = {model.name for model in found} == {name} and not only_one
        if len(found) == 1 or one_name:
            return preferred(found)
        if found:
            raise ParakeetError(f"Several models fit {name!r}: {_candidates(models, found)}. Give the ID.")
    refuse_foreign(folder, models)
    refuse_ollama_name(name)
    if not models:
        raise ParakeetError(NO_RELEASE.format(root))
    raise ParakeetError(f"No model is called {name!r}. There are: {_candidates(models, models)}. All: parakeet models")


def listed_model(root: Path, folder: Path) -> ListedModel | None:
    """The model in this folder, if `parakeet models` lists it."""
    return next((model for model in released_models(root) if model.directory.resolve() == folder.resolve()), None)


def _candidates(models: Sequence[ListedModel], found: Sequence[ListedModel]) -> str:
    """Names with IDs, the newest first."""
    ids = dict(zip((model.directory for model in models), short_ids(models), strict=True))
    shown = [f"{model.name} ({ids[model.directory]}, {format_time(model.made)})" for model in reversed(found)]
    more = len(shown) - MOST_SHOWN
    return ", ".join(shown[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def model_folder(root: Path, name: str) -> Path:
    """A folder as it is, or that of the model with this name or ID. Raises ParakeetError if it is neither."""
    path = Path(os.path.expanduser(name))
    refuse_foreign(path, released_models(root))
    if path.is_dir():
        return path
    if os.sep in name:
        refuse_missing(path, name)
    if os.sep in name or path.exists():
        raise ParakeetError(f"{path} is not a folder: give the folder of an artefact or a release, or a model's name.")
    refuse_ollama_name(name)
    if not list_models(root)[0]:
        raise ParakeetError(f"{name} is not a folder, and no model is called so: {NO_RELEASE.format(root)}")
    return find_model(root, name).directory


def latest_model_folder(root: Path) -> Path:
    """The release that `parakeet chat` opens. Raises ParakeetError if there is none."""
    opened, messages = find_opened(root)
    for message in messages:
        _say_once(message)
    if opened is None:
        raise ParakeetError(NO_RELEASE.format(root))
    return opened.resolve()


@cache
def _say_once(message: str) -> None:
    from parakeet.progress import Progress

    Progress().say(message)


def model_document(model: ListedModel, in_full: bool = False) -> dict[str, Any]:
    """The model as JSON values; `in_full` adds its shape, training, scores, licences and hashes, as far as known."""
    document: dict[str, Any] = {
        "name": model.name,
        "id": model.directory.name,
        "latest": model.latest,
        "state": model.state or None,
        "parameters": model.parameters,
        "bytes": model.n_bytes,
        "built": model.made,
        "bits_per_byte": model.bits_per_byte,
        "folder": str(model.directory),
    }
    if not in_full:
        return document
    from parakeet.evaluation.metrics import EVALUATION_FILE  # with numpy, which a list does not need

    training, manifest = (_json(model.directory / name) for name in (TRAINING_MANIFEST_FILE, MANIFEST_FILE))
    recipe = _part(training, "recipe")
    sources = recipe.get("sources")
    checkpoint = _part(training, "stages", "checkpoint", "counts")
    return document | {
        "description": recipe.get("description"),
        "reasons": list(model.reasons),
        "parakeet": _part(manifest, "versions").get("parakeet") or _part(training, "packages").get("parakeet"),
        "config": _json(model.directory / "config.json"),
        "training": {key: checkpoint[key] for key in ("run", "steps", "tokens", "final_loss") if key in checkpoint},
        "exact_match": {
            task: {key: figures.get(key) for key in ("questions", "accuracy")}
            for task, figures in _part(_json(model.directory / EVALUATION_FILE), "exact_match").items()
            if isinstance(figures, dict)
        },
        "chat": {
            key: value
            for key, value in _part(_json(model.directory / EVALUATION_FILE), "chat").items()
            if key in ("prompts", "sensible")
        },
        "licences": {
            str(source.get("name")): source.get("licence")
            for source in (sources if isinstance(sources, list) else ())
            if isinstance(source, dict)
        },
        "start": training.get("start"),
        "imported_from": training.get("imported_from"),
        "content": manifest.get("content"),
        "sha256": _sums(model.directory),
    }


def render_model(model: ListedModel) -> str:
    """Everything about one model, for a terminal."""
    full = model_document(model, in_full=True)
    config, training = full["config"], full["training"]
    shape = [
        f"{key} {config[key]:,}" for key in ("layers", "heads", "width", "context") if type(config.get(key)) is int
    ]
    shape += ["softmax off by one"] if config.get("softmax_one") is True else []
    shape += ["keys and values not shared"] if config.get("share_keys_values") is False else []
    imported = full["imported_from"] if isinstance(full["imported_from"], dict) else {}
    facts = {
        "ID": full["id"],
        "folder": full["folder"],
        "built": f"{format_time(model.made)}" + (f" by Parakeet {full['parakeet']}" if full["parakeet"] else ""),
        "state": " – ".join(filter(None, (model.state, " ".join(model.reasons)))),
        "opened by": "parakeet chat" if model.latest else f"parakeet chat --model {full['id']}",
        "about": full["description"],
        "parameters": f"{model.parameters:,}",
        "shape": ", ".join(shape),
        "size": format_bytes(model.n_bytes),
        "imported from": imported.get("file_name"),
        "began with": began_with(full["start"]) if isinstance(full["start"], dict) else None,
        "trained": ", ".join(
            f"{value:,} {key}" if isinstance(value, int) else f"{key.replace('_', ' ')} {value:.3f}"
            for key, value in training.items()
            if isinstance(value, int | float)
        ),
        "run": training.get("run"),
        "content": full["content"],
    }
    sections = [[model.name, *_indented([(key, str(value)) for key, value in facts.items() if value])]]
    scores = [(source, "not measured" if bits is None else f"{bits:.3f} bits per byte")
              for source, bits in model.bits_per_byte.items()]  # fmt: skip
    scores += [
        (task, f"{format_percent(found['accuracy'])} of {found['questions']} questions answered exactly")
        for task, found in full["exact_match"].items()
        if isinstance(found["accuracy"], int | float)
    ]
    chat = full["chat"]
    if isinstance(chat.get("sensible"), int | float):
        scores.append(
            ("chat", f"{format_percent(chat['sensible'])} of {chat.get('prompts', '?')} prompts answered sensibly")
        )
    licences = [(source, str(licence)) for source, licence in full["licences"].items()]
    hashes = [(digest, name) for name, digest in full["sha256"].items()]
    for title, rows in (("Held-out scores", scores), ("Licences of the text", licences), ("sha256", hashes)):
        if rows:
            sections.append([title, *_indented(rows)])
    return "\n\n".join("\n".join(section) for section in sections)


def _indented(rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"  {line}" for line in render_table([""] * len(rows[0]), rows).splitlines()]


def _sums(directory: Path) -> dict[str, str]:
    """sha256 by file, as the release records them."""
    try:
        lines = (directory / SUMS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _json(path: Path) -> dict[str, Any]:
    """An object in a file; empty if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _part(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """An object within objects; empty if it is missing."""
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
