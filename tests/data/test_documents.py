"""Documents in Parquet parts: what comes back, what a doc_id depends on, and parts of the version before."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parakeet.conversation import Turn
from parakeet.data.documents import (
    SCHEMA,
    Document,
    DocumentWriter,
    content_bytes,
    parts,
    read_batches,
    read_documents,
)
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.progress import Progress

from ..conftest import Prepared
from .document_parts import write_old_part

CHAT = (Turn("System", "Sei nett."), Turn("Human", "Hallo?"), Turn("Assistant", "Hallo, Welt ☺"))


def document(**values: object) -> Document:
    return replace(Document("a", "CC0-1.0", CHAT, {"file": "ä.jsonl", "row": 7}), **values)


EVERY_KIND = [
    document(),
    document(held_out=True),
    document(held_out=False, split="held_out"),
    document(split="train", metadata={}),
    document(turns=(Turn("text", "Ein Satz."),), source="b"),
]


def written(folder: Path, documents: list[Document]) -> list[Path]:
    with DocumentWriter(folder) as writer:
        for one in documents:
            writer.write(one)
    return parts(folder)


def test_documents_come_back(tmp_path: Path) -> None:
    paths = written(tmp_path, EVERY_KIND)
    found = list(read_documents(paths))
    assert found == EVERY_KIND
    assert [one.doc_id for one in found] == [one.doc_id for one in EVERY_KIND]
    columns = pq.read_table(paths[0], columns=["held_out", "split"]).to_pydict()
    assert columns["held_out"] == [None, True, False, None, None]
    assert columns["split"] == [None, None, "held_out", "train", None]


def test_a_new_part_begins_after_16_mib_and_without_a_document_there_is_one(tmp_path: Path) -> None:
    large = document(turns=(Turn("text", "x" * (9 << 20)),))
    paths = written(tmp_path / "large", [large] * 3)
    assert [path.name for path in paths] == ["part-00000.parquet", "part-00001.parquet"]
    assert [len(list(read_documents([path]))) for path in paths] == [2, 1]
    assert content_bytes(paths[0]) > 0
    assert [len(list(read_documents([path]))) for path in written(tmp_path / "none", [])] == [0]


def test_a_doc_id_follows_the_text_and_nothing_else() -> None:
    one = document()
    assert one.doc_id == one.with_split("train").doc_id == document(source="b", held_out=True).doc_id
    assert one.doc_id == document(turns=(*CHAT[:2], Turn("Assistant", "HALLO,\n welt ☺"))).doc_id
    assert replace(one, turns=CHAT[1:]).doc_id == document(turns=CHAT[1:]).doc_id != one.doc_id


def test_an_id_is_read_as_it_was_written(tmp_path: Path) -> None:
    (path,) = written(tmp_path, [document()])
    row = document().to_row() | {"doc_id": b"0123456789abcdef"}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), path)
    (found,) = read_documents([path])
    assert found.doc_id == found.with_split("train").doc_id == b"0123456789abcdef"


def test_parts_of_the_version_before_are_read(tmp_path: Path) -> None:
    write_old_part(tmp_path / "part-00000.parquet", EVERY_KIND)
    found = list(read_documents(parts(tmp_path)))
    assert [replace(one, held_out=None, split=None) for one in found] == [
        replace(one, held_out=None, split=None) for one in EVERY_KIND
    ]
    assert [one.doc_id for one in found] == [one.doc_id for one in EVERY_KIND]
    # The one value stood for both: what a source asked for, and from the deduplication on what was decided.
    assert [one.held_out for one in found] == [None, True, True, False, None]
    assert [one.split for one in found] == [None, "held_out", "held_out", "train", None]


@pytest.mark.parametrize("columns", [("split",), ("source", "held_out"), ("metadata", "doc_id"), ("turns",)])
def test_some_columns_of_a_part_of_either_version(tmp_path: Path, columns: tuple[str, ...]) -> None:
    documents = [replace(one, held_out=True, split="held_out") for one in EVERY_KIND]
    (new,) = written(tmp_path / "new", documents)
    write_old_part(tmp_path / "old.parquet", documents)
    (expected,), (found,) = (list(read_batches(path, columns)) for path in (new, tmp_path / "old.parquet"))
    assert found.schema.names == list(columns)
    assert found.to_pylist() == expected.to_pylist()


def test_old_documents_give_the_same_vocabulary_and_the_same_shards(prepared: Prepared, tmp_path: Path) -> None:
    write_old_part(tmp_path / "old/part-00000.parquet", list(read_documents(parts(prepared.documents))))
    inputs = {"deduplicated_documents": tmp_path / "old", "tokenizer": prepared.tokenizer_folder}
    for make, folder in ((make_tokenizer, prepared.tokenizer_folder), (make_token_shards, prepared.shards)):
        output = tmp_path / make.__name__
        output.mkdir()
        make(prepared.recipe, inputs, output, Progress())
        files = [path for path in folder.iterdir() if path.is_file()]
        assert files
        assert all((output / path.name).read_bytes() == path.read_bytes() for path in files)


def test_documents_and_what_only_reads_them_load_without_datatrove() -> None:
    modules = "parakeet.data.documents, parakeet.data.questions, parakeet.data.reading.source_readers"
    code = f"import sys, {modules}; print({{'torch', 'datatrove', 'dagster'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
