"""Which records a share of a source is: the same ones whoever reads them, spread evenly over the files."""

from fractions import Fraction

from parakeet.recipe_sources import SyntheticSource

LEAST_DIALOGUES = 100


def is_sampled(index: int, share: Fraction) -> bool:
    """Whether a record is in a systematic sample: of the first n records, floor(n · share) are."""
    taken = (index + 1) * share.numerator // share.denominator
    return taken > index * share.numerator // share.denominator


def synthetic_count(source: SyntheticSource, share: Fraction) -> int:
    """Dialogues that are written of a source of which a share is taken."""
    return max(LEAST_DIALOGUES, round(source.documents * share))
