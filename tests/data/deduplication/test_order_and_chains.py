"""What is kept is similar to all that is dropped for it, and does not depend on the order of files."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.deduplication.duplicates import near_keepers
from parakeet.data.documents import Document
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.progress import Progress
from parakeet.recipe import Recipe

from .test_deduplicate import VOCABULARY, article, chat, deduplicate, plain, recipe

JACCARD_OF_CHANCE = 0.35
"""Two texts of this Jaccard share one of 14 buckets of 8 hashes in 3 of 1,000 cases."""


def versions(number: int, seed: int, changed: int = 4, words: int = 120) -> list[str]:
    """A chain of texts: each is the one before with `changed` words replaced, so the last has nothing of the first."""
    draw = random.Random(seed)
    text = article(seed, words).split()
    chain = []
    for version in range(number):
        chain.append(" ".join(text))
        for _ in range(changed):
            text[draw.randrange(words)] = f"{draw.choice(VOCABULARY)}{version}"
    return chain


def jaccard(one: str, other: str, size: int = 5) -> float:
    sets = [
        {tuple(words[at : at + size]) for at in range(len(words) - size + 1)} for words in (one.split(), other.split())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_what_a_chain_drops_is_similar_to_what_it_keeps(tmp_path: Path) -> None:
    chain = versions(120, seed=1)
    assert jaccard(chain[0], chain[-1]) < 0.05
    kept, counts = deduplicate(tmp_path, recipe(), [plain(text) for text in chain])
    texts = [document.content for document in kept]
    assert 5 < len(kept) < len(chain)
    assert counts["near_duplicates"] == len(chain) - len(kept)
    for text in set(chain) - set(texts):
        assert max(jaccard(text, other) for other in texts) > JACCARD_OF_CHANCE


@settings(max_examples=50)
@given(st.data())
def test_every_document_is_dropped_for_a_better_one_that_shares_a_signature(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    # By bucket, the signature of each document.
    held = [data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)) for _ in range(3)]
    priorities = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    characters = np.array(data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)))
    ranks = np.array(data.draw(st.permutations(range(n))))
    buckets = []
    for signatures in held:
        order = sorted(range(n), key=signatures.__getitem__)
        pairs = [pair for pair in pairwise(order) if signatures[pair[0]] == signatures[pair[1]]]
        buckets.append(np.array(pairs, np.int64).reshape(-1, 2))
    documents, keepers = near_keepers(buckets, priorities, characters, ranks)
    keeper = dict(zip(documents.tolist(), keepers.tolist(), strict=True))

    def alike(one: int, other: int) -> bool:
        return any(signatures[one] == signatures[other] for signatures in held)

    def worth(node: int) -> tuple[int, int, int]:
        return int(priorities[node]), int(characters[node]), -int(ranks[node])

    kept = {node for node in range(n) if keeper.get(node, node) == node}
    for node, other in keeper.items():
        assert other in kept
        assert node == other or (alike(node, other) and worth(other) > worth(node))
    assert not any(alike(one, other) for one in kept for other in kept if one < other)


def corpus(seed: int) -> list[Document]:
    """Chains of versions of one length, copies in other writing, and conversations with equal exchanges."""
    draw = random.Random(seed)
    documents = [plain(text) for chain in range(3) for text in versions(12, chain + 10 * seed)]
    documents += [
        plain(draw.choice((str.upper, str.title, str.lower))(document.content)) for document in documents[::5]
    ]
    documents += [chat(f"{article(n % 4)}?", f"{article(n % 3 + 50)} {n % 2}") for n in range(12)]
    return documents


@pytest.mark.parametrize("turns", [False, True])
def test_the_order_of_files_changes_nothing(tmp_path: Path, turns: bool) -> None:
    settings = recipe(turns=turns, held_out_fraction=0.2)
    documents = corpus(seed=3)
    results = []
    for name, groups, shuffle in (("two", 2, False), ("four", 4, True), ("one", 1, True)):
        order = documents[:]
        if shuffle:
            random.Random(name).shuffle(order)
        size = -(-len(order) // groups)
        parts = [order[at : at + size] for at in range(0, len(order), size)]
        kept, counts = deduplicate(tmp_path, settings, *parts, name=name)
        counts.pop("clusters")
        texts = sorted((document.split, [(t.role, t.content) for t in document.turns]) for document in kept)
        results.append((texts, counts, tokenizer_sha256(tmp_path / name, settings)))
    assert results[0] == results[1] == results[2]


def tokenizer_sha256(documents: Path, settings: Recipe) -> str:
    values = settings.model_dump(mode="json") | {"tokenizer": {"kind": "bpe", "vocabulary": 400}}
    output = documents / "tokenizer"
    output.mkdir()
    made = make_tokenizer(Recipe.model_validate(values), {"deduplicated_documents": documents}, output, Progress())
    return str(made["sha256"])
