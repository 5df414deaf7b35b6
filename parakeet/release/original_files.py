"""What stands beside the weights in a release of an imported checkpoint: settings, lineage, card, hashes."""

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from parakeet import __version__
from parakeet.model.config import ModelConfig
from parakeet.recipe import Generation
from parakeet.release.verify import GENERATION_FILE, TRAINING_MANIFEST_FILE, write_sums
from parakeet.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """The checkpoint that a release was imported from, and the versions of what read it."""

    file_name: str
    n_bytes: int
    sha256: str
    tensors: int
    versions: dict[str, str]


def write_original_files(output: Path, name: str, source: Source, generation: Generation, tokenizer: Tokenizer) -> None:
    """Complete a folder that holds weights, configuration and tokenizer.

    Nothing in the files tells of the time of the import: the same checkpoint gives the same release.
    """
    config = ModelConfig.load(output)
    ends = {"stop_ids": [tokenizer.end_of_prompt, tokenizer.end_of_text], "padding_id": tokenizer.padding}
    _write_json(output / GENERATION_FILE, {"name": name, **generation.model_dump(mode="json"), **ends})
    _write_json(output / TRAINING_MANIFEST_FILE, _manifest(source, config))
    (output / "README.md").write_text(render_original_card(name, source, config, generation), encoding="utf-8")
    write_sums(output)


def _manifest(source: Source, config: ModelConfig) -> dict[str, Any]:
    """All that is known of where the weights come from: how they were trained, their file does not say."""
    return {
        "imported_from": {key: value for key, value in asdict(source).items() if key != "versions"},
        "source_files": {source.file_name: source.sha256},
        "model": asdict(config),
        "packages": {"parakeet": __version__, "python": platform.python_version(), **source.versions},
    }


def render_original_card(name: str, source: Source, config: ModelConfig, generation: Generation) -> str:
    """Markdown with the YAML header that model hubs read."""
    header = {
        "language": "en",
        "library_name": "parakeet",
        "pipeline_tag": "text-generation",
        "tags": ["parakeet", "alibi", "tiny"],
        "license": "other",
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}",
        f"A checkpoint of the original Parakeet project, in this project's format: the same "
        f"{config.parameter_count:,} parameters, bit for bit. Nothing was trained, rounded or left out.",
        "    parakeet chat --model .",
        "## Where it comes from\n\n"
        + _table(
            ("file", f"`{source.file_name}`"),
            ("size", f"{source.n_bytes:,} bytes, {source.tensors:,} tensors"),
            ("sha256", f"`{source.sha256}`"),
        ),
        "The layout proves the kind of model, not who made it: compare the hash with one that you trust. "
        "`parakeet export --format original` writes the same tensors back.",
        "## Model\n\n"
        + _table(
            ("layers, heads, width", f"{config.layers}, {config.heads}, {config.width:,}"),
            ("context", f"{config.context:,} tokens"),
            ("vocabulary", f"cl100k_base and Parakeet's four tokens, {config.vocabulary_rows:,} rows"),
            ("parameters", f"{config.parameter_count:,}, the tied and shared ones counted once"),
            ("positions", "ALiBi, slopes 2^(−8h/heads) for h = 1 … heads"),
            ("keys and values", "one projection for each pair of layers"),
        ),
        "The model that the author published was trained on texts of at most 1,200 tokens; ALiBi carries it further, "
        "with what success was not measured here.",
        "## Chat\n\nThe settings of the original's own chat: "
        f"temperature {generation.temperature}, top_p {generation.top_p}, min_p {generation.min_p}, frequency penalty "
        f"{generation.frequency_penalty}, presence penalty {generation.presence_penalty}, at most "
        f"{generation.max_tokens:,} tokens. It began with a message of a person who asks for a persona; it knows a "
        "System token, but its chat never used it.",
        "## Licence and limits\n\nThe weights are their author's, under the terms that came with the file: importing "
        "them changes nothing about that. What text they were trained on, the file does not say. A tiny model says "
        "false things with confidence; nothing it says is advice. Nothing was evaluated at import. "
        "`sha256sum -c SHA256SUMS` checks the files.",
    ]
    return "\n\n".join(sections) + "\n"


def _table(*rows: tuple[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
