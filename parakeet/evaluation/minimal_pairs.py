"""Minimal pairs: of two sentences that differ in one point of grammar, the right one should be likelier.

minimal_pairs.yaml has our own sentences, whose words are filled in from a seed. Only grammar helps: a pair has the same
words in another order, or there is a mirror image in which the form that was wrong is right. A model that prefers one
form, or the shorter sentence, gets half of these.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from parakeet.evaluation.base import Metric, Score, Subject
from parakeet.evaluation.preference import is_best
from parakeet.evaluation.shares import plot_shares, share_cells, share_text
from parakeet.intervals import share_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages import Table
    from parakeet.pages.charts import Palette

PAIRS_FILE = "minimal_pairs.yaml"
PAIRS_PER_PHENOMENON = 40
CHANCE = 0.5
SEED = 1


@dataclass(frozen=True)
class MinimalPair:
    phenomenon: str
    good: str
    bad: str


@cache
def minimal_pairs() -> tuple[MinimalPair, ...]:
    """PAIRS_PER_PHENOMENON pairs of each phenomenon, no two with the same right sentence; the same at each call."""
    import yaml

    read = yaml.safe_load(files(__package__).joinpath(PAIRS_FILE).read_text(encoding="utf-8"))
    chosen = random.Random(SEED)
    phenomena: dict[str, list[list[str]]] = read["phenomena"]
    return tuple(
        pair for name, templates in phenomena.items() for pair in _pairs(name, templates, read["words"], chosen)
    )


def _pairs(
    name: str, templates: Sequence[Sequence[str]], words: Mapping[str, Sequence[str]], chosen: random.Random
) -> Iterator[MinimalPair]:
    """The pairs of one phenomenon, of its templates in turn."""
    made = set[str]()
    while len(made) < PAIRS_PER_PHENOMENON:
        template = templates[len(made) // 2 % len(templates)]
        slots: dict[str, str] = {}
        for key, lines in words.items():
            names, line = key.split(), chosen.choice(lines)
            slots |= zip(names, line.split() if len(names) > 1 else [line], strict=True)
        sentences = [sentence.format(**slots) for sentence in template]
        pairs = [MinimalPair(name, *pair) for pair in zip(sentences[::2], sentences[1::2], strict=True)]
        if made.isdisjoint(pair.good for pair in pairs):
            made.update(pair.good for pair in pairs)
            yield from pairs


class MinimalPairs(Metric):
    """`all` and `phenomena` by name: {"n", "share", "interval"}, the share of pairs whose right sentence is likelier.

    That is Σ log p of the sentence's tokens at the beginning of a text. Equal ones count as wrong.
    """

    name = "minimal_pairs"
    version = 1
    since = 4
    title = "Grammar: minimal pairs"
    introduction = (
        'Two sentences differ in one point of grammar, such as "the cats play" and "the cats plays": how often the '
        "model thinks the right one likelier. Chance is 50%. Equally likely is wrong."
    )
    plot_file = "minimal_pairs.png"
    plot_title = "Minimal pairs"

    def measure(self, subject: Subject) -> dict[str, Any]:
        from parakeet.evaluation.scoring import opening, score_sequences

        pairs = minimal_pairs()
        begin = opening(subject)
        sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
        ids = [begin + subject.tokenizer.encode(sentence) for sentence in sentences]
        with subject.progress.task("minimal pairs", len(ids), "sentences") as task:
            sums = [-float(scores.nats.sum()) for scores in score_sequences(subject.model, ids, task.advance)]
        right = [is_best(both, 0) for both in zip(sums[::2], sums[1::2], strict=True)]
        phenomena = {
            name: share_of(found for pair, found in zip(pairs, right, strict=True) if pair.phenomenon == name)
            for name in dict.fromkeys(pair.phenomenon for pair in pairs)
        }
        return {"all": share_of(right), "phenomena": phenomena}

    def render(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        from parakeet.pages import Table

        rows = [(name, *share_cells(found)) for name, found in figures["phenomena"].items()]
        total = ("all", *share_cells(figures["all"]))
        return [Table(("phenomenon", "pairs", "right", "95% interval"), [*rows, total], right=(2,), total=True)]

    def render_summary(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        found = figures["all"]
        return [f"{share_text(found)} of {found['n']} pairs; chance is 50%. The report has each phenomenon."]

    def scores(self, figures: Mapping[str, Any]) -> list[Score]:
        found = figures["all"]
        return [Score("grammar (minimal pairs)", found["share"], found["n"], "pairs", tuple(found["interval"]), CHANCE)]

    def plot(self, figures: Mapping[str, Any], palette: "Palette") -> "Figure":
        shares = figures["phenomena"]
        chance = dict.fromkeys(shares, CHANCE)
        return plot_shares(palette, {self.title: shares}, "right sentence likelier, % (dashed: chance)", chance)
