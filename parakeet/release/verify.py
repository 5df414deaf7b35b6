"""Releases on disk: their hashes, and their settings for a chat. Imports neither torch nor pydantic."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.artifact import MANIFEST_FILE, sha256_of
from parakeet.errors import ParakeetError
from parakeet.model.config import CONFIG_FILE, WEIGHTS_FILE
from parakeet.sampling_settings import OPTIONS, SamplingSettings
from parakeet.tokenizer import SETTINGS_FILE, VOCABULARY_FILE, Tokenizer

if TYPE_CHECKING:
    from parakeet.recipe import Generation

SUMS_FILE = "SHA256SUMS"
GENERATION_FILE = "generation_config.json"
TRAINING_MANIFEST_FILE = "training_manifest.json"
IMPORTED_FOLDER = "imported"
NOT_SUMMED = (SUMS_FILE, MANIFEST_FILE)
NEEDED = (WEIGHTS_FILE, CONFIG_FILE, GENERATION_FILE, VOCABULARY_FILE, SETTINGS_FILE)
"""What a chat needs."""


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_generation_config(directory: Path, name: str, generation: "Generation", tokenizer: Tokenizer) -> None:
    """The model's name, sampling settings and stop tokens: what a chat needs beside weights and tokenizer."""
    ends = {"stop_ids": [tokenizer.end_of_prompt, tokenizer.end_of_text], "padding_id": tokenizer.padding}
    write_json(directory / GENERATION_FILE, {"name": name, **generation.model_dump(mode="json"), **ends})


def write_sums(directory: Path) -> None:
    """`SHA256SUMS` over every file, in the format of `sha256sum`."""
    names = sorted(path.name for path in directory.iterdir() if path.name not in NOT_SUMMED)
    lines = [f"{sha256_of(directory / name)}  {name}\n" for name in names]
    (directory / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def verify_release(
    directory: Path, names: Collection[str] | None = None, sha256: Callable[[Path], str] = sha256_of
) -> int:
    """Check the files against `SHA256SUMS` and return their number; ParakeetError names the first that differs.

    With `names`, only these are checked. `sha256` gives the hash of a file, and may remember it.
    """
    try:
        lines = (directory / SUMS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise ParakeetError(f"{directory} is not a release: it has no {SUMS_FILE}.") from None
    entries = [line.partition("  ") for line in lines]
    unlisted = sorted(set(NEEDED) - {name for _, _, name in entries})
    if unlisted:
        raise ParakeetError(
            f"{directory / SUMS_FILE} does not list {unlisted[0]}: the release was changed. Copy it again."
        )
    if names is not None:
        entries = [entry for entry in entries if entry[2] in names]
    for expected, _, name in entries:
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise ParakeetError(f"{path} is missing: the release is incomplete. Copy it again, or rebuild it.")
        # A hash that was only remembered is no reason to refuse a file.
        if sha256(path) != expected and (found := sha256_of(path)) != expected:
            raise ParakeetError(
                f"{path} has sha256 {found}, expected {expected}: it was changed after the release was made. "
                "Copy it again, or run the same build again with: --force release"
            )
    return len(entries)


@dataclass(frozen=True)
class Release:
    """What a chat knows of a model: a release, or a checkpoint of a run."""

    directory: Path
    name: str
    generation: SamplingSettings
    """Its defaults for a chat."""
    weights_sha256: str


def open_release(directory: Path, sha256: Callable[[Path], str] = sha256_of) -> Release:
    """Check the files of a release that a chat needs, and read its settings. `parakeet verify` checks them all."""
    verify_release(directory, NEEDED, sha256)
    path = directory / GENERATION_FILE
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
        known = {key: value for key, value in values.items() if key in OPTIONS and OPTIONS[key].limits is not None}
        generation = SamplingSettings(**known)
        return Release(directory, str(values["name"]), generation, recorded_sum(directory, WEIGHTS_FILE))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ParakeetError) as error:
        raise ParakeetError(f"{path} cannot be read: {error}") from None


def recorded_sum(directory: Path, name: str) -> str:
    """The sha256 of a file according to the verified `SHA256SUMS`."""
    lines = (directory / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    return next(line.partition("  ")[0] for line in lines if line.partition("  ")[2] == name)
