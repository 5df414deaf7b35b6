"""From logits to the next token."""

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.sampling_settings import SamplingSettings

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

LARGEST_SCORE = 1e300
"""Limit of a penalised score: a logit divided by a repetition penalty of 1e-308 would be infinite."""

BLOCK = 64
"""Logits that are skipped together."""

SLACK = 1.0
"""How far below the limit of min_p logits are looked at, since penalties may lower it. If they lower it further, the
logits are read again."""

SHORTLIST = 256
"""So many of the likeliest tokens are copied from a GPU. With the default settings a draw needs a few dozen. All
100,288 would take the CPU 0.6 ms a token, half of what an H100 takes to compute them."""


class Sampler:
    """Draws the tokens of one reply, and counts them for the penalties.

    The order of the steps is fixed:

    1. mask: ids that are not allowed do not count in any cut below; and logit bias (OpenAI's), which is added to the
       logits of some ids, as if the model had given them;
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
    its limit. All arithmetic is float64, so that a temperature of 1e-9 neither overflows nor divides by zero. Cuts and
    draws are made on the CPU, so that a seed gives the same draw on every device.
    """

    def __init__(
        self, settings: SamplingSettings, allowed: Tensor, logit_bias: Mapping[int, float] | None = None
    ) -> None:
        """`allowed`: (vocabulary rows,) bool, the ids that can be drawn. `logit_bias`: by id, of the vocabulary."""
        self.settings = settings
        self.logit_bias = logit_bias or {}
        self.masked = ~allowed.cpu()
        """(vocabulary rows,) bool: the ids that cannot be drawn."""
        self._masked = self.masked
        if self.masked.all():
            raise ParakeetError("No token can be generated: the tokenizer defines none that a reply may contain.")
        self.counts: Counter[int] = Counter()
        """How often each id was drawn."""
        self._generator = torch.Generator()
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)

    @property
    def takes_likeliest(self) -> bool:
        """Whether every draw is simply the id of the highest logit that is allowed."""
        return self.settings.is_plain_greedy and not self.logit_bias

    def choose(self, logits: Tensor) -> int:
        """Draw an id from logits (vocabulary rows,) and count it. Raises ParakeetError on NaN or infinity."""
        return choose_all([self], [logits])[0]

    def distribution(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What `choose` draws from: ids (n,) in ascending order and their probabilities (n,) float64, of sum 1.

        All other ids have probability 0.
        """
        return _distributions([self], logits[None])[0]

    @np.errstate(over="ignore")  # penalties of 1e-308 make infinities, which are clipped
    def highest(self, values: Floats32, peaks: Floats32) -> tuple[Integers, Floats] | None:
        """Ids (n,), ascending, and scores (n,) float64 of all that min_p could keep; None if that may be every token.

        Logits (vocabulary rows,) fp32 are compared as they are, in blocks whose `_peaks` are known, and the scores of
        those found are `_penalised`'s. Eight draws from 100,288 logits took 6.3 ms with all in float64.
        """
        range_kept = self.settings.temperature * self._lowest_share if self.settings.temperature else 0.0
        whole = len(values) // BLOCK * BLOCK
        masked = self.masked.numpy()
        raised = [token for token in self._may_rise if not masked[token]]
        limit = float(peaks.max()) + range_kept
        while math.isfinite(limit):
            limit -= SLACK + 1e-6 * abs(limit)  # the comparison rounds it to fp32
            blocks = np.flatnonzero(peaks[: whole // BLOCK] >= np.float32(limit))
            ids = (BLOCK * blocks[:, None] + np.arange(BLOCK)).ravel()
            ids = np.concatenate([ids, np.arange(whole, len(values))])
            ids = ids[values[ids] >= np.float32(limit)]
            ids = ids[~masked[ids]]
            if raised:
                ids = np.union1d(ids, raised)
            if not len(ids):
                return None
            scores = self._changed(values[ids].astype(np.float64), ids)
            needed = float(scores.max()) + range_kept
            if needed >= limit + SLACK / 2:
                return ids, scores
            limit = needed
        return None

    @property
    def _may_rise(self) -> list[int]:
        """Ids whose scores may be above their logits."""
        factor, each_time, once = _penalties_of(self)
        return [*self.logit_bias] if factor >= 1 and each_time >= 0 and once >= 0 else [*self.logit_bias, *self.counts]

    def _changed(self, scores: Floats, ids: Integers) -> Floats:
        """Logits (n,) float64 of ids (n,), ascending, after bias and penalties."""
        listed = set(ids.tolist())
        if biased := sorted(listed & self.logit_bias.keys()):
            scores[np.searchsorted(ids, biased)] += [self.logit_bias[token] for token in biased]
        if used := sorted(listed & self.counts.keys()):
            at = np.searchsorted(ids, used)
            factor, each_time, once = _penalties_of(self)
            chosen = scores[at]
            chosen = np.where(chosen > 0, chosen / factor, chosen * factor)
            chosen -= each_time * np.array([self.counts[token] for token in used]) + once
            scores[at] = chosen.clip(-LARGEST_SCORE, LARGEST_SCORE)
        return scores

    def draw(self, ids: Tensor, probabilities: Tensor) -> int:
        """Draw one of the ids (n,) by their probabilities (n,), and count it."""
        drawn = 0
        if self.settings.temperature:
            # What torch.multinomial draws, bit for bit, without its checks of the probabilities.
            waits = torch.empty_like(probabilities).exponential_(generator=self._generator)
            drawn = int((probabilities / waits).argmax())
        token_id = int(ids[drawn])
        self.counts[token_id] += 1
        return token_id

    def masked_on(self, device: torch.device) -> Tensor:
        """`masked`, copied to the device once."""
        if self._masked.device != device:
            self._masked = self.masked.to(device)
        return self._masked

    def from_shortlist(self, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """`distribution` from only the highest scores (n,), descending, and their ids; None if it needs more of them.

        The lowest score may tie with tokens that are not in the list, so only those above it are used.
        """
        if self.settings.temperature == 0:
            lowest_needed = scores[0]
        else:
            lowest_needed = scores[0] + self.settings.temperature * self._lowest_share
            if 0 < self.settings.top_k < len(scores):
                lowest_needed = torch.maximum(lowest_needed, scores[self.settings.top_k - 1])
        if lowest_needed <= scores[-1]:
            return None
        ids, order = ids[scores > scores[-1]].sort()
        kept, probabilities = self.cut(scores[order].numpy())
        return ids[torch.from_numpy(kept)], probabilities

    @property
    def _lowest_share(self) -> float:
        """p >= min_p · p_max is the same as score >= max + temperature · this."""
        return math.log(self.settings.min_p) if self.settings.min_p else -math.inf

    def cut(self, values: Floats) -> tuple[Integers, Tensor]:
        """Indices (n,), ascending, and probabilities of the scores (rows,) that the cuts leave.

        min_p is applied to the scores, and before top_k, so that sorts and draws see few tokens.
        """
        if self.settings.temperature == 0:
            return np.array([values.argmax()]), torch.ones(1, dtype=torch.float64)
        limit = float(values.max()) + self.settings.temperature * self._lowest_share
        # Masked ids, of −inf, stay out even without min_p.
        ids = np.flatnonzero(values >= max(limit, -sys.float_info.max))
        if 0 < self.settings.top_k < len(ids):
            ids = ids[_likeliest(values[ids], self.settings.top_k)]
        kept = values[ids]
        probabilities = torch.softmax(torch.from_numpy(kept - kept.max()) / self.settings.temperature, dim=0)
        if self.settings.top_p < 1:
            shares = probabilities.numpy()
            nucleus = _nucleus(shares, self.settings.top_p)
            ids, probabilities = ids[nucleus], torch.from_numpy(shares[nucleus])
        return ids, probabilities / probabilities.sum()


def choose_all(samplers: Sequence[Sampler], logits: Sequence[Tensor], shortlist: int | None = None) -> list[int]:
    """Each sampler draws an id from its logits (vocabulary rows,) and counts it.

    `shortlist` is how many of the likeliest tokens are copied to the CPU, 0 for all; None is SHORTLIST on a CUDA
    device, where it is one copy for all samplers and the only wait for the device, and 0 on others. The rest follows
    only if settings cut so little that a draw may need it. Raises ParakeetError on NaN or infinity.
    """
    if shortlist is None:
        shortlist = SHORTLIST if logits[0].device.type == "cuda" else 0
    if not 0 < shortlist < len(logits[0]):
        if all(sampler.takes_likeliest for sampler in samplers):
            return _likeliest_of_all(samplers, torch.stack(list(logits)))
        found = _distributions(samplers, torch.stack(list(logits)))
        return [sampler.draw(*each) for sampler, each in zip(samplers, found, strict=True)]
    scores, extremes = _penalised(samplers, torch.stack(list(logits)))
    best = scores.topk(shortlist, dim=1)
    # (samplers, 2 · shortlist + 2): ids up to 2^53 are exact in float64.
    copied = torch.cat([best.values, best.indices.double(), extremes.double()], dim=1).cpu()
    check_finite(copied[:, 2 * shortlist :].flatten().tolist())
    drawn = []
    for number, sampler in enumerate(samplers):
        highest, ids = copied[number, :shortlist], copied[number, shortlist : 2 * shortlist].long()
        distribution = sampler.from_shortlist(ids, highest) or _cut(sampler, scores[number])
        drawn.append(sampler.draw(*distribution))
    return drawn


def _distributions(samplers: Sequence[Sampler], logits: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What each sampler draws from, by its row of logits (n, vocabulary rows)."""
    _check_shape(samplers, logits)
    peaks = _peaks(logits) if logits.device.type == "cpu" and logits.dtype == torch.float32 else None
    found = []
    for number, sampler in enumerate(samplers):
        row = logits[number].detach()
        if peaks is not None and (highest := sampler.highest(row.numpy(), peaks[number])):
            ids, scores = highest
            kept, probabilities = sampler.cut(scores)
            found.append((torch.from_numpy(ids[kept]), probabilities))
        else:
            all_scores, extremes = _penalised([sampler], row[None])
            check_finite(extremes.flatten().tolist())
            found.append(_cut(sampler, all_scores[0]))
    return found


def _peaks(logits: Tensor) -> Floats32:
    """The highest of each BLOCK of logits (n, vocabulary rows) fp32 on the CPU, then those after the last whole block.

    Raises ParakeetError on NaN or infinity. In one call for all rows: the maxima of eight of 100,288 take
    181 µs, and 46 each one by one.
    """
    blocks = logits.shape[1] // BLOCK
    whole = logits[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    peaks = torch.cat([whole.amax(2), logits[:, blocks * BLOCK :]], dim=1).detach()
    check_finite([float(logits.amin()), float(peaks.max())])
    return peaks.numpy()


def _cut(sampler: Sampler, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and probabilities from the scores (vocabulary rows,) of all ids."""
    ids, probabilities = sampler.cut(scores.cpu().numpy())
    return torch.from_numpy(ids), probabilities


def _likeliest_of_all(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    """What samplers without randomness or penalties draw from logits (n, vocabulary rows), which are overwritten.

    All rows in one call: 64 draws from 704 rows take 0.3 ms, and one after the other 22 ms.
    """
    _check_shape(samplers, logits)
    lowest, highest = logits.aminmax()
    check_finite([float(lowest), float(highest)])
    for row, sampler in zip(logits, samplers, strict=True):
        row.masked_fill_(sampler.masked_on(row.device), -math.inf)
    drawn: list[int] = logits.argmax(1).tolist()
    for sampler, token_id in zip(samplers, drawn, strict=True):
        sampler.counts[token_id] += 1
    return drawn


def _check_shape(samplers: Sequence[Sampler], logits: Tensor) -> None:
    if logits.shape[1:] != samplers[0].masked.shape:
        raise ParakeetError(
            f"The model gives {tuple(logits.shape[1:])} logits, but its tokenizer has {len(samplers[0].masked)} rows: "
            "they do not belong together."
        )


def _penalised(samplers: Sequence[Sampler], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, rows) after the penalties of n samplers, float64, −inf where masked; and the extremes (n, 2) before.

    On the logits' device, without waiting for it; on the CPU for Apple's MPS, which has no float64.
    """
    _check_shape(samplers, logits)
    scores = (logits.cpu() if logits.device.type == "mps" else logits).detach().to(torch.float64, copy=True)
    # aminmax propagates NaN and infinity, in a fifth of the time of isfinite().all() (43 instead of 231 µs).
    extremes = torch.stack([torch.stack(row.aminmax()) for row in scores])
    for row, one in zip(scores, samplers, strict=True):
        if one.logit_bias:
            ids = torch.tensor([*one.logit_bias], device=scores.device)
            row[ids] += torch.tensor([*one.logit_bias.values()], dtype=torch.float64, device=scores.device)
    used = [(row, token, count) for row, one in enumerate(samplers) for token, count in one.counts.items()]
    if used:
        rows, ids, counts = torch.tensor(used).to(scores.device, non_blocking=True).unbind(1)
        settings = [_penalties_of(one) for one in samplers]
        penalties = torch.tensor(settings, dtype=torch.float64).to(scores.device, non_blocking=True)
        factor, each_time, once = penalties[rows].unbind(1)
        chosen = scores[rows, ids]
        chosen = torch.where(chosen > 0, chosen / factor, chosen * factor)
        chosen -= each_time * counts + once
        scores[rows, ids] = chosen.clamp_(-LARGEST_SCORE, LARGEST_SCORE)
    for row, sampler in zip(scores, samplers, strict=True):
        row.masked_fill_(sampler.masked_on(row.device), -math.inf)
    return scores, extremes


def _penalties_of(sampler: Sampler) -> tuple[float, float, float]:
    settings = sampler.settings
    return settings.repetition_penalty, settings.frequency_penalty, settings.presence_penalty


def check_finite(extremes: Sequence[float]) -> None:
    """Raise ParakeetError unless the smallest and largest logits are finite: then all are."""
    if not all(math.isfinite(extreme) for extreme in extremes):
        raise ParakeetError(
            "The model's logits contain NaN or infinite values: its weights are damaged, or the arithmetic "
            "overflowed. Check the weights with: parakeet verify"
        )


def _likeliest(scores: Floats, k: int) -> npt.NDArray[np.bool_]:
    """(n,) bool: the k highest of more than k scores (n,), the first of equals."""
    limit = np.partition(scores, -k)[-k]
    kept = scores > limit
    kept[np.flatnonzero(scores == limit)[: k - int(kept.sum())]] = True
    return kept


def _nucleus(probabilities: Floats, top_p: float) -> Integers:
    """Indices, ascending, of the smallest set of likeliest tokens whose probabilities (n,) add up to `top_p`."""
    # The tokens below (1 − top_p) / 2n add up to less than 1 − top_p, so none of them is in the nucleus. Without
    # them there is little to sort; all 100,288 would take 8 ms.
    ids = np.flatnonzero(probabilities >= (1 - top_p) / (2 * len(probabilities)))
    order = np.argsort(-probabilities[ids], kind="stable")
    ordered = probabilities[ids[order]]
    before = ordered.cumsum() - ordered
    return np.sort(ids[order[before < top_p]])
