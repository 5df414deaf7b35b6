"""The layout of the original project's checkpoint: its key names beside ours, and the shapes.

Imports no torch: `parakeet.torch_archive` checks the file, and `parakeet.model.original_reader` reads it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig

EMBEDDING = "transformer.wte.weight"
OUTPUT = "lm_head.weight"
VOCABULARY_ROWS = 100_288
DROPOUT = 0.07
WRAPPERS = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before every key of a model."""

Shape = tuple[int, ...]

_WHOLE_NAME = re.compile(
    r"parakeet\w*-c(?P<context>\d{1,9})-d(?P<width>\d{1,9})-fexp\d+"
    r"_v(?P<vocabulary_rows>\d{1,9})_h(?P<heads>\d{1,9})_l(?P<layers>\d{1,9})(?![A-Za-z0-9])"
)


@dataclass(frozen=True)
class Entry:
    """One tensor of the original's state dict. `name` is ours; keys of tied or shared tensors have the same one."""

    key: str
    name: str
    shape: Shape


def layout(layers: int, width: int) -> list[Entry]:
    """Every entry, in the order of the original's state dict; Linear weights are (out, in).

    A key/value projection appears in both layers of its pair, and the embedding again as the output projection.
    """
    d = width
    entries = [
        Entry(EMBEDDING, "embedding.weight", (VOCABULARY_ROWS, d)),
        Entry("transformer.wte.norm.weight", "embedding_norm.weight", (d,)),
        Entry("transformer.wte.norm.bias", "embedding_norm.bias", (d,)),
    ]
    for layer in range(layers):
        theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
        entries += [
            Entry(f"{theirs}.ln_1.weight", f"{ours}.attention_norm.weight", (d,)),
            Entry(f"{theirs}.attn.c_kv.weight", f"key_values.{layer // 2}.weight", (2 * d, d)),
            Entry(f"{theirs}.attn.c_query.weight", f"{ours}.query.weight", (d, d)),
            Entry(f"{theirs}.attn.c_proj.weight", f"{ours}.attention_output.weight", (d, d)),
            Entry(f"{theirs}.ln_2.weight", f"{ours}.mlp_norm.weight", (d,)),
            Entry(f"{theirs}.mlp.c_fc.weight", f"{ours}.mlp_input.weight", (4 * d, d)),
            Entry(f"{theirs}.mlp.c_proj.weight", f"{ours}.mlp_output.weight", (d, 4 * d)),
        ]
    return [
        *entries,
        Entry("transformer.ln_f.weight", "final_norm.weight", (d,)),
        Entry(OUTPUT, "embedding.weight", (VOCABULARY_ROWS, d)),
    ]


def unwrapped(keys: Iterable[str]) -> tuple[str, list[str]]:
    """The prefix that wrappers put before all keys ("" if there is none), and the keys without it."""
    names = list(keys)
    prefix = ""
    while found := [wrapper for wrapper in WRAPPERS if names and all(name.startswith(wrapper) for name in names)]:
        prefix += found[0]
        names = [name.removeprefix(found[0]) for name in names]
    return prefix, names


def checked_layout(shapes: Mapping[str, Shape]) -> list[Entry]:
    """The layout of a state dict with these shapes; ParakeetError names the first key that does not fit.

    The keys give the number of layers, the embedding gives the width; every other tensor must agree with them.
    """
    embedding = shapes.get(EMBEDDING)
    if embedding is None:
        holds = f"it begins with {next(iter(shapes))[:100]}" if shapes else "it is empty"
        raise ParakeetError(f"This is not a checkpoint of the original Parakeet: it has no {EMBEDDING} ({holds}).")
    if len(embedding) != 2:
        raise ParakeetError(
            f"{EMBEDDING} has shape {_words(embedding)}; an embedding is a matrix of two dimensions, "
            f"{VOCABULARY_ROWS:,} × the model's width."
        )
    if embedding[0] != VOCABULARY_ROWS:
        raise ParakeetError(
            f"{EMBEDDING} has {embedding[0]:,} rows; the original's vocabulary (cl100k_base and Parakeet's four "
            f"tokens) has {VOCABULARY_ROWS:,}. A model of another vocabulary cannot be imported."
        )
    layers = len({match[1] for key in shapes if (match := re.match(r"transformer\.h\.(\d+)\.", key))})
    entries = layout(layers, embedding[1])
    expected = {entry.key: entry.shape for entry in entries}
    for what, names in (
        ("lacks", [key for key in expected if key not in shapes]),
        ("also holds", [key for key in shapes if key not in expected]),
    ):
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise ParakeetError(
                f"This is not a checkpoint of the original Parakeet with {layers} layers: it {what} "
                f"{names[0][:100]}{more}."
            )
    for key, shape in expected.items():
        if tuple(shapes[key]) != shape:
            raise ParakeetError(
                f"{key} has shape {_words(shapes[key])}; with an embedding of width {embedding[1]:,} it must have "
                f"{_words(shape)}."
            )
    return entries


def recovered_config(entries: list[Entry], file_name: str, heads: int | None, context: int | None) -> ModelConfig:
    """The configuration of a checkpoint: sizes from its shapes, heads and context from the user or its file name.

    `heads` and `context` are the user's, or None. A file name in the original's full form
    (parakeet8k-c8192-d1152-fexp4_v100288_h18_l18-…) must agree with the shapes and the user. In any other name only
    `h18` and `c8192` are read, if the user did not give the number. ParakeetError if heads or context are unknown, or
    if two sources disagree.
    """
    layers = sum(entry.key.endswith(".ln_1.weight") for entry in entries)
    sizes = {"layers": layers, "width": entries[0].shape[1], "vocabulary_rows": VOCABULARY_ROWS}
    whole = _WHOLE_NAME.match(file_name)
    named = {name: int(digits) for name, digits in whole.groupdict().items()} if whole else {}
    for name, size in sizes.items():
        if named.get(name, size) != size:
            raise ParakeetError(
                f"The file name {file_name} says {name.replace('_', ' ')} {named[name]:,}, but the tensors have "
                f"{size:,}: the name belongs to another model. Rename the file."
            )
    config = ModelConfig(
        layers=layers,
        width=sizes["width"],
        vocabulary_rows=VOCABULARY_ROWS,
        heads=_decided("heads", "_h18_", heads, named.get("heads"), file_name),
        context=_decided("context", "-c8192-", context, named.get("context"), file_name),
        dropout=DROPOUT,
    )
    return config.checked(Path(file_name))


def _decided(name: str, example: str, given: int | None, named: int | None, file_name: str) -> int:
    """The user's number, else that of the file name: `named` if it has the full form, else from anywhere in it."""
    if given is not None and named is not None and given != named:
        raise ParakeetError(
            f"--{name} {given:,} contradicts the file name {file_name}, which says {named:,}: omit the option, or "
            "rename the file."
        )
    if given is not None:
        return given
    # The number after the option's first letter: of `mine_h4-c64.pth`, 4 for heads.
    anywhere = re.findall(rf"(?<![A-Za-z0-9]){name[0]}(\d{{1,9}})(?![A-Za-z0-9])", file_name)
    found = {named} if named is not None else {int(digits) for digits in anywhere}
    if len(found) > 1:
        raise ParakeetError(
            f"The file name {file_name} gives two numbers for {name}: {' and '.join(map(str, sorted(found)))}. "
            f"Give --{name} N to parakeet import, or rename the file."
        )
    if not found:
        raise ParakeetError(
            f"The tensors do not show the model's {name}, and neither does the file name {file_name} (the original's "
            f"has {example}). Give --{name} N to parakeet import, or rename the file."
        )
    return found.pop()


def _words(shape: Shape) -> str:
    return " × ".join(f"{size:,}" for size in shape) or "of a single number"
