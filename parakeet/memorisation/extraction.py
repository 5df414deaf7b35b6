"""How much of the training text greedy decoding repeats, by length of the prompt and by number of copies.

A window is a prefix of k tokens and the tokens after it, within one document. It is extracted if the model, given the
prefix, writes exactly these tokens. The same on held-out text is the floor: what can be guessed without having read it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet.intervals import share_difference, share_of
from parakeet.memorisation.text import Excerpts, up_to
from parakeet.memorisation.verdict import LEAST

if TYPE_CHECKING:
    from parakeet.memorisation.measure import Subject

PREFIXES = (16, 32, 64)
CONTINUATIONS = (32, 16, 8, 4)
"""The first with LEAST windows in both splits is taken; without one, that with the most windows."""
USUAL_PREFIX = 32
DUPLICATES = {"1": (1, 1), "2-4": (2, 4), "5-16": (5, 16), "17-64": (17, 64), "65+": (65, None)}
TOKENS = 1_500_000
"""Tokens of training text, and of held-out text, to look for windows in."""
CANDIDATES = 4_000
"""Windows whose copies are counted."""
WINDOWS = 200
"""Windows for the rate as a whole, in either split."""
WINDOWS_PER_STRATUM = 50


def measure_extraction(subject: "Subject") -> dict[str, Any]:
    """{"continuation", "prefix", "by_prefix", "by_duplicates"}.

    `prefix` is the one that headlines quote: USUAL_PREFIX, or the longest with LEAST windows in both splits, or None.
    by_prefix: {k: {"train", "held_out", "difference"} (shares, None without windows), "in_training" (held-out windows
    left out, since the training text has them as a whole)}. by_duplicates: {k: {stratum: share}}, only of strata with
    windows. Windows of the same tokens count once.
    """
    rng = np.random.default_rng(5)
    places = subject.places(subject.train, subject.read_documents, rng)
    train = subject.excerpts(subject.train, up_to(places, TOKENS))
    places = subject.places(subject.held_out, np.arange(len(subject.held_out)), rng)
    held_out = subject.excerpts(subject.held_out, up_to(places, TOKENS))
    context = subject.model.config.context
    length, prefixes = choose_lengths(train, held_out, context)
    by_prefix: dict[str, Any] = {}
    by_duplicates: dict[str, Any] = {}
    for k in prefixes:
        # windows (w, k + length): ids.
        windows = window_ids(train, k, length, CANDIDATES, rng)
        copies = subject.copies(windows)
        strata = {
            name: np.flatnonzero((copies >= least) & (copies <= (most or copies.max(initial=0))))
            for name, (least, most) in DUPLICATES.items()
        }
        taken = [np.arange(min(WINDOWS, len(windows))), *(found[:WINDOWS_PER_STRATUM] for found in strata.values())]
        scored = np.unique(np.concatenate(taken))
        right = np.zeros(len(windows), np.int64)
        right[scored] = right_tokens(subject, windows[scored], k)
        others = window_ids(held_out, k, length, CANDIDATES, rng)
        new = subject.copies(others) == 0
        floor = right_tokens(subject, others[new][:WINDOWS], k)
        by_prefix[str(k)] = {
            **_shares(right[taken[0]], floor, length),
            "in_training": int((~new).sum()),
        }
        by_duplicates[str(k)] = {
            name: share_of(right[found] == length) for name, found in zip(strata, taken[1:], strict=True) if len(found)
        }
    return {
        "continuation": length,
        "prefix": _quoted(by_prefix),
        "by_prefix": by_prefix,
        "by_duplicates": by_duplicates,
    }


def _shares(train: np.ndarray, held_out: np.ndarray, length: int) -> dict[str, Any]:
    sides = {"train": train, "held_out": held_out}
    shares = {name: share_of(right == length) if len(right) else None for name, right in sides.items()}
    one, other = shares.values()
    return {
        **shares,
        "difference": share_difference(one, other) if one and other else None,
    }


def _quoted(by_prefix: dict[str, Any]) -> str | None:
    enough = [
        k for k, found in by_prefix.items()
        if all(found[side] and found[side]["n"] >= LEAST for side in ("train", "held_out"))
    ]  # fmt: skip
    return str(USUAL_PREFIX) if str(USUAL_PREFIX) in enough else enough[-1] if enough else None


def choose_lengths(train: Excerpts, held_out: Excerpts, context: int) -> tuple[int, list[int]]:
    """The length of the continuation, and the prefixes that the context has room for."""

    def windows(length: int) -> int:
        return min(_number(split, PREFIXES[0], length) for split in (train, held_out) if len(split))

    possible = [length for length in CONTINUATIONS if PREFIXES[0] + length <= context]
    if not possible or not len(train):
        return CONTINUATIONS[-1], []
    enough = [length for length in possible if windows(length) >= LEAST]
    length = enough[0] if enough else max(possible, key=windows)
    return length, [k for k in PREFIXES if k + length <= context]


def _number(excerpts: Excerpts, k: int, length: int) -> int:
    return len(np.unique(_blocks(excerpts, _window_starts(excerpts, k, length), k + length)))


def _window_starts(excerpts: Excerpts, k: int, length: int) -> np.ndarray:
    """(w,) places where a continuation may begin: k tokens of its excerpt before it, `length` learned ones from it."""
    within = np.arange(len(excerpts.ids)) - excerpts.begins[:-1][excerpts.owner]
    # A learned token is never the first of an excerpt, so a run of them stays within one.
    missing = np.concatenate([[0], np.cumsum(~excerpts.learned)])
    starts = np.arange(max(0, len(excerpts.ids) - length + 1))
    found: np.ndarray = starts[(missing[starts + length] == missing[starts]) & (within[starts] >= k)]
    return found


def _blocks(excerpts: Excerpts, starts: np.ndarray, width: int) -> np.ndarray:
    """(w,) the number of each window's block. Excerpts are cut into blocks of `width` tokens."""
    owner = excerpts.owner[starts]
    return owner * (len(excerpts.ids) // width + 1) + (starts - excerpts.begins[:-1][owner]) // width


def window_ids(excerpts: Excerpts, k: int, length: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Ids (w, k + length) of at most so many different windows in a random order, one in each block of an excerpt."""
    starts = rng.permutation(_window_starts(excerpts, k, length))
    _, first = np.unique(_blocks(excerpts, starts, k + length), return_index=True)
    windows = excerpts.ids[starts[rng.permutation(first)][:, None] + np.arange(-k, length)]
    # The same tokens again are no trial of their own: the model continues them in the same way.
    _, kept = np.unique(windows, axis=0, return_index=True)
    found: np.ndarray = windows[np.sort(kept)[:most]]
    return found


def right_tokens(subject: "Subject", windows: np.ndarray, k: int) -> np.ndarray:
    """(w,) how many tokens after the prefix greedy decoding gets right before its first error.

    windows (w, k + length): ids. Nothing is decoded: the tokens before the first error are those of the window, so one
    pass over the window tells.
    """
    width = windows.shape[1] if len(windows) else k
    learned = np.zeros((len(windows), width), np.bool_)
    learned[:, k:] = True
    begins = np.arange(len(windows) + 1) * width
    excerpts = Excerpts(np.arange(len(windows)), begins, windows.reshape(-1), learned.reshape(-1))
    _, right = subject.score(excerpts, f"extraction, {k} tokens", whole=True)
    return np.cumprod(right.reshape(len(windows), width)[:, k:], axis=1).sum(axis=1)
