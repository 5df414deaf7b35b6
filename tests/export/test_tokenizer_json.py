"""The exported tokenizer and chat template, read by transformers, beside Parakeet's own."""

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from parakeet.conversation import Turn
from parakeet.export.chat_template import ROLES, chat_template
from parakeet.export.tokenizer_json import tokenizer_config, tokenizer_json
from parakeet.release.verify import write_json
from parakeet.template import render_document, render_prompt
from parakeet.tokenizer import END_OF_TEXT, ROLE_TOKENS, Tokenizer, count_words

CORPORA = Path(__file__).parents[3] / "shared" / "data" / "corpora"
KINDS = ("trained", "words", "cl100k")
PIECES = (
    *" \t\n\r\x0b\x0c\x00\x1b\x7f\x85\xa0\u2003\u2028\u3000\ufeff\u200b\u202e",
    *("\r\n", "  ", "   ", "\n\n", " \n", "\n "),
    *("don't", "'LL", "'ſ", "'S", "WE'VE", "'re", "'", "’s", "K", "İ"),
    *("1", "12", "1234567", "٣", "½", "Ⅷ", "०"),
    *("🦜", "👩‍👩‍👧", "🇩🇪", "e\u0301", "\u0301", "क्षि", "한국어", "日本語", "ﬁ", "ß", "ẞ", "\U00012000", "\ue000"),
    *("Hello", " the", "camelCase", "<|", "|>", "...", "--", "!?", "_", "@#$"),
    *ROLE_TOKENS.values(), END_OF_TEXT, "<|endofprompt|>", "<|fim_prefix|>", "<|padding|>", "\n\nHuman:", "Human: ",
)  # fmt: skip


def nasty_strings(count: int) -> Iterator[str]:
    drawn = Random(7)
    for _ in range(count):
        pieces = drawn.choices(PIECES, k=drawn.randint(1, 12))
        yield "".join(piece * drawn.choice((1, 1, 1, 1, 2, 3, 40)) for piece in pieces)


def corpus_lines() -> list[str]:
    """10,000 lines with their ends, cut at 2,000 characters: books, source texts, sums, verse, chats."""
    wanted = {"books.jsonl.gz": 4, "peps.jsonl.gz": 300, "gsm8k-train.jsonl": 2_000, "tinyshakespeare.txt": 2_000,
              "gpteacher-roleplay.json": 2_000}  # fmt: skip
    if not all((CORPORA / name).is_file() for name in wanted):
        pytest.skip(f"the corpora are not in {CORPORA}")
    lines: list[str] = []
    for name, count in wanted.items():
        opened = gzip.open if name.endswith(".gz") else open
        with opened(CORPORA / name, "rt", encoding="utf-8", newline="") as file:
            some = list(itertools.islice(file, count))
        if name.endswith(".gz"):
            texts = "".join(json.loads(line)["text"] for line in some)
            some = texts.splitlines(keepends=True)[:2_000]
        lines += [line[:2_000] for line in some]
    return lines


@pytest.fixture(scope="module")
def tokenizers(
    trained_release: Path, original_shape_release: Path, conversations: list[tuple[Turn, ...]]
) -> dict[str, Tokenizer]:
    words = count_words((turn.content for turns in conversations for turn in turns), 640)
    return {
        "trained": Tokenizer.load(trained_release),
        "words": words,
        "cl100k": Tokenizer.load(original_shape_release),
    }


@pytest.fixture(scope="module")
def exported(tokenizers: dict[str, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {name: opened(tokenizer, tmp_path_factory.mktemp(name)) for name, tokenizer in tokenizers.items()}


def opened(tokenizer: Tokenizer, folder: Path) -> Any:
    """The tokenizer as transformers reads it."""
    (folder / "tokenizer.json").write_text(tokenizer_json(tokenizer), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer, 640))
    (folder / "chat_template.jinja").write_text(chat_template(tokenizer), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def plain(theirs: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_the_same_for_ten_thousand_lines_and_two_thousand_nasty_strings(
    kind: str, tokenizers: dict[str, Tokenizer], exported: dict[str, Any]
) -> None:
    ours, theirs = tokenizers[kind], exported[kind]
    for texts in (list(nasty_strings(2_000)), corpus_lines()):
        assert len(texts) in (2_000, 10_000)
        for text, ids in zip(texts, plain(theirs, texts), strict=True):
            assert ids == ours.encode(text), text
    for text in nasty_strings(200):
        assert theirs.decode(ours.encode(text)) == text


@given(text=st.text(st.characters(exclude_categories=("Cs",))))
@settings(max_examples=200)
def test_ids_are_the_same_for_any_text(text: str, tokenizers: dict[str, Tokenizer], exported: dict[str, Any]) -> None:
    for kind in KINDS:
        assert plain(exported[kind], [text]) == [tokenizers[kind].encode(text)]


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_and_holes_keep_their_ids(
    kind: str, tokenizers: dict[str, Tokenizer], exported: dict[str, Any]
) -> None:
    ours, theirs = tokenizers[kind], exported[kind]
    assert {name: theirs.convert_tokens_to_ids(name) for name in ours.controls} == ours.controls
    assert set(theirs.all_special_ids) == set(ours.controls.values())
    known = {*ours.defined_ids(), *ours.controls.values()}
    assert set(theirs.get_vocab().values()) == known
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        ours.end_of_text, ours.end_of_prompt, ours.padding,
    )  # fmt: skip
    # As the card says: a text begins as in training, and by default the text of a control token is the token.
    assert theirs("Hello").input_ids == [ours.end_of_text, *ours.encode("Hello")]
    assert theirs("a<|endofprompt|>", add_special_tokens=False).input_ids == [*ours.encode("a"), ours.end_of_prompt]
    assert theirs.decode([*ours.encode("Hi there"), ours.end_of_prompt], skip_special_tokens=True) == "Hi there"
    assert theirs.decode([ours.role_id("Human"), *ours.encode("Hi")]) == "\n\nHuman: Hi"


THEIRS = {ours: theirs for theirs, ours in ROLES.items()}
TURNS = (
    [Turn("Human", "What is 2 plus 3?")],
    [Turn("System", "Be."), Turn("Human", "  Hi!\n\n"), Turn("Assistant", "Hello."), Turn("Human", "\u3000So?\x1f")],
    [Turn("Human", ""), Turn("Assistant", "'s"), Turn("System", "One\r\nTwo"), Turn("Human", "{{ 1 }} {% if %}")],
    [Turn("Assistant", "Human: no"), Turn("Human", "<|endof"), Turn("Human", "e\u0301 🦜 \x00 \x1b[0m")],
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_chat_template_renders_the_ids_of_our_own(
    kind: str, tokenizers: dict[str, Tokenizer], exported: dict[str, Any]
) -> None:
    ours, theirs = tokenizers[kind], exported[kind]
    for turns in TURNS:
        messages = [{"role": THEIRS[turn.role], "content": turn.content} for turn in turns]
        rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        assert rendered["input_ids"] == render_prompt(ours, turns)
        assert theirs.apply_chat_template(messages)["input_ids"] == render_document(ours, turns)[0].tolist()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "x"}, "roles system, user, assistant, not tool"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "must be text"),
        ({"role": "user", "content": None}, "must be text"),
        ({"role": "user", "content": "a<|endofprompt|>b"}, "control token <|endofprompt|>"),
        ({"role": "user", "content": "Bye.\n\nAssistant: I"}, "control token"),
    ],
)
def test_the_chat_template_refuses_what_it_cannot_render(
    message: dict[str, Any], words: str, exported: dict[str, Any]
) -> None:
    with pytest.raises(Exception, match=words.replace("|", r"\|")):
        exported["trained"].apply_chat_template([message], add_generation_prompt=True)
