import json
import lzma
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.questions import Question
from parakeet.data.tokens.shards import TokenShards
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.errors import ParakeetError
from parakeet.evaluation.base import Subject
from parakeet.evaluation.bits_per_byte import BitsPerByte, not_below_yardsticks
from parakeet.evaluation.exact_match import NOT_APPLICABLE, ExactMatch, accuracy
from parakeet.evaluation.metrics import METRICS
from parakeet.evaluation.replies import GREEDY, Replies, replies_to
from parakeet.evaluation.report import evaluate
from parakeet.evaluation.scoring import choose_documents
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine, batch_replies
from parakeet.intervals import wilson_interval
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, save_model
from parakeet.pages import render
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.template import render_prompt

from ..conftest import Prepared, some_documents
from ..foreign_text import PARSER
from .conftest import subject_of


def model_of(prepared: Prepared, scale: float = 1.0) -> Parakeet:
    config = ModelConfig(layers=2, heads=2, width=16, context=64, vocabulary_rows=prepared.tokenizer.rows)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.embedding.weight.mul_(scale)
    return model.eval()


def engine_of(prepared: Prepared, model: Parakeet) -> Engine:
    return Engine(Decoder(model, "fp32"), prepared.tokenizer)


def bits_of(subject: Subject) -> dict[str, Any]:
    figures = BitsPerByte().measure(subject)
    assert figures["nothing"] is None
    assert figures["all"] is not None
    return figures["all"]


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_content_token(prepared: Prepared) -> None:
    """Golden: with an embedding of zeros all logits are equal, whatever the text."""
    subject = subject_of(prepared, model_of(prepared, 0.0))
    tokenizer, shards = subject.tokenizer, subject.held_out
    found = bits_of(subject)
    tokens = sum(int(t) not in tokenizer.control_ids for n in range(len(shards)) for t in shards.tokens(n))
    n_bytes = int(shards.n_bytes().sum())
    assert found["n_bytes"] == n_bytes
    assert found["model"] == pytest.approx(tokens * math.log2(tokenizer.rows) / n_bytes, rel=1e-6)


def test_only_the_replies_count_if_only_they_are_trained_on(prepared: Prepared, tmp_path: Path) -> None:
    values = prepared.recipe.model_dump()
    values["shards"]["loss_on"] = "assistant"
    recipe = Recipe.model_validate(values)
    folders = {"deduplicated_documents": prepared.documents, "tokenizer": prepared.tokenizer_folder}
    make_token_shards(recipe, folders, tmp_path, Progress())
    tokenizer = prepared.tokenizer
    held_out = TokenShards(tmp_path, "held_out", tokenizer)
    subject = subject_of(prepared, model_of(prepared, 0.0), held_out, recipe)
    turns = [turn for document in some_documents() if document.split == "held_out" for turn in document.turns]
    learned = [turn.content for turn in turns if turn.role != "Human"]
    n_bytes = sum(len(text.encode()) for text in learned)
    tokens = sum(len(tokenizer.encode(text)) for text in learned)
    found = bits_of(subject)
    assert found["n_bytes"] == n_bytes
    assert found["model"] == pytest.approx(tokens * math.log2(tokenizer.rows) / n_bytes, rel=1e-6)


def test_yardsticks_are_those_of_the_same_bytes(prepared: Prepared) -> None:
    subject = subject_of(prepared, model_of(prepared))
    tokenizer, train, held_out = subject.tokenizer, subject.train, subject.held_out
    found = bits_of(subject)
    content = [
        [int(t) for t in held_out.tokens(n) if int(t) not in tokenizer.control_ids] for n in range(len(held_out))
    ]
    text = "".join(tokenizer.decode(ids) for ids in content).encode()
    assert found["xz"] == pytest.approx(8 * len(lzma.compress(text, preset=9)) / len(text))
    ordinary = tokenizer.defined_ids()
    counts = Counter(int(t) for n in range(len(train)) for t in train.tokens(n))
    total = sum(counts[t] + 1 for t in ordinary)
    expected = sum(-math.log2((counts[t] + 1) / total) for ids in content for t in ids) / len(text)
    assert found["unigram"] == pytest.approx(expected)


def test_sequence_length_and_packing_do_not_change_what_is_measured(prepared: Prepared) -> None:
    """Short documents fit sequences of either length, so each token is predicted from the same context."""
    lengths = TokenShards(prepared.shards, "held_out").lengths()
    documents = [n for n in range(len(lengths)) if lengths[n] <= 32]
    model = model_of(prepared)
    figures = []
    for sequence_length in (32, 64):
        packing = prepared.recipe.packing.model_copy(update={"sequence_length": sequence_length})
        recipe = prepared.recipe.model_copy(update={"packing": packing})
        figures.append(bits_of(subject_of(prepared, model, recipe=recipe, documents=documents))["model"])
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)


def test_documents_are_chosen_up_to_a_size(prepared: Prepared) -> None:
    shards = TokenShards(prepared.shards, "held_out")
    source = shards.names.index("talk")
    chosen = choose_documents(shards, source, 200)
    assert 0 < len(chosen) < len(choose_documents(shards, source, 10**9))
    assert int(shards.n_bytes()[chosen[:-1]].sum()) < 200


def test_a_model_with_broken_weights_is_not_scored(prepared: Prepared) -> None:
    model = model_of(prepared)
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(ParakeetError, match="not finite"):
        bits_of(subject_of(prepared, model))
    with pytest.raises(ParakeetError, match="NaN or infinite"):
        replies_to(engine_of(prepared, model), ["hi"])


def test_batched_greedy_replies_equal_single_ones(prepared: Prepared) -> None:
    engine = engine_of(prepared, model_of(prepared, 30.0))
    prompts = ["What is 1 plus 2?", "What is 3 plus 4?", "Hello there, my friend!", "a"]
    together = replies_to(engine, prompts)
    assert together == [replies_to(engine, [prompt])[0] for prompt in prompts]
    rendered = [render_prompt(prepared.tokenizer, [Turn("Human", prompt)]) for prompt in prompts]
    long, cut = (
        batch_replies(engine, rendered, [replace(GREEDY, max_tokens=limit) for limit in limits])
        for limits in ([20] * 4, [3, 9, 1, 20])
    )
    assert cut == [ids[:limit] for ids, limit in zip(long, [3, 9, 1, 20], strict=True)]


def test_accuracy_is_exact_match_by_task() -> None:
    questions = [Question("s", "a", "1", "one"), Question("s", "a", "2", "two"), Question("s", "b", "3", "three")]
    found = accuracy(questions, ["one", "Two", "three"])
    assert [found[task]["accuracy"] for task in ("a", "b")] == [0.5, 1.0]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_intervals_hold_the_share(pair: tuple[int, int]) -> None:
    low, high = wilson_interval(*pair)
    assert 0 <= low <= pair[0] / pair[1] + 1e-12
    assert pair[0] / pair[1] - 1e-12 <= high <= 1


def test_evaluating_twice_gives_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("checkpoint", "documents", "one", "two")}
    for folder in folders.values():
        folder.mkdir()
    save_model(model_of(prepared), folders["checkpoint"])
    (folders["documents"] / "questions.jsonl").write_text("", encoding="utf-8")
    inputs = folders | {
        "tokenizer": prepared.tokenizer_folder,
        "token_shards": prepared.shards,
    }
    results = [evaluate(prepared.recipe, inputs, folders[name], Progress()) for name in ("one", "two")]
    for file in ("evaluation.json", "report.md", "bits_per_byte.png", "bits_per_byte_by_position.png"):
        assert (folders["one"] / file).read_bytes() == (folders["two"] / file).read_bytes()
    assert list(results[0]) == [metric.name for metric in METRICS if metric.wanted(prepared.recipe)]
    assert results[0]["exact_match"] == NOT_APPLICABLE
    written = json.loads((folders["one"] / "evaluation.json").read_text())
    assert set(written["bits_per_byte"]) == {"talk", "text"}
    by_position = written["bits_per_byte_by_position"]
    assert by_position["longest_trained_row_tokens"] == 32
    assert {name: found["row_tokens"] for name, found in by_position["sources"].items()} == {"talk": 64, "text": 64}


def test_a_source_with_little_held_out_text_is_not_measured(prepared: Prepared, tmp_path: Path) -> None:
    values = prepared.recipe.model_dump()
    values["shards"]["min_held_out_bytes"] = 1500
    for name in ("checkpoint", "documents"):
        (tmp_path / name).mkdir()
    save_model(model_of(prepared), tmp_path / "checkpoint")
    (tmp_path / "documents" / "questions.jsonl").write_text("", encoding="utf-8")
    inputs = {
        "checkpoint": tmp_path / "checkpoint",
        "documents": tmp_path / "documents",
        "tokenizer": prepared.tokenizer_folder,
        "token_shards": prepared.shards,
    }
    result = evaluate(Recipe.model_validate(values), inputs, tmp_path, Progress())
    held_out = TokenShards(prepared.shards, "held_out")
    for index, name in enumerate(held_out.names):
        enough = int(held_out.n_bytes()[held_out.sources() == index].sum()) >= 1500
        assert (result["bits_per_byte"][name] is not None) == enough
        assert (result["bits_per_byte_by_position"]["sources"][name] is not None) == enough


def test_what_a_model_says_cannot_break_the_page() -> None:
    pairs = [{"prompt": "a|b", "reply": "![x](http://x)<script>\n| --- |\x1b[31m`"}]
    figures = {"replies": pairs, "exact_match": NOT_APPLICABLE}
    page = render("evaluation.md", name="some_model", metrics=(Replies(), ExactMatch()), evaluation=figures)
    assert "\x1b" not in page
    shown = PARSER.render(page)
    assert shown.count("<tr>") == 2
    for tag in ("<script", "<img", "<a "):
        assert tag not in shown
    assert "Not applicable" in page


def test_sources_on_which_a_yardstick_wins_are_named() -> None:
    figures = {
        "good": {"model": 1.0, "unigram": 4.0, "xz": 2.0},
        "bad": {"model": 2.0, "unigram": 4.0, "xz": 2.0},
        "none": None,
    }
    assert not_below_yardsticks(figures) == ["bad"]
