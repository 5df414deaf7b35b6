"""The layout of the original project's checkpoint (DESIGN §3): its key names beside ours, and its shape.

Facts only, and no torch: `parakeet.torch_archive` judges the file that holds such a checkpoint, and
`parakeet.model.original_reader` reads it.
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
"""What torch.compile and DistributedDataParallel put before every key of the model that they wrap."""

Shape = tuple[int, ...]

_WHOLE_NAME = re.compile(
    r"parakeet\w*-c(?P<context>\d{1,9})-d(?P<width>\d{1,9})-fexp\d+"
    r"_v(?P<vocabulary_rows>\d{1,9})_h(?P<heads>\d{1,9})_l(?P<layers>\d{1,9})(?![A-Za-z0-9])"
)


@dataclass(frozen=True)
class Entry:
    """One tensor of the original's state dict. `name` is ours; several keys may share one."""

    key: str
    name: str
    shape: Shape


def layout(layers: int, width: int) -> list[Entry]:
    """Every entry, in the order of the original's state dict; Linear weights are (out, in).

    A key/value projection is listed for both layers of its pair, the embedding also as the output projection.
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
    """The prefix that wrappers put before all keys ("" for none), and the keys without it."""
    names = list(keys)
    prefix = ""
    while found := [wrapper for wrapper in WRAPPERS if names and all(name.startswith(wrapper) for name in names)]:
        prefix += found[0]
        names = [name.removeprefix(found[0]) for name in names]
    return prefix, names


def checked_layout(shapes: Mapping[str, Shape]) -> list[Entry]:
    """The layout that a state dict's shapes follow; ParakeetError names the first key that does not.

    Layers and width are read off the keys and the embedding, so every other tensor has to agree with them.
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
    """The configuration of a checkpoint: from its shapes, and heads and context from its file name.

    `heads` and `context` are what a person gave, or None. A name of the original's whole form
    (parakeet8k-c8192-d1152-fexp4_v100288_h18_l18-…) must agree with the shapes and with that person. Of any other,
    `h18` and `c8192` are taken where nobody gave the number, and the rest means nothing. Raises ParakeetError where
    nobody says how many heads or what context, and where two sources disagree.
    """
    layers = sum(entry.key.endswith(".ln_1.weight") for entry in entries)
    sizes = {"layers": layers, "width": entries[0].shape[1], "vocabulary_rows": VOCABULARY_ROWS}
    whole = _WHOLE_NAME.match(file_name)
    said = {name: int(digits) for name, digits in whole.groupdict().items()} if whole else {}
    for name, size in sizes.items():
        if said.get(name, size) != size:
            raise ParakeetError(
                f"The file name {file_name} says {name.replace('_', ' ')} {said[name]:,}, but the tensors have "
                f"{size:,}: it is the name of another model. Rename the file."
            )
    config = ModelConfig(
        **sizes,
        heads=_decided("heads", "_h18_", heads, said.get("heads"), file_name),
        context=_decided("context", "-c8192-", context, said.get("context"), file_name),
        dropout=DROPOUT,
    )
    return config.checked(Path(file_name))


def _decided(name: str, example: str, given: int | None, said: int | None, file_name: str) -> int:
    """What a person gave, else what the name says: `said` in its whole form, else anywhere in it."""
    if given is not None and said is not None and given != said:
        raise ParakeetError(
            f"--{name} {given:,} contradicts the file name {file_name}, which says {said:,}: leave the option away, "
            "or rename the file."
        )
    if given is not None:
        return given
    found = {said} if said is not None else _numbers_after(name[0], file_name)
    if len(found) > 1:
        raise ParakeetError(
            f"The file name {file_name} gives two numbers for {name}: {' and '.join(map(str, sorted(found)))}. "
            f"Give --{name} N to parakeet import, or rename the file."
        )
    if not found:
        raise ParakeetError(
            f"The tensors cannot tell the model's {name}, and neither does the file name {file_name} ({example} in "
            f"the original's): give --{name} N to parakeet import, or rename the file."
        )
    return found.pop()


def _numbers_after(letter: str, file_name: str) -> set[int]:
    """Of `mine_h4-c64.pth` after `h`: 4."""
    return {int(digits) for digits in re.findall(rf"(?<![A-Za-z0-9]){letter}(\d{{1,9}})(?![A-Za-z0-9])", file_name)}


def _words(shape: Shape) -> str:
    return " × ".join(f"{size:,}" for size in shape) or "of a single number"
