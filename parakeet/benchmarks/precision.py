"""The cost of a precision: held-out bits per byte of the trained model, in each dtype of the engine."""

import math
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
from parakeet.stages import Build, active_recipe
from parakeet.tokenizer import Tokenizer

MAX_BYTES = 50_000
"""Bytes of held-out text to measure."""


def bits_per_byte_by_dtype(root: Path) -> dict[str, float | None]:
    """By dtype, over the active recipe's first held-out documents; None for a dtype that does not support the model.

    Each document is read alone, by the kernels that decode. ParakeetError when there is nothing to measure: no
    trained model, no held-out text, or a recipe whose files are gone.
    """
    build = Build(root, active_recipe(root))
    if build.find("checkpoint") is None or build.find("token_shards") is None:
        raise ParakeetError("No trained model is here. Make one with: parakeet build")
    tokenizer = Tokenizer.load(build.artifact("tokenizer").path)
    shards = TokenShards(build.artifact("token_shards").path, "held_out", tokenizer)
    numbers = [n for source in range(len(shards.names)) for n in choose_documents(shards, source, MAX_BYTES)]
    if not numbers:
        raise ParakeetError("The trained model's corpus holds no held-out text.")
    model = load_model(build.artifact("checkpoint").path, "cpu")
    found: dict[str, float | None] = {}
    for dtype in DTYPES:
        try:
            found[dtype] = held_out_bits_per_byte(Decoder(model, dtype), tokenizer, shards, numbers)
        except ParakeetError:  # its kernel does not support matrices of this size
            found[dtype] = None
    return found


def held_out_bits_per_byte(decoder: Decoder, tokenizer: Tokenizer, shards: TokenShards, documents: list[int]) -> float:
    """Σ −log2 p(content token) / bytes of content; control tokens count as neither."""
    controls = np.array(sorted(tokenizer.control_ids), np.int64)
    nats, n_bytes = 0.0, 0
    for number in documents:
        ids = np.asarray(shards.tokens(number), np.int64)[: decoder.config.context + 1]
        content = torch.from_numpy(~np.isin(ids[1:], controls))
        targets = torch.from_numpy(ids[1:])
        losses = F.cross_entropy(_decoded(decoder, ids[:-1].tolist()), targets, reduction="none")
        nats += float(losses[content].double().sum())
        n_bytes += sum(len(tokenizer.token_bytes(i)) for i in targets[content].tolist())
    return nats / math.log(2) / n_bytes


def _decoded(decoder: Decoder, ids: list[int]) -> Tensor:
    """Logits (len(ids), vocabulary rows) as decoding gives them, which rounds more than reading a prompt does."""
    if not decoder.can_append:
        return decoder.logits(ids)
    cache = decoder.new_cache(len(ids))
    pieces = (ids[begin : begin + COMPILED_ROWS] for begin in range(0, len(ids), COMPILED_ROWS))
    return torch.cat([decoder.steps(piece, cache) for piece in pieces])
