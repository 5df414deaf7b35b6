"""The data card's figures on a small known corpus."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parakeet.data.card.make import make_data_card
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer, train_tokenizer

from .card_corpus import Corpus, make_corpus, plain_corpus, write_manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), plain_corpus())


@pytest.fixture(scope="module")
def figures(made: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made.card(tmp_path_factory.mktemp("card") / "out").figures


@pytest.fixture
def corpus(made: Corpus, tmp_path: Path) -> Corpus:
    """A copy whose manifests may be changed."""
    inputs = {name: tmp_path / "store" / name / folder.name for name, folder in made.inputs.items()}
    for name, folder in made.inputs.items():
        shutil.copytree(folder, inputs[name])
    return Corpus(made.recipe, inputs)


def test_sizes_are_those_of_the_documents(figures: dict[str, Any]) -> None:
    talk, text = figures["sources"]["talk"], figures["sources"]["text"]
    assert (talk["train"]["documents"], talk["held_out"]["documents"]) == (54, 6)
    assert (text["train"]["documents"], text["held_out"]["documents"]) == (8, 1)
    assert figures["sources"]["gone"]["tokens"] == 0
    n_bytes = {name: sum(d.n_bytes for d in plain_corpus() if d.source == name) for name in ("talk", "text")}
    assert (talk["bytes"], text["bytes"]) == (n_bytes["talk"], n_bytes["text"])
    assert figures["total"]["bytes"] == sum(n_bytes.values())
    assert figures["total"]["bytes_per_token"] == pytest.approx(
        sum(n_bytes.values()) / figures["total"]["tokens"], abs=1e-3
    )


def test_tokens_lengths_and_ids_are_those_of_the_shards(made: Corpus, figures: dict[str, Any]) -> None:
    tokenizer = Tokenizer.load(made.inputs["tokenizer"])
    train = TokenShards(made.inputs["token_shards"], "train", tokenizer)
    held_out = TokenShards(made.inputs["token_shards"], "held_out", tokenizer)
    lengths = np.concatenate([train.lengths(), held_out.lengths()])
    assert figures["total"]["tokens"] == lengths.sum()
    assert figures["total"]["held_out"]["tokens"] == held_out.lengths().sum()
    assert figures["total"]["lengths"]["longest"] == lengths.max()
    assert sum(figures["total"]["lengths"]["bins"]) == len(lengths)
    counts, use = train.id_counts(), figures["vocabulary"]
    assert use["used"] == (counts > 0).sum()
    assert use["used"] + use["unused"] == use["defined"] == len(tokenizer.defined_ids()) + len(tokenizer.controls)
    assert use["top"][0]["count"] == counts.max()
    assert use["coverage"]["100"] == np.sort(counts)[-100:].sum() / counts.sum()
    assert use["curve"][-1] == [use["used"], 1.0]
    controls = {token["token"] for token in use["top"] if token["control"]}
    assert "⏎⏎Human:␣" in controls
    assert "<|padding|>" in use["unused_controls"]


def test_the_share_of_the_text_is_that_of_the_training_tokens(figures: dict[str, Any]) -> None:
    sources, total = figures["sources"], figures["total"]["train"]["tokens"]
    assert list(sources) == sorted(sources, key=lambda name: -sources[name]["tokens"])
    for source in sources.values():
        assert source["share_of_text"] == source["train"]["tokens"] / total
    assert sum(source["mix"]["share"] for source in sources.values()) == pytest.approx(1)


def test_every_record_is_followed_to_where_it_ended(figures: dict[str, Any]) -> None:
    assert figures["faults"] == []
    funnel = figures["total"]["funnel"]
    assert (funnel["records"], funnel["documents"], funnel["clean"], funnel["deduplicated"]) == (72, 71, 70, 69)
    assert (funnel["train"], funnel["held_out"]) == (62, 7)
    assert funnel["unusable"] == {"empty turn": 1}
    assert funnel["cleaning"] == {"too short": 1}
    assert funnel["deduplication"] == {"exact duplicate": 1}
    assert figures["sources"]["gone"]["funnel"]["deduplication"] == {"exact duplicate": 1}


def test_the_headline_counts(made: Corpus, figures: dict[str, Any], tmp_path: Path) -> None:
    counts = make_data_card(made.recipe, made.inputs, tmp_path, Progress())
    assert counts == {
        "sources": 3,
        "documents": 69,
        "tokens": figures["total"]["tokens"],
        "held_out_tokens": figures["total"]["held_out"]["tokens"],
        "bytes": figures["total"]["bytes"],
        "licences": 2,
        "unknown_licences": 1,
        "unaccounted": 0,
    }


def lose_a_record(counts: dict[str, Any]) -> None:
    counts["sources"]["talk"]["records"] += 1


def lose_a_clean_one(counts: dict[str, Any]) -> None:
    counts["sources"]["text"]["dropped"] = {}


def keep_one_more(counts: dict[str, Any]) -> None:
    counts["sources"]["talk"]["kept"] += 1
    counts["sources"]["talk"]["dropped"]["near duplicate"] -= 1


def count_one_more(counts: dict[str, Any]) -> None:
    counts["documents"] += 1


@pytest.mark.parametrize(
    ("stage", "change", "fault"),
    [
        ("documents", lose_a_record, "talk: 62 records read, but 61 became documents or are unusable"),
        ("clean_documents", lose_a_clean_one, "text: 10 documents collected, but 9 were kept or dropped by cleaning"),
        ("deduplicated_documents", keep_one_more, "talk: 55 train documents kept, but the shards hold 54"),
        ("clean_documents", count_one_more, "clean_documents: 71 documents counted, but its files hold 70"),
    ],
)
def test_what_does_not_add_up_is_reported(corpus: Corpus, tmp_path: Path, stage: str, change: Any, fault: str) -> None:
    corpus.edit(stage, change)
    card = corpus.card(tmp_path / "out")
    assert fault in card.figures["faults"]
    assert fault in card.html
    assert "Not every record is accounted for" in card.markdown


def test_the_files_depend_neither_on_the_place_nor_on_the_time(made: Corpus, tmp_path: Path) -> None:
    moved = {}
    for name, folder in made.inputs.items():
        moved[name] = tmp_path / "elsewhere" / name / "other"
        shutil.copytree(folder, moved[name])
        manifest = json.loads((moved[name] / "manifest.json").read_text(encoding="utf-8"))
        manifest |= {"made": "2030-01-01T00:00:00+00:00", "seconds": 99}
        (moved[name] / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    made.card(tmp_path / "one")
    Corpus(made.recipe, moved).card(tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["data_card.html", "data_card.json", "data_card.md"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path) not in (tmp_path / "two" / name).read_text(encoding="utf-8")


def test_no_fingerprint_is_printed(corpus: Corpus, tmp_path: Path) -> None:
    """A stage that came out the same with other settings leaves the card as it is, so it must not name them."""
    for folder in corpus.inputs.values():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["fingerprint"] = "f1f2f3f4f5f6f7f8"
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    card = corpus.card(tmp_path / "out")
    assert "f1f2f3f4f5f6f7f8" not in str(card)
    assert set(card.figures["provenance"]["contents"].values()) == {f"{n:064x}" for n in range(len(corpus.inputs))}


def take_a_part(counts: dict[str, Any]) -> None:
    counts["sources"]["talk"].update(records=5061, not_taken=5000)


def test_what_a_limit_did_not_take_is_accounted_for(corpus: Corpus, tmp_path: Path) -> None:
    corpus.edit("documents", take_a_part)
    figures, html, markdown = corpus.card(tmp_path / "out")
    assert figures["faults"] == []
    assert figures["total"]["funnel"]["limit"] == {"not taken (limit)": 5000}
    assert (figures["total"]["funnel"]["records"], figures["total"]["funnel"]["taken"]) == (5072, 72)
    assert "not taken (limit) 5,000" in html
    assert '<th class="n">Not taken</th>' in html
    assert "| not taken (limit) | reading | 5,000 | talk 5,000 |" in markdown
    assert "| empty turn | reading | 1 | talk 1 |" in markdown
    corpus.edit("documents", lose_a_record)
    faults = corpus.card(tmp_path / "wrong").figures["faults"]
    assert faults == ["talk: 62 records read, but 61 became documents or are unusable"]


def test_files_that_were_not_read_are_named(corpus: Corpus, tmp_path: Path) -> None:
    before = corpus.card(tmp_path / "before")
    assert "not read" not in before.markdown + before.html
    corpus.edit("documents", lambda c: c["sources"]["talk"].update(unread={".pdf": 3, ".html": 1}))
    corpus.edit("documents", lambda c: c["sources"]["text"].update(unread={".html": 1}))
    card = corpus.card(tmp_path / "out")
    assert card.figures["unread"] == {".pdf": 3, ".html": 2}
    assert card.figures["sources"]["talk"]["unread"] == {".pdf": 3, ".html": 1}
    sentence = "5 files of the sources or of their archives were not read: .pdf 3, .html 2."
    assert sentence in card.markdown.replace("\\", "")
    assert sentence in card.html
    assert "not read: .html 1" in card.html


def test_vocabulary_and_what_sets_a_source_apart(made: Corpus, figures: dict[str, Any]) -> None:
    tokenizer = Tokenizer.load(made.inputs["tokenizer"])
    train = TokenShards(made.inputs["token_shards"], "train", tokenizer)
    counts = {name: np.zeros(tokenizer.rows, np.int64) for name in ("talk", "text")}
    for number, source in enumerate(train.sources()):
        counts[train.names[source]] += np.bincount(train.tokens(number), minlength=tokenizer.rows)
    shares = {name: found / found.sum() for name, found in counts.items()}
    everywhere = train.id_counts() / train.id_counts().sum()
    for name in ("talk", "text"):
        use = figures["sources"][name]["vocabulary"]
        assert use["used"] == (counts[name] > 0).sum()
        assert use["most_frequent"] == 1.0
        assert use["characteristic"]
        for token in use["characteristic"]:
            assert token["id"] not in tokenizer.controls.values()
            assert shares[name][token["id"]] > everywhere[token["id"]]
            times = shares[name][token["id"]] / everywhere[token["id"]]
            assert token["times"] == pytest.approx(times, abs=0.006)
    assert "Line" in "".join(token["token"] for token in figures["sources"]["text"]["vocabulary"]["characteristic"])
    nothing = {"used": 0, "most_frequent": 0.0, "characteristic": []}
    assert figures["sources"]["gone"]["vocabulary"] == nothing


def test_duplicates_are_counted_by_source(corpus: Corpus, tmp_path: Path) -> None:
    before = corpus.card(tmp_path / "before")
    assert before.figures["sources"]["talk"]["duplicate_clusters"] is None
    assert "Clusters it keeps" not in before.html
    corpus.edit("deduplicated_documents", lambda c: c["sources"]["text"].update(clusters=7))
    card = corpus.card(tmp_path / "out")
    assert "| text | 0 | 0 | 7 |" in card.markdown
    assert "| gone | 1 | 0 | 0 |" in card.markdown
    assert "Clusters it keeps one of" in card.html


def test_evaluation_sets_and_what_was_found_of_them(corpus: Corpus, tmp_path: Path) -> None:
    for text in corpus.card(tmp_path / "none")[1:]:
        assert "No evaluation set was searched for: decontamination.sets is empty." in text
    found = {"records": 1319, "short": 2, "bad": 3, "found": 4, "documents": 5}
    corpus.edit("clean_documents", lambda c: c.update(evaluation_sets={"gsm8k": found}))
    card = corpus.card(tmp_path / "out")
    assert card.figures["evaluation_sets"] == {"gsm8k": found}
    assert "| gsm8k | 1,319 | 2 | 3 | 4 | 5 |" in card.markdown
    assert '<td>gsm8k</td><td class="n">1,319</td>' in card.html


def test_what_cleaning_found_and_the_clusters_are_shown(corpus: Corpus, tmp_path: Path) -> None:
    corpus.edit("clean_documents", lambda c: c["sources"]["talk"].update(found={"e-mail address": 7, "boilerplate": 9}))
    corpus.edit(
        "deduplicated_documents",
        lambda c: c.update(clusters={"exact": 11, "near": 12, "largest": 13}, exchanges_cut=14),
    )
    line = {
        "kind": "near",
        "sources": ["talk"],
        "size": 13,
        "kept": "One two three",
        "dropped": "One 2 three \u2028 four",
    }
    exact = {**line, "kind": "exact", "kept": "exactly", "dropped": "exactly"}
    path = corpus.inputs["deduplicated_documents"] / "clusters.jsonl"
    path.write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in (line, exact)), encoding="utf-8")
    figures, html, markdown = corpus.card(tmp_path / "out")
    assert figures["found"] == ["boilerplate", "e-mail address"]
    assert [cluster["kept"] for cluster in figures["duplicates"]["examples"]] == ["One two three"]
    assert "11 clusters of exact copies and 12 clusters of near copies." in html
    assert "One <mark>two</mark> three" in html
    assert "cut out with their replies: 14." in html
    assert "| talk | 9 | 7 |" in markdown


def test_counts_of_older_stages_will_do(corpus: Corpus, tmp_path: Path) -> None:
    corpus.edit("packing_plan", lambda counts: counts.pop("mix"))
    figures, html, _ = corpus.card(tmp_path / "out")
    assert figures["duplicates"] == {"exact": 1, "near": 0, "clusters": None, "turns_cut": 0, "examples": []}
    assert all(source["mix"] is None for source in figures["sources"].values())
    assert not figures["mixed"]
    assert "Share of the mix" not in html


def test_a_mix_is_shown_beside_the_sizes(corpus: Corpus, tmp_path: Path) -> None:
    corpus.edit("packing_plan", lambda counts: counts["mix"]["text"].update(epochs=2.5, share=0.75))
    figures, _, markdown = corpus.card(tmp_path / "out")
    assert figures["mixed"]
    assert figures["sources"]["text"]["mix"]["epochs"] == 2.5
    assert "| 2.5 | 75.0% |" in markdown
    weights = [source.model_copy(update={"weight": 3.5}) for source in corpus.recipe.sources]
    weighted = Corpus(corpus.recipe.model_copy(update={"sources": weights}), corpus.inputs)
    card = weighted.card(tmp_path / "weighted")
    assert "| 3.5 | 2.5 | 75.0% |" in card.markdown
    assert '<th class="n">Weight</th>' in card.html


def test_licences_are_grouped_and_an_unknown_one_gets_a_warning(made: Corpus, tmp_path: Path) -> None:
    figures, *pages = made.card(tmp_path / "out")
    groups = {group["licence"]: group for group in figures["licences"]}
    assert groups["MIT"]["sources"] == ["gone", "talk"]
    assert groups["unknown"]["unknown"]
    assert groups["unknown"]["tokens"] == figures["sources"]["text"]["tokens"]
    assert all("Licence unknown:" in page for page in pages)


def test_examples_are_the_lowest_ids_of_the_training_documents(figures: dict[str, Any]) -> None:
    trained = [d for d in plain_corpus() if d.source == "talk" and d.split == "train"]
    lowest = sorted(trained, key=lambda d: d.doc_id)[:3]
    examples = figures["sources"]["talk"]["examples"]
    assert [example["doc_id"] for example in examples] == [d.doc_id.hex() for d in lowest]
    turns = [{"role": turn.role, "text": turn.content} for turn in lowest[0].turns]
    assert examples[0]["turns"] == turns
    [turn] = figures["sources"]["text"]["examples"][0]["turns"]
    assert turn["role"] == "Text"
    assert 300 < len(turn["text"]) < 410
    assert turn["text"].endswith(" …")


def test_provenance_names_the_stages_and_every_source_file(corpus: Corpus, tmp_path: Path) -> None:
    fetched = tmp_path / "store" / "source_files" / "text" / "feed-0"
    fetched.mkdir(parents=True)
    write_manifest(fetched, "source_files/text", {}, files={"a/b.jsonl": {"bytes": 1, "sha256": "cd" * 32}})
    folder = corpus.inputs["documents"]
    counts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["counts"]
    inputs = {"source_files/text": {"path": "text/feed-0", "content": "ef" * 32}}
    write_manifest(folder, "documents", counts, inputs=inputs)
    card = corpus.card(tmp_path / "out")
    assert card.figures["provenance"]["files"] == [
        {"source": "talk", "name": "talk.jsonl", "sha256": "ab" * 32},
        {"source": "text", "name": "a/b.jsonl", "sha256": "cd" * 32},
    ]
    assert set(card.figures["provenance"]["contents"]) == set(corpus.inputs)
    assert all(digest in card.html for digest in ("ab" * 32, "cd" * 32))


def test_shards_of_another_tokenizer_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    train_tokenizer(["other text, other text"], 300).save(corpus.inputs["tokenizer"])
    with pytest.raises(ParakeetError, match=r"was made with tokenizer .* --force token_shards"):
        corpus.card(tmp_path / "out")


def test_a_torn_shard_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    shard = next(corpus.inputs["token_shards"].glob("train-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ParakeetError, match="is not a complete token shard"):
        corpus.card(tmp_path / "out")
