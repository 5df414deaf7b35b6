"""deduplication.turns: an exchange that stands in another conversation is cut out."""

import io
import random
from pathlib import Path
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.deduplication.deduplicate import deduplicate_documents
from parakeet.data.deduplication.exchanges import exchanges_of, without_exchanges
from parakeet.data.documents import Document, parts, read_documents
from parakeet.progress import Progress
from parakeet.recipe import Recipe

from ..document_parts import write_parts

WORDS = [a + b + c for a in "bdfgk" for b in "aeiou" for c in ("lo", "ming", "ter", "sk", "nd")]


def saying(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def chat(*said: int | str, source: str = "a", held_out: bool | None = None, system: str = "") -> Document:
    """Human and Assistant in turn; a number is a long saying of its own."""
    texts = [saying(text) if isinstance(text, int) else text for text in said]
    turns = tuple(Turn(("Human", "Assistant")[number % 2], text) for number, text in enumerate(texts))
    first = (Turn("System", system),) if system else ()
    return Document(source, "CC0-1.0", (*first, *turns), {}, held_out)


def deduplicate(
    folder: Path, documents: list[Document], turns: bool = True, priority_b: int = 0
) -> tuple[list[list[str]], dict[str, Any]]:
    """What is left of each conversation, its System turn included, and the counts."""
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "sources": [{"name": "a", "path": "a"}, {"name": "b", "path": "b", "priority": priority_b}],
            "deduplication": {"held_out_fraction": 0.0, "turns": turns},
            "executor": {"workers": 1},
            "model": {"layers": 2, "heads": 2, "width": 16, "context": 256},
            "training": {"tokens": 1024, "batch_tokens": 256, "learning_rate": 1e-3},
        }
    )
    write_parts(folder / "clean", documents)
    (folder / "out").mkdir()
    counts = deduplicate_documents(
        recipe, {"clean_documents": folder / "clean"}, folder / "out", Progress(io.StringIO())
    )
    kept = read_documents(parts(folder / "out"))
    return [[turn.content for turn in document.turns] for document in kept], counts


GREETING = ("Hello!", "Hello! How can I help you today?")


def test_without_the_option_conversations_are_compared_whole(tmp_path: Path) -> None:
    kept, counts = deduplicate(tmp_path, [chat(*GREETING, 1, 2), chat(*GREETING, 3, 4)], turns=False)
    assert [len(turns) for turns in kept] == [4, 4]
    assert counts["exchanges_cut"] == 0


def test_a_repeated_exchange_is_kept_once(tmp_path: Path) -> None:
    kept, counts = deduplicate(tmp_path, [chat(*GREETING, 1, 2, system="Be kind."), chat(*GREETING, 3, 4), chat(5, 6)])
    whole = [["Be kind.", *GREETING, saying(1), saying(2)], [*GREETING, saying(3), saying(4)], [saying(5), saying(6)]]
    cut = [["Be kind.", saying(1), saying(2)], [saying(3), saying(4)], [saying(5), saying(6)]]
    assert kept in ([whole[0], *cut[1:]], [cut[0], whole[1], cut[2]])
    assert counts["exchanges_cut"] == 1
    assert counts["documents"] == 3


def test_an_exchange_that_is_nearly_the_same_is_cut_too(tmp_path: Path) -> None:
    kept, counts = deduplicate(tmp_path, [chat(1, saying(2) + " truly", 3, 4), chat(5, 6, 1, 2)])
    assert kept == [[saying(1), saying(2) + " truly", saying(3), saying(4)], [saying(5), saying(6)]]
    assert counts["exchanges_cut"] == 1


def test_the_source_with_the_higher_priority_keeps_it(tmp_path: Path) -> None:
    kept, _ = deduplicate(tmp_path, [chat(1, 2, 3, 4), chat(1, 2, 5, 6, source="b")], priority_b=1)
    assert kept == [[saying(3), saying(4)], [saying(1), saying(2), saying(5), saying(6)]]


def test_a_conversation_of_nothing_else_is_dropped_and_counted(tmp_path: Path) -> None:
    kept, counts = deduplicate(tmp_path, [chat(1, 2, 3, 4), chat(3, 4, 5, 6), chat(1, 2, 5, 6, source="b")])
    assert kept == [[saying(1), saying(2), saying(3), saying(4)], [saying(5), saying(6)]]
    assert counts["sources"]["b"] == {
        "kept": 0,
        "held_out": 0,
        "clusters": 0,
        "dropped": {"exact duplicate": 0, "near duplicate": 0, "nothing but repeated turns": 1},
    }
    assert (counts["documents"], counts["exchanges_cut"]) == (2, 3)


def test_what_is_held_out_stays_whole_and_leaves_training(tmp_path: Path) -> None:
    kept, _ = deduplicate(
        tmp_path, [chat(1, 2, 3, 4, held_out=False), chat(5, 6, 1, 2, held_out=True), chat(7, 8, held_out=False)]
    )
    assert kept == [[saying(3), saying(4)], [saying(5), saying(6), saying(1), saying(2)], [saying(7), saying(8)]]


def test_exchanges_of_a_document() -> None:
    document = chat("a", "b", "c", "d", system="s")
    assert exchanges_of(document) == ["a\nb", "c\nd"]
    assert exchanges_of(Document("a", "", (Turn("text", "plain"),))) == []
    assert without_exchanges(document, [True, True]) is None
    left = without_exchanges(document, [True, False])
    assert left is not None
    assert [turn.content for turn in left.turns] == ["s", "c", "d"]
