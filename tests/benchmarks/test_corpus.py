"""The text that the benchmarks of the data stages work on."""

import json
from pathlib import Path

import pytest

from parakeet.benchmarks.corpus import read_blocks, varied, words_to_draw, write_jsonl
from parakeet.errors import ParakeetError

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]


def test_text_of_any_shape_becomes_blocks(tmp_path: Path) -> None:
    talk = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good day. " * 900}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(talk) + "\n" + json.dumps({"text": "Short."}) + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("One paragraph.\n\nAnother.\n", encoding="utf-8")
    blocks = read_blocks([str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")])
    assert [block.split()[0] for block in blocks] == ["Hello?", "Short."]
    assert blocks[1] == "Short.\n\nOne paragraph.\n\nAnother."


def test_varied_text_is_seeded_and_holds_copies(tmp_path: Path) -> None:
    blocks = [" ".join(f"{word}{block}" for word in 30 * WORDS) + f"\n\nEnd {block} of it." for block in range(100)]
    texts = list(varied(blocks, 2_000_000, seed=1))
    assert texts == list(varied(blocks, 2_000_000, seed=1)) != list(varied(blocks, 2_000_000, seed=2))
    assert 0.02 < 1 - len(set(texts)) / len(texts) < 0.08
    assert all(text.endswith(" of it.") or "\n\n" in text for text in texts)
    written = write_jsonl(tmp_path / "corpus.jsonl", texts)
    assert 2_000_000 <= written < 2_010_000
    lines = (tmp_path / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts


def test_text_without_a_word_is_refused() -> None:
    with pytest.raises(ParakeetError, match="no words"):
        words_to_draw(["1 2 3"])
