"""From logits to the next token."""

import math
from collections import Counter

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.sampling_settings import SamplingSettings

LARGEST_SCORE = 1e300
"""Limit of a penalised score: a logit divided by a repetition penalty of 1e-308 would be infinite."""


class Sampler:
    """Draws the tokens of one reply, and counts them for the penalties.

    The order of the steps is fixed:

    1. mask: ids that are not allowed do not count in any cut below;
    2. repetition penalty (CTRL, Keskin et al. 2019, arXiv 1909.05858): first of the penalties, because it divides or
       multiplies depending on the sign of the model's own logit. It is the only step whose effect changes if a
       constant is added to all logits;
    3. frequency and presence penalty, OpenAI's definition: logit − count · frequency − presence;
    4. temperature: after the penalties, so that a greedy draw respects them, and before the cuts, so that these see
       the distribution that is drawn from;
    5. top_k, 6. min_p (Nguyen et al. 2024, arXiv 2407.01082): each keeps the top of the same ranking, so their order
       does not matter;
    7. top_p (Holtzman et al. 2019, arXiv 1904.09751): last, because it adds up the probabilities of what the other
       cuts have left, rescaled to a sum of 1;
    8. the draw.

    Penalties count the tokens of this reply only. Among equals the lower id comes first; min_p keeps all that tie with
    its limit. All arithmetic is float64 on the CPU, so that a seed gives the same draw on every device, and a
    temperature of 1e-9 neither overflows nor divides by zero.
    """

    def __init__(self, settings: SamplingSettings, allowed: Tensor) -> None:
        """`allowed`: (vocabulary rows,) bool, the ids that can be drawn."""
        self.settings = settings
        self._allowed = allowed.cpu()
        self._masked = ~self._allowed
        if not self._allowed.any():
            raise ParakeetError("No token can be generated: the tokenizer defines none that a reply may contain.")
        self._counts: Counter[int] = Counter()
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)

    def choose(self, logits: Tensor) -> int:
        """Draw an id from logits (vocabulary rows,) and count it. Raises ParakeetError on NaN or infinity."""
        ids, probabilities = self.distribution(logits)
        token_id = int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])
        self._counts[token_id] += 1
        return token_id

    def distribution(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What `choose` draws from: ids (n,) in ascending order and their probabilities (n,) float64, of sum 1.

        All other ids have probability 0. min_p is applied to the scores: p >= min_p · p_max is the same as
        score >= max + temperature · ln(min_p). It comes before top_k, so that sorts and draws see few tokens.
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
        # aminmax propagates NaN and infinity, in a fifth of the time of isfinite().all() (43 instead of 231 µs).
        if not all(math.isfinite(extreme) for extreme in scores.aminmax()):
            raise ParakeetError(
                "The model's logits contain NaN or infinite values: its weights are damaged, or the arithmetic "
                "overflowed. Check the weights with: parakeet verify"
            )
        if self._counts:
            used = list(self._counts)
            counts = torch.tensor(list(self._counts.values()), dtype=torch.float64)
            factor = self.settings.repetition_penalty
            scaled = torch.where(scores[used] > 0, scores[used] / factor, scores[used] * factor)
            scaled -= self.settings.frequency_penalty * counts + self.settings.presence_penalty
            scores[used] = scaled.clamp_(-LARGEST_SCORE, LARGEST_SCORE)
        return scores.masked_fill_(self._masked, -math.inf)


def _likeliest(scores: Tensor, k: int) -> Tensor:
    """(n,) bool: the k highest of the scores (n,), the first of equals; all if k is 0."""
    if k == 0 or k >= len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    # topk does not specify which of several equals it returns, so only the lowest value is used.
    limit = scores.topk(k, sorted=False).values.amin()
    kept = scores > limit
    kept[(scores == limit).nonzero().squeeze(1)[: k - int(kept.sum())]] = True
    return kept


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """(n,) bool: the smallest set of likeliest tokens whose probabilities (n,) add up to `top_p`."""
    kept = torch.ones_like(probabilities, dtype=torch.bool)
    if top_p == 1:
        return kept
    # The tokens below (1 − top_p) / 2n add up to less than 1 − top_p, so none of them is in the nucleus. Without
    # them there is little to sort; all 100,288 would take 8 ms.
    ids = (probabilities >= (1 - top_p) / (2 * len(probabilities))).nonzero().squeeze(1)
    ordered, order = probabilities[ids].sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    return kept.fill_(False).index_fill_(0, ids[order[before < top_p]], True)
