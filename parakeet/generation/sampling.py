"""From logits to the next token."""

import math
from collections import Counter

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.generation.settings import SamplingSettings

LARGEST_SCORE = 1e300
"""A penalised score is held within this: a positive logit over a repetition penalty of 1e-308 would be infinite."""


class Sampler:
    """Draws the tokens of one reply, and counts them for the penalties.

    The order is fixed, and this is where it stands:

    1. mask: ids that are not allowed take no place in any cut below;
    2. repetition penalty (CTRL, Keskin et al. 2019, arXiv 1909.05858): first of the penalties, because it
       divides or multiplies by the sign that the model itself gave a logit. Alone of all the steps it
       would draw otherwise if a constant were added to all logits;
    3. frequency and presence penalty, OpenAI's definition: logit − count · frequency − presence;
    4. temperature: after the penalties, so that a greedy draw heeds them, and before the cuts, so that
       these see the distribution that is drawn from;
    5. top_k, 6. min_p (Nguyen et al. 2024, arXiv 2407.01082): each keeps a beginning of one ranking, so
       their order is all one;
    7. top_p (Holtzman et al. 2019, arXiv 1904.09751): last, as it adds up what the others have left,
       which is brought to a sum of 1 for it;
    8. the draw.

    Penalties count the tokens of this reply only. Among equals the lower id comes first; min_p keeps all
    that tie with its limit. It works on the CPU in float64 whatever the model computes in, so that a
    seed means the same draw on every device, and a temperature of 1e-9 neither overflows nor divides by
    zero.
    """

    def __init__(self, settings: SamplingSettings, allowed: Tensor) -> None:
        """`allowed`: (vocabulary rows,) bool; only where it is true can a token be drawn."""
        self.settings = settings
        self._allowed = allowed.cpu()
        self._masked = ~self._allowed
        if not self._allowed.any():
            raise ParakeetError("No token may be generated: the tokenizer defines none that the model could say.")
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)

    def choose(self, logits: Tensor) -> int:
        """Draw an id from logits (vocabulary rows,) and count it. Raises ParakeetError on NaN or infinity."""
        ids, probabilities = self._candidates(logits)
        token_id = int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])
        self._counts[token_id] += 1
        return token_id

    def distribution(self, logits: Tensor) -> Tensor:
        """Probabilities (vocabulary rows,) float64 that `choose` draws from; they sum to 1."""
        ids, probabilities = self._candidates(logits)
        return torch.zeros(len(self._allowed), dtype=torch.float64).index_copy_(0, ids, probabilities)

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Ids that can be drawn, in ascending order, and their probabilities, (n,) each.

        min_p cuts in the logits, p >= min_p · p_max being score >= max + temperature · ln(min_p), and
        before top_k, so that all that sorts or draws sees a handful of tokens.
        """
        scores = self._penalised(logits)
        if self.settings.temperature == 0:
            return scores.argmax(0, keepdim=True), torch.ones(1, dtype=torch.float64)
        lowest_share = math.log(self.settings.min_p) if self.settings.min_p else -math.inf
        likely = scores >= scores.amax() + self.settings.temperature * lowest_share
        ids = (likely & self._allowed).nonzero().squeeze(1)
        best = _likeliest(scores[ids], self.settings.top_k)
        ids = ids[best]
        kept = scores[ids]
        probabilities = torch.softmax((kept - kept.amax()) / self.settings.temperature, dim=0)
        nucleus = _nucleus(probabilities, self.settings.top_p)
        return ids[nucleus], probabilities[nucleus] / probabilities[nucleus].sum()

    def _penalised(self, logits: Tensor) -> Tensor:
        """Logits after the penalties, (rows,) float64, −inf where masked."""
        scores = logits.detach().to("cpu", torch.float64, copy=True)
        if scores.shape != self._allowed.shape:
            raise ParakeetError(
                f"The model gives {tuple(scores.shape)} logits, but its tokenizer has {len(self._allowed)} rows: "
                "they do not belong together."
            )
        # The extremes carry NaN and infinity, at a fifth of the time of isfinite().all() (43 for 231 µs).
        if not all(math.isfinite(extreme) for extreme in scores.aminmax()):
            raise ParakeetError(
                "The model's logits hold NaN or infinite values: its weights are damaged, or the arithmetic "
                "overflowed. Check the weights with: parakeet verify"
            )
        if self._counts:
            said = list(self._counts)
            counts = torch.tensor(list(self._counts.values()), dtype=torch.float64)
            factor = self.settings.repetition_penalty
            scaled = torch.where(scores[said] > 0, scores[said] / factor, scores[said] * factor)
            scaled -= self.settings.frequency_penalty * counts + self.settings.presence_penalty
            scores[said] = scaled.clamp_(-LARGEST_SCORE, LARGEST_SCORE)
        return scores.masked_fill_(self._masked, -math.inf)


def _likeliest(scores: Tensor, k: int) -> Tensor:
    """(n,) bool: the k highest of the scores (n,), the first ones among equals; all for k 0."""
    if k == 0 or k >= len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    # Which of several equals topk returns is not specified, so only its limit is used.
    limit = scores.topk(k, sorted=False).values.amin()
    kept = scores > limit
    kept[(scores == limit).nonzero().squeeze(1)[: k - int(kept.sum())]] = True
    return kept


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(n,) bool: the fewest likeliest tokens that hold `top_p`."""
    kept = torch.ones_like(probabilities, dtype=torch.bool)
    if top_p == 1:
        return kept
    # All that lie below half of (1 − top_p) / n hold less than 1 − top_p together, so none of them is in the
    # nucleus. Sorting all 100,288 would take 8 ms.
    ids = (probabilities >= (1 - top_p) / (2 * len(probabilities))).nonzero().squeeze(1)
    ordered, order = probabilities[ids].sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    return kept.fill_(False).index_fill_(0, ids[order[before < top_p]], True)
