"""Checkpoints of the original project into releases, and releases back into its layout.

No module here imports torch before a file has been found worth reading; the file itself is read by
`parakeet.model.original_reader`, in a process of its own.
"""

import errno
import hashlib
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parakeet.artifact import PARTIAL_PREFIX, explain_os_error, sync_directory, sync_file
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.locking import exclusive
from parakeet.model.config import ModelConfig
from parakeet.model.original import layout
from parakeet.model.original_reader import RefusedCheckpoint
from parakeet.progress import Progress, Task
from parakeet.recipe import Generation, Recipe
from parakeet.release.original_files import Source, write_original_files
from parakeet.release.reader_process import read_checkpoint
from parakeet.release.verify import IMPORTED_FOLDER, open_release, verify_release
from parakeet.tokenizer import VOCABULARY_FILE, cl100k_base

ORIGINAL_GENERATION = Generation(
    temperature=0.30, top_p=0.95, min_p=0.01, frequency_penalty=0.07, presence_penalty=0.02, max_tokens=4000
)
"""The settings of the original project's chat (DESIGN §3)."""

MAX_NAME = 64
BYTES_PER_MB = 1_000_000


def import_checkpoint(
    path: Path,
    output: Path,
    progress: Progress,
    heads: int | None = None,
    context: int | None = None,
    name: str | None = None,
    generation: Generation = ORIGINAL_GENERATION,
) -> dict[str, Any]:
    """Fill the empty folder `output` with a release of the checkpoint at `path`, bit for bit the same weights.

    `heads` and `context` are for files whose name does not say them. Returns counts: name, parameters, bytes,
    source_bytes, source_sha256. Raises RefusedCheckpoint where the file is not a whole, plain checkpoint in the
    original's layout; nothing in it is ever executed.
    """
    path = path.absolute()
    before = _state_of(path)
    name = name or slug(path.stem)
    # First: it may have to be downloaded, and reading the checkpoint takes minutes.
    tokenizer = cl100k_base(known=sorted(home().glob(f"*/*/{VOCABULARY_FILE}")))
    with progress.task("import", 3 * before[0] / BYTES_PER_MB, "MB") as task:
        digest = _sha256(path, task)
        facts = read_checkpoint(path, output, heads, context, progress, lambda n: task.advance(n / BYTES_PER_MB))
    if _state_of(path) != before:
        raise ParakeetError(f"{path} was changed while it was read: wait until it is whole, and import it again.")
    tokenizer.save(output)
    source = Source(path.name, before[0], digest, facts["tensors"], facts["versions"])
    write_original_files(output, name, source, generation, tokenizer)
    verify_release(output)
    progress.say(f"{path.name}: {facts['parameters']:,} parameters, every one as it was published, now safetensors.")
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
            f"{error} It was found in {path.parent}: move it away, and run the same command again, which fetches it "
            "anew, or put the right file there."
        ) from None


def import_file(path: Path, output: Path | None, heads: int | None, context: int | None, progress: Progress) -> Path:
    """`parakeet import`: a release in the new folder `output`, or in imported/NAME under the home; that folder.

    The folder appears whole or not at all. ParakeetError where it exists already.
    """
    target = (output or home() / IMPORTED_FOLDER / slug(path.stem)).absolute()
    _refuse_existing(target)
    _state_of(path)
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
    """`parakeet export --format original`: a release's weights as the original project's `.pth` file.

    It holds the original's state dict: the same keys in the same order, each tensor the same bit for bit, one
    storage for tied and shared ones. The versions of modules that torch notes beside the tensors of a module are not
    in it; loading does without. ParakeetError where the file exists, or the model is of another vocabulary.
    """
    output = output.absolute()
    _refuse_existing(output)
    open_release(release)
    import torch

    from parakeet.model.original import VOCABULARY_ROWS
    from parakeet.model.transformer import load_model

    config = ModelConfig.load(release)
    if config.vocabulary_rows != VOCABULARY_ROWS:
        raise ParakeetError(
            f"{release} has {config.vocabulary_rows:,} vocabulary rows; the original's layout has {VOCABULARY_ROWS:,}: "
            "a model of another vocabulary has no place in it."
        )
    weights = load_model(release, "cpu").state_dict()
    state = OrderedDict((entry.key, weights[entry.name]) for entry in layout(config.layers, config.width))
    try:
        with _folder_beside(output, Progress()) as partial:
            # torch writes the file's stem into the archive: the file has its final name from the beginning.
            torch.save(state, partial / output.name)
            sync_file(partial / output.name)
            _refuse_existing(output)
            (partial / output.name).rename(output)
        sync_directory(output.parent)
    except OSError as error:
        raise explain_os_error(error, f"writing {output.name}") from error
    except RuntimeError as error:
        # torch's writer of archives says so, and in its own terms, when it could not write.
        short = OSError(errno.EIO, "torch could not write the whole file (is the disk full?)", str(output))
        raise explain_os_error(short, f"writing {output.name}") from error


@contextmanager
def _folder_beside(target: Path, progress: Progress) -> Iterator[Path]:
    """An empty folder to make `target` in, gone at the end; whoever comes second waits, then finds what was made.

    What a killed process left of the same target is removed.
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
            # While it is held: whoever waits for it sees that it is gone, and takes a new one.
            for file in (lock.with_suffix(".holder"), lock):
                file.unlink(missing_ok=True)


def slug(stem: str) -> str:
    """A file's stem as the name of a model: letters, digits, dot, dash and underscore, 64 at most."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:MAX_NAME].strip("-._") or "original"


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ParakeetError(f"{path} exists already: remove it, or name another place.")


def _state_of(path: Path) -> tuple[int, int]:
    """Size in bytes and time of last change of a file; ParakeetError where it is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise ParakeetError(f"{path} cannot be read: {error.strerror}.") from None
    if not path.is_file():
        raise ParakeetError(f"{path} is no file: give the .pth file itself.")
    return status.st_size, status.st_mtime_ns


def _sha256(path: Path, task: Task) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
                task.advance(len(piece) / BYTES_PER_MB)
    except OSError as error:
        raise ParakeetError(f"{path} cannot be read: {error.strerror}.") from None
    return digest.hexdigest()
