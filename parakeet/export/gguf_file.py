"""`parakeet export --format gguf`: a file for llama.cpp and ollama, and a Modelfile beside it.

The architecture is `bloom`: ALiBi, LayerNorms, a tied embedding with a norm behind it. Its biases are zero here. `mpt`
would need the embedding twice, once with the norm folded in.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from parakeet.errors import ParakeetError
from parakeet.export.chat_template import chat_template
from parakeet.export.gguf_vocabulary import ODD_TEXTS, SHOWN_CHARACTERS, Vocabulary, make_vocabulary
from parakeet.export.llama_cpp import llama_cpp_server, token_ids
from parakeet.export.modelfile import modelfile
from parakeet.export.source import ExportSource
from parakeet.model.config import ModelConfig
from parakeet.new_files import new_file, refuse_existing
from parakeet.progress import BYTES, Progress, Task
from parakeet.release.card import licence_of, read_card

if TYPE_CHECKING:
    from gguf import GGUFWriter

TYPES = {"fp32": ("F32", "ALL_F32"), "fp16": ("F16", "MOSTLY_F16"), "bf16": ("BF16", "MOSTLY_BF16"),
         "q8_0": ("Q8_0", "MOSTLY_Q8_0")}  # fmt: skip
"""dtype to the names of llama.cpp's type of matrices and of file."""
Q8_0_BLOCK = 32
NUMBERS_AT_ONCE = 1 << 22
"""Weights converted at once."""
CHECKED_TEXTS, CHECKED_CONTEXT = 500, 256


def write_gguf(source: ExportSource, target: Path, dtype: str, progress: Progress) -> None:
    """Write `target` and `target` with the suffix .Modelfile. Norms stay in fp32, as every engine keeps them.

    Raises ParakeetError if llama.cpp cannot compute the model or split its text, or if a file already exists.
    """
    if find_spec("gguf") is None:
        raise ParakeetError("GGUF files need the gguf package: pip install 'parakeet-lm[export]'")
    if target.suffix != ".gguf":
        raise ParakeetError(f"{target} must end in .gguf. The Modelfile for ollama gets the same name beside it.")
    beside = target.with_suffix(".Modelfile")
    refuse_existing(beside)
    _check_shape(source.config, dtype)
    vocabulary = make_vocabulary(source.tokenizer)
    # The GGUF file is renamed last: where it is, the Modelfile is too.
    with new_file(target, f"writing {target.name}", progress) as file:
        _write(source, vocabulary, file, dtype, progress)
        _check_ids(source, vocabulary, file)
        with new_file(beside, f"writing {beside.name}", progress) as page:
            page.write_text(modelfile(source, target.name), encoding="utf-8")


def _check_shape(config: ModelConfig, dtype: str) -> None:
    if not config.has_paper_slopes:
        raise ParakeetError(
            f"llama.cpp cannot compute a model of {config.heads} heads: its ALiBi slopes are the model's only if the "
            "number of heads is a power of two. Use --format hf, or train a model with 16 heads: the recipe "
            "parakeet-378m-16h is as large as parakeet-378m."
        )
    if dtype == "q8_0" and config.width % Q8_0_BLOCK:
        raise ParakeetError(
            f"--dtype q8_0 needs a width that is a multiple of {Q8_0_BLOCK}; this model is {config.width} wide. "
            "Use fp16 or bf16."
        )


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file: tensors of the release one below another, or zeros if it has none."""

    name: str
    shape: tuple[int, ...]
    """Of a matrix (outputs, inputs), of a vector (length,)."""
    parts: tuple[tuple[str, int], ...] = ()
    """Name in the release, and its number of rows."""


def _tensors(config: ModelConfig) -> Iterator[_Tensor]:
    d = config.width

    def of(name: str, ours: str, *shape: int) -> _Tensor:
        return _Tensor(name, shape, ((ours, shape[0]),))

    yield of("token_embd.weight", "embedding.weight", config.vocabulary_rows, d)
    yield of("token_embd_norm.weight", "embedding_norm.weight", d)
    yield of("token_embd_norm.bias", "embedding_norm.bias", d)
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"blk.{layer}"
        yield of(f"{theirs}.attn_norm.weight", f"{ours}.attention_norm.weight", d)
        # Rows: queries, keys, values. Two layers that share a projection both get it.
        projections = ((f"{ours}.query.weight", d), (f"key_values.{config.projection_of(layer)}.weight", 2 * d))
        yield _Tensor(f"{theirs}.attn_qkv.weight", (3 * d, d), projections)
        yield of(f"{theirs}.attn_output.weight", f"{ours}.attention_output.weight", d, d)
        yield of(f"{theirs}.ffn_norm.weight", f"{ours}.mlp_norm.weight", d)
        yield of(f"{theirs}.ffn_up.weight", f"{ours}.mlp_input.weight", 4 * d, d)
        yield of(f"{theirs}.ffn_down.weight", f"{ours}.mlp_output.weight", d, 4 * d)
        lengths = {"attn_norm": d, "attn_qkv": 3 * d, "attn_output": d, "ffn_norm": d, "ffn_up": 4 * d, "ffn_down": d}
        yield from (_Tensor(f"{theirs}.{name}.bias", (length,)) for name, length in lengths.items())
    yield of("output_norm.weight", "final_norm.weight", d)
    yield _Tensor("output_norm.bias", (d,))


def _write(source: ExportSource, vocabulary: Vocabulary, file: Path, dtype: str, progress: Progress) -> None:
    import gguf

    matrices = gguf.GGMLQuantizationType[TYPES[dtype][0]]
    tensors = list(_tensors(source.config))
    written = sum(prod(tensor.shape) for tensor in tensors)
    with (
        _opened(source, tensors) as weights,
        closing(gguf.GGUFWriter(file, "bloom")) as writer,
        progress.task(f"writing {file.name}", 4 * written, BYTES) as task,
    ):
        _add_metadata(writer, source, vocabulary, dtype)
        content = []
        for tensor in tensors:
            # Norms and biases stay in fp32: llama.cpp computes with them so.
            kind = matrices if len(tensor.shape) > 1 else gguf.GGMLQuantizationType.F32
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            n_bytes = prod(tensor.shape) // block * block_bytes
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), n_bytes, raw_dtype=kind)
            convert = partial(gguf.quants.quantize, qtype=kind)
            content.append(_Content(tensor, weights, convert, n_bytes, task))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in content:
            writer.write_tensor_data(one)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Content:
    """The numbers of a tensor as GGUFWriter asks an array for them, converted while they are written."""

    tensor: _Tensor
    weights: Any
    """An open safetensors file."""
    convert: Callable[[NDArray[np.float32]], NDArray[Any]]
    nbytes: int
    task: Task

    def tofile(self, file: BinaryIO) -> None:
        for piece in self._pieces():
            with np.errstate(over="ignore"):
                converted = self.convert(piece)
            if converted.dtype.kind == "f" and not np.isfinite(converted).all():
                raise ParakeetError(
                    f"{self.tensor.name} holds numbers too large for this dtype: use --dtype bf16 or fp32."
                )
            file.write(np.ascontiguousarray(converted).data)
            self.task.advance(piece.nbytes)

    def _pieces(self) -> Iterator[NDArray[np.float32]]:
        if not self.tensor.parts:
            yield np.zeros(self.tensor.shape, np.float32)
        for name, rows in self.tensor.parts:
            stored = self.weights.get_slice(name)
            step = max(1, NUMBERS_AT_ONCE // prod(self.tensor.shape[1:]))
            for begin in range(0, rows, step):
                piece = stored[begin : min(begin + step, rows)]
                if not np.isfinite(piece).all():
                    raise ParakeetError(f"{name} holds NaN or infinite values, so the model is unusable.")
                yield piece


@contextmanager
def _opened(source: ExportSource, tensors: list[_Tensor]) -> Iterator[Any]:
    """The weights. Without torch, which would take 200 MB. ParakeetError if they are not those of the model."""
    expected = {name: (rows, *tensor.shape[1:]) for tensor in tensors for name, rows in tensor.parts}
    try:
        with safe_open(source.weights, "numpy") as weights:
            found = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            shapes = {name: tuple(stored.get_shape()) for name, stored in found.items()}
            wrong = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
            wrong += [name for name, stored in found.items() if stored.get_dtype() != "F32"]
            if wrong:
                raise ParakeetError(
                    f"{source.weights} does not match its config.json: {wrong[0]} has the shape "
                    f"{shapes.get(wrong[0], 'missing')}, expected {expected.get(wrong[0], 'nothing')} in fp32."
                )
            yield weights
    except SafetensorError as error:
        raise ParakeetError(f"{source.weights} cannot be read as safetensors: {error}") from None


def _add_metadata(writer: "GGUFWriter", source: ExportSource, vocabulary: Vocabulary, dtype: str) -> None:
    import gguf

    config, tokenizer, settings = source.config, source.tokenizer, source.release.generation
    writer.add_type("model")
    writer.add_name(source.release.name)
    writer.add_license(licence_of(read_card(source.release.directory)))
    writer.add_file_type(gguf.LlamaFileType[TYPES[dtype][1]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(4 * config.width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_sampling_temp(settings.temperature)
    writer.add_sampling_top_k(settings.top_k)
    writer.add_sampling_top_p(settings.top_p)
    writer.add_sampling_min_p(settings.min_p)
    writer.add_sampling_penalty_repeat(settings.repetition_penalty)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.names)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_eot_token_id(tokenizer.end_of_prompt)
    writer.add_pad_token_id(tokenizer.padding)
    # A conversation begins with a role. llama.cpp would put the first token before it.
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template(tokenizer))


def _check_ids(source: ExportSource, vocabulary: Vocabulary, file: Path) -> None:
    """ParakeetError if llama.cpp, where it is installed, cannot read the file or gives other ids."""
    if find_spec("xllamacpp") is None:
        return
    with llama_cpp_server(file, CHECKED_CONTEXT) as address:
        for text in (*ODD_TEXTS, *Random(0).choices(vocabulary.texts, k=CHECKED_TEXTS)):
            if token_ids(address, text) != source.tokenizer.encode(text):
                raise ParakeetError(
                    f"llama.cpp gives other tokens than Parakeet for {text[:SHOWN_CHARACTERS]!r} (pre-tokenizer "
                    f"{vocabulary.pre_tokenizer}): this version of it cannot read the vocabulary. Use --format hf."
                )
