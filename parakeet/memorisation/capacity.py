"""How many bits of random text a model holds: capacity in bits per parameter (Morris et al. 2025, arXiv 2505.24832)."""

import math
from typing import Any

import numpy as np

from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.scoring import bits_of
from parakeet.intervals import ratio_of
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.recipe_sources import RandomSource
from parakeet.tokenizer import Tokenizer


def code_length(
    model: Parakeet, tokenizer: Tokenizer, shards: TokenShards, source: RandomSource, progress: Progress
) -> dict[str, Any]:
    """How much shorter the model makes the code of a random source's documents: {"documents", "data_bits", "code_bits",
    "memorised_bits", "parameters", "used_parameters", "bits_per_parameter", "bits_per_used_parameter", "share"}.

    A document's entropy is its characters × log2(alphabet), its code length Σ −log2 p of its content tokens, each
    predicted from all before it in the document. `memorised_bits` is Σ max(0, entropy − code length): a document that
    the model makes longer is coded without it, as Morris et al. take the better of the model and a reference (here the
    uniform distribution) for each sample. The maximum counts the chance gains of unread documents too; those of the
    held-out split are that floor. `data_bits` and `code_bits` are the sums of the two.

    `used_parameters` leaves out the rows of the embedding whose ids are not in `shards`: they hold nothing, and in a
    small model they are a quarter. The last three are {"n", "value", "interval"} over documents; `share` is that of
    the data's bits. Raises ParakeetError if there are no such documents, if the context does not hold one whole, or if
    the model's output is not finite.
    """
    if source.name not in shards.names or not len(
        documents := np.flatnonzero(shards.sources() == shards.names.index(source.name))
    ):
        raise ParakeetError(f"The token shards in {shards.directory} have no document of the source {source.name}.")
    slots = int(shards.lengths()[documents].max()) - 1
    if slots > model.config.context:
        raise ParakeetError(
            f"Source {source.name} has documents of {slots:,} tokens, more than the model's context of "
            f"{model.config.context:,}: raise model.context, or lower the source's symbols."
        )
    found = bits_of(model, tokenizer, shards, documents.tolist(), slots, progress, "code length")
    entropy = found.n_bytes * math.log2(source.alphabet)  # a character is a byte
    memorised = np.maximum(0.0, entropy - found.bits)
    parameters = model.config.parameter_count
    unused = int((shards.id_counts()[: model.config.vocabulary_rows] == 0).sum())
    used = parameters - unused * model.config.width
    each = np.ones(len(documents)) / len(documents)
    return {
        "documents": len(documents),
        "data_bits": float(entropy.sum()),
        "code_bits": found.total,
        "memorised_bits": float(memorised.sum()),
        "parameters": parameters,
        "used_parameters": used,
        "bits_per_parameter": ratio_of(memorised, parameters * each),
        "bits_per_used_parameter": ratio_of(memorised, used * each),
        "share": ratio_of(memorised, entropy),
    }
