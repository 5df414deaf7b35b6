"""Weights and epochs: how often each document is seen in one pass over the mix."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.tokens.mixing import Mix, mix, repetitions
from parakeet.data.tokens.packing import PackingPlan, make_packing_plan
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_sources import FileSource

from ...conftest import Prepared


def source(name: str, **settings: Any) -> FileSource:
    return FileSource.model_validate({"name": name, "path": "unused.txt", **settings})


def recipe(base: Recipe, *sources: FileSource) -> Recipe:
    return Recipe.model_validate({**base.model_dump(), "sources": [s.model_dump() for s in sources]})


def mixed(base: Recipe, documents: dict[str, list[int]], *sources: FileSource) -> Mix:
    """The mix of documents of these lengths, with seeded random ids."""
    names = sorted(documents)
    lengths = np.array([length for name in names for length in documents[name]], np.int64)
    indices = np.repeat(np.arange(len(names)), [len(documents[name]) for name in names])
    ids = np.random.default_rng(1).integers(0, 1 << 64, (len(lengths), 2), np.uint64)
    return mix(recipe(base, *sources), names, indices, lengths, ids)


def test_without_weights_everything_is_seen_as_often_as_its_source_says() -> None:
    assert repetitions({"a": 100, "b": 7}, [source("a"), source("b", epochs=2.5)]) == {"a": 1.0, "b": 2.5}


def test_the_mix_ends_when_the_first_source_is_used_up() -> None:
    weighted = [source("a", weight=3), source("b", weight=1, epochs=2)]
    # Two epochs of b are 200 tokens, a quarter of 800; the other 600 come from the 900 of a.
    assert repetitions({"a": 900, "b": 100}, weighted) == pytest.approx({"a": 600 / 900, "b": 2.0})


weights = st.floats(0.01, 100)
epochs = st.floats(0.1, 5)
sizes = st.lists(st.tuples(st.integers(1, 10_000), weights, epochs), min_size=1, max_size=6)


@given(sizes)
def test_shares_follow_the_weights_and_no_source_passes_its_epochs(drawn: list[tuple[int, float, float]]) -> None:
    sources = [source(f"s{n}", weight=weight, epochs=most) for n, (_, weight, most) in enumerate(drawn)]
    tokens = {f"s{n}": size for n, (size, _, _) in enumerate(drawn)}
    repeated = repetitions(tokens, sources)
    seen = [repeated[s.name] * tokens[s.name] / s.weight for s in sources if s.weight]
    assert seen == pytest.approx([seen[0]] * len(seen))
    assert all(repeated[s.name] <= s.epochs * (1 + 1e-9) for s in sources)
    assert any(repeated[s.name] == pytest.approx(s.epochs) for s in sources)


def test_whole_repetitions_take_all_documents_and_a_fraction_some(prepared: Prepared) -> None:
    documents = {"a": [10] * 200, "b": [5, 6, 7]}
    found = mixed(prepared.recipe, documents, source("a", epochs=1.25), source("b", epochs=3))
    assert sorted(set(found.copies[:200].tolist())) == [1, 2]
    assert (found.copies[:200] == 2).sum() == 50
    assert found.copies[200:].tolist() == [3, 3, 3]
    assert found.by_source["a"] == {"documents": 250, "tokens": 2500, "share": 2500 / 2554, "epochs": 1.25}
    assert found.by_source["b"]["tokens"] == 54
    assert [len(numbers) for numbers in found.passes()] == [203, 53, 3]


def test_added_documents_hardly_change_which_are_chosen(prepared: Prepared) -> None:
    few, more = (
        mixed(prepared.recipe, {"a": [10] * number}, source("a", epochs=0.5)).copies[:1000] for number in (1000, 1100)
    )
    assert (few == more).mean() > 0.9


@given(st.lists(st.integers(1, 300), min_size=1, max_size=50), st.floats(0.1, 4))
def test_a_fraction_is_kept_to_by_the_token(prepared: Prepared, lengths: list[int], most: float) -> None:
    found = mixed(prepared.recipe, {"a": lengths}, source("a", epochs=most))
    wanted = most * sum(lengths)
    assert wanted - max(lengths) <= found.by_source["a"]["tokens"] <= wanted + 1e-6 * wanted


def test_a_weight_without_text_is_refused_by_name() -> None:
    with pytest.raises(ParakeetError, match=r"Source b has the weight 2, but none of its text is left.*--source b"):
        repetitions({"a": 10, "b": 0}, [source("a", weight=1), source("b", weight=2)])


def test_weights_are_for_all_sources_or_none(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="source b has no weight, but others have"):
        recipe(prepared.recipe, source("a", weight=1), source("b"))


def test_a_repeated_document_is_not_packed_beside_itself(prepared: Prepared, tmp_path: Path) -> None:
    sources = (source("talk", epochs=3), source("text", epochs=1))
    counts = make_packing_plan(
        recipe(prepared.recipe, *sources), {"token_shards": prepared.shards}, tmp_path, Progress()
    )
    packed = PackingPlan(tmp_path, 32).sequences
    predicted: Counter[tuple[int, int]] = Counter()
    beside = 0
    for begin, end in zip(packed.offsets[:-1], packed.offsets[1:], strict=True):
        own = slice(begin, end)
        mine = list(
            zip(*(column[own].tolist() for column in (packed.document, packed.start, packed.length)), strict=True)
        )
        beside += len({document for document, _, _ in mine}) < len(mine)
        predicted.update((document, start + n) for document, start, length in mine for n in range(1, length))
    assert set(predicted.values()) == {1, 3}
    assert beside < 0.02 * len(packed)
    assert counts["mix"]["talk"]["epochs"] == 3.0
    once = counts["mix"]["talk"]["tokens"] // 3 + counts["mix"]["text"]["tokens"]
    assert counts["targets"] == once - counts["mix"]["talk"]["documents"] // 3 - 1 + 2 * (
        counts["mix"]["talk"]["tokens"] // 3 - counts["mix"]["talk"]["documents"] // 3
    )


def test_a_plan_without_repeats_does_not_change(prepared: Prepared, tmp_path: Path) -> None:
    make_packing_plan(prepared.recipe, {"token_shards": prepared.shards}, tmp_path, Progress())
    assert (tmp_path / "plan-32.arrow").read_bytes() == (prepared.plan / "plan-32.arrow").read_bytes()


def test_a_mix_of_many_passes_is_full_too(prepared: Prepared, tmp_path: Path) -> None:
    """Each pass ends in a sequence that is nearly empty."""
    sources = (source("talk", epochs=1), source("text", epochs=40))
    counts = make_packing_plan(
        recipe(prepared.recipe, *sources), {"token_shards": prepared.shards}, tmp_path, Progress()
    )
    assert counts["fill"] > 0.995 - 1 / counts["rows"]


def test_a_source_whose_documents_are_longer_than_its_share_is_refused(prepared: Prepared) -> None:
    documents = {"a": [10] * 100, "b": [5000, 5000]}
    with pytest.raises(ParakeetError, match="Source b: its share of the mix is less than its shortest document"):
        mixed(prepared.recipe, documents, source("a", weight=1), source("b", weight=1))
    found = mixed(prepared.recipe, {"a": [10] * 100, "b": [5000, 700]}, source("a", weight=1), source("b", weight=1))
    assert found.copies[-1] == 1
