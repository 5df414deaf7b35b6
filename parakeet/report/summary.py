"""The report in a sentence and three figures."""

from parakeet.evaluation.base import measured
from parakeet.formatting import format_percent
from parakeet.memorisation.verdict import NOT_ENOUGH
from parakeet.report.gather import Gathered
from parakeet.report.parts import Tile

MOST_TILES = 3


def verdict(report: Gathered) -> str:
    """Learned or memorised, in a sentence or two; if unknown, how well it predicts text that it has not read."""
    if report.memorisation and report.memorisation["verdict"]["answer"] != NOT_ENOUGH:
        return str(report.memorisation["verdict"]["opening"])
    if report.memorisation:
        return f"Not enough data to say whether it learned or memorised. {_prediction(report)}"
    return _prediction(report)


def _prediction(report: Gathered) -> str:
    """How well it predicts held-out text. An n-gram model that does so better is the one that it stands beside."""
    if report.memorisation and (margin := report.memorisation["margin"]):
        network, ngram = (margin[key]["value"] for key in ("network", "ngram"))
        if ngram <= network:
            return (
                f"It needs {network:.2f} bits for a byte of text that it has not seen, where an n-gram model of its "
                f"own training text needs {ngram:.2f}."
            )
    sources = measured(report.evaluation["bits_per_byte"])
    if not sources:
        return "Too little text was held out to say how well it predicts text that it has not seen."
    beaten = [name for name, bits in sources.items() if bits["model"] < min(bits["unigram"], bits["xz"])]
    if len(sources) == 1:
        (bits,) = sources.values()
        yardstick = "the compressor xz -9" if bits["xz"] <= bits["unigram"] else "a model that only counts tokens"
        needs = f"{yardstick} needs {min(bits['xz'], bits['unigram']):.2f}"
        return f"It needs {bits['model']:.2f} bits for a byte of text that it has not seen, where {needs}."
    if len(beaten) == len(sources):
        return (
            f"It predicts text that it has not seen better than xz -9 and word counts, on all {len(sources)} sources."
        )
    return (
        f"It predicts text that it has not seen better than xz -9 and word counts on {len(beaten)} of {len(sources)} "
        "sources."
    )


def tiles(report: Gathered) -> list[Tile]:
    """At most three figures that a reader looks for first."""
    found = [*_bits(report), *_extracted(report), *_shares(report)]
    return found[:MOST_TILES]


def _bits(report: Gathered) -> list[Tile]:
    """Where the network is compared with the n-gram model: both on that text, and not on the evaluation's."""
    label = "bits per byte of held-out text"
    if report.memorisation and (margin := report.memorisation["margin"]):
        network = margin["network"]["value"]
        note = f"n-gram model of its training text: {margin['ngram']['value']:.3f}"
        return [Tile(f"{network:.3f}", label, note, "bits_per_byte", network)]
    sources = measured(report.evaluation["bits_per_byte"]).values()
    if not sources:
        return []
    values = sorted(bits["model"] for bits in sources)
    mean = sum(bits["model"] * bits["n_bytes"] for bits in sources) / sum(bits["n_bytes"] for bits in sources)
    shown = f"{mean:.3f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}"
    return [Tile(shown, label, "fewer are better", "bits_per_byte", mean)]


def _extracted(report: Gathered) -> list[Tile]:
    if report.memorisation is None or report.memorisation["extraction"]["prefix"] is None:
        return []
    extraction = report.memorisation["extraction"]
    shares = extraction["by_prefix"][extraction["prefix"]]
    train, held_out = (shares[side]["share"] for side in ("train", "held_out"))
    note = f"held-out: {format_percent(held_out)}"
    label = "of training passages extracted"
    return [Tile(format_percent(train), label, note, "extracted_training", train, {"extracted_held_out": held_out})]


MEANS = {"benchmarks": "benchmarks", "chat": "kinds of prompts", "exact_match": "kinds of questions"}
"""Metrics whose scores, or their mean, are of interest, with what their scores are of."""


def _shares(report: Gathered) -> list[Tile]:
    chosen = []
    for metric, kinds in MEANS.items():
        scores = report.scores.get(metric, [])
        if not scores:
            continue
        mean = sum(score.value for score in scores) / len(scores)
        label = scores[0].name if len(scores) == 1 else f"right, mean of {len(scores)} {kinds}"
        note = ""
        chances = [score.chance for score in scores if score.chance is not None]
        if len(chances) == len(scores):
            note = f"chance: {format_percent(sum(chances) / len(chances))}"
        elif len(scores) == 1 and scores[0].interval:
            note = "95%: {} to {}".format(*map(format_percent, scores[0].interval))
        chosen.append(Tile(format_percent(mean), label, note, metric, mean))
    return chosen
