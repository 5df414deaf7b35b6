"""The cost of a precision: held-out bits per byte of the trained model, in each dtype of the engine."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.scoring import choose_documents
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.generation.matrices import COMPILED_ROWS
from parakeet.model.transformer import load_model
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build, recipe_built_last
from parakeet.tokenizer import Tokenizer

MAX_BYTES, MAX_DECODED_BYTES = 50_000, 10_000
"""Bytes of held-out text to measure as prompts, and token by token."""


PRECISIONS = {dtype: (dtype, "auto") for dtype in DTYPES} | {
    f"{dtype}, {cache} cache": (dtype, cache) for dtype, cache in (("fp32", "bf16"), ("fp32", "int8"), ("int8", "fp32"))
}
"""The dtypes of weights and of the cache, by name."""


@dataclass(frozen=True)
class Quality:
    """Held-out bits per byte: read as prompts, and token by token, as a reply is generated.

    Both ways may use other kernels: only a step quantises activations, and only a step reads all keys and values from
    the cache.
    """

    prompts: float
    steps: float


def bits_per_byte_by_precision(root: Path) -> dict[str, Quality | None]:
    """By the name of a precision (PRECISIONS), over the first held-out documents of the recipe built last; None for one
    that does not support the model.

    Each document is read alone. ParakeetError when there is nothing to measure: no trained model, no held-out text, or
    a recipe whose files are gone.
    """
    build = Build(root, load_recipe(recipe_built_last(root), report_old_keys=False))
    if build.find("checkpoint") is None or build.find("token_shards") is None:
        raise ParakeetError("No trained model is here. Make one with: parakeet build")
    tokenizer = Tokenizer.load(build.artifact("tokenizer").path)
    shards = TokenShards(build.artifact("token_shards").path, "held_out", tokenizer)
    sources = range(len(shards.names))
    prompts, decoded = (
        [n for source in sources for n in choose_documents(shards, source, most)]
        for most in (MAX_BYTES, MAX_DECODED_BYTES)
    )
    if not prompts:
        raise ParakeetError("The trained model's corpus holds no held-out text.")
    model = load_model(build.artifact("checkpoint").path, "cpu")
    found: dict[str, Quality | None] = {}
    for name, (dtype, cache_dtype) in PRECISIONS.items():
        try:
            decoder = Decoder(model, dtype, cache_dtype=cache_dtype)
            found[name] = Quality(
                held_out_bits_per_byte(decoder, tokenizer, shards, prompts),
                held_out_bits_per_byte(decoder, tokenizer, shards, decoded, by_steps=True),
            )
        except ParakeetError:  # its kernel does not support matrices of this size
            found[name] = None
    return found


def held_out_bits_per_byte(
    decoder: Decoder, tokenizer: Tokenizer, shards: TokenShards, documents: list[int], by_steps: bool = False
) -> float:
    """Σ −log2 p(content token) / bytes of content; control tokens count as neither."""
    controls = np.array(sorted(tokenizer.control_ids), np.int64)
    nats, n_bytes = 0.0, 0
    for number in documents:
        ids = np.asarray(shards.tokens(number), np.int64)[: decoder.config.context + 1]
        content = torch.from_numpy(~np.isin(ids[1:], controls))
        targets = torch.from_numpy(ids[1:])
        logits = _stepped if by_steps else Decoder.logits
        losses = F.cross_entropy(logits(decoder, ids[:-1].tolist()), targets, reduction="none")
        nats += float(losses[content].double().sum())
        n_bytes += sum(len(tokenizer.token_bytes(i)) for i in targets[content].tolist())
    return nats / math.log(2) / n_bytes


def _stepped(decoder: Decoder, ids: list[int]) -> Tensor:
    """What `Decoder.logits` gives, as `Decoder.step` computes it."""
    cache = decoder.new_cache(len(ids))
    if not decoder.can_append:
        return torch.cat([decoder.step([number], cache) for number in ids])
    pieces = (ids[begin : begin + COMPILED_ROWS] for begin in range(0, len(ids), COMPILED_ROWS))
    return torch.cat([decoder.append(piece, [0] * len(piece), cache) for piece in pieces])
