"""deduplicate_documents: which copies are found, which one is kept, and what is held out."""

import io
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.deduplication.deduplicate import deduplicate_documents
from parakeet.data.documents import Document, parts, read_documents
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe

from ..document_parts import write_old_part, write_parts

ARTICLES = Path(__file__).parents[4] / "shared/data/dedup"
VOCABULARY = [a + b + c for a in "bdfgk" for b in "aeiou" for c in ("lo", "ming", "ter", "sk", "nd")]


def recipe(near_duplicates: bool = True, priority_b: int = 0, workers: int = 1, **deduplication: Any) -> Recipe:
    shared = {"near_duplicates": near_duplicates, "licence": "CC0-1.0"}
    return Recipe.model_validate(
        {
            "name": "test",
            "sources": [
                {"name": "a", "path": "a.txt", **shared},
                {"name": "b", "path": "b.txt", **shared, "priority": priority_b},
                {"name": "synthetic", "kind": "synthetic", "near_duplicates": False},
            ],
            "deduplication": {"held_out_fraction": 0.0, **deduplication},
            "executor": {"workers": workers},
            "packing": {"sequence_length": 64},
            "model": {"layers": 2, "heads": 2, "width": 16, "context": 64},
            "training": {"tokens": 1000, "batch_tokens": 64, "learning_rate": 1e-3},
        }
    )


def plain(text: str, source: str = "a", held_out: bool | None = None, **metadata: Any) -> Document:
    return Document(source, "CC0-1.0", (Turn("text", text),), metadata, held_out)


def chat(question: str, answer: str, source: str = "a", held_out: bool | None = None) -> Document:
    return Document(source, "CC0-1.0", (Turn("Human", question), Turn("Assistant", answer)), {}, held_out)


def article(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def deduplicate(
    tmp_path: Path, settings: Recipe, *groups: list[Document], name: str = "output"
) -> tuple[list[Document], dict[str, Any]]:
    documents = write_parts(tmp_path / f"{name}-input", *groups)
    output = tmp_path / name
    output.mkdir()
    counts = deduplicate_documents(settings, {"clean_documents": documents}, output, Progress(io.StringIO()))
    return list(read_documents(parts(output))), counts


def texts(documents: list[Document]) -> list[str]:
    return [document.content for document in documents]


@pytest.mark.parametrize("number", [100, 1000])
def test_finds_all_planted_near_duplicates_and_nothing_else(tmp_path: Path, number: int) -> None:
    train = ARTICLES / f"articles_{number}.train"
    if not train.exists():
        pytest.skip(f"{train.name} is not on this machine")
    named = [line.split(" ", 1) for line in train.read_text(encoding="utf-8").splitlines()]
    truth = [set(line.split()) for line in train.with_suffix(".truth").read_text().splitlines()]
    kept, counts = deduplicate(tmp_path, recipe(), [plain(text, article=name) for name, text in named])
    dropped = {name for name, _ in named} - {document.metadata["article"] for document in kept}
    assert counts["exact_duplicates"] == 0
    assert counts["near_duplicates"] == len(dropped) == len(truth)
    assert all(len(pair & dropped) == 1 for pair in truth)


def test_exact_duplicates_differ_in_case_space_and_compatibility_forms_at_most(tmp_path: Path) -> None:
    documents = [plain("The Cat sat."), plain("the  cat\nSAT."), plain("Ｔhe cat sat."), plain("The cat sat")]
    kept, counts = deduplicate(tmp_path, recipe(), documents)
    assert texts(kept)[0] in texts(documents[:3])
    assert texts(kept)[1:] == ["The cat sat"]
    assert {"a": counts["sources"]["a"]} == {
        "a": {"kept": 2, "held_out": 0, "clusters": 1, "dropped": {"exact duplicate": 2, "near duplicate": 0}}
    }


def test_the_same_words_by_another_speaker_are_no_copy(tmp_path: Path) -> None:
    kept, _ = deduplicate(tmp_path, recipe(), [chat("Hello.", "Hello there."), plain("Hello.\nHello there.")])
    assert len(kept) == 2


def test_sums_that_differ_in_numbers_only_are_kept(tmp_path: Path) -> None:
    problem = (
        "Janet sells {0} eggs on Monday and {1} eggs on Tuesday for {2} dollars each. She spends {3} of what she earns "
        "on feed, pays {4} dollars for the stall, and puts {5} dollars aside for the roof. How many dollars are left?"
    )
    documents = [plain(problem.format(3, 17, 2, 5, 11, 4)), plain(problem.format(8, 29, 6, 7, 13, 9))]
    kept, _ = deduplicate(tmp_path, recipe(), documents)
    assert len(kept) == 2


def test_short_templated_talk_is_not_merged(tmp_path: Path) -> None:
    names = ("Anna", "Bram", "Cleo", "Dirk")
    kept, _ = deduplicate(tmp_path, recipe(), [chat(f"My name is {n}. Who are you?", f"Hello {n}!") for n in names])
    assert len(kept) == len(names)


def test_the_kept_copy_has_the_highest_priority_then_the_most_text_then_the_lowest_doc_id(tmp_path: Path) -> None:
    text = article(1)
    edited, longer = text + " postscript", text + " postscript and more"
    kept, _ = deduplicate(tmp_path, recipe(), [plain(text), plain(edited), plain(longer)], name="longest")
    assert texts(kept) == [longer]
    preferred = recipe(priority_b=1)
    kept, counts = deduplicate(tmp_path, preferred, [plain(longer), plain(text, "b")], name="priority")
    assert [document.source for document in kept] == ["b"]
    assert counts["sources"]["a"]["dropped"] == {"exact duplicate": 0, "near duplicate": 1}
    kept, _ = deduplicate(tmp_path, preferred, [plain("Same."), plain("same.", "b")], name="exact")
    assert texts(kept) == ["same."]
    same_length = [plain(f"{text} {end}") for end in ("xx", "yy")]
    lowest = min(same_length, key=lambda document: document.doc_id)
    for name, documents in (("forwards", same_length), ("backwards", same_length[::-1])):
        kept, _ = deduplicate(tmp_path, recipe(), *([document] for document in documents), name=name)
        assert texts(kept) == texts([lowest])


def test_near_duplicates_of_a_source_are_left_alone_where_the_recipe_says_so(tmp_path: Path) -> None:
    text = article(2)
    documents = [plain(text), plain(text + " more"), plain(text)]
    kept, counts = deduplicate(tmp_path, recipe(near_duplicates=False), documents)
    assert texts(kept) == texts(documents[:2])
    assert counts["exact_duplicates"] == 1


def test_a_cluster_with_one_held_out_member_is_held_out_whole(tmp_path: Path) -> None:
    text = article(3)
    documents = [
        plain(text, held_out=True),
        plain(text + " longer"),
        plain("Exact.", held_out=False),
        plain("Alone.", held_out=True),
        plain("exact."),
        plain("Free."),
    ]
    kept, counts = deduplicate(tmp_path, recipe(), documents)
    splits = {document.content: document.split for document in kept}
    assert splits == {f"{text} longer": "held_out", "Exact.": "train", "Alone.": "held_out", "Free.": "train"}
    assert counts["held_out"] == counts["sources"]["a"]["held_out"] == 2


def test_training_text_that_is_also_held_out_is_refused(tmp_path: Path) -> None:
    documents = [chat("1+1?", "2", "synthetic", held_out=False), chat("1+1?", "2", "synthetic", held_out=True)]
    with pytest.raises(ParakeetError, match=r"source synthetic.* is for training, but a copy of it is held out"):
        deduplicate(tmp_path, recipe(), documents)


def test_held_out_documents_stay_so_when_text_is_added(tmp_path: Path) -> None:
    documents = [plain(f"Sentence number {n}.") for n in range(2000)]
    settings = recipe(held_out_fraction=0.1)
    few, counts = deduplicate(tmp_path, settings, documents[:1000], name="few")
    many, _ = deduplicate(tmp_path, settings, documents[1500:], documents[:1500], name="many")
    assert 60 < counts["held_out"] < 140
    splits = {document.content: document.split for document in many}
    assert all(splits[document.content] == document.split for document in few)
    more, _ = deduplicate(tmp_path, recipe(held_out_fraction=0.3), documents[:1000], name="more")
    assert {d.content for d in few if d.split == "held_out"} < {d.content for d in more if d.split == "held_out"}


def test_documents_of_the_version_before_are_deduplicated_alike(tmp_path: Path) -> None:
    documents = [plain(f"Sentence {n}.", held_out=[None, True, False][n % 3], row=n) for n in range(60)]
    settings = recipe(held_out_fraction=0.3)
    deduplicate(tmp_path, settings, documents, name="new")
    write_old_part(tmp_path / "old-input/part-00000.parquet", documents)
    (tmp_path / "old").mkdir()
    deduplicate_documents(settings, {"clean_documents": tmp_path / "old-input"}, tmp_path / "old", Progress())
    new, old = (list(read_documents(parts(tmp_path / name))) for name in ("new", "old"))
    assert {document.split for document in new} == {"train", "held_out"}
    assert old == new


def test_order_and_everything_else_of_a_document_is_kept(tmp_path: Path) -> None:
    documents = [plain(f"number {n}", "ab"[n % 2], held_out=False, task="count") for n in range(50)]
    kept, _ = deduplicate(tmp_path, recipe(), documents[:20], [], documents[20:])
    assert kept == [replace(document, split="train") for document in documents]
    assert [document.doc_id for document in kept] == [document.doc_id for document in documents]


def test_one_worker_and_two_write_the_same_bytes(tmp_path: Path) -> None:
    groups = [[plain(article(n)) for n in range(30)], [plain(article(n) + " end") for n in range(20, 50)]]
    written = []
    for workers in (1, 2, 2):
        name = f"run{len(written)}"
        _, counts = deduplicate(tmp_path, recipe(workers=workers, held_out_fraction=0.2), *groups, name=name)
        files = [path for path in (tmp_path / name).iterdir() if path.is_file()]
        written.append((counts, {path.name: path.read_bytes() for path in files}))
    assert written[0][0]["near_duplicates"] == 10
    assert written[0] == written[1] == written[2]


def test_a_document_is_searched_if_any_of_its_equals_is(tmp_path: Path) -> None:
    """The equal one that stands for it may be of a source whose own near copies are let be."""
    values = recipe(priority_b=0).model_dump()
    values["sources"][0] |= {"near_duplicates": False, "priority": 2}
    text = article(9)
    kept, counts = deduplicate(
        tmp_path, Recipe.model_validate(values), [plain(text), plain(text, "b"), plain(text + " more", "b")]
    )
    assert texts(kept) == [text]
    assert counts["sources"]["b"]["dropped"] == {"exact duplicate": 1, "near duplicate": 1}


def test_clusters_are_shown(tmp_path: Path) -> None:
    text = article(4)
    documents = [plain(text), plain(text + " more", "b"), plain("Once."), plain("once."), plain("ONCE.")]
    deduplicate(tmp_path, recipe(), documents)
    near, exact = (json.loads(line) for line in (tmp_path / "output/clusters.jsonl").read_text().splitlines())
    assert (near["kind"], near["sources"], near["size"]) == ("near", ["a", "b"], 2)
    assert near["dropped"] == text[:300]
    assert {exact.pop("kept"), exact.pop("dropped")} < {"Once.", "once.", "ONCE."}
    assert exact == {"kind": "exact", "sources": ["a"], "size": 3}


def test_a_corpus_of_copies_leaves_one_document(tmp_path: Path) -> None:
    kept, counts = deduplicate(tmp_path, recipe(), [plain(article(5))] * 300, [plain(article(5), "b")] * 300)
    assert (len(kept), counts["exact_duplicates"], counts["near_duplicates"]) == (1, 599, 0)
    assert counts["sources"]["b"] == {
        "kept": 0,
        "held_out": 0,
        "clusters": 0,
        "dropped": {"exact duplicate": 300, "near duplicate": 0},
    }


def test_nothing_to_deduplicate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match="no document to deduplicate"):
        deduplicate(tmp_path, recipe(), [])


@hypothesis_settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20))
def test_every_document_is_kept_or_counted_as_a_copy(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, int, int]]
) -> None:
    documents = [plain(article(seed) + " end" * repeat, source) for source, seed, repeat in drawn]
    kept, counts = deduplicate(tmp_path_factory.mktemp("property"), recipe(held_out_fraction=0.5), documents)
    for source in {document.source for document in documents}:
        figures = counts["sources"][source]
        came_in = sum(document.source == source for document in documents)
        assert figures["kept"] + sum(figures["dropped"].values()) == came_in
        assert figures["kept"] == sum(document.source == source for document in kept)
    assert len(kept) == len({seed for _, seed, _ in drawn})


SCRIPT = """
import io, os, sys
from pathlib import Path
from parakeet.data.cleaning.clean import clean_documents
from parakeet.data.deduplication.deduplicate import deduplicate_documents
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    recipe = load_recipe(str(folder / "recipe.yaml"))
    for stage, name, made in (
        (clean_documents, "documents", "clean"),
        (deduplicate_documents, "clean_documents", "deduplicated"),
    ):
        (folder / made).mkdir()
        counts = stage(recipe, {name: folder / ("documents" if made == "clean" else "clean")}, folder / made,
                       Progress(io.StringIO()))
    import multiprocess
    assert not multiprocess.active_children()
    print(os.getpgid(0), counts["documents"], counts["near_duplicates"])
"""


def gone_soon(group: int) -> bool:
    """Whether no process of the group runs 20 s from now; datatrove's fork server goes when it misses its parent."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_plain_script_runs_both_stages_in_silence_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe(workers=2).to_yaml())
    (tmp_path / "script.py").write_text(SCRIPT)
    write_parts(tmp_path / "documents", [plain(article(n)) for n in range(9)], [plain(article(8) + " again")])
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    group, kept, near = map(int, ran.stdout.split())
    assert (kept, near) == (9, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clean", "deduplicated", "documents", "recipe.yaml", "script.py"
    ]  # fmt: skip
    assert gone_soon(group)
