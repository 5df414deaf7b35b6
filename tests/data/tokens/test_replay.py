"""New text with a share of the old: what a plan of `packing.replay` holds."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.documents import DocumentWriter
from parakeet.data.tokens.mixing import Mix, mix, replayed
from parakeet.data.tokens.packing import PackingPlan, make_packing_plan
from parakeet.data.tokens.shards import TokenShards
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

from ...conftest import Prepared, some_documents

OF = "0123456789abcdef" * 4


def with_replay(base: Recipe, share: float, of: str = OF, **sources: dict[str, Any]) -> Recipe:
    values = base.model_dump()
    values["packing"]["replay"] = {"share": share, "of": of}
    if sources:
        values["sources"] = [{"name": name, "path": "unused.txt", **settings} for name, settings in sources.items()]
    return Recipe.model_validate(values)


def corpus(seed: int, count: int, names: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sources, lengths and ids of so many documents."""
    drawn = np.random.default_rng(seed)
    return (
        drawn.integers(0, names, count),
        drawn.integers(2, 80, count),
        drawn.integers(0, 1 << 64, (count, 2), np.uint64),
    )


@given(st.integers(0, 99), st.integers(2, 300), st.floats(0.01, 0.99), st.floats(0.05, 0.9))
def test_all_new_text_is_seen_once_and_the_share_of_old_is_kept_to_within_a_document(
    prepared: Prepared, seed: int, count: int, part: float, share: float
) -> None:
    sources, lengths, ids = corpus(seed, count)
    old = np.arange(count) < part * count
    old[-1] = False
    mixed = replayed(with_replay(prepared.recipe, share, a={}), ["a"], sources, lengths, ids, old)
    assert (mixed.copies[~old] == 1).all()
    assert (mixed.copies[old] <= 1).all()
    tokens_new, tokens_old = int(lengths[~old].sum()), int((lengths * mixed.copies)[old].sum())
    budget = min(tokens_new * share / (1 - share), float(lengths[old].sum()))
    assert budget - 80 < tokens_old <= budget + 1e-6 * budget
    assert mixed.by_source["a"]["tokens"] == tokens_new + tokens_old


def test_a_share_of_zero_takes_nothing_old(prepared: Prepared) -> None:
    sources, lengths, ids = corpus(5, 60)
    old = np.arange(60) < 40
    mixed = replayed(with_replay(prepared.recipe, 0.0, a={}), ["a"], sources, lengths, ids, old)
    assert mixed.copies.tolist() == (~old).astype(int).tolist()


def replay(base: Recipe, of: str, count: int = 400) -> np.ndarray:
    """Which of the old documents are chosen, if the last 50 of `count` are new."""
    sources, lengths, ids = corpus(1, count)
    old = np.arange(count) < count - 50
    return replayed(with_replay(base, 0.5, of, a={}), ["a"], sources, lengths, ids, old).copies[old]


def test_the_choice_is_a_function_of_ids_and_of_what_was_trained_on_before(prepared: Prepared) -> None:
    first, again, later = (replay(prepared.recipe, of) for of in (OF, OF, OF[::-1]))
    assert (first == again).all()
    assert 0.5 < (first == later).mean() < 0.95


def mixed_by(base: Recipe, weights: dict[str, dict[str, Any]], share: float = 0.5) -> tuple[Mix, Mix, np.ndarray]:
    """The mix of all text, and that with replay where all new text is of source b."""
    sources, lengths, ids = corpus(3, 600, names=2)
    old = (np.arange(600) < 500) | (sources == 0)
    recipe = with_replay(base, share, **weights)
    arguments = (["a", "b"], sources, lengths, ids)
    return mix(recipe, *arguments), replayed(recipe, *arguments, old), old


def test_weights_rule_the_old_text_and_no_new_text_is_left_out_for_them(prepared: Prepared) -> None:
    weights = {"a": {"weight": 1.0}, "b": {"weight": 9.0, "epochs": 2.0}}
    all_text, again, old = mixed_by(prepared.recipe, weights)
    assert (again.copies[~old] == 2).all(), "a source's epochs hold for new text too"
    sources, lengths, _ = corpus(3, 600, names=2)
    seen = {part: int((lengths * again.copies)[old & (sources == part)].sum()) for part in (0, 1)}
    assert all_text.by_source["b"]["share"] == pytest.approx(0.9, abs=0.02)
    assert seen[1] / (seen[0] + seen[1]) == pytest.approx(0.9, abs=0.05)


def test_only_old_text_is_refused(prepared: Prepared) -> None:
    sources, lengths, ids = corpus(1, 10)
    with pytest.raises(ParakeetError, match=r"No document of the text is new.*--from-scratch"):
        replayed(with_replay(prepared.recipe, 0.5, a={}), ["a"], sources, lengths, ids, np.ones(10, np.bool_))


def test_a_plan_predicts_every_new_token_exactly_once(prepared: Prepared, tmp_path: Path) -> None:
    """The shards of more text, beside those of the first 300 dialogues."""
    folders = {name: tmp_path / name for name in ("deduplicated_documents", "token_shards", "packing_plan")}
    for folder in folders.values():
        folder.mkdir()
    with DocumentWriter(folders["deduplicated_documents"]) as writer:
        for document in some_documents(400):
            writer.write(document)
    folders["tokenizer"] = prepared.tokenizer_folder
    make_token_shards(prepared.recipe, folders, folders["token_shards"], Progress())
    recipe = with_replay(prepared.recipe, 0.25)
    counts = make_packing_plan(recipe, folders, folders["packing_plan"], Progress(), prepared.shards)
    shards, before = TokenShards(folders["token_shards"]), TokenShards(prepared.shards)
    old = {before.doc_id(number) for number in range(len(before))}
    packed = PackingPlan(folders["packing_plan"], 32).sequences
    predicted: Counter[int] = Counter()
    for document, length in zip(packed.document.tolist(), packed.length.tolist(), strict=True):
        predicted[document] += length - 1
    lengths = shards.lengths()
    new = [number for number in range(len(shards)) if shards.doc_id(number) not in old]
    assert len(new) == counts["replay"]["new_documents"] == 90
    assert all(predicted[number] == lengths[number] - 1 for number in new)
    assert counts["replay"]["share"] == pytest.approx(0.25, abs=0.02)
    assert set(predicted) - set(new) <= set(range(len(shards)))
    assert all(predicted[number] == lengths[number] - 1 for number in predicted), (
        "an old one is seen whole or not at all"
    )
