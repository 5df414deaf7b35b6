"""Recipes as files: `parakeet/recipes/*.yaml` are the shipped ones.

A recipe file may begin with `extends: NAME-OR-PATH` and then holds only what differs. Sections are merged key by key at
every level; lists, and sections that one of the two sets to null, are replaced.
"""

import difflib
import json
import os
import sys
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_sources import SOURCE_KINDS
from parakeet.sanitise import sanitise


def shipped_recipes() -> dict[str, Path]:
    """Names and files of the recipes that come with Parakeet."""
    folder = Path(str(resources.files("parakeet.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_file(name_or_path: str) -> Path:
    """The file of a shipped recipe's name, or of a path."""
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    close = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ParakeetError(f"There is no recipe {name_or_path!r}: {hint}Give a file, or one of: {', '.join(shipped)}.")


def load_recipe(name_or_path: str, report_old_keys: bool = True) -> Recipe:
    """Read a recipe, merge it with what it extends, and check it.

    Keys under an old name are read, and reported on standard error. Raises ParakeetError with the file, the line and
    the nearest known key.
    """
    path = recipe_file(name_or_path)
    values = _merged(path, report_old_keys, seen=())
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ParakeetError(_explain(error, path)) from None


def _merged(path: Path, report: bool, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ParakeetError(f"{path}: the recipe extends itself through {' -> '.join(str(p) for p in seen)}.")
    values = _read(path)
    old_keys: dict[str, str] = {}
    values = _with_new_names(values, path, old_keys)
    for old, new in old_keys.items() if report else ():
        print(sanitise(f"{path}: {old} is now called {new}. The old name is read for one version."), file=sys.stderr)
    parent = values.pop("extends", None)
    decontamination = values.get("decontamination")
    sets = decontamination.get("sets") if isinstance(decontamination, dict) else None
    for named in (values.get("sources"), sets):
        for entry in named if isinstance(named, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                entry["path"] = _beside(path, entry["path"])
    original = values.get("original")
    mirrors = original.get("mirrors") if isinstance(original, dict) else None
    if isinstance(original, dict) and isinstance(mirrors, list):
        original["mirrors"] = [_beside(path, mirror) for mirror in mirrors]
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ParakeetError(f"{path}: extends must be the name or the path of one recipe.")
    beside = path.parent / parent
    return _overlaid(_merged(beside if beside.is_file() else recipe_file(parent), report, (*seen, path)), values)


def _overlaid(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of a recipe that extends it.

    Sections are merged. A map whose keys are the user's own (numbers, in top_phrases) is replaced, as lists are.
    """
    merged = dict(base)
    for key, value in values.items():
        inner = merged.get(key)
        sections = isinstance(inner, dict) and isinstance(value, dict)
        if sections and all(isinstance(name, str) for name in (*inner, *value)):  # type: ignore[misc]
            merged[key] = _overlaid(inner, value)  # type: ignore[arg-type]
        else:
            merged[key] = value
    return merged


RENAMED_KEYS = {
    ("packing", "row_tokens"): "sequence_length",
    ("packing", "then", "row_tokens"): "sequence_length",
    ("training", "recompute"): "activation_checkpointing",
}
"""Keys of Parakeet 0.1 that have another name now. They are read for one version."""


def _with_new_names(values: Any, path: Path, renamed: dict[str, str], place: tuple[str, ...] = ()) -> Any:
    """The values with old keys under their new names. `renamed` gets the old keys, each with its new name."""
    if isinstance(values, list):
        return [_with_new_names(item, path, renamed, place) for item in values]
    if not isinstance(values, dict):
        return values
    found: dict[Any, Any] = {}
    for key, value in values.items():
        new = RENAMED_KEYS.get((*place, str(key)))
        if new is not None:
            old = ".".join((*place, str(key)))
            if new in values:
                raise ParakeetError(f"{path}: {old} is the old name of {new}, and both are set. Keep {new}.")
            renamed[old] = new
        found[key if new is None else new] = _with_new_names(value, path, renamed, (*place, str(key)))
    return found


def _beside(recipe: Path, place: Any) -> Any:
    """A path relative to the recipe file. Addresses, and values that are not text, stay as they are."""
    if not isinstance(place, str) or "://" in place:
        return place
    # os.path.expanduser leaves ~unknown as it is; Path.expanduser raises.
    return str(recipe.parent / os.path.expanduser(place))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
        json.dumps(values, default=str)  # an alias that contains itself, or nesting without end
    except UnicodeDecodeError as error:
        raise ParakeetError(f"{path}: not a text file (byte {error.start} is not UTF-8).") from None
    except (RecursionError, ValueError):
        raise ParakeetError(
            f"{path}: cannot be read as a recipe: it is nested too deeply, or contains itself."
        ) from None
    except (OSError, yaml.YAMLError) as error:
        raise ParakeetError(f"{path}: cannot be read as a recipe: {error}") from None
    if not isinstance(values, dict):
        raise ParakeetError(f"{path}: a recipe is a YAML mapping of sections, and this file is not.")
    _refuse_repeated_keys(node, path)
    return values


def yaml_reason(error: Exception) -> str:
    """Why a YAML text cannot be read, and where: `line 3, column 5: expected ',' or ']'`."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or contains itself"
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())


def _refuse_repeated_keys(node: yaml.Node | None, path: Path) -> None:
    """PyYAML silently keeps the last of two equal keys."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                row = key.start_mark.line + 1
                raise ParakeetError(f"{path}, line {row}: {key.value} is set twice; keep one of them.")
            seen.add(key.value)
            _refuse_repeated_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, path)


def _explain(error: ValidationError, path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    lines = []
    for problem in error.errors():
        location = _without_kind(problem["loc"])
        row = _row(text, location)
        where = f"{path}, line {row}" if row else str(path)
        key = ".".join(map(str, location)).replace(".[key]", " (the key)")
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"])
            close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}."
            lines.append(f"{where}: unknown key {key}: {hint}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = f" (given: {problem['input']!r})" if isinstance(problem["input"], str | int | float) else ""
            lines.append(f"{where}: {key + ': ' if key else ''}{message}{given}")
    return "\n".join(lines)


def _without_kind(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The location without the source's kind, which pydantic adds: ("sources", 0, "files", "path")."""
    at = _kind_at(location)
    return (*location[:at], *location[at + 1 :]) if at else location


def _kind_at(location: tuple[int | str, ...]) -> int:
    """Index of the kind of a source or an evaluation set in a location; 0 if it has none."""
    for lists in (("sources",), ("decontamination", "sets")):
        at = len(lists) + 1
        if location[: len(lists)] == lists and len(location) > at and location[at] in SOURCE_KINDS:
            return at
    return 0


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Recipe
    if at := _kind_at(location):
        section, location = SOURCE_KINDS[str(location[at])], location[at + 1 :]
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _model_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((m for m in map(_model_of, typing.get_args(annotation)) if m is not None), None)


def _row(text: str, location: tuple[int | str, ...]) -> int | None:
    """1-based line of a key in a YAML text, or None if the key comes from an extended recipe."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    row = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                return row
            row, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            row = node.start_mark.line + 1
    return row
