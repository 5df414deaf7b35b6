"""The verdict of every gate, from figures alone: {"name", "passed", "found", "bound", "reason"}.

A gate passes only if its figure is within its bound, so a figure that is not a number fails.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from parakeet.evaluation.base import Score, measured
from parakeet.formatting import format_bytes, format_percent
from parakeet.intervals import share_difference, wilson_interval
from parakeet.recipe import Gates

Gate = dict[str, Any]
TOLD = 3
"""How many of the shares that fell a reason names."""
CHANCE = 0.05
"""How often an equally good release may be refused for shares that fell by chance."""
MOST_Z = 40.0
"""Beyond any fall."""
DRIFT = 2.0
"""How many times `worse_by` several promotions may lose together."""
TEMPERATURE = 0.8
"""Small models loop in greedy replies, and hardly when they sample."""


@dataclass(frozen=True)
class Difference:
    """Bits per byte of two releases on the same documents, and the difference, new − promoted, with its interval.

    `interval` is None for too few documents.
    """

    release: float
    incumbent: float
    value: float
    interval: tuple[float, float] | None
    documents: int
    n_bytes: int


def gate(name: str, passed: bool, reason: str, found: float | None = None, bound: float | None = None) -> Gate:
    """One verdict. A figure that JSON has no number for is left out."""
    numbers = [one if one is not None and math.isfinite(one) else None for one in (found, bound)]
    return {"name": name, "passed": bool(passed), "found": numbers[0], "bound": numbers[1], "reason": reason}


def judge_difference(gates: Gates, found: Difference, incumbent: str, lost: float = 0.0) -> Gate:
    """Whether the release is no worse than the promoted one beyond its noise, and than the best before it.

    `lost`: share of the bits by which the promoted one is itself worse than the best one before it (`lost_since_best`).
    """
    name, bound = "no_worse_than_before", gates.worse_by * found.incumbent
    on = f"{found.documents:,} held-out document{'s' * (found.documents != 1)} ({format_bytes(found.n_bytes)})"
    if found.interval is None or found.documents < gates.documents:
        reason = f"Only {on} to compare with {incumbent} on: {gates.documents:,} are needed. {MORE_TEXT}"
        return gate(name, False, reason, float(found.documents), float(gates.documents))
    low, high = found.interval
    said = (
        f"On {on} it needs {found.release:.3f} bits per byte, and {incumbent} {found.incumbent:.3f}: "
        f"{found.value:+.3f} ({low:+.3f} to {high:+.3f})"
    )
    if not low <= bound:
        return gate(name, False, f"{said}. That is worse beyond its noise.", low, bound)
    unsure, allowed = high - found.value, gates.uncertainty * found.incumbent
    if high > bound and not unsure <= allowed:
        needed = math.ceil(found.documents * (unsure / allowed) ** 2) if allowed else found.documents
        reason = f"{said}. Too little text to tell: about {needed:,} documents are needed. {MORE_TEXT}"
        return gate(name, False, reason, unsure, allowed)
    # A promotion may lose what is within its noise, but not one after the other.
    if not low + lost * found.incumbent <= DRIFT * bound:
        reason = (
            f"{said}. {incumbent} itself needs {format_percent(lost)} more than the best release before it, and both "
            "together are worse beyond the noise. Train on more text or for longer, or roll back"
        )
        return gate(name, False, f"{reason}.", low + lost * found.incumbent, DRIFT * bound)
    return gate(name, True, f"{said}, {'better' if high < 0 else 'no worse beyond its noise'}.", low, bound)


MORE_TEXT = "Add text, or hold out more of it (--held-out)."


def judge_yardsticks(gates: Gates, bits_per_byte: Mapping[str, Any]) -> Gate:
    """Whether a first release beats the unigram model and `xz -9` by the margin, on all sources together."""
    name = "beats_the_yardsticks"
    model, unigram, xz = (all_together(bits_per_byte, key) for key in ("model", "unigram", "xz"))
    if model is None or unigram is None or xz is None:
        return gate(name, True, "No text is held out, so nothing says how good it is. It is the first release.")
    better = "xz -9" if xz < unigram else "the unigram model"
    bound = (1 - gates.yardstick_margin) * min(unigram, xz)
    said = f"It needs {model:.3f} bits per byte, {better} {min(unigram, xz):.3f}, and the bound is {bound:.3f}"
    if not model <= bound:
        return gate(name, False, f"{said}. It has learnt too little: train it for longer.", model, bound)
    return gate(name, True, f"{said}.", model, bound)


def all_together(bits_per_byte: Mapping[str, Any], key: str) -> float | None:
    """One of the figures of an evaluation's sources on the text of all of them; None if none was measured."""
    sources = measured(bits_per_byte).values()
    n_bytes = sum(one["n_bytes"] for one in sources)
    return sum(one[key] * one["n_bytes"] for one in sources) / n_bytes if n_bytes else None


def judge_shares(scores: Mapping[str, Sequence[Score]], before: Mapping[str, Sequence[Score]], incumbent: str) -> Gate:
    """Whether shares fell more than chance explains, by metric, of those that both have.

    `chance_of_fall` of each, and of m shares the k-th smallest must be above 5 % · k/m (Simes 1986): one that falls far
    refuses a release as with Bonferroni's or Holm's bound, and several that fall less do too.
    """
    name = "no_figure_fell"
    then = {(metric, one.name): one for metric, found in before.items() for one in found if one.unit == "share"}
    now = {(metric, one.name): one for metric, found in scores.items() for one in found if one.unit == "share"}
    both = [key for key in now if key in then and now[key].n and then[key].n and math.isfinite(then[key].value)]
    if not both:
        return gate(name, True, f"No share was measured in the same way for this release and for {incumbent}.")
    chances = {key: chance_of_fall(now[key], then[key]) for key in both}
    both.sort(key=lambda key: chances[key])
    adjusted = [chances[key] * len(both) / rank for rank, key in enumerate(both, 1)]
    least = min(1.0, *adjusted)
    if not least > CHANCE:
        fell = both[: max(rank for rank, chance in enumerate(adjusted, 1) if not chance > CHANCE)]
        told = [
            f"{key[1]} fell from {format_percent(then[key].value)} to {format_percent(now[key].value)} "
            f"(of {now[key].n:,} {now[key].of})"
            for key in fell[:TOLD]
        ]
        others = [f"{len(fell) - TOLD} other shares fell"] * (len(fell) > TOLD)
        reason = f"Since {incumbent}, {'; '.join([*told, *others])}: more than chance explains."
        return gate(name, False, reason, least, CHANCE)
    reason = f"None of {len(both)} shares fell since {incumbent} by more than chance explains."
    return gate(name, True, reason, least, CHANCE)


def chance_of_fall(now: Score, then: Score) -> float:
    """How probable a fall at least as far is if nothing changed: the level at which Newcombe's interval of the
    difference of two samples reaches 0. 1 if it did not fall, 0 if a share is no number."""
    if not math.isfinite(now.value):
        return 0.0
    if now.value >= then.value:
        return 1.0
    low, high = 0.0, MOST_Z
    while high - low > 1e-4:
        z = (low + high) / 2
        if share_difference(_share(now, z), _share(then, z))["interval"][1] >= 0.0:
            high = z
        else:
            low = z
    return 0.0 if high == MOST_Z else NormalDist().cdf(-high)


def _share(score: Score, z: float) -> dict[str, Any]:
    return {"n": score.n, "share": score.value, "interval": wilson_interval(score.value * score.n, score.n, z)}


def judge_generation(gates: Gates, health: Mapping[str, Any] | None) -> Gate:
    """Whether replies at temperature 0.8 repeat themselves or are empty, more than the recipe allows for certain."""
    name = "generation_is_healthy"
    sampled = [found for found in (health or {}).get("temperatures", ()) if found["temperature"] == TEMPERATURE]
    bounds = {"repetition": gates.repetition, "empty": gates.empty}
    titles = {"repetition": "repeated 4-grams", "empty": "empty replies"}
    judged = {
        key: sampled[0][key] for key, bound in bounds.items() if bound is not None and sampled and sampled[0][key]
    }
    if not judged:
        return gate(name, True, "Replies were not measured, or the recipe sets no bound for them.")
    said = ", ".join(f"{titles[key]} {format_percent(found['share'])}" for key, found in judged.items())
    over = [key for key, found in judged.items() if not (found["interval"] or [found["share"]])[0] <= bounds[key]]
    worst = over[0] if over else next(iter(judged))
    text = f"Of replies at temperature {TEMPERATURE:g}: {said}"
    if over:
        text += f". At most {format_percent(bounds[worst] or 0.0)} of {titles[worst]} are allowed"
    return gate(name, not over, f"{text}.", judged[worst]["share"], bounds[worst])


def judge_memorisation(gates: Gates, counts: Mapping[str, Any] | None) -> Gate:
    """Whether training passages are extracted more often than held-out ones, beyond the bound for certain."""
    name, bound = "memorisation_is_bounded", gates.memorisation
    prefix = counts["extraction"]["prefix"] if counts else None
    if bound is None or counts is None or prefix is None:
        return gate(name, True, "Memorisation was not measured, or the recipe sets no bound for it.")
    found = counts["extraction"]["by_prefix"][prefix]
    low = found["difference"]["interval"][0]
    said = (
        f"It continues {format_percent(found['train']['share'])} of training passages word by word, and "
        f"{format_percent(found['held_out']['share'])} of held-out ones: a difference of "
        f"{100 * found['difference']['share']:+.1f} percentage points"
    )
    if not low <= bound:
        said += (
            f", of {100 * bound:.0f} allowed. Train on more text or for less long, or raise gates.memorisation (null "
            "sets no bound)"
        )
    return gate(name, low <= bound, f"{said}.", found["difference"]["share"], bound)
