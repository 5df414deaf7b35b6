"""What is known of each benchmark: its upstream definition, and how one of its records becomes an item.

Prompts and metrics are those of lm-evaluation-harness, whose task files are read as they are. Records are checked here,
because a missing column or a wrong label would give a score that means nothing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class BadItem(Exception):
    """What is wrong with a record, in a few words."""


@dataclass(frozen=True)
class BenchmarkItem:
    """One question."""

    row: Mapping[str, Any]
    """The record in the columns that the upstream task reads."""
    question: str
    answer: str
    """The right answer, to compare with the training text."""
    gold: int = 0
    """Number of the right answer."""
    choices: int = 0
    """How many answers there are to choose from; 0 if there is no choice."""
    part: str = ""
    """The part of the task that it belongs to: a paradigm of BLiMP."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark."""

    upstream: str
    """Its file in lm_eval's folder `tasks`."""
    read: "Callable[[RawItem], BenchmarkItem]"
    kind: str = "choice"
    """choice (of answers), word (the last of a passage) or rolling (a whole text)."""


@dataclass(frozen=True)
class RawItem:
    """A record of a data file. Its methods raise BadItem if a column is missing or holds something else."""

    values: Mapping[str, Any]

    def __contains__(self, column: str) -> bool:
        return column in self.values

    def value(self, column: str, of: Mapping[str, Any] | None = None) -> Any:
        values = self.values if of is None else of
        if column not in values:
            raise BadItem(f"it has no column {column} (it has: {', '.join(map(str, values)) or 'none'})")
        return values[column]

    def text(self, column: str, may_be_empty: bool = False) -> str:
        return _text(column, self.value(column), may_be_empty)

    def texts(self, column: str, of: Mapping[str, Any] | None = None) -> list[str]:
        """At least two texts."""
        values = self.value(column, of)
        if not isinstance(values, list) or len(values) < 2:
            raise BadItem(f"{column} is not a list of two or more answers: {_shown(values)}")
        return [_text(column, value) for value in values]

    def number(self, column: str, below: int, first: int = 0) -> int:
        """A label from `first`: a whole number, or its digits."""
        value = self.value(column)
        digits = isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,9}\s*", value)
        number = int(value) if digits else value
        if isinstance(number, bool) or not isinstance(number, int):
            raise BadItem(f"{column} is {_shown(value)}, not a whole number from {first} to {first + below - 1}")
        if not first <= number < first + below:
            hint = ", as in test splits without answers" if number == -1 else ""
            raise BadItem(f"{column} is {number}, not from {first} to {first + below - 1}{hint}")
        return number - first

    def lettered(self) -> tuple[list[str], list[str], int]:
        """The answers and their letters in `choices`, and the number of the one that `answerKey` names."""
        choices = self.value("choices")
        if not isinstance(choices, dict):
            raise BadItem(f"choices is not a mapping of text and label: {_shown(choices)}")
        texts, letters = self.texts("text", choices), self.texts("label", choices)
        if len(texts) != len(letters):
            raise BadItem(f"choices has {len(texts)} texts and {len(letters)} labels")
        if len(set(letters)) < len(letters):
            raise BadItem(f"two of its choices have one label: {_shown(letters)}")
        key = self.text("answerKey").strip()
        if key not in letters:
            raise BadItem(f"answerKey is {_shown(key)}, not one of {', '.join(letters)}")
        return texts, letters, letters.index(key)


def _text(column: str, value: Any, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise BadItem(f"{column} is not text: {_shown(value)}")
    if not may_be_empty and not value.strip():
        raise BadItem(f"{column} is empty")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _lambada(record: RawItem) -> BenchmarkItem:
    text = record.text("text")
    passage, space, word = text.rpartition(" ")
    if not space or not passage.strip() or not word.strip():
        raise BadItem("text has no last word after a space")
    return BenchmarkItem({"text": text}, passage, word)


def _hellaswag(record: RawItem) -> BenchmarkItem:
    endings = record.texts("endings")
    gold = record.number("label", len(endings))
    row: dict[str, Any] = {
        "activity_label": record.text("activity_label", may_be_empty=True),
        "ctx_a": record.text("ctx_a", may_be_empty=True),
        "ctx_b": record.text("ctx_b", may_be_empty=True),
        "endings": endings,
        "label": str(gold),
    }
    question = f"{row['ctx_a']} {row['ctx_b']}".strip()
    return BenchmarkItem(row, question, endings[gold], gold, len(endings))


def _piqa(record: RawItem) -> BenchmarkItem:
    answers = [record.text("sol1"), record.text("sol2")]
    gold = record.number("label", 2)
    row: dict[str, Any] = {"goal": record.text("goal"), "sol1": answers[0], "sol2": answers[1], "label": gold}
    return BenchmarkItem(row, row["goal"], answers[gold], gold, 2)


def _arc(record: RawItem) -> BenchmarkItem:
    if "query" in record:  # OLMo's form of the test splits: the prompt as it is, and the answer's number
        question = record.text("query").removeprefix("Question: ").removesuffix("\nAnswer:")
        texts = record.texts("choices")
        gold = record.number("gold", len(texts))
        letters = [str(number) for number in range(len(texts))]
    else:
        question = record.text("question")
        texts, letters, gold = record.lettered()
    row = {"question": question, "choices": {"text": texts, "label": letters}, "answerKey": letters[gold]}
    return BenchmarkItem(row, question, texts[gold], gold, len(texts))


def _sciq(record: RawItem) -> BenchmarkItem:
    row = {column: record.text(column) for column in ("distractor1", "distractor2", "distractor3", "correct_answer")}
    row |= {"question": record.text("question"), "support": record.text("support", may_be_empty=True)}
    return BenchmarkItem(row, f"{row['support']}\n{row['question']}".strip(), row["correct_answer"], 3, 4)


def _winogrande(record: RawItem) -> BenchmarkItem:
    sentence = record.text("sentence")
    if sentence.count("_") != 1:
        raise BadItem(f"sentence has {sentence.count('_')} gaps (_), not one")
    options = [record.text("option1"), record.text("option2")]
    gold = record.number("answer", 2, first=1)
    before, _, after = sentence.partition("_")
    if not after.strip():
        raise BadItem("sentence has nothing after its gap (_), so there is nothing to score")
    row = {"sentence": sentence, "option1": options[0], "option2": options[1], "answer": str(gold + 1)}
    return BenchmarkItem(row, before + options[gold], after.strip(), gold, 2)


def _boolq(record: RawItem) -> BenchmarkItem:
    """`answer` is true or false in Google's set, `label` 1 or 0 in SuperGLUE's."""
    if "answer" in record:
        answer = record.value("answer")
        if not isinstance(answer, bool):
            raise BadItem(f"answer is {_shown(answer)}, not true or false")
        gold = int(answer)
    else:
        gold = record.number("label", 2)
    row = {"passage": record.text("passage"), "question": record.text("question"), "label": gold}
    return BenchmarkItem(row, f"{row['passage']}\n{row['question']}", ("no", "yes")[gold], gold, 2)


def _openbookqa(record: RawItem) -> BenchmarkItem:
    texts, letters, gold = record.lettered()
    question = record.text("question_stem")
    row = {"question_stem": question, "choices": {"text": texts, "label": letters}, "answerKey": letters[gold]}
    return BenchmarkItem(row, question, texts[gold], gold, len(texts))


def _copa(record: RawItem) -> BenchmarkItem:
    asked = record.text("question")
    if asked not in ("cause", "effect"):
        raise BadItem(f"question is {_shown(asked)}, not cause or effect")
    answers = [record.text("choice1"), record.text("choice2")]
    gold = record.number("label", 2)
    premise = record.text("premise")
    row = {"premise": premise, "choice1": answers[0], "choice2": answers[1], "question": asked, "label": gold}
    return BenchmarkItem(row, premise, answers[gold], gold, 2)


def _blimp(record: RawItem) -> BenchmarkItem:
    row = {"sentence_good": record.text("sentence_good"), "sentence_bad": record.text("sentence_bad")}
    return BenchmarkItem(row, "", row["sentence_good"], 0, 2, part=record.text("UID"))


def _wikitext(record: RawItem) -> BenchmarkItem:
    page = record.text("page")
    return BenchmarkItem({"page": page}, "", page)


TASKS: Mapping[str, Benchmark] = {
    "lambada_openai": Benchmark("lambada/lambada_openai.yaml", _lambada, kind="word"),
    "hellaswag": Benchmark("hellaswag/hellaswag.yaml", _hellaswag),
    "piqa": Benchmark("piqa/piqa.yaml", _piqa),
    "arc_easy": Benchmark("arc/arc_easy.yaml", _arc),
    "arc_challenge": Benchmark("arc/arc_challenge.yaml", _arc),
    "sciq": Benchmark("sciq/sciq.yaml", _sciq),
    "winogrande": Benchmark("winogrande/default.yaml", _winogrande),
    "boolq": Benchmark("super_glue/boolq/default.yaml", _boolq),
    "openbookqa": Benchmark("openbookqa/openbookqa.yaml", _openbookqa),
    "copa": Benchmark("super_glue/copa/default.yaml", _copa),
    "blimp": Benchmark("blimp/_template_yaml", _blimp),
    "wikitext": Benchmark("wikitext/wikitext.yaml", _wikitext, kind="rolling"),
}
"""The tasks of `parakeet.benchmark_files.FILES`."""
