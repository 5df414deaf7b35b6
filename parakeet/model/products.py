"""Matrix products on a CPU by oneDNN, where torch has it."""

import torch
from torch import Tensor
from torch.nn import functional as F

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""torch.compile's own CPU code calls this operator. It has no documented name."""


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ, for x (…, n) and weight (m, n); no gradient is recorded.

    In fp32 on a CPU, torch leaves products to MKL. On an AMD EPYC oneDNN is faster in most products of a training
    step; the whole step of the demo is 1.05 times as fast. Other processors were not tried.
    """
    if _ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu":
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return product
    return F.linear(x, weight)
