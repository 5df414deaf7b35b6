"""A recipe with single keys changed, as `--set KEY=VALUE` gives them."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_file import known_keys, overlaid, section_of, start_beside, without_kind
from parakeet.recipe_reference import meaning, type_words
from parakeet.recipe_sources import NOT_A_NUMBER

KEYS_SHOWN = 4
"""Keys of a section that a message names."""

_NOT_KEYS = ("model_type", "dict_type", "model_attributes_type")
"""Pydantic's words for a single value in place of a section."""

_EXPONENT = re.compile(r"[+-]?[0-9_]+(\.[0-9]*)?[eE][+-]?[0-9]+")


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with each `KEY=VALUE`: a dotted key, an entry of a list by its number or name, and a value in YAML.

    Raises ParakeetError if a key is unknown, with the nearest one, or if a value does not fit, with what would.
    """
    if not changes:
        return recipe
    values = recipe.all_values()
    fields: dict[tuple[int | str, ...], tuple[str, FieldInfo]] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        key = key.strip()
        if not key or not equals:
            raise ParakeetError(f"--set {change}: write KEY=VALUE, for example --set training.tokens=1e6")
        place, field = _find(recipe, key)
        _put(values, place, _value(text.strip(), field))
        fields[place] = (change, field)
    _make_paths_absolute(values)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ParakeetError("\n".join(dict.fromkeys(_explain(error, fields, changes)))) from None


def setting_keys(recipe: Recipe, beginning: str = "") -> list[str]:
    """The dotted keys of a recipe's settings as the start of `KEY=VALUE`. Sections are listed by their keys."""
    return [f"{key}=" for key in _leaves(recipe, "") if key.startswith(beginning)]


def _leaves(section: Any, prefix: str) -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
            continue
        yield f"{prefix}{name}"
        for number, entry in enumerate(value) if isinstance(value, list) else ():
            if isinstance(entry, BaseModel):
                yield from _leaves(entry, f"{prefix}{name}.{number}.")


def _find(recipe: Recipe, key: str) -> tuple[tuple[int | str, ...], FieldInfo]:
    """The place of a dotted key in the recipe's values, and the field that it belongs to."""
    at: Any = recipe
    field: FieldInfo | None = None
    place: list[int | str] = []
    for part in key.split("."):
        if at is None and field is not None:
            at = section_of(field.annotation)  # a section that is switched off
        sections = at if isinstance(at, type) else type(at)
        if issubclass(sections, BaseModel):
            if part not in sections.model_fields:
                raise _unknown(recipe, key, part, list(sections.model_fields), place)
            field = sections.model_fields[part]
            at = getattr(at, part, None) if isinstance(at, BaseModel) else None
            place.append(part)
        elif isinstance(at, list):
            names = [getattr(entry, "name", "") for entry in at]
            number = int(part) if part.isdecimal() else names.index(part) if part in names else len(at)
            if number >= len(at):
                listed = ", ".join(f"{n} ({name})" if name else str(n) for n, name in enumerate(names)) or "none"
                where = ".".join(map(str, place))
                raise ParakeetError(f"--set {key}: {where} has no entry {part!r}. Its entries: {listed}.")
            at = at[number]
            place.append(number)
        elif isinstance(at, dict) and field is not None:
            # A map of the user's own keys: names in `speakers`, numbers in `top_phrases`.
            key_type, _ = get_args(field.annotation)
            place.append(part if key_type is str or not part.isdecimal() else int(part))
            at = at.get(place[-1])
        else:
            raise ParakeetError(f"--set {key}: {'.'.join(map(str, place))} is a single value and has no keys.")
    assert field is not None
    return tuple(place), field


def _unknown(recipe: Recipe, key: str, part: str, known: list[str], place: Sequence[int | str]) -> ParakeetError:
    every = [leaf.removesuffix("=") for leaf in setting_keys(recipe)]
    before = "".join(f"{one}." for one in place)
    siblings = [f"{before}{name}" for name in difflib.get_close_matches(part.lower(), known, n=1)]
    elsewhere = [leaf for leaf in every if leaf.rpartition(".")[2] == part.lower()]
    close = [leaf for leaf in every if leaf == key.lower()]
    close += siblings + elsewhere if place else elsewhere + siblings
    close += difflib.get_close_matches(key, every, n=1, cutoff=0.75)
    hint = f"Did you mean {close[0]}?" if close else f"Keys there: {', '.join(known)}."
    return ParakeetError(f"--set {key}: the recipe has no key {before}{part}. {hint}")


def _value(text: str, field: FieldInfo) -> Any:
    """The value in YAML. Text stays as it is typed where only text fits, so that `name=no` is no switch."""
    if field.annotation is str:
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    if set(get_args(field.annotation)) == {str, type(None)}:
        return text if value is not None and not isinstance(value, str) else value
    # YAML 1.1 reads 1e6 as text.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _put(values: Any, place: Sequence[int | str], value: Any) -> None:
    *sections, last = place
    for part in sections:
        if isinstance(values, dict) and values.get(part) is None:
            values[part] = {}
        values = values[part]
        if not isinstance(values, dict | list):
            return  # an earlier change has put a single value here, which does not fit
    both = isinstance(values, dict) and isinstance(values.get(last), dict) and isinstance(value, dict)
    values[last] = overlaid({"": values[last]}, {"": value})[""] if both else value


def _make_paths_absolute(values: dict[str, Any]) -> None:
    """A path in --set is relative to the folder the command runs in. Those of a recipe are absolute already."""
    decontamination = values.get("decontamination")
    sets = decontamination.get("sets") if isinstance(decontamination, dict) else None
    for entries in (values.get("sources"), sets):
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(path := entry.get("path"), str) and path and "://" not in path:
                entry["path"] = absolute(path)
    benchmarks = values["evaluation"].get("benchmarks") if isinstance(values.get("evaluation"), dict) else None
    if isinstance(benchmarks, dict) and isinstance(folder := benchmarks.get("data"), str) and folder:
        benchmarks["data"] = absolute(folder)
    training = values.get("training")
    if isinstance(training, dict) and isinstance(start := training.get("start"), str):
        training["start"] = start_beside(Path.cwd(), start)


def absolute(path: str) -> str:
    """A path as a user types it, seen from the present folder; ~ is the user's home."""
    return str(Path(os.path.expanduser(path)).absolute())


def _explain(
    error: ValidationError, fields: dict[tuple[int | str, ...], tuple[str, FieldInfo]], changes: Sequence[str]
) -> Iterator[str]:
    """A line for each problem: the change that caused it, and what the key takes."""
    for problem in error.errors():
        location = without_kind(problem["loc"])
        key = ".".join(map(str, location))
        message = problem["msg"].removeprefix("Value error, ")
        change, field = next(
            (found for place, found in fields.items() if location[: len(place)] == place), (" ".join(changes), None)
        )
        if location[:1] == ("notify",):
            change = f"{key}=…"  # an address is often a password
        words = type_words(field).replace("`", "") if field is not None and location in fields else ""
        if problem["type"] in _NOT_KEYS:
            yield f"--set {change}: {key} is a section with keys of its own, {_some_keys(key)}. Set one of them."
        elif problem["type"] == "extra_forbidden":
            known = known_keys(problem["loc"])
            close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
            hint = f"Did you mean {close[0]}?" if close else f"Keys there: {', '.join(known)}."
            yield f"--set {change}: the recipe has no key {key}. {hint}"
        elif words == "list of section" and problem["type"] != "value_error":
            yield f"--set {change}: {key} is a list of sections. Change a key of an entry: {key}.0.KEY=VALUE"
        elif words in ("", "section", "mapping") or (problem["type"] == "value_error" and message != NOT_A_NUMBER):
            yield f"--set {change}: {f'{key}: ' if key else ''}{message[0].lower()}{message[1:]}."
        else:
            assert field is not None
            yield f"--set {change}: {key} takes: {words}. It means: {meaning(field).removesuffix('.')}."


def _some_keys(section: str) -> str:
    """The first keys of a section: `model.width, model.layers, …`."""
    known = known_keys((*(int(part) if part.isdecimal() else part for part in section.split(".")), ""))
    more = ", …" if len(known) > KEYS_SHOWN else ""
    return ", ".join(f"{section}.{name}" for name in known[:KEYS_SHOWN]) + more
