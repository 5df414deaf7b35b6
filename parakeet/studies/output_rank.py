"""How much of its width a model uses for its output.

Godey et al. 2024, arXiv 2404.07647: in small models that read much text, the output matrix loses rank and the last
hidden states come to point the same way, which limits what the softmax can express.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.studies.measure import Measure, Trained

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS = 8_192
"""Positions of held-out text whose hidden states are compared."""


class OutputRank(Measure):
    """{"effective_rank", "largest", "anisotropy", "positions"}.

    `effective_rank` is that of the output matrix, without rows that no token has, as a share of the width: 1 if all
    singular values are equal. `largest` is the share of the largest singular value in the sum of their squares.
    `anisotropy` is the mean cosine of two last hidden states of held-out text; None without held-out text.
    """

    name = "output_rank"

    def measure(self, trained: Trained) -> dict[str, Any]:
        from parakeet.studies.sequences import last_hidden, packed_documents

        subject, length = trained.subject, trained.subject.recipe.packing.sequence_length
        weight = subject.model.embedding.weight.detach()[list(subject.tokenizer.defined_ids())].cpu()
        energy = singular_values(weight).square()
        documents = np.array([number for some in subject.documents.values() for number in some], np.int64)
        cosine, positions = None, 0
        if len(documents):
            packed = packed_documents(subject.held_out, documents, length)
            some = packed.take(np.arange(min(len(packed), max(1, POSITIONS // length))))
            hidden = last_hidden(subject, subject.held_out, some, length)
            cosine, positions = anisotropy(hidden), len(hidden)
        return {
            "effective_rank": effective_rank(weight) / weight.shape[1],
            "largest": float(energy.max() / energy.sum().clamp_min(1e-300)),
            "anisotropy": cosine,
            "positions": positions,
        }


def effective_rank(matrix: "Tensor") -> float:
    """exp of the entropy of the singular values as shares of their sum (Roy and Vetterli 2007); 0 of a zero matrix."""
    values = singular_values(matrix)
    shares = values[values > 0] / values.sum()
    return float((-(shares * shares.log()).sum()).exp()) if len(shares) else 0.0


def anisotropy(vectors: "Tensor") -> float | None:
    """Mean cosine over all pairs of different rows of (n, width); None for fewer than two rows."""
    n = len(vectors)
    if n < 2:
        return None
    directions = vectors.double() / vectors.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    # The squared length of the sum of n unit vectors is n plus the cosines of all ordered pairs.
    return float((directions.sum(0).square().sum() - directions.square().sum()) / (n * (n - 1)))


def singular_values(matrix: "Tensor") -> "Tensor":
    """Of (rows, columns), in double; what rounding makes of a zero is 0."""
    import torch

    values = torch.linalg.svdvals(matrix.double())
    tolerance = values.max() * max(matrix.shape) * torch.finfo(torch.float64).eps
    return values.where(values > tolerance, 0.0)
