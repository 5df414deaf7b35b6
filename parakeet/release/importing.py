"""Imports checkpoints of the original project as releases, and exports releases in its layout.

torch is imported only by the export. A checkpoint is read by `parakeet.model.original_reader`, in its own process.
"""

import errno
import platform
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parakeet import __version__
from parakeet.artifact import PARTIAL_PREFIX, explain_os_error, sha256_of, sync_directory, sync_file
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.locking import exclusive
from parakeet.model.config import ModelConfig
from parakeet.model.original import VOCABULARY_ROWS, layout
from parakeet.model.original_reader import RefusedCheckpoint, read_checkpoint
from parakeet.progress import BYTES, Progress
from parakeet.recipe import Generation, Recipe
from parakeet.release.card import render_original_card
from parakeet.release.verify import (
    IMPORTED_FOLDER,
    TRAINING_MANIFEST_FILE,
    open_release,
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

    `heads` and `context` are needed if the file's name lacks them. Returns counts: name, parameters, bytes,
    source_bytes, source_sha256. Raises RefusedCheckpoint if the file is not an intact, plain checkpoint in the
    original's layout; nothing in it is ever executed. The same checkpoint always makes the same release.
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
    source = {"file_name": path.name, "n_bytes": before[0], "sha256": digest, "tensors": facts["tensors"]}
    write_generation_config(output, name, ORIGINAL_GENERATION, tokenizer)
    # The file holds no record of the training, so this is all that is known about the weights.
    manifest = {
        "imported_from": source,
        "source_files": {path.name: digest},
        "model": asdict(config),
        "packages": {"parakeet": __version__, "python": platform.python_version(), **facts["versions"]},
    }
    write_json(output / TRAINING_MANIFEST_FILE, manifest)
    (output / "README.md").write_text(render_original_card(name, source, config, ORIGINAL_GENERATION), encoding="utf-8")
    write_sums(output)
    verify_release(output)
    progress.say(f"{path.name}: {facts['parameters']:,} parameters were converted to safetensors, bit for bit.")
    return {
        "name": name,
        "parameters": facts["parameters"],
        "bytes": sum(file.stat().st_size for file in output.iterdir()),
        "source_bytes": before[0],
        "source_sha256": digest,
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
    _refuse_existing(target)
    _size_and_time(path)
    try:
        with _folder_beside(target, progress) as partial:
            import_checkpoint(path, partial, progress, heads, context)
            for file in partial.iterdir():
                sync_file(file)
            sync_directory(partial)
            _refuse_existing(target)
            partial.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise explain_os_error(error, f"importing {path.name}") from error
    return target


def export_original(release: Path, output: Path) -> None:
    """`parakeet export --format original`: write a release's weights as a `.pth` file of the original project.

    It holds the original's state dict: the same keys in the same order, the same tensors bit for bit, tied and shared
    ones stored once. Only the module versions that torch notes beside the tensors are missing, and loading does not
    need them. ParakeetError if the file already exists or the model has another vocabulary.
    """
    output = output.absolute()
    _refuse_existing(output)
    open_release(release)
    import torch

    from parakeet.model.transformer import load_model

    config = ModelConfig.load(release)
    if config.vocabulary_rows != VOCABULARY_ROWS:
        raise ParakeetError(
            f"{release} has {config.vocabulary_rows:,} vocabulary rows; the original's layout has {VOCABULARY_ROWS:,}: "
            "only a model with that vocabulary can be exported to it."
        )
    weights = load_model(release, "cpu").state_dict()
    state = OrderedDict((entry.key, weights[entry.name]) for entry in layout(config.layers, config.width))
    try:
        with _folder_beside(output, Progress()) as partial:
            # torch writes the file's stem into the archive, so the file has its final name from the beginning.
            torch.save(state, partial / output.name)
            sync_file(partial / output.name)
            _refuse_existing(output)
            (partial / output.name).rename(output)
        sync_directory(output.parent)
    except OSError as error:
        raise explain_os_error(error, f"writing {output.name}") from error
    except RuntimeError as error:
        # How torch's archive writer reports that it could not write.
        short = OSError(errno.EIO, "torch could not write the whole file (is the disk full?)", str(output))
        raise explain_os_error(short, f"writing {output.name}") from error


@contextmanager
def _folder_beside(target: Path, progress: Progress) -> Iterator[Path]:
    """An empty folder to make `target` in, removed at the end.

    A second process with the same target waits, then finds what the first made. Leftovers of a killed process are
    removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
    lock = target.with_name(f".{target.name}.lock")
    with exclusive(lock, f"{target} is being made", progress):
        try:
            _refuse_existing(target)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            # While the lock is held: a process that waits for it notices that the file is gone, and makes a new one.
            for file in (lock.with_suffix(".holder"), lock):
                file.unlink(missing_ok=True)


def slug(stem: str) -> str:
    """A file's stem as the name of a model: letters, digits, dot, dash and underscore, at most 64."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:MAX_NAME].strip("-._") or "original"


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ParakeetError(f"{path} already exists: remove it, or choose another place.")


def _size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time of a file; ParakeetError if there is no such file."""
    try:
        status = path.stat()
    except OSError as error:
        raise ParakeetError(f"{path} cannot be read: {error.strerror}.") from None
    if not path.is_file():
        raise ParakeetError(f"{path} is not a file: give the .pth file itself.")
    return status.st_size, status.st_mtime_ns
