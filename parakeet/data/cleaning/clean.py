"""The stage `clean_documents`: normalise the text, and drop what is useless or must not be trained on.

Each rule is a function from a document to a `Fault` or None. A new rule is a new file in this folder and a line in
`Cleaner._rules`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import replace_file
from parakeet.benchmark_files import searched_sets
from parakeet.data.cleaning.boilerplate import boilerplate_in, may_be_boilerplate
from parakeet.data.cleaning.counts import CleaningCounts
from parakeet.data.cleaning.decontaminate import EvaluationIndex, build_index
from parakeet.data.cleaning.first_look import some_at_once
from parakeet.data.cleaning.language import foreign_language, language_guesser
from parakeet.data.cleaning.personal_data import masked_document, may_identify
from parakeet.data.cleaning.quality import QualityFilter
from parakeet.data.cleaning.repetition import RepetitionFilter
from parakeet.data.cleaning.text_faults import Fault, fault_of, repaired_document
from parakeet.data.documents import (
    Document,
    ReadParts,
    WriteDocuments,
    collect_parts,
    content_bytes,
    count_documents,
    parts,
    refuse_emptied,
)
from parakeet.data.tasks import run_tasks, watch
from parakeet.data.words import CachedWordTokenizer
from parakeet.errors import ParakeetError
from parakeet.progress import BYTES, Progress
from parakeet.recipe import Clean, Recipe

DROPPED_FILE = "dropped.jsonl"

_REMEDIES = {
    "too short": "lower clean.min_characters",
    "too long": "raise clean.max_characters",
    "language": "add to clean.languages",
    "boilerplate": "set clean.boilerplate to keep",
    "repetition": "set clean.repetition to null",
    "quality": "set clean.quality to null",
    "contaminated": "use text that is not in decontamination.sets and evaluation.benchmarks",
    "empty turn": "look for turns without text in the source",
    "only control tokens": "look for turns without text in the source",
}

Rule = Callable[[Document], Fault | None]


def clean_documents(
    recipe: Recipe,
    inputs: Mapping[str, Path],
    output: Path,
    progress: Progress,
    refuse_changed: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write the documents that are kept, in order, and `dropped.jsonl` with examples of the others.

    Returns {"documents", "dropped", "sources": {name: {"kept", "dropped": {reason: n}, "found": {kind: n}}},
    "evaluation_sets": {name: {"records", "short", "bad", "found", "documents"}}}. `found` of a source counts documents:
    "mended" (mojibake, among all), "boilerplate" (among those that no rule before it dropped), "e-mail", "phone" and
    "IP address" (among the kept). `found` of a set counts its records that occur in dropped documents, and `documents`
    counts those.

    Resumes what an earlier run left in `output`. `refuse_changed` raises ParakeetError if a file of an evaluation set
    has changed since it was hashed. Raises ParakeetError if nothing is kept, an evaluation set cannot be read, or a
    language is unknown.
    """
    paths = parts(inputs["documents"])
    total = count_documents(inputs["documents"])
    work = output / "work"
    if recipe.clean.languages:
        language_guesser(recipe.clean.languages)
    searched = searched_sets(recipe)
    index = work / "evaluation_index.npz" if searched.sets else None
    if index is not None and not index.is_file():
        evaluation_index = build_index(searched, inputs, progress)
        refuse_changed()
        evaluation_index.save(index)
    steps = [
        ReadParts([[path] for path in paths], work / "read"),
        CleanDocuments(recipe.clean, work / "tallies", index),
        WriteDocuments(work / "kept"),
    ]
    with progress.task("cleaning", sum(map(content_bytes, paths)), BYTES) as task, watch(task, work / "read"):
        run_tasks(steps, len(paths), recipe.executor, work / "cleaning")
    counts = CleaningCounts()
    for path in sorted((work / "tallies").glob("[0-9]*")):
        counts.add(CleaningCounts.load(path))
    kept, sources = counts.kept.total(), counts.by_source()
    if kept == 0:
        raise ParakeetError(_nothing_left(total, sources))
    refuse_emptied(recipe, counts.kept, "cleaning")
    replace_file(output / DROPPED_FILE, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in counts.examples))
    collect_parts(work / "kept", output)
    evaluation_sets = {
        one.name: {
            "records": one.records,
            "short": one.short,
            "bad": one.bad,
            "found": len(counts.records_found[one.name]),
            "documents": counts.contaminated[one.name],
        }
        for one in (EvaluationIndex.load(index).sets if index is not None else [])
    }
    return {"documents": kept, "dropped": total - kept, "sources": sources, "evaluation_sets": evaluation_sets}


def _nothing_left(total: int, sources: dict[str, dict[str, Any]]) -> str:
    if total == 0:
        return "There is no document to clean: the recipe's sources hold none. Add text to a source."
    reasons: Counter[str] = Counter()
    for source in sources.values():
        reasons.update(source["dropped"])
    counts = ", ".join(f"{reason} {number:,}" for reason, number in reasons.most_common())
    remedies = dict.fromkeys(_REMEDIES[reason.split(":")[0]] for reason, _ in reasons.most_common())
    return (
        f"No document is left after cleaning: all {total:,} were dropped ({counts}). "
        f"To keep some, {', or '.join(remedies)}, or add other text."
    )


@dataclass(frozen=True)
class CleanDocuments:
    """Pipeline step: the documents that are kept, repaired and masked. `tallies/<rank>` counts what became of each."""

    settings: Clean
    tallies: Path
    evaluation_sets: Path | None

    def __call__(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        counts = CleaningCounts()
        index = EvaluationIndex.load(self.evaluation_sets) if self.evaluation_sets else None
        cleaner = Cleaner(self.settings, counts, index)
        yield from cleaner.clean(data)
        cleaner.words.forget()
        counts.save(self.tallies / f"{rank:05d}")


class Cleaner:
    """Cleans documents, and counts in `counts`."""

    def __init__(self, settings: Clean, counts: CleaningCounts, index: EvaluationIndex | None) -> None:
        self.settings = settings
        self.counts = counts
        self.words = CachedWordTokenizer()
        self.rules = self._rules(index)
        self._may_be_boilerplate = False
        """Of the document that the rules look at."""

    def clean(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that no rule drops, as they are kept. The first rule that finds a fault decides."""
        for given in some_at_once(documents):
            repaired = [self._repaired(document) for document in given]
            looks = zip(repaired, may_be_boilerplate(repaired), may_identify(repaired), strict=True)
            for document, self._may_be_boilerplate, identifies in looks:
                if (fault := self._fault_of(document)) is not None:
                    self.counts.drop(document, fault)
                    continue
                self.counts.kept[document.source] += 1
                # Masked last: a mask would hide what the rules look for.
                yield self._masked(document) if identifies else document

    def _repaired(self, document: Document) -> Document:
        document, repaired = repaired_document(document, self.settings.mojibake)
        if repaired:
            self.counts.found[document.source]["mended"] += 1
        return document

    def _fault_of(self, document: Document) -> Fault | None:
        return next((fault for rule in self.rules if (fault := rule(document)) is not None), None)

    def _masked(self, document: Document) -> Document:
        masked, kinds = masked_document(document)
        self.counts.found[document.source].update(kinds.keys())
        return masked if self.settings.personal_data == "mask" else document

    def _rules(self, index: EvaluationIndex | None) -> list[Rule]:
        """In the order of their cost, roughly."""
        settings = self.settings
        rules: list[Rule] = [lambda document: fault_of(document, settings)]
        if settings.languages:
            guess = language_guesser(settings.languages)
            rules.append(lambda document: foreign_language(document, settings.languages, guess))
        rules.append(self._boilerplate)
        if settings.repetition is not None:
            rules.append(RepetitionFilter(settings.repetition, self.words))
        if settings.quality is not None:
            rules.append(QualityFilter(settings.quality, self.words))
        if index is not None:
            rules.append(lambda document: self._contaminated(document, index))
        return rules

    def _boilerplate(self, document: Document) -> Fault | None:
        excerpt = boilerplate_in(document) if self._may_be_boilerplate else ""
        if not excerpt:
            return None
        self.counts.found[document.source]["boilerplate"] += 1
        return Fault("boilerplate", excerpt) if self.settings.boilerplate == "drop" else None

    def _contaminated(self, document: Document, index: EvaluationIndex) -> Fault | None:
        hits = index.find(document.content)
        if hits is None:
            return None
        for name, records in hits.sets.items():
            self.counts.contaminated[name] += 1
            self.counts.records_found[name].update(records)
        return Fault(f"contaminated: {next(iter(hits.sets))}", hits.words)
