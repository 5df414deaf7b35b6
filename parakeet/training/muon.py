"""Muon's update: the nearest orthogonal matrix to a momentum, by a polynomial iteration.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon): an update whose singular values are all about 1 moves every
direction of a matrix alike, where Adam's moves few.
"""

import torch
from torch import Tensor

from parakeet.training.precision import Asked

COEFFICIENTS = (
    (8.205160, -22.901935, 16.460725),
    (4.066395, -2.861155, 0.518400),
    (3.909595, -2.823352, 0.525037),
    (3.285563, -2.415302, 0.485294),
    (2.277873, -1.619822, 0.398481),
)
"""a, b, c of each iteration X ← a·X + b·(XXᵀ)X + c·(XXᵀ)²X: Polar Express (Amsel et al. 2025, arXiv 2505.16932), whose
polynomials are the best for each iteration in turn, with that paper's safety factor of 1.01 folded in. Five bring
every singular value above 0.01 of the norm to between 0.87 and 1.12."""
FEWER = 3
"""Iterations on a CPU and in fp32, where three do: values above 0.005 of the norm then come between 0.1 and 1.9, and
the model learns as well (1.9984 and 1.9982 bits per byte after 256,000 tokens). On a GPU with bf16 units, whose steps
are of far more tokens, five cost nothing."""
GRAM_RATIO = 2
"""From this ratio of sides on, the iteration runs on the small square XXᵀ. Three iterations on eight matrices then take
56 ms instead of 95 on a core at 256 × 1,024, as long as before at 256 × 512, and a square matrix would take longer."""


def products_in_bf16(device: torch.device, precision: Asked) -> bool:
    """Whether the products of the iteration are to be in bf16, for a model that computes in `precision` on `device`.

    CUDA devices with bf16 units always use bf16. A CPU does if the model does: on a core with bf16 units it takes 62 ms
    instead of 106 for the demo's matrices, on one without 40 times as long. An undecided `auto` counts as fp32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def orthogonalise_(matrices: Tensor, in_bf16: bool = False) -> Tensor:
    """For each of (n, rows, columns) matrices U·S·Vᵀ about U·Vᵀ, in the same shape. A matrix of zeros stays zeros.

    in_bf16: whether products are in bf16. If not, fp32 matrices are overwritten on the way.
    """
    x = matrices.bfloat16() if in_bf16 else matrices.float()
    # XXᵀ is the smaller of the two squares when rows are the shorter side.
    tall = x.shape[-2] > x.shape[-1]
    found = _iterate(x.mT if tall else x)
    return (found.mT if tall else found).to(matrices.dtype)


def _iterate(x: Tensor) -> Tensor:
    """(n, short, long) matrices to their nearest orthogonal ones."""
    # The Frobenius norm bounds the largest singular value. The margin is for bf16, which may round it down.
    many = x.device.type == "cuda" and x.dtype == torch.bfloat16
    coefficients = COEFFICIENTS if many else COEFFICIENTS[:FEWER]
    x.div_(x.norm(dim=(-2, -1), keepdim=True).mul_(1.01).add_(1e-7))
    # bf16 has too few digits to multiply polynomials of XXᵀ without x.
    if x.dtype == torch.bfloat16 or x.shape[-1] < GRAM_RATIO * x.shape[-2]:
        for a, b, c in coefficients:
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return x
    # All polynomials of XXᵀ commute, so their product can be applied to x once, at the end. The error of three
    # iterations stays at 5e-6 in fp32.
    square = x @ x.mT
    total = _polynomial(square, *coefficients[0])
    factor = total
    for following in coefficients[1:]:
        square = factor @ square @ factor
        factor = _polynomial(square, *following)
        total = total @ factor
    return total @ x


def _polynomial(square: Tensor, a: float, b: float, c: float) -> Tensor:
    """a + b · square + c · square², (n, side, side)."""
    factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
