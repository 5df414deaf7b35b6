"""What reading a text again is worth, in tokens of fresh text.

Muennighoff et al. 2023, arXiv 2305.16264: U tokens that are read 1 + R times are worth as much as
U + U · R* · (1 − exp(−R / R*)) tokens of fresh text.
"""

from collections.abc import Mapping, Sequence

import numpy as np

PUBLISHED = 15.4
"""R* of that paper, fitted to models of up to 9 B parameters."""
EXPONENTS = np.linspace(0.02, 1.5, 149)
R_STARS = np.geomspace(0.05, 2_000, 600)
FEWEST = 3
"""Points that a curve of fresh text, and a fit of R* with an offset, must have."""
STEPS = 4_000


class FreshCurve:
    """Bits per byte by tokens of fresh text: E + B · tokens^−β through the points, and between them what that misses.

    Only the points before the curve rises count.
    """

    def __init__(self, points: Mapping[float, float]) -> None:
        """Bits per byte by tokens. ValueError for fewer than FEWEST points that fall."""
        falling: list[tuple[float, float]] = []
        for tokens, bits in sorted(points.items()):
            if not falling or bits < falling[-1][1]:
                falling.append((tokens, bits))
        if len(falling) < FEWEST:
            raise ValueError(f"only {len(falling)} points fall; a curve needs {FEWEST}")
        tokens, bits = np.array(falling).T
        best: tuple[float, float, np.ndarray] | None = None
        for exponent in EXPONENTS.tolist():
            shape = np.stack([np.ones_like(tokens), tokens**-exponent], 1)
            weights, *_ = np.linalg.lstsq(shape, bits, rcond=None)
            error = float(((shape @ weights - bits) ** 2).sum())
            if best is None or error < best[0]:
                best = error, exponent, weights
        assert best is not None
        _, exponent, weights = best
        self._places = np.linspace(np.log(tokens[0]), np.log(tokens[-1]), STEPS)
        missed = np.interp(self._places, np.log(tokens), bits - weights[0] - weights[1] * tokens**-exponent)
        law = weights[0] + weights[1] * np.exp(-exponent * self._places)
        self._bits = np.minimum.accumulate(law + missed)

    def bits(self, tokens: Sequence[float] | np.ndarray) -> np.ndarray:
        """Bits per byte after so many tokens, which must be within the points: NaN beyond."""
        return np.interp(np.log(tokens), self._places, self._bits, left=np.nan, right=np.nan)

    def tokens(self, bits: float) -> float:
        """The tokens after which bits per byte are so low; NaN beyond the points."""
        found = np.interp(bits, self._bits[::-1], self._places[::-1], left=np.nan, right=np.nan)
        return float(np.exp(found))


def worth(curve: FreshCurve, unique: float, bits: Mapping[int, float]) -> dict[int, float]:
    """Tokens of fresh text that so many epochs are worth, as a share of the tokens read; `bits` by epochs, with 1.

    The curve is moved to pass through one epoch, which is fresh text too. Epochs beyond the curve are left out.
    """
    offset = bits[1] - float(curve.bits([unique])[0])
    found = {epochs: curve.tokens(value - offset) / (epochs * unique) for epochs, value in bits.items() if epochs > 1}
    return {epochs: share for epochs, share in found.items() if np.isfinite(share)}


def effective_tokens(unique: float, epochs: np.ndarray, r_star: float) -> np.ndarray:
    """Tokens of fresh text that `epochs` readings of `unique` tokens are worth, by the law."""
    return unique + unique * r_star * (1 - np.exp(-(epochs - 1) / r_star))


def fit_r_star(curve: FreshCurve, unique: float, bits: Mapping[int, float]) -> float | None:
    """R* with the least squared error in bits per byte, and an offset to the curve; `bits` by epochs.

    None if there are too few points, if the curve does not reach far enough, or if the error is least at the end of the
    range: the data do not tell then.
    """
    if len(bits) < FEWEST:
        return None
    epochs, found = np.array(list(bits), float), np.array(list(bits.values()))
    errors = np.full(len(R_STARS), np.inf)
    for number, r_star in enumerate(R_STARS.tolist()):
        missed = found - curve.bits(effective_tokens(unique, epochs, r_star))
        if np.isfinite(missed).all():
            errors[number] = float(((missed - missed.mean()) ** 2).sum())
    best = int(errors.argmin())
    inside = 0 < best < len(R_STARS) - 1 and np.isfinite(errors[best - 1]) and np.isfinite(errors[best + 1])
    return float(R_STARS[best]) if inside else None
