"""The reference of all recipe keys, generated: `python -m parakeet.recipe_reference > docs/recipes.md`."""

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from parakeet.recipe import Recipe
from parakeet.recipe_file import RENAMED_KEYS, shipped_recipes
from parakeet.recipe_sources import SOURCE_KINDS, RecordSource, SourceSettings

INTRODUCTION = """# Recipes

A recipe is a YAML file that says what to build: the text, the tokenizer, the model, its training and its evaluation.
Every command that takes `--recipe` accepts the name of a shipped recipe or the path of your own file.

```yaml
extends: own-text
name: my-parakeet
sources:
  - {name: notes, path: notes/*.md, licence: CC0-1.0}
training: {tokens: 3_000_000}
```

- `extends: NAME-OR-PATH` starts from another recipe and changes it. Sections are merged key by key, at every level. A
  list replaces the whole list of the parent, and so does the map `top_phrases`. `null` turns off a section that may
  be null.
- Paths are relative to the recipe file.
- A number may be written as 3000000, 3_000_000 or 3e6.
- Put text in quotes if YAML would take it for something else: `"no"`, `"on"`, `"1.10"`, `"12:30"`, `"[a] b"`.
- An unknown key is refused, with its line and the nearest known key.
- A key that you leave out has its default. Defaults are not part of a fingerprint, so a new key in a later Parakeet
  rebuilds nothing.
- `parakeet plan --recipe FILE` shows what a recipe would build, without building it.

This page is generated from the code: `python -m parakeet.recipe_reference > docs/recipes.md`.
"""


def render_reference() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION, _shipped(), "## Top level\n", _table(Recipe)]
    for name, field in Recipe.model_fields.items():
        if name == "sources":
            parts.append(_sources())
        elif model := _model_of(field.annotation):
            parts += [f"## {name}\n", f"{meaning(field)}\n", _table(model)]
            for inner, inner_field in model.model_fields.items():
                if (inner_model := _model_of(inner_field.annotation)) and not issubclass(inner_model, SourceSettings):
                    parts += [f"### {name}.{inner}\n", f"{meaning(inner_field)}\n", _table(inner_model)]
    return "\n".join([*parts, _renamed()])


def _shipped() -> str:
    from parakeet.recipe_file import load_recipe

    lines = ["## Shipped recipes\n", "| recipe | what it makes |", "|---|---|"]
    lines += [f"| `{name}` | {load_recipe(name).description} |" for name in shipped_recipes()]
    return "\n".join(lines) + "\n"


def _sources() -> str:
    """All kinds of source: the keys that they share once, then each kind's own."""
    parts = ["## sources\n", "A list. `kind` says where the text is. The default, `files`, is this machine.\n"]
    parts += ["### Keys of every source\n", _table(SourceSettings)]
    shared = set(SourceSettings.model_fields)
    record = (
        set.intersection(*(set(m.model_fields) for m in SOURCE_KINDS.values() if issubclass(m, RecordSource))) - shared
    )
    files = SOURCE_KINDS["files"]
    parts += ["### Keys of every source of files\n", _table(files, record - {"kind"})]
    seen: set[type[BaseModel]] = set()
    for name in sorted(record):
        if (model := _model_of(files.model_fields[name].annotation)) and model not in seen:
            seen.add(model)
            parts += [f"### sources[].{name}\n", _table(model)]
    for kind, model in SOURCE_KINDS.items():
        about = meaning(model.model_fields["kind"])
        parts += [
            f"### kind: {kind}\n",
            f"{about}\n",
            _table(model, set(model.model_fields) - shared - record - {"kind"}),
        ]
        for name in set(model.model_fields) - shared - record:
            if inner := _model_of(model.model_fields[name].annotation):
                parts += [f"Each of `{name}`:\n", _table(inner)]
    return "\n".join(parts)


def _table(model: type[BaseModel], only: set[str] | None = None) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if only is None or name in only:
            cells = (f"`{name}`", type_words(field), _default(field), meaning(field).replace("|", "\\|"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def meaning(field: FieldInfo) -> str:
    """What a key means, on one line."""
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "below"
    if value is PydanticUndefined or value == "":
        return "empty"
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def type_words(field: FieldInfo) -> str:
    """What a key takes, in Markdown: `integer, ≥ 1`, or its allowed values."""
    words = " or ".join(dict.fromkeys(_words(field.annotation)))
    bounds = [text for item in field.metadata for text in _bounds(item)]
    return f"{words}{', ' if bounds else ''}{', '.join(bounds)}"


def _words(annotation: Any) -> Iterator[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _words(arguments[0])
    elif origin is Literal:
        yield from (f"`{value}`" for value in arguments)
    elif origin in (Union, types.UnionType):
        models = [argument for argument in arguments if _model_of(argument) is not None]
        if len(models) > 1:
            yield "section"
            return
        for argument in arguments:
            yield from _words(argument)
    elif origin is list:
        yield f"list of {'/'.join(dict.fromkeys(_words(arguments[0])))}"
    elif origin is dict:
        yield "mapping"
    elif annotation is type(None):
        yield "`null`"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "section"
    else:
        yield {"int": "integer", "float": "number", "str": "text", "bool": "`true` or `false`"}[annotation.__name__]


def _bounds(item: Any) -> Iterator[str]:
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if (bound := getattr(item, attribute, None)) is not None:
            yield f"{sign} {bound:,}"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((model for model in map(_model_of, get_args(annotation)) if model is not None), None)


def _renamed() -> str:
    lines = ["## Renamed keys\n", "The old names still work in this version:\n", "| old | new |", "|---|---|"]
    lines += [f"| `{'.'.join(old)}` | `{'.'.join((*old[:-1], new))}` |" for old, new in RENAMED_KEYS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render_reference(), end="")
