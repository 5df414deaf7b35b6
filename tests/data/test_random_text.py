"""The random source: uniform, reproducible, one token a character, and untouched by the stages it goes through."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from parakeet.data.documents import parts, read_documents
from parakeet.data.random_text import ALPHABET, random_texts
from parakeet.data.tokens.shards import TokenShards
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_sources import RandomSource
from parakeet.stages import Build
from parakeet.tokenizer import Tokenizer, count_words


def recipe_of(**source: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "sources": [{"name": "strings", "kind": "random", **source}],
            "clean": {"personal_data": "mask", "boilerplate": "drop"},
            "tokenizer": {"kind": "words", "vocabulary": 308},
            "executor": {"workers": 1},
            "packing": {"sequence_length": 128},
            "model": {"layers": 2, "heads": 2, "width": 32, "context": 128},
            "training": {"tokens": 1024, "batch_tokens": 1024, "learning_rate": 1e-2},
        }
    )


def far_from_uniform(numbers: np.ndarray, choices: int) -> float:
    """Standard deviations of Pearson's chi-squared from what uniform numbers below `choices` have."""
    expected = numbers.size / choices
    found = ((np.bincount(numbers.ravel(), minlength=choices) - expected) ** 2 / expected).sum()
    return float((found - (choices - 1)) / np.sqrt(2 * (choices - 1)))


@pytest.mark.parametrize("alphabet", [2, 64])
def test_characters_and_pairs_of_neighbours_are_uniform(alphabet: int) -> None:
    texts = list(random_texts(4_000, 32, alphabet, seed=3))
    numbers = np.vectorize(ALPHABET.index)(np.array([list(text) for text in texts]))
    columns = [far_from_uniform(column, alphabet) for column in numbers.T]
    pairs = far_from_uniform(numbers[:, ::2] * alphabet + numbers[:, 1::2], alphabet**2)
    assert np.abs([*columns, pairs]).max() < 6


def test_fewer_documents_are_the_first_of_more_and_held_out_ones_are_others() -> None:
    many, few = (list(random_texts(count, 64, 64, seed=1)) for count in (50, 5))
    assert many[:5] == few
    assert not set(many) & {*random_texts(50, 64, 64, seed=1, held_out=True), *random_texts(50, 64, 64, seed=2)}


def test_documents_that_could_be_equal_by_chance_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"documents of 32 bits .* Raise symbols or"):
        RandomSource(name="a", kind="random", documents=5, symbols=32, alphabet=2)


@pytest.mark.parametrize(("symbols", "alphabet", "held_out"), [(64, 64, 40), (640, 2, 40)])
def test_no_stage_drops_or_changes_a_document(tmp_path: Path, symbols: int, alphabet: int, held_out: int) -> None:
    recipe = recipe_of(documents=2_000, symbols=symbols, alphabet=alphabet)
    build = Build(tmp_path, recipe)
    for stage in ("documents", "clean_documents", "deduplicated_documents", "tokenizer", "token_shards"):
        build.ensure(stage, Progress(), lambda *arguments: None)
    expected = list(random_texts(2_000, symbols, alphabet, seed=1))
    kept = list(read_documents(parts(build.artifact("deduplicated_documents").path)))
    assert [document.content for document in kept if document.split == "train"] == expected
    assert sum(document.split == "held_out" for document in kept) == held_out
    shards = TokenShards(build.artifact("token_shards").path)
    tokenizer = Tokenizer.load(build.artifact("tokenizer").path)
    assert shards.lengths().tolist() == [symbols + 1] * 2_000
    assert tokenizer.decode(shards.tokens(7)[1:].tolist()) == expected[7]


def test_no_amount_of_text_makes_a_token_of_several_characters() -> None:
    texts = list(random_texts(20_000, 64, 64, seed=1))
    tokenizer = count_words(texts, 308)
    assert {len(tokenizer.encode(text)) for text in texts} == {64}
