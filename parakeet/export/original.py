"""`parakeet export --format original`: the `.pth` file of the original project."""

import errno
from collections import OrderedDict
from pathlib import Path

import torch

from parakeet.errors import ParakeetError
from parakeet.export.source import ExportSource
from parakeet.model.original import VOCABULARY_ROWS, layout
from parakeet.model.transformer import load_model
from parakeet.new_files import new_file
from parakeet.progress import Progress


def write_original(source: ExportSource, target: Path, dtype: str, progress: Progress) -> None:
    """Write a release's weights as a `.pth` file of the original project, in fp32.

    It holds the original's state dict: the same keys in the same order, the same tensors bit for bit, tied and shared
    ones stored once. Only the module versions that torch notes beside the tensors are missing, and loading does not
    need them. ParakeetError if the file already exists, or if the model has another vocabulary or a
    key/value projection for each layer.
    """
    del dtype
    config, folder = source.config, source.release.directory
    if not config.share_keys_values:
        raise ParakeetError(
            f"{folder} was trained with model.share_keys_values false, which --format original cannot express: the "
            "original's layers share their key/value projections in pairs. Export it with --format hf or gguf."
        )
    if config.vocabulary_rows != VOCABULARY_ROWS:
        raise ParakeetError(
            f"{folder} has {config.vocabulary_rows:,} vocabulary rows; the original's layout has {VOCABULARY_ROWS:,}: "
            "only a model with that vocabulary can be exported to it."
        )
    weights = load_model(folder, "cpu").state_dict()
    state = OrderedDict((entry.key, weights[entry.name]) for entry in layout(config.layers, config.width))
    with new_file(target, f"writing {target.name}", progress) as file:
        try:
            # torch writes the file's stem into the archive, so the file has its final name from the beginning.
            torch.save(state, file)
        except RuntimeError:
            # How torch's archive writer reports that it could not write.
            raise OSError(errno.EIO, "torch could not write the whole file (is the disk full?)", str(target)) from None
    if config.softmax_one:
        progress.say(
            f"{target.name} cannot say that the model has softmax_one. `parakeet import` finds it by measuring; other "
            "programs have to be told."
        )
