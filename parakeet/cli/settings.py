"""The recipe that `build` and `plan` take: a recipe's file, changed by --data, --limit, --held-out and --set."""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parakeet.cli.common import Share, limited
from parakeet.cli.completion import complete_recipes, complete_settings
from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from parakeet.recipe import Recipe

HELD_OUT = "deduplication.held_out_fraction"
_EXPONENT = re.compile(r"[+-]?[0-9_]+(\.[0-9]*)?[eE][+-]?[0-9]+")


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `chosen_recipe` reads, under the names of its parameters."""
    options = (
        click.option(
            "--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.",
            shell_complete=complete_recipes,
        ),
        click.option(
            "--data", multiple=True, metavar="FILE", type=click.Path(),
            help="Train on this file, folder or glob instead of the recipe's sources. Repeatable.",
        ),
        click.option(
            "--set", "changes", multiple=True, metavar="KEY=VALUE", shell_complete=complete_settings,
            help="Change a key of the recipe: training.tokens=1e6, sources.0.weight=2. Repeatable.",
        ),
        click.option(
            "--held-out", type=Share(or_nothing=True), metavar="SHARE",
            help="Share of the text to keep for measuring the model: 5%. 0 measures nothing.  [default: the recipe's]",
        ),
        click.option(
            "--limit", type=Share(), metavar="SHARE", help="Use only this share of every source: 0.1% or 0.001."
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def chosen_recipe(
    recipe_name: str,
    data: Sequence[str],
    changes: Sequence[str],
    held_out: float | None,
    limit: float | None,
    root: Path | None = None,
) -> "Recipe":
    """The recipe with what the options change. Raises ParakeetError if an option does not fit.

    A shipped recipe that trains on `data` is called after the data, so that the model is not called "demo". It keeps
    its own name if the store `root` has that corpus under it, as an earlier Parakeet called it: a new name would make
    the data card and the release again. To find out, the files are hashed.
    """
    from parakeet.recipe_file import load_recipe, shipped_recipes

    shipped = load_recipe(recipe_name)
    recipe = limited(_with_sources(shipped, data) if data else shipped, limit)
    share = [] if held_out is None else [f"{HELD_OUT}={held_out}"]
    if held_out == 0:
        share.append("shards.min_held_out_bytes=0")
    recipe = changed(recipe, [*share, *changes])
    if not data or recipe_name not in shipped_recipes():
        return recipe
    own: dict[str, str] = {}
    if recipe.name == shipped.name:
        own["name"] = _name_of(data)
    if recipe.description == shipped.description:
        texts = ", ".join(source.name for source in recipe.sources)
        own["description"] = f"A model of the shape of {shipped.name}, trained on {texts}."
    renamed = recipe.model_copy(update=own)
    return recipe if root is not None and _has_corpus(root, recipe) else renamed


def _has_corpus(root: Path, recipe: "Recipe") -> bool:
    from parakeet.stages import Build

    if not (root / "data_card").is_dir():
        return False
    try:
        return Build(root, recipe).find("data_card") is not None
    except ParakeetError:
        return False


def _with_sources(recipe: "Recipe", paths: Sequence[str]) -> "Recipe":
    """The recipe with each path as a source, named after its file."""
    from parakeet.recipe import Recipe

    sources: list[dict[str, str]] = []
    for path in paths:
        if not path.strip():
            raise ParakeetError("--data is empty: name a file, a folder or a glob.")
        stem = _slug(Path(path).name.split(".")[0]) or "data"
        taken = {source["name"] for source in sources}
        name = next(n for n in (stem[:60], *(f"{stem[:60]}-{i}" for i in range(2, 1000))) if n not in taken)
        sources.append({"kind": "files", "name": name, "path": _absolute(path)})
    return Recipe.model_validate({**recipe.model_dump(), "sources": sources})


def _name_of(paths: Sequence[str]) -> str:
    """A recipe's name for the data: `notes`, or `notes-and-2-more`. A glob is called after its folder."""
    import glob

    path = Path(_absolute(paths[0]))
    while glob.has_magic(path.name) and not os.path.lexists(path):
        path = path.parent
    more = f"-and-{len(paths) - 1}-more" if len(paths) > 1 else ""
    return (_slug(path.name.split(".")[0])[: 64 - len(more)] or "data") + more


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")


def _absolute(path: str) -> str:
    return str(Path(os.path.expanduser(path)).absolute())


def changed(recipe: "Recipe", changes: Sequence[str]) -> "Recipe":
    """The recipe with each `KEY=VALUE`: a dotted key, an entry of a list by its number or name, and a value in YAML.

    Raises ParakeetError if a key is unknown, with the nearest one, or if a value does not fit, with what would.
    """
    if not changes:
        return recipe
    from pydantic import ValidationError

    from parakeet.recipe import Recipe

    values = recipe.model_dump()
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


def setting_keys(recipe: "Recipe", beginning: str = "") -> list[str]:
    """The dotted keys of a recipe's settings as the start of `KEY=VALUE`. Sections are listed by their keys."""
    return [f"{key}=" for key in _leaves(recipe, "") if key.startswith(beginning)]


def _leaves(section: Any, prefix: str) -> Iterator[str]:
    from pydantic import BaseModel

    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
            continue
        yield f"{prefix}{name}"
        for number, entry in enumerate(value) if isinstance(value, list) else ():
            if isinstance(entry, BaseModel):
                yield from _leaves(entry, f"{prefix}{name}.{number}.")


def _find(recipe: "Recipe", key: str) -> "tuple[tuple[int | str, ...], FieldInfo]":
    """The place of a dotted key in the recipe's values, and the field that it belongs to."""
    from pydantic import BaseModel

    from parakeet.recipe_file import section_of

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
        elif isinstance(at, dict) and part.isdecimal():
            at = at.get(int(part))
            place.append(int(part))
        else:
            raise ParakeetError(f"--set {key}: {'.'.join(map(str, place))} is a single value and has no keys.")
    assert field is not None
    return tuple(place), field


def _unknown(recipe: "Recipe", key: str, part: str, known: list[str], place: Sequence[int | str]) -> ParakeetError:
    every = [leaf.removesuffix("=") for leaf in setting_keys(recipe)]
    before = "".join(f"{one}." for one in place)
    siblings = [f"{before}{name}" for name in difflib.get_close_matches(part.lower(), known, n=1)]
    elsewhere = [leaf for leaf in every if leaf.rpartition(".")[2] == part.lower()]
    close = [leaf for leaf in every if leaf == key.lower()]
    close += siblings + elsewhere if place else elsewhere + siblings
    close += difflib.get_close_matches(key, every, n=1, cutoff=0.75)
    hint = f"Did you mean {close[0]}?" if close else f"Keys there: {', '.join(known)}."
    return ParakeetError(f"--set {key}: the recipe has no key {before}{part}. {hint}")


def _value(text: str, field: "FieldInfo") -> Any:
    """The value in YAML. Text stays as it is typed where only text fits, so that `name=no` is no switch."""
    import yaml

    if field.annotation is str:
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    # YAML 1.1 reads 1e6 as text.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _put(values: Any, place: Sequence[int | str], value: Any) -> None:
    from parakeet.recipe_file import overlaid

    *sections, last = place
    for part in sections:
        if isinstance(values, dict) and values.get(part) is None:
            values[part] = {}
        values = values[part]
    both = isinstance(values, dict) and isinstance(values.get(last), dict) and isinstance(value, dict)
    values[last] = overlaid({"": values[last]}, {"": value})[""] if both else value


def _make_paths_absolute(values: dict[str, Any]) -> None:
    """A path in --set is relative to the folder the command runs in. Those of a recipe are absolute already."""
    decontamination = values.get("decontamination")
    sets = decontamination.get("sets") if isinstance(decontamination, dict) else None
    for entries in (values.get("sources"), sets):
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(path := entry.get("path"), str) and path and "://" not in path:
                entry["path"] = _absolute(path)


def _explain(
    error: "ValidationError", fields: "dict[tuple[int | str, ...], tuple[str, FieldInfo]]", changes: Sequence[str]
) -> Iterator[str]:
    """A line for each problem: the change that caused it, and what the key takes."""
    from parakeet.recipe_file import without_kind
    from parakeet.recipe_reference import meaning, type_words

    for problem in error.errors():
        location = without_kind(problem["loc"])
        key = ".".join(map(str, location))
        message = problem["msg"].removeprefix("Value error, ")
        change, field = next(
            (found for place, found in fields.items() if location[: len(place)] == place), (" ".join(changes), None)
        )
        words = type_words(field).replace("`", "") if field is not None and location in fields else ""
        if words in ("", "section", "mapping") or problem["type"] == "value_error":
            yield f"--set {change}: {f'{key}: ' if key else ''}{message[0].lower()}{message[1:]}."
        else:
            assert field is not None
            yield f"--set {change}: {key} takes: {words}. It means: {meaning(field)}"
