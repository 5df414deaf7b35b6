"""The formats of `parakeet export`. Importing it costs nothing: the command line reads the table."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.export.source import ExportSource
    from parakeet.progress import Progress

    Writer = Callable[[ExportSource, Path, str, Progress], None]
    """Writes a source to a new place in a dtype, whole or not at all."""


@dataclass(frozen=True)
class Format:
    summary: str
    dtypes: tuple[str, ...]
    """What the weights may be stored in; the first is the default."""
    writer: str
    """Module and function of its Writer, imported when it is used."""
    opening: str
    """A sentence that says how to open it; {} is the place, quoted for a shell."""


FORMATS = {
    "hf": Format(
        "a folder for transformers",
        ("bf16", "fp32"),
        "parakeet.export.hugging_face:write_hugging_face",
        "{}/README.md shows how to open it.",
    ),
    "gguf": Format(
        "a file for llama.cpp and ollama",
        ("fp16", "fp32", "bf16", "q8_0"),
        "parakeet.export.gguf_file:write_gguf",
        "Open it with: llama-cli -m {}",
    ),
    "original": Format(
        "the .pth file of the original model",
        ("fp32",),
        "parakeet.export.original:write_original",
        "The original project opens it.",
    ),
}


def export_release(folder: Path, target: Path, name: str, dtype: str | None, progress: "Progress") -> None:
    """Write the release in `folder` in the format called `name`, in its default dtype if `dtype` is None.

    Raises ParakeetError if the target exists, the folder holds no complete release, or the format cannot express it.
    """
    from parakeet.export.source import ExportSource
    from parakeet.new_files import refuse_existing

    layout = FORMATS[name]
    dtype = dtype or layout.dtypes[0]
    if dtype not in layout.dtypes:
        raise ParakeetError(f"--dtype {dtype} does not fit --format {name}: choose {', '.join(layout.dtypes)}.")
    refuse_existing(target)
    source = ExportSource.open(folder)
    if source.config.softmax_one and name != "original":
        raise ParakeetError(
            f"{folder} was trained with model.softmax_one, which --format {name} cannot express: every other program "
            "would compute a plain softmax. Export it with --format original, or train the recipe without softmax_one."
        )
    module, function = layout.writer.split(":")
    write: Writer = getattr(import_module(module), function)
    write(source, target, dtype, progress)
