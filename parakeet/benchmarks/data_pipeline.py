"""Clean, exact and MinHash from end to end: Parakeet's stages, and the same with what datatrove chooses by itself."""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parakeet.benchmarks.data_process import Ran, run_apart
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.stages import stage_named

OURS, DATATROVE = "ours", "datatrove"
_BASELINE = "parakeet.benchmarks.data_baseline"
SIDES = {
    OURS: (stage_named("clean_documents").make, stage_named("deduplicated_documents").make),
    DATATROVE: (f"{_BASELINE}:clean_documents", f"{_BASELINE}:deduplicate_documents"),
}
SIGNATURES, COMPARISON = "signatures of documents", "comparison of documents"
CLEAN, START, ALL = "clean", "exact, clusters, writing, start", "all"
STEPS = (CLEAN, SIGNATURES, COMPARISON, START, ALL)
WITHOUT_SPACY = "spaCy is not installed: pip install 'parakeet-lm[bench]'"


@dataclass(frozen=True)
class EndToEnd:
    """One side, once: its two processes."""

    clean: Ran
    deduplicate: Ran

    @property
    def seconds(self) -> dict[str, float]:
        """By step of `STEPS`."""
        whole, steps = self.deduplicate.seconds, self.deduplicate.steps
        parts = {CLEAN: self.clean.seconds, SIGNATURES: steps[SIGNATURES], COMPARISON: steps[COMPARISON]}
        rest = whole - steps[SIGNATURES] - steps[COMPARISON]
        return {**parts, START: rest, ALL: self.clean.seconds + whole}

    @property
    def cleaned(self) -> int:
        return int(self.clean.counts["documents"])

    @property
    def kept(self) -> int:
        return int(self.deduplicate.counts["documents"])


@dataclass(frozen=True)
class Side:
    """One side, in rounds."""

    rounds: tuple[EndToEnd, ...]

    @property
    def median(self) -> EndToEnd:
        """The round whose whole time is the middle one (the slower of two)."""
        return sorted(self.rounds, key=lambda one: one.seconds[ALL])[len(self.rounds) // 2]

    def as_json(self) -> dict[str, Any]:
        return {
            "kept": self.median.kept,
            "cleaned": self.median.cleaned,
            "seconds": [one.seconds for one in self.rounds],
        }


def has_spacy() -> bool:
    return find_spec("spacy") is not None


def measure_pipelines(
    recipe: Recipe, documents: Path, rounds: int, scratch: Path, progress: Progress
) -> dict[str, Side]:
    """Both sides in turn, so that what else the machine is doing slows both; only ours where spaCy is missing."""
    names = [OURS, DATATROVE] if has_spacy() else [OURS]
    found: dict[str, list[EndToEnd]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            progress.say(f"clean, exact and MinHash, {name}, round {number + 1} of {rounds}")
            found[name].append(_end_to_end(name, recipe, documents, scratch / name))
    return {name: Side(tuple(rounds)) for name, rounds in found.items()}


def _end_to_end(name: str, recipe: Recipe, documents: Path, scratch: Path) -> EndToEnd:
    clean, deduplicate = SIDES[name]
    cleaned = run_apart(clean, recipe, {"documents": documents}, scratch / "clean")
    inputs = {"clean_documents": scratch / "clean"}
    deduplicated = run_apart(deduplicate, recipe, inputs, scratch / "deduplicated")
    shutil.rmtree(scratch)
    return EndToEnd(cleaned, deduplicated)
