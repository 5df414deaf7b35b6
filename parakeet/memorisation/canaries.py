"""How many copies of a text a model needs to memorise it: planted canaries beside those that never were planted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.data.tokens.canaries import KINDS, Canary, read_canaries, secret_begin
from parakeet.intervals import ratio_of, share_of
from parakeet.memorisation.text import Excerpts
from parakeet.recipe import CANARY_SOURCE
from parakeet.template import render_text

if TYPE_CHECKING:
    from parakeet.memorisation.measure import Subject


def measure_canaries(subject: "Subject") -> dict[str, Any] | None:
    """{"by_copies": [{"copies", "extraction", "random", "natural", "exposure"}, …], "passes", "too_long"};
    None without canaries.

    The first entry has 0 copies: never planted, the floor. `extraction` is the share whose secret greedy decoding
    writes after the opening; `random` and `natural` are that of each kind. `exposure` ({"n", "value", "interval"}, in
    bits) is log2(never planted + 1) − log2(rank) on average, of the secret's bits per byte among those of the never
    planted of the same kind (Carlini et al. 2019). `passes` is how often training has read a planted copy. `too_long`
    is how many canaries are left out since the model's context does not hold them. A figure of none is None. Without
    planted ones, or without others to compare them with, `by_copies` is empty.
    """
    canaries = read_canaries(subject.shards)
    if not canaries:
        return None
    rendered = [(canary, render_text(subject.tokenizer, canary.text)[0].astype(np.int64)) for canary in canaries]
    fitting = [(canary, part) for canary, part in rendered if len(part) <= subject.model.config.context]
    comparable = {canary.copies > 0 for canary, _ in fitting} == {False, True}
    planted = subject.train.sources() == subject.train.names.index(CANARY_SOURCE)
    return {
        "by_copies": _by_copies(subject, fitting) if comparable else [],
        "passes": float(subject.times_read[planted].mean()),
        "too_long": len(rendered) - len(fitting),
    }


def _by_copies(subject: "Subject", fitting: Sequence[tuple[Canary, np.ndarray]]) -> list[dict[str, Any]]:
    canaries, parts = [canary for canary, _ in fitting], [part for _, part in fitting]
    begins = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    ids = np.concatenate(parts)
    learned = np.zeros(len(ids), np.bool_)
    for canary, part, begin, end in zip(canaries, parts, begins, begins[1:], strict=False):
        learned[begin + secret_begin(canary, part, subject.tokenizer) : end] = True
    excerpts = Excerpts(np.arange(len(canaries)), begins, ids, learned)
    bits, right = subject.score(excerpts, "canaries", whole=True)
    extracted = excerpts.sums(right) == excerpts.sums(learned)
    exposure = _exposures(canaries, excerpts.sums(bits) / np.maximum(1, excerpts.n_bytes(subject.tokenizer)))
    copies, kinds = np.array([canary.copies for canary in canaries]), np.array([canary.kind for canary in canaries])
    found = []
    for number in np.unique(copies).tolist():
        mine = copies == number
        of_kind = {kind: extracted[mine & (kinds == kind)] for kind in KINDS}
        found.append(
            {
                "copies": number,
                "extraction": share_of(extracted[mine]),
                **{kind: share_of(shown) if len(shown) else None for kind, shown in of_kind.items()},
                "exposure": ratio_of(exposure[mine], np.ones(mine.sum())),
            }
        )
    return found


def _exposures(canaries: list[Canary], costs: np.ndarray) -> np.ndarray:
    """(canaries,) bits. A never planted one is ranked among the others of its kind."""
    found = np.zeros(len(canaries))
    for kind in KINDS:
        mine = np.array([canary.kind == kind for canary in canaries])
        never = np.sort(costs[mine & np.array([canary.copies == 0 for canary in canaries])])
        rank = 1 + np.searchsorted(never, costs[mine], side="left")
        found[mine] = np.log2(len(never) + 1) - np.log2(rank)
    return found
