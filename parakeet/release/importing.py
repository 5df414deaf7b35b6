"""Imports checkpoints of the original project as releases.

A checkpoint is read by `parakeet.model.original_reader`, in its own process. torch is imported to measure what that
wrote.
"""

import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from parakeet import __version__
from parakeet.artifact import sha256_of
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.model.config import ModelConfig
from parakeet.model.original_reader import RefusedCheckpoint, read_checkpoint
from parakeet.new_files import new_folder, refuse_existing
from parakeet.progress import BYTES, Progress
from parakeet.recipe import Generation, Recipe
from parakeet.release.card import render_original_card
from parakeet.release.verify import (
    IMPORTED_FOLDER,
    TRAINING_MANIFEST_FILE,
    verify_release,
    write_generation_config,
    write_json,
    write_sums,
)
from parakeet.tokenizer import VOCABULARY_FILE, cl100k_base

ORIGINAL_GENERATION = Generation(
    temperature=0.30, top_p=0.95, min_p=0.01, frequency_penalty=0.07, presence_penalty=0.02, max_tokens=4000
)
"""The settings of the original project's chat."""

MAX_NAME = 64


def import_checkpoint(
    path: Path, output: Path, progress: Progress, heads: int | None = None, context: int | None = None
) -> dict[str, Any]:
    """Fill the empty folder `output` with a release of the checkpoint at `path`: the same weights, bit for bit.

    `heads` and `context` are needed if the file's name lacks them. Whether the model has `softmax_one` is measured.
    Returns counts: name, parameters, bytes, source_bytes, source_sha256, softmax (a sentence). Raises RefusedCheckpoint
    if the file is not an intact, plain checkpoint in the original's layout; nothing in it is ever executed. The same
    checkpoint always makes the same release.
    """
    path = path.absolute()
    before = _size_and_time(path)
    name = slug(path.stem)
    # The vocabulary comes first: it may have to be downloaded, and reading the checkpoint takes minutes.
    tokenizer = cl100k_base(known=sorted(home().glob(f"*/*/{VOCABULARY_FILE}")))
    # Hashed here, then read twice by the reader: for the CRC-32s, and to look for NaN.
    with progress.task("import", 3 * before[0], BYTES) as task:
        digest = sha256_of(path)
        task.advance(before[0])
        facts = read_checkpoint(path, output, heads, context, progress, task.advance)
    if _size_and_time(path) != before:
        raise ParakeetError(f"{path} changed while it was read. Wait until it is complete, then import it again.")
    tokenizer.save(output)
    config = ModelConfig.load(output)
    from parakeet.release.which_softmax import measure_softmax

    measured = measure_softmax(output, config, tokenizer)
    progress.say(f"{path.name}: {measured}.")
    found: dict[str, Any] = {}
    # Only then in the files: the figures depend on the processor, and the same file makes the same release everywhere.
    if measured.softmax_one:
        config = replace(config, softmax_one=True)
        config.save(output)
        found = {"softmax": {"plain": round(measured.plain, 2), "off_by_one": round(measured.off_by_one, 2)}}
    source = {"file_name": path.name, "n_bytes": before[0], "sha256": digest, "tensors": facts["tensors"]}
    write_generation_config(output, name, ORIGINAL_GENERATION, tokenizer)
    # The file holds no record of the training, so this is all that is known about the weights.
    manifest = {
        "imported_from": source,
        "source_files": {path.name: digest},
        "model": config.as_dict(),
        **found,
        "packages": {"parakeet": __version__, "python": platform.python_version(), **facts["versions"]},
    }
    write_json(output / TRAINING_MANIFEST_FILE, manifest)
    card = render_original_card(name, source, config, ORIGINAL_GENERATION, **found)
    (output / "README.md").write_text(card, encoding="utf-8")
    write_sums(output)
    verify_release(output)
    progress.say(f"{path.name}: {facts['parameters']:,} parameters were converted to safetensors, bit for bit.")
    return {
        "name": name,
        "parameters": facts["parameters"],
        "bytes": sum(file.stat().st_size for file in output.iterdir()),
        "source_bytes": before[0],
        "source_sha256": digest,
        "softmax": str(measured),
    }


def make_original_model(
    recipe: Recipe, folders: Mapping[str, Path], output: Path, progress: Progress
) -> dict[str, Any]:
    """Stage `original_model`: the published checkpoint as a release. folders["original_checkpoint"] is the file."""
    path = folders["original_checkpoint"]
    try:
        return import_checkpoint(path, output, progress)
    except RefusedCheckpoint as error:
        raise ParakeetError(
            f"{error} Move it out of {path.parent} and run the same command again to download it, or put the right "
            "file there."
        ) from None


def import_file(path: Path, output: Path | None, heads: int | None, context: int | None, progress: Progress) -> Path:
    """`parakeet import`: make a release in the new folder `output`, or in imported/NAME under the home; that folder.

    The folder appears complete or not at all. ParakeetError if it already exists.
    """
    target = (output or home() / IMPORTED_FOLDER / slug(path.stem)).absolute()
    refuse_existing(target)
    _size_and_time(path)
    with new_folder(target, f"importing {path.name}", progress) as partial:
        import_checkpoint(path, partial, progress, heads, context)
    return target


def slug(stem: str) -> str:
    """A file's stem as the name of a model: letters, digits, dot, dash and underscore, at most 64."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:MAX_NAME].strip("-._") or "original"


def _size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time of a file; ParakeetError if there is no such file."""
    try:
        status = path.stat()
    except OSError as error:
        raise ParakeetError(f"{path} cannot be read: {error.strerror}.") from None
    if not path.is_file():
        raise ParakeetError(f"{path} is not a file: give the .pth file itself.")
    return status.st_size, status.st_mtime_ns
