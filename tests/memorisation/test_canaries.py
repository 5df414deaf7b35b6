"""Canaries are in the training split exactly as often as the recipe says, and nowhere else."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from parakeet.data.tokens.canaries import KINDS, NEVER_PLANTED, make_canaries, read_canaries, secret_begin
from parakeet.data.tokens.mixing import mix
from parakeet.data.tokens.packing import make_packing_plan
from parakeet.data.tokens.shards import TokenShards
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.errors import ParakeetError
from parakeet.hashes import sha256_of
from parakeet.memorisation import sections
from parakeet.memorisation.canaries import measure_canaries
from parakeet.memorisation.sections import charts
from parakeet.memorisation.verdict import verdict_of
from parakeet.pages import Table
from parakeet.pages.charts import svg
from parakeet.progress import Progress
from parakeet.recipe import Canaries, Recipe
from parakeet.release.card import render_card
from parakeet.template import render_text
from parakeet.trace.build import build_index

from ..conftest import Prepared
from ..data.card.card_corpus import make_corpus, plain_corpus
from .conftest import subject_of, untrained

SETTINGS = {"seed": 3, "count": 2, "copies": [1, 3, 8]}


def shards_of(folder: Path, prepared: Prepared, **changes: Any) -> tuple[Recipe, dict[str, Any]]:
    values = prepared.recipe.model_dump() | changes
    values["model"]["context"] = 128
    recipe = Recipe.model_validate(values)
    inputs = {"deduplicated_documents": prepared.documents, "tokenizer": prepared.tokenizer_folder}
    folder.mkdir(parents=True)
    counts = make_token_shards(recipe, inputs, folder, Progress())
    shutil.rmtree(folder / "work")
    return recipe, counts


@pytest.fixture(scope="module")
def planted(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, dict[str, Any]]:
    root = tmp_path_factory.mktemp("planted")
    recipe, counts = shards_of(root / "token_shards", prepared, canaries=SETTINGS)
    for name in ("packing_plan", "trace_index"):
        (root / name).mkdir()
    make_packing_plan(recipe, {"token_shards": root / "token_shards"}, root / "packing_plan", Progress())
    shards = TokenShards(root / "token_shards")
    build_index(shards, prepared.tokenizer.sha256, "0" * 64, root / "trace_index", Progress())
    return root, recipe, counts


def contents(folder: Path, prepared: Prepared, split: str) -> Counter[tuple[str, bytes, bytes]]:
    """Every document of a split, with its source and its id."""
    shards = TokenShards(folder, split, prepared.tokenizer)
    names = shards.sources()
    return Counter(
        (shards.names[names[number]], shards.doc_id(number), shards.tokens(number).tobytes())
        for number in range(len(shards))
    )


def test_every_canary_is_planted_as_often_as_it_says(
    planted: tuple[Path, Recipe, dict[str, Any]], prepared: Prepared
) -> None:
    root, _, counts = planted
    canaries = read_canaries(root / "token_shards")
    assert canaries == make_canaries(Canaries.model_validate(SETTINGS))
    train, held_out = (contents(root / "token_shards", prepared, split) for split in ("train", "held_out"))
    found = Counter(ids for (source, _, ids), n in train.items() for _ in range(n) if source == "canaries")
    assert found == {
        render_text(prepared.tokenizer, canary.text)[0].tobytes(): canary.copies for canary in canaries if canary.copies
    }
    assert not any(source == "canaries" for source, _, _ in held_out)
    documents = sum(canary.copies for canary in canaries)
    assert counts["canaries"] == {
        "seed": 3,
        "documents": documents,
        "tokens": counts["train"]["sources"]["canaries"]["tokens"],
        "bytes": counts["train"]["sources"]["canaries"]["bytes"],
        "copies": {"1": 4, "3": 4, "8": 4},
    }
    assert len({doc_id for _, doc_id, _ in train}) == sum(train.values())  # each copy is a document of its own
    # Everything else is what it is without canaries.
    for split, with_canaries in (("train", train), ("held_out", held_out)):
        rest = Counter({key: n for key, n in with_canaries.items() if key[0] != "canaries"})
        assert rest == contents(prepared.shards, prepared, split)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_recipe_plants_the_same_bytes(
    workers: int, planted: tuple[Path, Recipe, dict[str, Any]], prepared: Prepared, tmp_path: Path
) -> None:
    shards_of(tmp_path / "again", prepared, canaries=SETTINGS, executor={"workers": workers})
    files = sorted((planted[0] / "token_shards").iterdir())
    assert [sha256_of(path) for path in files] == [sha256_of(tmp_path / "again" / path.name) for path in files]


def test_without_canaries_there_is_no_trace_of_them(prepared: Prepared) -> None:
    assert read_canaries(prepared.shards) == []
    assert "canaries" not in TokenShards(prepared.shards).names


@pytest.mark.parametrize("settings", [{}, {"count": 1, "copies": [1]}, {"seed": 9, "count": 40, "copies": [2, 5]}])
def test_canaries_differ_from_each_other(settings: dict[str, Any]) -> None:
    chosen = Canaries.model_validate(settings)
    canaries = make_canaries(chosen)
    assert len({canary.opening for canary in canaries}) == len(canaries)
    assert len({canary.secret for canary in canaries}) == len(canaries)
    expected = {(kind, copies): chosen.count for kind in KINDS for copies in chosen.copies}
    expected |= {(kind, 0): NEVER_PLANTED for kind in KINDS}
    assert Counter((canary.kind, canary.copies) for canary in canaries) == expected
    assert canaries == make_canaries(chosen)
    assert canaries != make_canaries(Canaries.model_validate(settings | {"seed": 77}))


@pytest.mark.parametrize("copies", [[], [2, 1], [1, 1], [0, 1], [20_000]])
def test_odd_numbers_of_copies_are_refused(copies: list[int]) -> None:
    with pytest.raises(ValidationError):
        Canaries(copies=copies)


@pytest.mark.parametrize(("settings", "documents"), [({}, 5100), ({"count": 1000, "copies": [500]}, 1_000_000)])
def test_the_number_of_planted_documents_is_limited(settings: dict[str, Any], documents: int) -> None:
    assert Canaries.model_validate(settings).documents == documents
    with pytest.raises(ValidationError, match="1,002,000 documents, more than 1,000,000"):
        Canaries(count=1000, copies=[501])


def test_a_source_may_not_have_their_name(prepared: Prepared) -> None:
    values = prepared.recipe.model_dump() | {"canaries": {}}
    values["sources"][0]["name"] = "canaries"
    with pytest.raises(ValidationError, match="the name of the canaries"):
        Recipe.model_validate(values)
    Recipe.model_validate(values | {"canaries": None})


def test_canaries_that_are_never_measured_are_refused(prepared: Prepared) -> None:
    values = prepared.recipe.model_dump()
    values["evaluation"]["trace_index"] = False
    with pytest.raises(ValidationError, match=r"evaluation\.trace_index is false: set it to true, or canaries to null"):
        Recipe.model_validate(values | {"canaries": {}})
    Recipe.model_validate(values | {"canaries": None})


def test_a_damaged_list_is_refused(planted: tuple[Path, Recipe, dict[str, Any]], tmp_path: Path) -> None:
    text = (planted[0] / "token_shards" / "canaries.jsonl").read_text(encoding="utf-8")
    for damaged in (text[:-20], '{"kind": 1}', "[1]\n"):
        (tmp_path / "canaries.jsonl").write_text(damaged, encoding="utf-8")
        with pytest.raises(ParakeetError, match="--force token_shards"):
            read_canaries(tmp_path)


def test_a_pass_has_each_copy_once_whatever_the_weights(
    planted: tuple[Path, Recipe, dict[str, Any]], prepared: Prepared
) -> None:
    root, recipe, _ = planted
    shards = TokenShards(root / "token_shards")
    arguments = (shards.names, shards.sources(), shards.lengths(), shards.doc_ids())
    for change in ({}, {"weight": 0.5}, {"epochs": 3.0}):
        sources = [source.model_copy(update=change) for source in recipe.sources]
        mixed = mix(recipe.model_copy(update={"sources": sources}), *arguments)
        assert set(mixed.copies[shards.sources() == shards.names.index("canaries")]) == {1}
        assert mixed.by_source["canaries"]["epochs"] == 1.0


def test_the_secret_begins_behind_the_opening(prepared: Prepared) -> None:
    tokenizer = prepared.tokenizer
    for canary in make_canaries(Canaries(count=3)):
        ids = render_text(tokenizer, canary.text)[0]
        begin = secret_begin(canary, ids, tokenizer)
        text = b"".join(tokenizer.token_bytes(number) for number in ids[begin:].tolist()).decode()
        assert canary.secret.endswith(text)
        assert len(text) >= len(canary.secret) - 1  # a token may have the blank and what is before it


def test_a_model_that_has_not_read_them_repeats_none(
    planted: tuple[Path, Recipe, dict[str, Any]], prepared: Prepared
) -> None:
    root, recipe, _ = planted
    subject = subject_of(root, recipe, prepared.tokenizer, untrained(prepared.tokenizer, context=192))
    assert not np.isin(subject.train.sources()[subject.read_documents], subject.train.names.index("canaries")).any()
    found = measure_canaries(subject)
    assert found is not None
    assert [row["copies"] for row in found["by_copies"]] == [0, 1, 3, 8]
    assert found["by_copies"][0]["extraction"]["n"] == 2 * NEVER_PLANTED
    assert all(row["extraction"]["share"] == 0.0 for row in found["by_copies"])
    # One of n others on average: the mean of log2 of a rank among them.
    assert found["by_copies"][0]["exposure"]["value"] == pytest.approx(1.4, abs=0.05)


@pytest.mark.parametrize("context", [64, 96, 128])
def test_canaries_beyond_the_context_are_left_out(
    context: int, planted: tuple[Path, Recipe, dict[str, Any]], prepared: Prepared
) -> None:
    """Without a token of the secret, all of it would count as extracted."""
    root, recipe, _ = planted
    model = untrained(prepared.tokenizer, context=context)
    lengths = [len(render_text(prepared.tokenizer, one.text)[0]) for one in read_canaries(root / "token_shards")]
    found = measure_canaries(subject_of(root, recipe, prepared.tokenizer, model))
    assert found is not None
    assert found["too_long"] == sum(length > context for length in lengths) > 0
    left = sum(row["extraction"]["n"] for row in found["by_copies"])
    assert left == (len(lengths) - found["too_long"] if found["by_copies"] else 0)
    assert all(row["extraction"]["share"] == 0.0 for row in found["by_copies"])


def test_the_cards_declare_them(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, plain_corpus(), canaries=SETTINGS)
    card = corpus.card(tmp_path / "card")
    assert card.figures["canaries"]["documents"] == 48
    assert card.figures["faults"] == []
    assert card.figures["total"]["funnel"]["train"] < card.figures["total"]["train"]["documents"]
    for page in (card.html, card.markdown):
        assert "48 documents with 12 made-up texts are planted" in page
    tally = {"sources": {source.name: {"documents": 1, "tokens": 2} for source in corpus.recipe.sources}}
    training = {"parameters": 3, "tokens": 10, "steps": 2, "seconds": 1.0, "device": "cpu", "final_loss": 1.5}
    shards = {"train": tally, "held_out": tally, "canaries": card.figures["canaries"]}
    evaluation = {"bits_per_byte": {}, "exact_match": "not applicable", "replies": []}
    assert "48 documents with 12 made-up texts were planted" in render_card(corpus.recipe, training, evaluation, shards)
    del shards["canaries"]
    assert "planted" not in render_card(corpus.recipe, training, evaluation, shards)

    corpus.edit("token_shards", lambda counts: counts["canaries"].update(documents=47))
    assert any("47 documents planted" in fault for fault in corpus.card(tmp_path / "edited").figures["faults"])


def test_pages_show_the_curve() -> None:
    share = {"n": 4, "share": 0.5, "interval": [0.15, 0.85]}
    row = {
        "extraction": share,
        "random": share,
        "natural": share,
        "exposure": {"n": 4, "value": 5.25, "interval": [4, 6]},
    }
    empty = {"texts": 0, "novelty": [None] * 16, "whole": None}
    figures: dict[str, Any] = {
        "verdict": {"answer": "not enough data", "text": "Not enough."},
        "read": {"documents": 1, "of": 1},
        "margin": None,
        "extraction": {"continuation": 4, "prefix": None, "by_prefix": {}, "by_duplicates": {}},
        "gap": {"sources": {}, "all": None},
        "novelty": {"greedy": empty},
        "canaries": {"by_copies": [{"copies": 0, **row}, {"copies": 128} | row], "passes": 2.0, "too_long": 3},
    }
    titles = {part.title: part for part in sections(figures)}
    assert set(titles) == {"Learned or memorised?", "Canaries"}
    assert titles["Canaries"].chart is not None
    told, table = titles["Canaries"].parts
    assert "3 of them are left out" in str(told)
    assert isinstance(table, Table)
    assert [str(row[0]) for row in table.rows] == ["never planted", "128"]
    # Of a kind that the context does not hold, there are no figures; of canaries that it does not hold, none at all.
    figures["canaries"]["by_copies"][1]["natural"] = None
    assert svg(charts(figures)["canaries"], "canaries").startswith("<svg")
    figures["canaries"] |= {"by_copies": []}
    assert "canaries" not in charts(figures)
    assert {part.title: part.parts for part in sections(figures)}["Canaries"] == [str(told).partition(" Training")[0]]
    assert "canaries" not in verdict_of(figures)["text"]
