"""The artefacts that a data card is made of, from a few documents: real shards, tokenizer and plan, and manifests."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from parakeet.conversation import Turn
from parakeet.data.card.make import make_data_card
from parakeet.data.documents import Document, DocumentWriter
from parakeet.data.tokens.packing import make_packing_plan
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe

LICENCES = {"talk": "MIT", "text": "unknown", "gone": "MIT"}
DOCUMENT_STAGES = ("documents", "clean_documents", "deduplicated_documents")

Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Corpus:
    recipe: Recipe
    inputs: dict[str, Path]

    def edit(self, stage: str, change: Edit) -> None:
        """Change the counts in a stage's manifest."""
        path = self.inputs[stage] / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        change(manifest["counts"])
        path.write_text(json.dumps(manifest), encoding="utf-8")

    def card(self, output: Path) -> "Card":
        output.mkdir()
        make_data_card(self.recipe, self.inputs, output, Progress())
        figures, html, markdown = (
            (output / f"data_card.{suffix}").read_text(encoding="utf-8") for suffix in ("json", "html", "md")
        )
        return Card(json.loads(figures), html, markdown)


class Card(NamedTuple):
    figures: dict[str, Any]
    html: str
    markdown: str


def plain_corpus() -> list[Document]:
    """60 dialogues and 9 texts, every tenth held out."""
    documents = []
    for number in range(60):
        turns = (Turn("Human", f"What is {number} and {number}?"), Turn("Assistant", f"It is {2 * number}."))
        documents.append(Document("talk", "MIT", turns, split="train" if number % 10 else "held_out"))
    for number in range(9):
        text = " ".join(f"Line {line} of text {number} is written here." for line in range(12 << number % 4))
        documents.append(Document("text", "unknown", (Turn("text", text),), split="train" if number else "held_out"))
    return documents


def make_corpus(
    root: Path,
    documents: Sequence[Document],
    description: str = "A small one.",
    canaries: dict[str, Any] | None = None,
) -> Corpus:
    """One record of talk was unusable, one text was too short, the only document of `gone` was a copy."""
    base = load_recipe("demo").model_dump()
    base |= {"name": "small", "description": description, "canaries": canaries}
    base["sources"] = [{"name": n, "path": "unused.txt", "licence": licence} for n, licence in LICENCES.items()]
    base["tokenizer"]["vocabulary"] = 400
    base["shards"]["min_held_out_bytes"] = 0
    base["executor"]["workers"] = 1
    recipe = Recipe.model_validate(base)
    names = (*DOCUMENT_STAGES, "tokenizer", "token_shards", "packing_plan")
    inputs = {name: root / name / f"{number:016x}-0" for number, name in enumerate(names)}
    lost = [Document("gone", "MIT", documents[-1].turns, split="train")]
    short = [Document("text", "unknown", (Turn("text", "x"),), split="train")]
    for stage, held in zip(DOCUMENT_STAGES, ([*short, *lost], lost, []), strict=True):
        with DocumentWriter(inputs[stage]) as writer:
            for document in [*documents, *held]:
                writer.write(document)
    counts = dict(zip(DOCUMENT_STAGES, _counts(documents), strict=True))
    progress = Progress()
    makers = {"tokenizer": make_tokenizer, "token_shards": make_token_shards, "packing_plan": make_packing_plan}
    for name, make in makers.items():
        inputs[name].mkdir(parents=True)
        counts[name] = make(recipe, inputs, inputs[name], progress)
        shutil.rmtree(inputs[name] / "work", ignore_errors=True)
    for number, name in enumerate(names):
        write_manifest(inputs[name], name, counts[name], number)
    return Corpus(recipe, inputs)


def write_manifest(folder: Path, stage: str, counts: dict[str, Any], number: int = 0, **more: Any) -> None:
    manifest = {
        "schema": 1,
        "stage": stage,
        "fingerprint": f"{number:016x}",
        "content": f"{number:064x}",
        "inputs": {},
        "source_files": {"talk/talk.jsonl": "ab" * 32} if stage == "documents" else {},
        "counts": counts,
        "files": {},
        "made": "2026-11-26T00:00:00+00:00",
        "seconds": number,
        **more,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _counts(documents: Sequence[Document]) -> list[dict[str, Any]]:
    kept = Counter(document.source for document in documents)
    held_out = Counter(document.source for document in documents if document.split == "held_out")
    lost = {"documents": Counter(talk=1), "cleaning": Counter(text=1), "deduplication": Counter(gone=1)}
    collected, cleaned, deduplicated = {}, {}, {}
    for name, licence in LICENCES.items():
        bad, short, copies = (lost[stage][name] for stage in lost)
        arrived = kept[name] + copies
        collected[name] = {
            "files": 1,
            "records": arrived + short + bad,
            "documents": arrived + short,
            "bytes": 1,
            "bad": bad,
            "bad_reasons": {"empty turn": bad} if bad else {},
            "notes": {},
            "licence": licence,
        }
        cleaned[name] = {"kept": arrived, "dropped": {"too short": short} if short else {}}
        dropped = {"exact duplicate": copies, "near duplicate": 0}
        deduplicated[name] = {"kept": kept[name], "held_out": held_out[name], "dropped": dropped}
    total = len(documents)
    return [
        {"documents": total + 2, "records": total + 3, "bytes": 1, "sources": collected},
        {"documents": total + 1, "dropped": 1, "sources": cleaned},
        {"documents": total, "held_out": 1, "exact_duplicates": 1, "near_duplicates": 0, "sources": deduplicated},
    ]
