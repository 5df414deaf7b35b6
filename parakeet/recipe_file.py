"""Recipes as files: `parakeet/recipes/*.yaml` are the shipped ones.

A recipe file may begin with `extends: NAME-OR-PATH` and then holds only what differs. Sections are merged key by key at
every level; lists, and sections that one of the two sets to null, are replaced.
"""

import difflib
import json
import os
import re
import sys
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from parakeet.errors import ParakeetError, os_reason
from parakeet.recipe import LATEST, ORIGINAL_MODEL, Recipe
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
    hint = f": did you mean {close[0]}?" if close else "."
    raise ParakeetError(f"There is no recipe {name_or_path!r}{hint} Give a file, or one of: {', '.join(shipped)}.")


def load_recipe(name_or_path: str, report_old_keys: bool = True) -> Recipe:
    """Read a recipe, merge it with what it extends, and check it.

    Keys under an old name are read, and reported on standard error. Raises ParakeetError with the file, the line and
    the nearest known key.
    """
    path = recipe_file(name_or_path)
    files: list[Path] = []
    values = _merged(path, report_old_keys, files)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        nodes = {path: yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader) for path in files}
        raise ParakeetError(_explain(error, nodes)) from None


def parse_recipe(text: str, name: str) -> Recipe:
    """A whole recipe, as `Recipe.to_yaml` writes it. Raises ParakeetError, which calls it `name`."""
    path = Path(name)
    try:
        return Recipe.model_validate(_with_new_names(mapping_of(text, path), path, {}))
    except ValidationError as error:
        raise ParakeetError(_explain(error, {path: yaml.compose(text, Loader=yaml.SafeLoader)})) from None


def _merged(path: Path, report: bool, seen: list[Path]) -> dict[str, Any]:
    """The values of a recipe over those that it extends. Each file is added to `seen`."""
    path = Path(os.path.realpath(path))
    if path in seen:
        raise ParakeetError(f"{path}: the recipe extends itself through {' -> '.join(str(p) for p in seen)}.")
    seen.append(path)
    values = _read(path)
    old_keys: dict[str, str] = {}
    values = _with_new_names(values, path, old_keys)
    for old, new in old_keys.items() if report else ():
        print(sanitise(f"{path}: {old} is now called {new}. The old name is read for one version."), file=sys.stderr)
    parent = values.pop("extends", None)
    if len(seen) > 1 and values.pop("notify", None) is not None and report:
        print(
            sanitise(f"{path}: notify is left out, since {seen[0]} only extends this recipe. Set it there to be told."),
            file=sys.stderr,
        )
    decontamination = values.get("decontamination")
    sets = decontamination.get("sets") if isinstance(decontamination, dict) else None
    for named in (values.get("sources"), sets):
        for entry in named if isinstance(named, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                entry["path"] = _beside(path, entry["path"])
    evaluation = values.get("evaluation")
    benchmarks = evaluation.get("benchmarks") if isinstance(evaluation, dict) else None
    if isinstance(benchmarks, dict) and isinstance(benchmarks.get("data"), str):
        benchmarks["data"] = _beside(path, benchmarks["data"])
    training = values.get("training")
    if isinstance(training, dict) and isinstance(training.get("start"), str):
        training["start"] = start_beside(path.parent, training["start"])
    original = values.get("original")
    mirrors = original.get("mirrors") if isinstance(original, dict) else None
    if isinstance(original, dict) and isinstance(mirrors, list):
        original["mirrors"] = [_beside(path, mirror) for mirror in mirrors]
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ParakeetError(f"{path}: extends must be the name or the path of one recipe.")
    beside = path.parent / parent
    return overlaid(_merged(beside if beside.is_file() else recipe_file(parent), report, seen), values)


def overlaid(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of a recipe that extends it.

    Sections are merged. A map whose keys are the user's own (numbers, in top_phrases) is replaced, as lists are.
    """
    merged = dict(base)
    for key, value in values.items():
        inner = merged.get(key)
        sections = isinstance(inner, dict) and isinstance(value, dict)
        if sections and all(isinstance(name, str) for name in (*inner, *value)):  # type: ignore[misc]
            merged[key] = overlaid(inner, value)  # type: ignore[arg-type]
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


def start_beside(folder: Path, start: str) -> str:
    """`training.start` with a path relative to `folder`. A word is a folder's only if there is one of that name."""
    is_word = os.sep not in start and start != "~"
    if not start or (is_word and (start in (ORIGINAL_MODEL, LATEST, "none") or not (folder / start).is_dir())):
        return start
    return str(folder / os.path.expanduser(start))


class _Loader(yaml.SafeLoader):
    """Reads JSON too: there, two \\u escapes make one character outside of the basic plane."""

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ParakeetError(f"{path}: too large for a recipe ({path.stat().st_size:,} bytes).")
        return mapping_of(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise ParakeetError(
            f"{path}: not a text file (byte {error.start} is not UTF-8). Save the recipe as UTF-8."
        ) from None
    except OSError as error:
        raise ParakeetError(f"{path}: cannot be read as a recipe: {os_reason(error)}.") from None


def mapping_of(text: str, path: Path, what: str = "recipe") -> dict[str, Any]:
    """The values of a YAML text. Raises ParakeetError with the line, also for what YAML silently reads otherwise."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _refuse_endless(node, path, what)
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ParakeetError(f"{path}: cannot be read as a {what}: {yaml_reason(error)}") from None
    if not isinstance(values, dict):
        raise ParakeetError(f"{path}: a {what} is a YAML mapping of sections, and this file is not.")
    _refuse_traps(node, path)
    return values


LARGEST_FILE = 64 << 20
LARGEST_TREE = 1_000_000
"""Values of a recipe, each alias counted with all that it stands for."""


def yaml_reason(error: Exception) -> str:
    """Why a YAML text cannot be read, where, and what to do about it."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or contains itself."
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).replace('in "<unicode string>", ', "").split()) + "."
    mark = error.problem_mark
    what = error.problem or error.context
    if error.problem and error.problem.startswith("but "):
        what = f"{error.context}, {error.problem}"
    problem = f"line {mark.line + 1}, column {mark.column + 1}: {what}."
    if "'\\t'" in problem:
        return f"{problem} Indent with spaces, not with tabs."
    return f"{problem} Text with a sign that YAML uses itself (: # [ {{ * & ! % @ | > `) needs quotes."


def _refuse_endless(root: yaml.Node, path: Path, what: str) -> None:
    """Aliases make a small text a huge tree, or one without end."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = LARGEST_TREE  # inside itself
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
        return sizes[id(node)]

    if size(root) > LARGEST_TREE:
        raise ParakeetError(
            f"{path}: cannot be read as a {what}: an alias (*name) contains itself, or stands for more than "
            f"{LARGEST_TREE:,} values."
        )


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


_OTHER_BASE = re.compile(r"[+-]?(0[0-7_]+|\d[\d_]*(:\d+)+(\.\d*)?)")
"""010 and 1:30, which YAML 1.1 reads as 8 and as 90."""
_AFTER_COMMA = re.compile(r"\d{3}(\.\d+)?")


def _refuse_traps(node: yaml.Node | None, path: Path) -> None:
    """Raise ParakeetError where YAML silently takes what nobody means: the last of two equal keys, 010 as 8."""
    fault = ""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if node.flow_style and _AFTER_COMMA.fullmatch(key.value) and value.value == "":
                fault = f"the comma before {key.value} ends the number. Write 3000, 3_000 or 3e3, not 3,000."
            elif (read := _other_than_text(key)) not in ("", "a number"):
                fault = f'the key {key.value} is {read} in YAML. Write "{key.value}" in quotes.'
            elif key.value in seen:
                fault = f"{key.value} is set twice; keep one of them."
            if fault:
                raise ParakeetError(f"{path}, line {key.start_mark.line + 1}: {fault}")
            seen.add(key.value)
    elif (
        isinstance(node, yaml.ScalarNode) and _other_than_text(node) == "a number" and _OTHER_BASE.fullmatch(node.value)
    ):
        number = yaml.safe_load(node.value)
        raise ParakeetError(
            f"{path}, line {node.start_mark.line + 1}: YAML reads {node.value} as {number}. Write {number} if you mean "
            f'the number, or "{node.value}" in quotes if you mean the text.'
        )
    for child in _children(node) if node is not None else []:
        _refuse_traps(child, path)


def _other_than_text(node: yaml.Node | None) -> str:
    """What YAML takes a text without quotes for; "" for text, or what is no single value."""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return ""
    if node.tag.endswith(":bool"):
        return json.dumps(yaml.safe_load(node.value))
    kinds = {"int": "a number", "float": "a number", "timestamp": "a date", "null": "null"}
    return kinds.get(node.tag.rpartition(":")[2], "")


def _explain(error: ValidationError, nodes: dict[Path, yaml.Node | None]) -> str:
    """A line for each fault, with the file and line of its key: `nodes` are the recipe and those that it extends."""
    lines = []
    for problem in error.errors():
        location = without_kind(problem["loc"])
        found = [(path, *find_place(root, location)) for path, root in nodes.items()]
        # Of files that hold as much of the location, the first decides.
        path, depth, row, node = max(found, key=lambda one: one[1])
        where = f"{path}, line {row}" if row else str(next(iter(nodes)))
        key = ".".join(map(str, location)).replace(".[key]", " (the key)")
        if problem["type"] == "extra_forbidden":
            known = known_keys(problem["loc"])
            close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}."
            lines.append(f"{where}: unknown key {key}: {hint}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            shown = isinstance(problem["input"], str | int | float) and location[:1] != ("notify",)  # may be a password
            given = f" (given: {problem['input']!r})" if shown else ""
            hint = _hint(problem["type"], node if depth == len(location) else None)
            lines.append(f"{where}: {key + ': ' if key else ''}{message}{hint or given}")
    return "\n".join(lines)


def _hint(fault: str, node: yaml.Node | None) -> str:
    """What helps against a value of the wrong type."""
    if fault in ("int_parsing", "int_type", "float_parsing") and isinstance(node, yaml.ScalarNode):
        return f" (given: {node.value!r}). Write a number like 3000000, 3_000_000, 3e6 or 0.01"
    if fault.startswith(("string", "literal", "list")) and (read := _other_than_text(node)):
        text = node.value  # type: ignore[union-attr]
        return f'. {text or "An empty value"} without quotes is {read} in YAML: write "{text}" if you mean the text'
    return ""


def without_kind(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
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


def known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section that holds the last part of a location."""
    section: Any = Recipe
    if at := _kind_at(location):
        section, location = SOURCE_KINDS[str(location[at])], location[at + 1 :]
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = section_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key of this type holds, or None."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((m for m in map(section_of, typing.get_args(annotation)) if m is not None), None)


def find_place(root: yaml.Node | None, location: tuple[int | str, ...]) -> tuple[int, int, yaml.Node | None]:
    """How many parts of a location a YAML tree holds, the 1-based line of the last one (0: none), and its value."""
    depth, row, node = 0, 0, root
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            pair = (node.value[part], node.value[part])
        else:
            pair = None
        if pair is None:
            break
        depth, row, node = depth + 1, pair[0].start_mark.line + 1, pair[1]
    return depth, row, node
