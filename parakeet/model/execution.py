"""How a forward and backward pass is computed; never what it computes. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

AttentionBackend = Literal["reference", "fused", "flex"]
Precision = Literal["fp32", "bf16"]
Recompute = Literal["none", "mlp", "block"]

LOSS_ROWS = 1024
"""Rows of logits that exist at once. At a vocabulary of 100,288, 1,024 rows are 0.38 GiB of fp32."""


@dataclass(frozen=True)
class Execution:
    """One choice for every way there is to compute the same gradients.

    attention: `reference` keeps every score, `fused` and `flex` take memory linear in the length. precision: of the
    products; weights stay fp32. residual: of the stream between blocks. recompute: what the backward pass computes
    again instead of keeping it; GELUs always. compile: whether torch.compile builds the blocks. loss_rows: rows of
    logits that exist at once.
    """

    attention: AttentionBackend = "fused"
    precision: Precision = "fp32"
    residual: Precision = "fp32"
    recompute: Recompute = "none"
    compile: bool = False
    loss_rows: int = LOSS_ROWS
