"""`parakeet export --format hf`: a folder that transformers opens.

Stock MPT computes ALiBi slopes as Parakeet does if the heads are a power of two; the folder then holds no code. For
any other number its slopes differ, so the folder's model type is `parakeet`, and the class comes with it.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from math import prod
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor
from torch.nn import functional as F

from parakeet.evaluation.metrics import EVALUATION_FILE
from parakeet.export.chat_template import chat_template
from parakeet.export.source import ExportSource
from parakeet.export.tokenizer_json import tokenizer_config, tokenizer_json
from parakeet.model.config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig
from parakeet.model.transformer import load_model
from parakeet.new_files import new_folder
from parakeet.pages import render
from parakeet.progress import BYTES, Progress
from parakeet.release.card import CARD_FILE, card_body, card_header, licence_of, read_card
from parakeet.release.verify import (
    GENERATION_FILE,
    TRAINING_MANIFEST_FILE,
    write_json,
    write_sums,
)
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import SETTINGS_FILE, Tokenizer

CODE_FILE = "modeling_parakeet.py"
DTYPES = {"bf16": (torch.bfloat16, "bfloat16", "BF16"), "fp32": (torch.float32, "float32", "F32")}
"""By the option: torch's dtype, its name in config.json, and its name in a safetensors file."""
NUMBERS_AT_ONCE = 1 << 22


def write_hugging_face(source: ExportSource, target: Path, dtype: str, progress: Progress) -> None:
    """Write a release as a folder for transformers: weights, tokenizer, chat template, settings and model card.

    `dtype` is bf16 or fp32. Memory for 378M: 0.4 GB for the process, torch included, and the mapped weights. Raises
    ParakeetError if the target exists or cannot be written, or the tokenizer cannot be expressed.
    """
    with new_folder(target, f"writing {target.name}", progress) as folder:
        # First, because it may refuse the vocabulary.
        (folder / SETTINGS_FILE).write_text(tokenizer_json(source.tokenizer), encoding="utf-8")
        write_json(folder / "tokenizer_config.json", tokenizer_config(source.tokenizer, source.config.context))
        (folder / "chat_template.jinja").write_text(chat_template(source.tokenizer), encoding="utf-8")
        write_json(folder / CONFIG_FILE, model_config(source.config, source.tokenizer, dtype))
        write_json(folder / GENERATION_FILE, generation_config(source))
        if not source.config.has_paper_slopes:
            with as_file(files("parakeet.export") / CODE_FILE) as code:
                shutil.copyfile(code, folder / CODE_FILE)
        weights = load_model(source.release.directory, "cpu").state_dict()
        write_tensors(folder / WEIGHTS_FILE, _layout(source.config, weights), dtype, progress)
        (folder / CARD_FILE).write_text(model_card(source, target.name, dtype), encoding="utf-8")
        for name in (TRAINING_MANIFEST_FILE, EVALUATION_FILE):
            if (source.release.directory / name).is_file():
                shutil.copyfile(source.release.directory / name, folder / name)
        write_sums(folder)


def model_config(config: ModelConfig, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """`config.json`."""
    stock = config.has_paper_slopes
    kind: dict[str, Any] = {"architectures": ["MptForCausalLM"], "model_type": "mpt"}
    if not stock:
        module = CODE_FILE.removesuffix(".py")
        # Never "mpt": without this code, a reader would compute other positions and notice nothing.
        kind = {
            "architectures": ["ParakeetForCausalLM"],
            "model_type": "parakeet",
            "auto_map": {
                "AutoConfig": f"{module}.ParakeetConfig",
                "AutoModel": f"{module}.ParakeetModel",
                "AutoModelForCausalLM": f"{module}.ParakeetForCausalLM",
            },
        }
    return {
        **kind,
        "d_model": config.width,
        "n_heads": config.heads,
        "n_layers": config.layers,
        "expansion_ratio": 4,
        "max_seq_len": config.context,
        "vocab_size": config.vocabulary_rows,
        "layer_norm_epsilon": 1e-5,
        "no_bias": True,
        "learned_pos_emb": False,
        "attn_config": {"attn_type": "multihead_attention", "attn_impl": "torch", "alibi": True, "alibi_bias_max": 8},
        # Stock MPT has no norm behind the embedding: its input rows are normalised already, its output rows are not.
        "tie_word_embeddings": not stock,
        "use_cache": True,
        "dtype": DTYPES[dtype][1],
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_prompt,
        "pad_token_id": tokenizer.padding,
    }


def generation_config(source: ExportSource) -> dict[str, Any]:
    """`generation_config.json`: the release's defaults, as far as transformers has them."""
    settings, tokenizer, context = source.release.generation, source.tokenizer, source.config.context
    ends = [tokenizer.end_of_prompt, tokenizer.end_of_text]
    spoken = {*tokenizer.defined_ids(), *ends}
    values: dict[str, Any] = {
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": ends,
        "pad_token_id": tokenizer.padding,
        # No text: roles, padding, and rows of the embedding without a meaning.
        "suppress_tokens": [row for row in range(source.config.vocabulary_rows) if row not in spoken],
        "do_sample": settings.temperature > 0,
    }
    if settings.temperature > 0:
        values |= {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
        values |= {"min_p": settings.min_p} if settings.min_p else {}
    if settings.repetition_penalty != 1:
        values["repetition_penalty"] = settings.repetition_penalty
    # Beyond the context, MPT fails.
    limit = {"max_new_tokens": settings.max_tokens} if settings.max_tokens < context else {"max_length": context}
    return values | limit


def _not_carried(settings: SamplingSettings) -> list[str]:
    """The release's defaults that transformers has no setting for."""
    values = {"frequency_penalty": settings.frequency_penalty, "presence_penalty": settings.presence_penalty}
    return [f"{name} {value:g}" for name, value in values.items() if value]


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file: the rows of `parts`, one after another, each changed by `change`."""

    name: str
    parts: tuple[Tensor, ...]
    change: Callable[[Tensor], Tensor] = lambda rows: rows

    @property
    def shape(self) -> list[int]:
        return [sum(len(part) for part in self.parts), *self.parts[0].shape[1:]]


def _layout(config: ModelConfig, weights: Mapping[str, Tensor]) -> list[_Entry]:
    """MPT's tensors, made of ours. Linear weights are (out, in) in both."""
    embedding = weights["embedding.weight"]
    norm = weights["embedding_norm.weight"], weights["embedding_norm.bias"]
    if config.has_paper_slopes:

        def normed(rows: Tensor) -> Tensor:
            return F.layer_norm(rows, (config.width,), *norm, 1e-5)

        entries = [_Entry("transformer.wte.weight", (embedding,), normed), _Entry("lm_head.weight", (embedding,))]
    else:
        entries = [
            _Entry("transformer.wte.weight", (embedding,)),
            _Entry("transformer.embedding_norm.weight", norm[:1]),
            _Entry("transformer.embedding_norm.bias", norm[1:]),
        ]
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"transformer.blocks.{layer}"
        entries += [
            _Entry(f"{theirs}.norm_1.weight", (weights[f"{ours}.attention_norm.weight"],)),
            # Rows: queries, keys, values. Two layers that share a projection both get it.
            _Entry(
                f"{theirs}.attn.Wqkv.weight",
                (weights[f"{ours}.query.weight"], weights[f"key_values.{config.projection_of(layer)}.weight"]),
            ),
            _Entry(f"{theirs}.attn.out_proj.weight", (weights[f"{ours}.attention_output.weight"],)),
            _Entry(f"{theirs}.norm_2.weight", (weights[f"{ours}.mlp_norm.weight"],)),
            _Entry(f"{theirs}.ffn.up_proj.weight", (weights[f"{ours}.mlp_input.weight"],)),
            _Entry(f"{theirs}.ffn.down_proj.weight", (weights[f"{ours}.mlp_output.weight"],)),
        ]
    return [*entries, _Entry("transformer.norm_f.weight", (weights["final_norm.weight"],))]


def write_tensors(path: Path, entries: Sequence[_Entry], dtype: str, progress: Progress) -> None:
    """Write a safetensors file piece by piece. The library's own writer needs every tensor in memory at once."""
    torch_dtype, _, name = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        begin, end = end, end + prod(entry.shape) * torch_dtype.itemsize
        header[entry.name] = {"dtype": name, "shape": entry.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file, progress.task("export", end, BYTES) as task:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            for rows in _pieces(entry):
                piece = entry.change(rows).to(torch_dtype).contiguous().view(torch.uint8).numpy()
                file.write(piece.data)
                task.advance(piece.nbytes)


def _pieces(entry: _Entry) -> Iterator[Tensor]:
    for part in entry.parts:
        yield from part.split(max(1, NUMBERS_AT_ONCE // prod(part.shape[1:])))


def model_card(source: ExportSource, name: str, dtype: str) -> str:
    """`README.md`: how to open the folder or repository `name`, then the release's own card."""
    card = read_card(source.release.directory)
    return render(
        "hugging_face_card.md",
        header=card_header(
            license=licence_of(card), library_name="transformers", tags=["parakeet-lm", "alibi", "tiny"]
        ),
        name=source.release.name,
        folder=json.dumps(name, ensure_ascii=False),
        dtype=DTYPES[dtype][1],
        stock=source.config.has_paper_slopes,
        context=source.config.context,
        not_carried=_not_carried(source.release.generation),
        body=Markup(card_body(card)),
    )
