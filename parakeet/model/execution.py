"""How a forward and backward pass is computed, never what it computes. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

AttentionBackend = Literal["reference", "fused", "tiled", "flex"]
Precision = Literal["fp32", "bf16"]
ActivationCheckpointing = Literal["none", "mlp", "block"]

LOSS_ROWS = 1024
"""Rows of logits that exist at a time. With a vocabulary of 100,288, 1,024 rows are 0.38 GiB of fp32."""


@dataclass(frozen=True)
class Execution:
    """The choices among ways to compute the same gradients."""

    attention: AttentionBackend = "fused"
    """`reference` keeps every score; the others take memory linear in the sequence length. `tiled` is for CPUs."""
    precision: Precision = "fp32"
    """Of the matrix products. Weights stay fp32."""
    residual: Precision = "fp32"
    """Of the residual stream between blocks."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """Activation checkpointing: what the backward pass computes again instead of keeping it. GELUs always are."""
    compile: bool = False
    """Whether the blocks run through torch.compile."""
    loss_rows: int = LOSS_ROWS
    """Rows of logits that exist at a time."""
