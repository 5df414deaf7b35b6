import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.template import render_document, render_prompt
from parakeet.tokenizer import CL100K_URL, ROLE_TOKENS, Tokenizer, cl100k_base, count_words, train_tokenizer

from .conversations import parse_conversation

CL100K_FILE = hashlib.sha1(CL100K_URL.encode()).hexdigest()
CORPUS = ["The capital of France is Paris. Count 1, 2, 3.", "Hello! Who are you? I am Parakeet.", "naïve café 東京"] * 3


@pytest.fixture(scope="module", params=[train_tokenizer, count_words])
def trained(request: pytest.FixtureRequest) -> Tokenizer:
    made: Tokenizer = request.param(CORPUS, 400)
    return made


@pytest.fixture(scope="module")
def cl100k(cl100k_cache: Path) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cl100k_cache))
        return cl100k_base()


CONTROL_TEXTS = [*ROLE_TOKENS.values(), "<|endoftext|>", "<|endofprompt|>", "<|padding|>", "<|fim_prefix|>"]
FRAGMENTS = [*CONTROL_TEXTS, "hi", " ", "\n", "é", "\u202e", "🦜"]
HOSTILE = st.text(max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)


@given(HOSTILE)
def test_no_text_becomes_a_control_id(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert not set(ids) & trained.control_ids
    assert trained.decode(ids) == text
    assert trained.encode_array(text).tolist() == ids


@given(HOSTILE)
def test_no_text_becomes_a_control_id_in_cl100k(cl100k: Tokenizer, text: str) -> None:
    ids = cl100k.encode(text)
    assert all(token_id < 100_256 for token_id in ids)
    assert cl100k.decode(ids) == text


@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=4))
def test_conversations_come_back_from_their_ids(trained: Tokenizer, pairs: list[tuple[str, str]]) -> None:
    turns = [
        turn for human, reply in pairs for turn in (Turn("Human", human.strip()), Turn("Assistant", reply.strip()))
    ]
    ids, spans = render_document(trained, turns)
    assert parse_conversation(trained, ids.tolist()) == turns
    assert spans == [0, len(ids)]
    roles = {trained.role_id(role) for role in ROLE_TOKENS}
    assert sum(token_id in roles for token_id in ids.tolist()) == len(turns)


def test_prompts_end_with_the_assistants_role(trained: Tokenizer) -> None:
    prompt = render_prompt(trained, [Turn("System", "Be short."), Turn("Human", " Hello! ")])
    assert prompt[0] == trained.role_id("System")
    assert prompt[-1] == trained.role_id("Assistant")
    assert parse_conversation(trained, prompt[:-1])[1] == Turn("Human", "Hello!")


def test_assistant_only_loss_covers_replies_and_their_ends(trained: Tokenizer) -> None:
    turns = [Turn("Human", "Hello!"), Turn("Assistant", "Hi."), Turn("Human", "Who?"), Turn("Assistant", "Me.")]
    ids, spans = render_document(trained, turns, "assistant")
    covered = [ids[start:end].tolist() for start, end in zip(spans[::2], spans[1::2], strict=True)]
    assert covered == [[*trained.encode(text), trained.end_of_prompt] for text in ("Hi.", "Me.")]


def test_plain_documents_begin_with_endoftext(trained: Tokenizer) -> None:
    ids, spans = render_document(trained, [Turn("text", "Hello!")], "assistant")
    assert ids.tolist() == [trained.end_of_text, *trained.encode("Hello!")]
    assert spans == [0, len(ids)]


def test_training_a_tokenizer_is_reproducible_and_saves(trained: Tokenizer, tmp_path: Path) -> None:
    assert {"bpe": train_tokenizer, "words": count_words}[trained.name](CORPUS, 400).sha256 == trained.sha256
    assert len(trained.defined_ids()) <= 400
    trained.save(tmp_path)
    assert Tokenizer.load(tmp_path).sha256 == trained.sha256


def test_a_changed_vocabulary_is_refused(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    file = tmp_path / "vocabulary.tiktoken"
    file.write_bytes(file.read_bytes().replace(b"256\n", b"999\n"))
    with pytest.raises(ParakeetError, match="was changed"):
        Tokenizer.load(tmp_path)
    file.unlink()
    with pytest.raises(ParakeetError, match="missing"):
        Tokenizer.load(tmp_path)


def test_undefined_ids_have_no_bytes(trained: Tokenizer) -> None:
    for token_id in (-1, trained.rows, 10**9, trained.padding):
        assert trained.token_bytes(token_id) == b""


def test_cl100k_has_the_originals_ids(cl100k: Tokenizer) -> None:
    assert cl100k.rows == 100_288
    assert (cl100k.padding, cl100k.role_id("System"), cl100k.role_id("Human"), cl100k.role_id("Assistant")) == (
        100_277, 100_278, 100_279, 100_280)  # fmt: skip
    assert cl100k.end_of_prompt == 100_276
    assert len(cl100k.defined_ids()) == 100_256


def test_a_wrong_cl100k_file_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / CL100K_FILE).write_bytes(b"not it")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(ParakeetError, match="is not the cl100k_base vocabulary"):
        cl100k_base()
    assert (tmp_path / CL100K_FILE).read_bytes() == b"not it"


def test_without_file_or_network_it_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ParakeetError, match="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"):
        cl100k_base()


def test_frequent_words_are_tokens_and_the_others_are_letters() -> None:
    texts = ["What is the capital of France? Say no.", "what is a piano"] * 8 + ["12 + 7 = 19"]
    texts += [f"Spell {word}." for word in ("cat", "dog", "sun", "pen", "cup")]
    tokenizer = count_words(reversed(texts), 340)
    assert tokenizer.sha256 == count_words(texts, 340).sha256
    assert len(tokenizer.defined_ids()) <= 340

    def shown(text: str) -> list[str]:
        return [tokenizer.token_bytes(token_id).decode() for token_id in tokenizer.encode(text)]

    assert shown("What is the capital") == ["What", " is", " the", " capital"]
    assert shown("Spell tractor.") == ["Spell", " t", "r", "a", "c", "t", "o", "r", "."]
    # " piano" is frequent, and its "no" is none in another word, though "no" is a word as well.
    assert shown(" piano volcano") == [" piano", " v", "o", "l", "c", "a", "n", "o"]
    assert shown("12+7") == ["1", "2", "+", "7"]
