"""Cleaning as a datatrove step, with datatrove's filters of plain documents. Only stage functions reach this module."""

from collections.abc import Callable, Iterator
from pathlib import Path

from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep

from parakeet.data.cleaning.boilerplate import boilerplate_in
from parakeet.data.cleaning.clean import Tally
from parakeet.data.cleaning.decontaminate import EvaluationIndex
from parakeet.data.cleaning.language import foreign_language, language_guesser
from parakeet.data.cleaning.personal_data import masked_document
from parakeet.data.cleaning.quality import QualityFilter
from parakeet.data.cleaning.repetition import RepetitionFilter
from parakeet.data.cleaning.text_faults import Fault, fault_of, whole_document
from parakeet.data.documents import Document
from parakeet.data.words import LastWords
from parakeet.recipe import Clean, Quality, Repetition

QUALITY_REASONS = {
    "gopher_short_doc": "too few words",
    "gopher_long_doc": "too many words",
    "gopher_below_avg_threshold": "words too short",
    "gopher_above_avg_threshold": "words too long",
    "gopher_too_many_hashes": "too many symbols",
    "gopher_too_many_ellipsis": "too many symbols",
    "gopher_too_many_bullets": "too many bullets",
    "gopher_too_many_end_ellipsis": "too many ellipses",
    "gopher_below_alpha_threshold": "too few words with letters",
    "gopher_enough_stop_words": "too few stop words",
}

Rule = Callable[[Document], Fault | None]


class CleanDocuments(PipelineStep):
    """Normalises documents and passes on those without a fault; `tallies/<task>` holds what became of each."""

    name = "Clean"
    type = "Filter"

    def __init__(self, settings: Clean, tallies: Path, evaluation_sets: Path | None) -> None:
        super().__init__()
        self.settings = settings
        self.tallies = tallies
        self.evaluation_sets = evaluation_sets

    def run(self, data: Iterator[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        tally = Tally()
        cleaner = Cleaner(self.settings, tally, self.evaluation_sets)
        for item in data:
            document = cleaner.clean(item.metadata["document"])
            if document is not None:
                yield Item(document.content, item.id, metadata={"document": document})
        cleaner.words.forget()
        tally.save(self.tallies / f"{rank:05d}")


class Cleaner:
    """What is done to one document after the other, and counted in `tally`."""

    def __init__(self, settings: Clean, tally: Tally, evaluation_sets: Path | None) -> None:
        self.settings = settings
        self.tally = tally
        self.words = LastWords()
        self.rules = self._rules(EvaluationIndex.load(evaluation_sets) if evaluation_sets else None)

    def clean(self, document: Document) -> Document | None:
        """The document as it is kept, or None; the first rule that finds a fault drops it."""
        document, mended = whole_document(document, self.settings.mojibake)
        if mended:
            self.tally.found[document.source]["mended"] += 1
        for rule in self.rules:
            if (fault := rule(document)) is not None:
                self.tally.drop(document, fault)
                return None
        # Last, since a mask would hide what the rules look for.
        without, kinds = masked_document(document)
        self.tally.found[document.source].update(kinds.keys())
        self.tally.kept[document.source] += 1
        return without if self.settings.personal_data == "mask" else document

    def _rules(self, index: EvaluationIndex | None) -> list[Rule]:
        settings, words = self.settings, self.words
        rules: list[Rule] = [lambda document: fault_of(document, settings)]
        if settings.languages:
            guess = language_guesser(settings.languages)

            def language(document: Document) -> Fault | None:
                code = foreign_language(document, settings.languages, guess)
                return Fault(f"language: {code}") if code else None

            rules.append(language)
        rules.append(self._boilerplate)
        if settings.repetition is not None:
            rules.append(repetition_rule(settings.repetition, words))
        if settings.quality is not None:
            rules.append(quality_rule(settings.quality, words))
        if index is not None:
            rules.append(lambda document: self._contaminated(document, index))
        return rules

    def _boilerplate(self, document: Document) -> Fault | None:
        place = boilerplate_in(document)
        if not place:
            return None
        self.tally.found[document.source]["boilerplate"] += 1
        return Fault("boilerplate", place) if self.settings.boilerplate == "drop" else None

    def _contaminated(self, document: Document, index: EvaluationIndex) -> Fault | None:
        hits = index.find(document.content)
        if hits is None:
            return None
        for name, records in hits.sets.items():
            self.tally.contaminated[name].add(records)
        return Fault(f"contaminated: {next(iter(hits.sets))}", hits.words)


def repetition_rule(settings: Repetition, words: LastWords) -> Rule:
    """Gopher's repetition rules, for plain documents that are long enough."""
    repetition = RepetitionFilter(settings, words)

    def rule(document: Document) -> Fault | None:
        if not document.is_plain or len(words.word_tokenize(document.content)) < settings.min_words:
            return None
        broken = repetition.broken_rule(document.content)
        return Fault(repetition_reason(broken)) if broken else None

    return rule


def repetition_reason(rule: str) -> str:
    """datatrove's name of a rule in plain words."""
    if rule.startswith("dup_"):
        return "repetition: duplicate " + ("lines" if "line" in rule else "paragraphs")
    return "repetition: " + ("one frequent phrase" if rule.startswith("top_") else "duplicate phrases")


def quality_rule(settings: Quality, words: LastWords) -> Rule:
    """Gopher's quality rules, for plain documents."""
    quality = QualityFilter(settings, words)

    def rule(document: Document) -> Fault | None:
        if not document.is_plain:
            return None
        # datatrove divides by the number of words.
        if not any(word.strip("_") for word in words.word_tokenize(document.content)):
            return Fault("quality: too few words")
        broken = quality.broken_rule(document.content)
        return Fault(f"quality: {QUALITY_REASONS[broken]}") if broken else None

    return rule
