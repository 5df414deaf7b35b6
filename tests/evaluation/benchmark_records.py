"""Small data files of every benchmark, written for the tests, and byte models to score."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parakeet.evaluation.benchmarks.adapter import AnswerScore, Request, TextModel

SHARED = Path(__file__).parents[3] / "shared" / "data"
BYTES = 256

Rows = list[dict[str, Any]]


def _choices(n: int) -> dict[str, list[str]]:
    return {"text": [f"choice {n} {letter}" for letter in "ABCD"], "label": list("ABCD")}


RECORDS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "lambada_openai": lambda n: {"text": f"Bird {n} said its word, and the word was {'parakeet'[n % 3:]}"},
    "hellaswag": lambda n: {
        "activity_label": "Feeding birds", "ctx_a": f"A woman opens bag {n}.", "ctx_b": "she",
        "endings": [f"pours {n} seeds.", "flies off.", "reads it [step] aloud.", "eats the bag."], "label": str(n % 4),
    },
    "piqa": lambda n: {"goal": f"Clean cage {n}", "sol1": f"Use {n} soaps.", "sol2": "Burn it.", "label": n % 2},
    "arc_easy": lambda n: {"question": f"What do {n} birds eat?", "choices": _choices(n), "answerKey": "ABCD"[n % 4]},
    "arc_challenge": lambda n: {
        "query": f"Question: Why do {n} birds sing?\nAnswer:", "choices": ["a", f"b{n}", "c"], "gold": n % 3,
    },
    "sciq": lambda n: {
        "question": f"Which bird has {n} colours?", "distractor1": "crow", "distractor2": "swan", "distractor3": "dove",
        "correct_answer": f"parakeet {n}", "support": "" if n % 2 else f"There are {n} parakeets.",
    },
    "winogrande": lambda n: {
        "sentence": f"Bird {n} bit the cat because _ was {'very ' * (n % 2)}rude.",
        "option1": "it", "option2": "the cat", "answer": str(1 + n % 2),
    },
    "boolq": lambda n: {"passage": f"{n} birds fly.", "question": f"can {n} birds fly", "answer": bool(n % 2)},
    "openbookqa": lambda n: {"question_stem": f"{n} birds", "choices": _choices(n), "answerKey": "ABCD"[n % 4]},
    "copa": lambda n: {
        "premise": f"Bird {n} sang.", "choice1": f"Cat {n} woke up.", "choice2": "It rained.",
        "question": "effect" if n % 2 else "cause", "label": n % 2,
    },
    "blimp": lambda n: {
        "sentence_good": f"Birds sing {n}.", "sentence_bad": f"Birds sings {n}.", "UID": f"paradigm_{n % 3}",
    },
    "wikitext": lambda n: {"page": f"= Bird {n} =\n\nA bird, number {n}.\n"},
}  # fmt: skip


def rows_of(task: str, count: int = 12) -> Rows:
    return [RECORDS[task](number) for number in range(count)]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_all(folder: Path, count: int = 12) -> Path:
    for task in RECORDS:
        write_rows(folder / f"{task}.jsonl", rows_of(task, count))
    return folder


class ByteModel(TextModel):
    """A model of bytes whose probabilities do not depend on what came before."""

    def __init__(self, log_probabilities: Sequence[float], context: int = 2048) -> None:
        self.context = context
        self.start = BYTES
        self.log_probabilities = log_probabilities
        self.add: Callable[[Sequence[float]], float] = math.fsum
        self.asked: list[Request] = []
        best = max(log_probabilities)
        self.best = [byte for byte in range(BYTES) if log_probabilities[byte] == best]

    @classmethod
    def uniform(cls, context: int = 2048) -> "ByteModel":
        return cls([-math.log(BYTES)] * BYTES, context)

    @classmethod
    def unigram(cls, text: bytes) -> "ByteModel":
        """Add-one smoothed, and added up with rounding, as for the recorded figures: it decides some ties."""
        counts = Counter(text)
        model = cls([math.log((counts[byte] + 1) / (len(text) + BYTES)) for byte in range(BYTES)])
        model.add = sum
        return model

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def score(self, requests: Sequence[Request], advance: Callable[[int], None]) -> list[AnswerScore]:
        self.asked += requests
        return [
            AnswerScore(
                self.add([self.log_probabilities[byte] for byte in request.scored]),
                all([byte] == self.best for byte in request.scored),
            )
            for request in requests
        ]

    def continue_text(self, ids: Sequence[int], max_tokens: int, stop: Sequence[str], temperature: float) -> str:
        text = self.decode([byte for byte in ids if byte < BYTES])[::-1][:max_tokens]
        return min((text.split(end)[0] for end in stop), key=len, default=text)
