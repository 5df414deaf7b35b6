"""Models of other programs: refused where a model is named, with the command that opens them."""

import json
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.errors import ParakeetError
from parakeet.model.config import CONFIG_FILE
from parakeet.release.verify import TRAINING_MANIFEST_FILE

if TYPE_CHECKING:
    from parakeet.release.listing import ListedModel

GGUF_MARK = b"GGUF"
GGUF_NAME = b"general.name" + (8).to_bytes(4, "little")
"""A key of a GGUF file, and the mark that a text follows: its length in eight bytes, then UTF-8."""
HEAD_BYTES = 1 << 16
"""Of a GGUF file: its name stands in front of the vocabulary."""
HUB_NAME = re.compile(r"(?:(?:https://)?(?:huggingface\.co|hf\.co)/)?[\w-][\w.-]*/[\w.-]+")
OLLAMA_NAME = re.compile(r"(?:[\w.-]+/)*[\w.-]+:[\w.-]+")


def refuse_foreign(path: Path, models: Iterable["ListedModel"]) -> None:
    """Raise ParakeetError if a file or folder is a model, but none of Parakeet's.

    `models` are Parakeet's: if one of them was exported to `path`, the message names it. They are looked at only then.
    """
    what, how, source = "", "", None
    if os.path.isdir(path):
        if (config := _config(path)) is not None:
            what, source = "a folder for Hugging Face's transformers", _with_manifest(path, models)
            trust, warning = "", ""
            if "auto_map" in config:
                trust, warning = ", trust_remote_code=True", ", which runs the code in that folder"
            how = f"Open it in Python: transformers.pipeline('text-generation', {str(path)!r}{trust}){warning}"
    elif os.path.isfile(path):
        where, head = shlex.quote(str(path)), _head(path)
        if head.startswith(GGUF_MARK) or path.suffix == ".gguf":
            what, source = "a GGUF file", _called(_gguf_name(head), models)
            page = path.with_suffix(".Modelfile")
            ollama = f"ollama create {shlex.quote(path.stem)} -f {shlex.quote(str(page))}"
            if not page.is_file():
                ollama = f"ollama create, from a Modelfile with the line FROM {path.absolute()}"
            how = f"Open it with llama-cli -m {where}, or {ollama}"
        elif path.suffix == ".Modelfile" or path.name == "Modelfile":
            what, how = "a Modelfile of ollama", f"Open it with: ollama create NAME -f {where}"
        elif path.suffix == ".pth":
            what = "a checkpoint in torch's format"
            how = f"If it is of the original model, convert it with: parakeet import {where}"
        elif path.suffix in (".bin", ".pt", ".ckpt", ".safetensors"):
            what, how = "a file of weights alone", "Name the folder of a release, or open it with what wrote it"
    if what:
        ours = f" It was exported from {source.name}: parakeet chat --model {source.directory.name}" if source else ""
        raise ParakeetError(f"{path} is {what}, and Parakeet opens its own releases only. {how}.{ours}")


def refuse_ollama_name(name: str) -> None:
    """Raise ParakeetError if a name that no model here has is written as ollama writes them."""
    if OLLAMA_NAME.fullmatch(name):
        raise ParakeetError(
            f"No model is called {name!r}. It looks like a model of ollama, and Parakeet opens its own releases only: "
            f"ollama run {name}"
        )


def refuse_missing(path: Path, name: str) -> None:
    """Raise ParakeetError if nothing is at the path that a name means. Repositories of a hub are named like folders."""
    if os.path.lexists(path):
        return
    hub = (
        " If it is a model of the Hugging Face hub: Parakeet opens its own releases only. Other models open in Python "
        "with transformers, or in llama.cpp."
    )
    raise ParakeetError(f"There is no file or folder {name}.{hub if HUB_NAME.fullmatch(name) else ''}")


def _config(folder: Path) -> dict[str, Any] | None:
    """The config.json of a model for transformers."""
    try:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and "model_type" in values else None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _gguf_name(head: bytes) -> str | None:
    _, found, rest = head.partition(GGUF_NAME)
    return rest[8 : 8 + int.from_bytes(rest[:8], "little")].decode("utf-8", "replace") if found else None


def _called(name: str | None, models: Iterable["ListedModel"]) -> "ListedModel | None":
    return next((model for model in models if model.name == name), None) if name else None


def _with_manifest(folder: Path, models: Iterable["ListedModel"]) -> "ListedModel | None":
    """The model whose training manifest the folder has: an export copies it."""
    try:
        manifest = (folder / TRAINING_MANIFEST_FILE).read_bytes()
    except OSError:
        return None
    return next((m for m in models if _same(m.directory / TRAINING_MANIFEST_FILE, manifest)), None)


def _same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
