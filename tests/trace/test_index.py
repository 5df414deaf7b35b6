"""The trace index answers as a search through the text does, and refuses what is damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fm_index import MultiFMIndex
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.benchmarks.trace import Corpus
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.trace import mapped
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex
from parakeet.trace.suffix_array import MOST_TOKENS
from parakeet.trace.verify import verify_index

from ..conftest import Prepared
from .corpora import CORPORA, ROWS, Searched, as_text, corpus_of, indexed

ids_strategy = st.lists(st.integers(-1, 4), max_size=40)


def pieces_of(documents: list[list[int]], number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, and starts and lengths (number,) in them: half are pieces of the documents, across their edges too."""
    draw = np.random.default_rng(seed)
    joined = np.array([one for document in documents for one in document], np.int64)
    ids = np.concatenate([joined, draw.integers(-1, ROWS + 2, len(joined)), draw.permutation(joined)])
    changed = draw.random(len(ids)) < 0.05
    ids[changed] = draw.integers(ROWS, size=int(changed.sum()))
    ids[: len(joined) // 2] = joined[: len(joined) // 2]
    lengths = np.minimum(draw.geometric(0.2, number), len(ids))
    return ids, draw.integers(0, len(ids) - lengths + 1), lengths


@pytest.mark.parametrize("shard_tokens", [1, 70, 1 << 20])
@pytest.mark.parametrize("name", CORPORA)
def test_answers_equal_a_search_through_the_text(tmp_path: Path, name: str, shard_tokens: int) -> None:
    """21 times 500 pieces, and as many longest matches as there are positions."""
    documents = CORPORA[name]()
    index, searched = indexed(tmp_path, documents, shard_tokens), Searched(documents)
    assert len(index.shards) == 1 if shard_tokens == 1 << 20 else len(index.shards) > 1
    ids, starts, lengths = pieces_of(documents, 500, seed=shard_tokens)
    expected = [searched.occurrences(ids[a : a + n].tolist()) for a, n in zip(starts, lengths, strict=True)]
    assert index.counts(ids, starts, lengths).tolist() == [len(found) for found in expected]
    assert index.continued(ids, starts, lengths).tolist() == [
        sum(begin + n < len(documents[number]) for number, begin in found)
        for found, n in zip(expected, lengths.tolist(), strict=True)
    ]
    found = index.occurrences_of(ids, starts, lengths, 1 << 20)
    assert [[(one.document, one.start) for one in each] for each in found] == expected
    query = ids[:: max(1, len(ids) // 400)] if name == "many kinds of token" else ids[-700:]
    assert index.longest_matches(query).tolist() == searched.longest_matches(query.tolist())
    for number, document in enumerate(documents):
        assert index.read(number, 0, 1 << 20).tolist() == document
        assert index.document(number).n_tokens == len(document)
    assert (
        index.id_counts().tolist() == np.bincount([one for each in documents for one in each], minlength=ROWS).tolist()
    )
    verify_index(index, Progress())


@settings(max_examples=60)
@given(
    documents=st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=8), ids=ids_strategy, limit=st.integers(1, 40)
)
def test_any_documents_and_any_query(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], ids: list[int], limit: int
) -> None:
    index, searched = indexed(tmp_path_factory.mktemp("i"), documents, limit, rows=4), Searched(documents, rows=4)
    longest = searched.longest_matches(ids)
    assert index.longest_matches(ids).tolist() == longest
    expected = [searched.occurrences(ids[a : a + n]) if n else [] for a, n in enumerate(longest)]
    asked = np.flatnonzero(longest)
    assert index.counts(ids, asked, np.array(longest)[asked]).tolist() == [len(expected[at]) for at in asked.tolist()]
    for found, everywhere in zip(index.occurrences_of(ids, range(len(ids)), longest, limit), expected, strict=True):
        if everywhere:
            some = [(one.document, one.start) for one in found]
            assert len(some) == min(limit, len(everywhere)) == len(set(some))
            assert some == sorted(some)
            assert set(some) <= set(everywhere)


def test_counts_equal_those_of_an_independent_engine(tmp_path: Path, prepared: Prepared) -> None:
    """fm-index searches texts by another structure and other code."""
    shards = TokenShards(prepared.shards)
    build_index(shards, "t", "s", tmp_path, Progress(), shard_tokens=2_000)
    index, rows = TraceIndex.open(tmp_path), shards.vocabulary_rows
    documents = [shards.tokens(number).tolist() for number in range(len(shards))]
    other = MultiFMIndex([as_text(document, rows) for document in documents])
    ids, starts, lengths = pieces_of(documents, 2_000, seed=4)
    expected = [
        other.count_all(as_text(ids[a : a + n].tolist(), rows))
        for a, n in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    assert index.counts(ids, starts, lengths).tolist() == expected
    assert max(expected) > 100
    assert index.document(7).doc_id == shards.doc_id(7).hex()
    assert {index.document(number).source for number in range(len(shards))} == {"talk", "text"}


@pytest.mark.parametrize("shard_tokens", [1, 9, 1 << 20])
def test_matches_at_the_start_the_end_and_the_edges(tmp_path: Path, shard_tokens: int) -> None:
    documents = [[1, 2, 3], [4, 5, 6, 7], [8, 9]]
    index = indexed(tmp_path, documents, shard_tokens)
    assert index.longest_matches([1, 2, 3, 4, 5, 6, 7, 8, 9]).tolist() == [3, 2, 1, 4, 3, 2, 1, 2, 1]
    for number, document in enumerate(documents):
        (found,) = index.occurrences(document, 10)
        assert (found.document, found.start) == (number, 0)
    assert index.counts([3, 4, 7, 8], [0, 2], [2, 2]).tolist() == [0, 0], "a match crosses documents"
    assert index.read(1, -2, 4).tolist() == [4, 5]
    assert index.read(1, 3, 9).tolist() == [7]
    assert index.read(1, 9, 9).tolist() == []


def test_what_is_no_token_never_matches(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[1, 2], [3]])
    for one in (-1, -(2**62), ROWS, ROWS + 1, 0xFFFFFF, 2**24 + 1, 2**62):
        assert index.longest_matches([1, one, 1, 2]).tolist() == [1, 0, 2, 1]
        assert index.counts([one], [0], [1]).tolist() == [0]
        assert index.occurrences([2, one], 5) == []


def test_queries_of_no_one_and_100_000_tokens(tmp_path: Path) -> None:
    document = np.random.default_rng(1).integers(3, size=100_000)
    index = indexed(tmp_path, [document.tolist(), [0] * 300])
    for empty in ([], np.zeros(0, np.uint32)):
        assert index.longest_matches(empty).tolist() == []
        assert index.counts(empty, [], []).tolist() == []
        assert index.occurrences_of(empty, [], [], 5) == []
    assert index.counts([7], [0], [0]).tolist() == [index.tokens]
    assert index.longest_matches([2]).tolist() == [1]
    assert index.longest_matches(document).tolist() == list(range(100_000, 0, -1)), "a whole document is one match"
    assert index.longest_matches(np.append(document, 1)[::-1]).max() < 40
    zeros = index.longest_matches(np.zeros(100_000, np.int64))
    assert zeros.tolist() == [min(300, 100_000 - at) for at in range(100_000)]


@pytest.mark.parametrize("documents", [[], [[]], [[], [], []], [[3]], [[0]], [[ROWS - 1] * 4]])
def test_corpora_of_hardly_anything(tmp_path: Path, documents: list[list[int]]) -> None:
    index = indexed(tmp_path, documents)
    tokens = sum(map(len, documents))
    assert (index.tokens, index.documents) == (tokens, len(documents))
    assert index.longest_matches([3, 0, ROWS - 1, 8]).sum() == (tokens > 0)
    assert index.counts([1], [0], [0]).tolist() == [tokens]
    assert index.occurrences([8], 3) == []
    verify_index(index, Progress())
    with pytest.raises(IndexError):
        index.document(len(documents))


def test_a_million_equal_tokens_are_indexed(tmp_path: Path) -> None:
    equal = np.full(1_000_000, 9)
    build_index(Corpus(equal, np.array([len(equal)]), ROWS), "t", "s", tmp_path, Progress())
    index = TraceIndex.open(tmp_path)
    assert index.counts(equal[:500_000], [0, 1], [500_000, 1]).tolist() == [500_001, 1_000_000]
    assert index.longest_matches(equal[:600]).tolist() == list(range(600, 0, -1))


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        indexed(tmp_path / name, CORPORA["copies"](), 70)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_places_are_chosen_from_all_of_the_text_and_the_same_each_time(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[1, number % 50] for number in range(400)], 90)
    first = index.occurrences([1], 20)
    assert first == index.occurrences([1], 20)
    assert len({one.document for one in first}) == 20
    assert max(one.document for one in first) - min(one.document for one in first) > 200


def test_a_document_that_is_too_long_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    corpus = Corpus(np.zeros(0), np.array([5, MOST_TOKENS]))
    with pytest.raises(ParakeetError, match=r"document 0{31}1 has 715,827,882 tokens.*evaluation\.trace_index"):
        build_index(corpus, "t", "s", tmp_path, Progress())
    assert list(tmp_path.iterdir()) == []


def test_a_document_longer_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[1, 2], [3] * 100, [4, 5], [6]], shard_tokens=10)
    assert [shard.entries for shard in index.shards] == [3, 101, 5]


def test_files_out_of_memory_give_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system cannot drop files from its memory")
    documents = CORPORA["copies"]()
    indexed(tmp_path, documents, 70)
    monkeypatch.setattr(mapped, "_AT_ONCE", 0)
    for path in tmp_path.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    query = documents[5]
    assert TraceIndex.open(tmp_path).longest_matches(query).tolist() == Searched(documents).longest_matches(query)


def rewritten(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Change an array's values in place: its size stays, so only `verify` can tell."""

    def damage(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)))

    return damage


def cut(name: str, n_bytes: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate((folder / name).stat().st_size - n_bytes)

    return damage


def stated(**values: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return damage


def put(at: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[at] = value
        return array

    return change


FILES = ("tokens-00000.npy", "positions-00000.npy", "keys-00000.npy", "document_starts.npy", "id_counts.npy")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((cut(name, 1), rf"{name} is damaged.*--force trace_index") for name in FILES),
        (lambda folder: (folder / "positions-00000.npy").write_bytes(b""), "is damaged"),
        (lambda folder: (folder / "positions-00000.npy").write_bytes(b"\x80\x04N."), "is damaged"),
        (rewritten("positions-00000.npy", lambda array: array[:-1]), "holds uint32 of shape .*it was changed"),
        (rewritten("positions-00000.npy", lambda array: array.astype(np.int64)), "holds int64"),
        (lambda folder: (folder / "keys-00000.npy").unlink(), r"not a trace index: it has no keys-00000\.npy"),
        (lambda folder: (folder / "index.json").unlink(), r"not a trace index: it has no index\.json"),
        (lambda folder: (folder / "index.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "index.json").write_text("[" * 10**5), "cannot be read"),
        (lambda folder: (folder / "index.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "index.json").write_bytes(b"\xff"), "cannot be read"),
        (stated(schema=2), "has schema 2; this Parakeet reads 1"),
        (stated(documents=-1), "cannot be read|holds"),
        (stated(documents="many"), "cannot be read"),
        (stated(shards=[{"tokens": 1, "documents": 1}]), "holds uint8"),
        (shutil.rmtree, "not a trace index"),
    ],
)
def test_what_is_incomplete_is_not_opened(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    indexed(tmp_path / "index", CORPORA["copies"]())
    damage(tmp_path / "index")
    with pytest.raises(ParakeetError, match=message):
        TraceIndex.open(tmp_path / "index")


def swapped(array: np.ndarray) -> np.ndarray:
    return array[::-1].copy()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rewritten("positions-00000.npy", lambda array: np.zeros_like(array)), "keys are not those"),
        (rewritten("positions-00000.npy", put(3, 60)), "no permutation"),  # the separator of the first document
        (rewritten("positions-00000.npy", put(3, 2**32 - 1)), "a position is beyond"),
        (rewritten("positions-00000.npy", swapped), "wrong order"),
        (rewritten("positions-00000.npy", lambda array: np.full_like(array, 2**31)), "a position is beyond the end"),
        (rewritten("positions-00000.npy", np.random.default_rng(1).permutation), "wrong order"),
        (rewritten("keys-00000.npy", swapped), "keys are not those"),
        (rewritten("keys-00000.npy", put(5, 0)), "the keys are not"),
        (rewritten("tokens-00000.npy", put(3 * 121 + 2, 1)), "does not end with its separator"),
        (rewritten("tokens-00000.npy", put(0, 255)), "beyond the vocabulary"),
        (rewritten("id_counts.npy", put(0, 10**6)), "does not count its tokens"),
        (rewritten("id_counts.npy", swapped), "does not count the ids"),
        (rewritten("document_starts.npy", put(2, 123)), "does not end with its separator|beyond the vocabulary"),
        (rewritten("document_starts.npy", put(1, -9)), "do not fill it"),
        (rewritten("document_starts.npy", put(-1, 62)), "does not end with its separator"),
        (rewritten("document_starts.npy", put(2, 61)), "do not fill it"),
    ],
)
def test_what_is_damaged_is_told_when_it_is_opened_or_verified(
    tmp_path: Path, many_documents: Path, damage: Callable[[Path], None], message: str
) -> None:
    """Opening looks at a sample: what it does not meet is left to `verify_index`."""
    shutil.copytree(many_documents, tmp_path / "index")
    damage(tmp_path / "index")
    with pytest.raises(ParakeetError, match=rf"{message}.*--force trace_index"):
        verify_index(TraceIndex.open(tmp_path / "index"), Progress())


@pytest.fixture(scope="module")
def many_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 36,000 tokens."""
    folder = tmp_path_factory.mktemp("index")
    indexed(folder, np.random.default_rng(0).integers(ROWS, size=(600, 60)).tolist())
    return folder


@pytest.mark.parametrize("documents", [[], [[]], [[5]], [[5], []], [[5] * 400], [[number] for number in range(600)]])
@pytest.mark.parametrize("shard_tokens", [1, 70, 1 << 20])
def test_small_indices_are_in_order(tmp_path: Path, documents: list[list[int]], shard_tokens: int) -> None:
    verify_index(indexed(tmp_path, documents[:60] if shard_tokens == 1 else documents, shard_tokens), Progress())


@pytest.mark.parametrize("name", [*FILES, "document_sources.npy", "document_ids.npy"])
def test_a_header_with_one_changed_byte_is_one_message_or_harmless(tmp_path: Path, name: str) -> None:
    index = indexed(tmp_path, CORPORA["copies"]())
    ids = CORPORA["copies"]()[0]
    expected = [index.occurrences(ids[:8], 100), index.document(3), index.read(2, 0, 9).tolist()]
    whole = (tmp_path / name).read_bytes()
    changes = np.random.default_rng(2).integers([0, 1], [128, 256], size=(120, 2)).tolist()
    changes += [[at, whole[at] ^ ord(byte)] for at in range(60, 75) for byte in "#(['\n\0"]
    refused = []
    for at, bits in changes:
        (tmp_path / name).write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
        try:
            index = TraceIndex.open(tmp_path)
        except ParakeetError as error:
            refused.append(str(error))
        else:
            assert [index.occurrences(ids[:8], 100), index.document(3), index.read(2, 0, 9).tolist()] == expected
    assert len(refused) > 50
    assert all("--force trace_index" in message for message in refused)


def test_pieces_outside_the_query_are_refused(tmp_path: Path) -> None:
    index = indexed(tmp_path, [[1, 2]])
    for start, length in ((-1, 1), (0, 3), (2, 1), (0, -1)):
        with pytest.raises(IndexError):
            index.counts([1, 2], [start], [length])


def test_the_benchmarks_corpus_is_read_as_shards_are(prepared: Prepared) -> None:
    shards = TokenShards(prepared.shards)
    corpus = corpus_of([shards.tokens(number).tolist() for number in range(len(shards))])
    pieces = (np.array([3, 0]), np.array([2, 0]), np.array([5, 1]))
    assert corpus.read(*pieces).tolist() == shards.read(*pieces).tolist()
    assert corpus.lengths().tolist() == shards.lengths().tolist()
