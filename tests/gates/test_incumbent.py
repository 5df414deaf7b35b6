"""What the promoted release has lost since the best one before it, from the history alone."""

from pathlib import Path
from typing import Any

import pytest

from parakeet.gates.incumbent import lost_since_best
from parakeet.release.history import Decision, record


def decide(root: Path, release: str, previous: str | None, difference: Any, action: str = "promoted") -> None:
    figures = {"difference": difference, "incumbent_bits_per_byte": 2.0}
    record(root, Decision(action, release, "c", "demo", previous, (), figures, None, f"weights of {release[0]}"))


@pytest.mark.parametrize(
    ("more", "lost"),
    [
        ([], 0.0),
        ([("b", "a", 0.02)], 0.01),
        ([("b", "a", 0.02), ("c", "b", 0.02)], 0.02),
        # Better than all before: it is the best.
        ([("b", "a", 0.02), ("c", "b", -0.5)], 0.0),
        ([("b", "a", 0.02), ("c", "b", -0.01), ("d", "c", 0.02)], 0.015),
        # Refused and taken back, it is none of the chain.
        ([("b", "a", 0.02), ("x", "b", 9.0, "refused"), ("c", "b", 0.02)], 0.02),
        ([("b", "a", 0.02), ("x", "b", 9.0), ("x", "b", 0.0, "rolled_back"), ("c", "b", 0.02)], 0.02),
        # By hand: a person chose it.
        ([("b", "a", 0.02), ("c", "b", 9.0, "forced"), ("d", "c", 0.02)], 0.01),
        # The same weights again, with the figures of the comparison before.
        ([("b", "a", 0.02), ("b2", "b", 0.02)], 0.01),
        ([("b", "a", 0.02), ("c", "b", None)], 0.01),
        ([("b", "a", 0.02), ("c", "b", "much")], 0.01),
    ],
)
def test_losses_add_up_along_the_chain(tmp_path: Path, more: list[Any], lost: float) -> None:
    decide(tmp_path, "a", None, None)
    for one in more:
        decide(tmp_path, *one)
    last = more[-1][0] if more else "a"
    assert lost_since_best(tmp_path, "demo", last) == pytest.approx(lost)
    assert lost_since_best(tmp_path, "notes", last) == 0.0
