"""What fewer bits a weight cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.intervals import ratio_of
from parakeet.studies.measure import Measure, Trained

if TYPE_CHECKING:
    from torch import Tensor

    from parakeet.evaluation.base import Subject

MAX_BYTES = 50_000
"""Bytes of held-out text, over all sources. The difference on the same text is certain to a tenth with far fewer than
the figures themselves need."""


class Quantised(Measure):
    """Held-out bits per byte of the same documents with the weights as trained, and rounded to 8 and to 4 bits.

    {"n_bytes", "fp32", "int8", "int4"}; the last two are {"value", "cost"}, where `cost` is {"n" (documents), "value",
    "interval"}: bits per byte more than fp32. None if nothing is held out. All matrices are rounded as the decoder
    rounds them, the embedding also where ids are looked up. Activations are not rounded: the figure is of the weights.
    """

    name = "quantised"

    def measure(self, trained: Trained) -> dict[str, Any] | None:
        from copy import deepcopy

        from parakeet.evaluation.scoring import bits_of

        subject = trained.subject
        documents = _first(subject)
        if not documents:
            return None
        text = subject.tokenizer, subject.held_out, documents, subject.recipe.packing.sequence_length, subject.progress
        exact = bits_of(subject.model, *text)
        n_bytes = int(exact.n_bytes.sum())
        if not n_bytes:
            return None
        found: dict[str, Any] = {"n_bytes": n_bytes, "fp32": exact.total / n_bytes}
        for dtype, rounded in (("int8", to_int8), ("int4", to_int4)):
            model = deepcopy(subject.model)
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.data = rounded(parameter.data)
            less = bits_of(model, *text)
            cost = ratio_of(less.bits - exact.bits, exact.n_bytes)
            found[dtype] = {"value": less.total / n_bytes, "cost": cost}
        return found


def to_int8(weight: "Tensor") -> "Tensor":
    """A weight (rows, columns) fp32 rounded to q · scale, with q from −127 to 127 and an fp32 scale for each row."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale.where(scale != 0, 1.0)).round() * scale


def to_int4(weight: "Tensor") -> "Tensor":
    """The same with q from −8 to 7 and a bf16 scale for every 32 weights of a row; the farthest from zero gets −8."""
    from torch.nn import functional as F

    from parakeet.generation.kernels import GROUP

    rows, columns = weight.shape
    groups = F.pad(weight, (0, -columns % GROUP)).view(rows, -1, GROUP)
    farthest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = (farthest / -8).bfloat16().float()
    q = (groups / scale.where(scale != 0, 1.0)).round().clamp(-8, 7)
    return (q * scale).view(rows, -1)[:, :columns].contiguous()


def _first(subject: "Subject") -> Sequence[int]:
    """Numbers of the first held-out documents that are measured, up to MAX_BYTES."""
    numbers = [number for documents in subject.documents.values() for number in documents]
    n_bytes = subject.held_out.n_bytes()[numbers]
    before = np.cumsum(n_bytes) - n_bytes
    return [number for number, past in zip(numbers, before.tolist(), strict=True) if past < MAX_BYTES]
