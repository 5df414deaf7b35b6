"""What a file is decides how it is read, not its name."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from parakeet.data.reading.readers import read_records
from parakeet.errors import ParakeetError

ROWS = [{"text": f"record {number}, naïve"} for number in range(40)]
TABLE = pa.Table.from_pylist(ROWS)


def made(write: Callable[[io.BytesIO], Any]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def arrow(stream: io.BytesIO, writer: Any) -> None:
    with writer(stream, TABLE.schema) as file:
        file.write_table(TABLE)


def zstd(content: bytes, window_log: int = 0, **options: Any) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(
        window_log=window_log, enable_ldm=window_log > 0, write_content_size=False, **options
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(content) + stream.flush()


def tar(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(*names: str, content: bytes = b"x") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return stream.getvalue()


def database() -> bytes:
    with TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "a.db")
        connection.execute("create table a (b)")
        connection.commit()
        connection.close()
        return (Path(folder) / "a.db").read_bytes()


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS).encode()
FORMS = {
    "lines": LINES,
    "lines after blank ones and a mark": b"\xef\xbb\xbf\r\n \n" + LINES,
    "array": ARRAY,
    "array over lines": json.dumps(ROWS, indent=2).encode(),
    "array of a record a line": b"[\n" + b",\n".join(LINES.splitlines()) + b"\n]\n",
    "array that begins with its first record": b"[" + b",\n".join(LINES.splitlines()) + b"]",
    "parquet": made(lambda stream: pq.write_table(TABLE, stream)),
    "arrow file": made(lambda stream: arrow(stream, pa.ipc.new_file)),
    "arrow stream": made(lambda stream: arrow(stream, pa.ipc.new_stream)),
    "feather": made(lambda stream: pyarrow.feather.write_feather(TABLE, stream)),
    "zip": zipped("a.jsonl", content=LINES),
    "tar": tar("a.jsonl", LINES),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "not packed": lambda content: content,
    "gzip": gzip.compress,
    "zstd": zstd,
    "zstd with a window of 2 GiB": lambda content: zstd(content, window_log=31),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lz4": lambda content: pa.compress(content, "lz4", asbytes=True),
    "gzip twice": lambda content: gzip.compress(gzip.compress(content)),
    "two streams of xz with padding": lambda content: (
        lzma.compress(content[:50]) + bytes(8) + lzma.compress(content[50:])
    ),
    "zstd after a frame without content": lambda content: b"\x53\x2a\x4d\x18\x04\0\0\0abcd" + zstd(content),
}
NAMES = ("jsonl", "json", "parquet", "arrow", "txt", "csv", "jsonl.gz", "jsonl.zst", "parquet.xz", "zip", "tar", "tgz")
NAMES_OF_ITS_OWN = {"lines": ("ndjson", "bak", "")}


def outcomes(name: str, content: bytes, unread: Counter[str] | None = None) -> list[Any]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return [record.value or str(record.problem) for record in read_records(path, unread=unread)]


def refusal(name: str, content: bytes) -> str:
    with pytest.raises(ParakeetError) as error:
        outcomes(name, content)
    assert f"/{name} " in str(error.value) or f"/{name}:" in str(error.value)
    return str(error.value)


class TestAnyName:
    @pytest.mark.parametrize("form", FORMS)
    def test_it_is_read_as_what_it_is(self, form: str) -> None:
        for ending in (*NAMES, *NAMES_OF_ITS_OWN.get(form, ())):
            for packed in ("not packed", "gzip"):
                assert outcomes(f"a.{ending}", PACKED[packed](FORMS[form])) == ROWS, (ending, packed)

    @pytest.mark.parametrize("packed", PACKED)
    def test_it_is_unpacked_as_it_was_packed(self, packed: str) -> None:
        for ending in ("jsonl", "jsonl.gz", "txt.zst", "parquet.bz2", "json.lz4", "tar.xz"):
            assert outcomes(f"a.{ending}", PACKED[packed](LINES)) == ROWS, ending

    def test_members_of_archives_too(self) -> None:
        for name in ("a.json", "a.jsonl.gz", "a.parquet", "a.csv"):
            for form in ("lines", "array", "parquet", "arrow file"):
                for content in (FORMS[form], gzip.compress(FORMS[form])):
                    assert outcomes("a.zip", zipped(name, content=content)) == ROWS, (name, form)
                    assert outcomes("a.tgz", gzip.compress(tar(name, content))) == ROWS, (name, form)

    def test_an_archive_under_another_name_in_an_archive_is_refused(self) -> None:
        (found,) = outcomes("a.zip", zipped("a.jsonl", content=zipped("b.jsonl", content=LINES)))
        assert found == "refused archive member: an archive inside an archive; unpack the outer one"

    @pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.md.bz2", "a.text.xz", "a.txt.lz4", "notes", "a.log"])
    def test_plain_text(self, name: str) -> None:
        assert outcomes(name, "A naïve text.\n".encode()) == ["A naïve text."]

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=80))
    @settings(max_examples=200)
    def test_text_is_text_whatever_it_begins_with(self, text: str) -> None:
        found = outcomes("a.txt", text.encode())
        assert "".join("".join(found).split()) == "".join(text.removeprefix("\ufeff").split())

    @pytest.mark.parametrize(
        "text",
        [
            "[1] A note.\n[2] Another.",
            "[\nIn medias res",
            '{"a": 1}\nis an example.',
            "PAR1 is a mark.",
            "PARENTS",
            "ORCHESTRA",
            "ID3 tags",
            "MZ",
            "BZh9",
            "GGUF",
            "RIFF",
            "<p>Markdown</p>",
            "<!-- a comment -->\n# Title",
        ],
    )
    def test_text_that_only_looks_like_something(self, text: str) -> None:
        assert outcomes("a.md", text.encode()) == [text]


class TestJson:
    TURNS = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})

    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
    def test_a_list_a_line_is_a_record_a_line(self, name: str, count: int) -> None:
        assert len(outcomes(name, (json.dumps(self.TURNS) + "\n").encode() * count)) == count

    def test_a_long_conversation_on_the_first_line_is_still_lines(self) -> None:
        long = [{"role": "user", "content": "x" * 300_000}, {"role": "assistant", "content": "y"}]
        assert len(outcomes("a.jsonl", (json.dumps(long) + "\n").encode() * 2)) == 2

    def test_a_long_array_on_one_line_is_an_array(self) -> None:
        rows = [{"text": "x" * 300_000}, {"text": "y"}]
        assert outcomes("a.jsonl", json.dumps(rows).encode()) == rows

    @pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
    def test_one_value_over_lines(self, name: str) -> None:
        assert outcomes(name, json.dumps(ROWS[0], indent=2).encode()) == ROWS[:1]

    @pytest.mark.parametrize("first", ['{"text": "cut', '{"text": }', "null", "plain"])
    def test_a_broken_first_line_costs_one_record(self, first: str) -> None:
        found = outcomes("a.jsonl", first.encode() + b"\n" + LINES)
        assert found[1:] == ROWS

    def test_an_empty_array_holds_nothing(self) -> None:
        assert outcomes("a.jsonl", b"[]\n") == []


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
NOT_READ: dict[str, tuple[bytes, str]] = {
    "LFS": (
        POINTER,
        "is a Git LFS pointer, not the file itself. Fetch the file, in its repository, with: git lfs pull",
    ),
    "annex": (b"/annex/objects/MD5E-s1--00.jsonl\n", "is a git-annex pointer"),
    "HTML": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>", r"is a web page \(HTML\)"),
    "html": (b"\xef\xbb\xbf<!-- x --><HTML lang=en>", r"is a web page \(HTML\)"),
    "SQLite": (database(), "is an SQLite database. Export its rows as Parquet, CSV or JSON lines."),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF document. Save its text"),
    "safetensors": (save({"a": np.zeros(3)}), "is a safetensors file, the weights of a model. Remove it"),
    "pickle": (pickle.dumps(ROWS), "is a Python pickle"),
    "torch": (made(lambda stream: torch.save({"a": torch.zeros(2)}, stream)), "is a PyTorch checkpoint"),
    "NumPy": (made(lambda stream: np.save(stream, np.zeros(3))), "is a NumPy array"),
    "ORC": (made(lambda stream: pa.orc.write_table(TABLE, stream)), "is an ORC file"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is an image"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "is an image"),
    "MP3": (b"ID3\x04\0\0\0\0\0\x23TSSE\xff", "is sound or video"),
    "DOCX": (zipped("[Content_Types].xml", "word/document.xml"), "is an Office document"),
    "OpenDocument": (zipped("mimetype", "content.xml"), "is an EPUB or OpenDocument file"),
    "RTF": (b"{\\rtf1\\ansi Hello}", "is a Rich Text document"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "is an archive of a kind that Parakeet does not read. Unpack it."),
    "UTF-16": ("naïve text".encode("utf-16"), "is encoded as UTF-16"),
    "UTF-16 without a mark": ('{"text": "a"}\n'.encode("utf-16-le"), "is encoded as UTF-16"),
    "gzip four times": (gzip.compress(gzip.compress(gzip.compress(gzip.compress(LINES)))), "packed more than 3 times"),
}


class TestNotRead:
    @pytest.mark.parametrize("kind", NOT_READ)
    def test_it_is_named_with_a_remedy_under_any_name(self, kind: str) -> None:
        content, message = NOT_READ[kind]
        for name in ("a.jsonl", "a.json", "a.parquet", "a.txt", "a.csv", "a.jsonl.gz", "a.zip", "a.bin"):
            assert __import__("re").search(message, refusal(name, content)), name

    @pytest.mark.parametrize("kind", ["LFS", "HTML", "SQLite", "safetensors"])
    def test_in_an_archive_it_is_named_with_its_member(self, kind: str) -> None:
        content, message = NOT_READ[kind]
        with pytest.raises(ParakeetError, match=rf"a\.zip/b\.jsonl {message}"):
            outcomes("a.zip", zipped("b.jsonl", content=content))

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet", "a"])
    def test_an_error_in_xml(self, name: str) -> None:
        assert "is XML" in refusal(name, b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')

    def test_text_under_the_name_of_a_table(self) -> None:
        assert "a.parquet cannot be read as parquet: it is plain text" in refusal("a.parquet", b"Some words.")

    def test_a_frame_with_too_large_a_window_is_not_called_damaged(self) -> None:
        header = b"\x28\xb5\x2f\xfd\x00" + bytes([(32 - 10) << 3])  # a window of 4 GiB
        message = refusal("a.jsonl.zst", header + b"\x01\0\0" + bytes(20))
        assert "was packed with a window of more than 2 GiB. Pack it again" in message

    def test_a_frame_with_a_dictionary_is_not_called_damaged(self) -> None:
        dictionary = zstandard.train_dictionary(
            2000, [json.dumps({"n": n, "t": "x" * (n % 50)}).encode() for n in range(3000)]
        )
        content = zstandard.ZstdCompressor(dict_data=dictionary).compress(LINES)
        assert "packed with a dictionary of its own" in refusal("a.jsonl.zst", content)


class TestDamage:
    """Nothing after the first stream is lost without a word."""

    @pytest.mark.parametrize("packed", ["gzip", "zstd", "bzip2", "xz", "lz4"])
    def test_junk_after_a_stream_is_damage(self, packed: str) -> None:
        content = PACKED[packed](LINES)
        records = 0 if packed == "lz4" else 40  # pyarrow gives an error, or what comes before it
        assert f"cannot be read beyond record {records}" in refusal("a.jsonl", content + b"junk" * 10)

    @pytest.mark.parametrize("packed", ["gzip", "zstd", "bzip2", "xz", "lz4"])
    @given(keep=st.floats(0.05, 0.99))
    @settings(max_examples=15)
    def test_a_second_stream_that_breaks_off(self, packed: str, keep: float) -> None:
        second = PACKED[packed](LINES)
        content = PACKED[packed](LINES) + second[: max(1, int(keep * len(second)))]
        assert "cannot be read beyond record" in refusal("a.jsonl", content)


class TestCompany:
    """Text and descriptions beside records are no training text."""

    @pytest.mark.parametrize(
        ("names", "left"),
        [
            (("a.jsonl", "README.md", "LICENSE.txt", "notes.txt"), {".md": 1, ".txt": 2}),
            (("a.txt", "b.md"), {}),
            (("a.jsonl", "a.docx", "b.PDF", "Makefile"), {".docx": 1, ".pdf": 1, "no ending": 1}),
            (("a.jsonl", "dataset_infos.json", "x.metadata.json"), {".json": 2}),
            (("a.txt", ".hidden", "__MACOSX/a.txt", ".git/x"), {}),
        ],
    )
    @pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
    def test_in_an_archive(self, names: tuple[str, ...], left: dict[str, int], kind: str, tmp_path: Path) -> None:
        path = tmp_path / f"a.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, LINES)
        else:
            with tarfile.open(path, f"w:{kind.partition('.')[2]}") as archive:
                for name in names:
                    info = tarfile.TarInfo(name)
                    info.size = len(LINES)
                    archive.addfile(info, io.BytesIO(LINES))
        unread: Counter[str] = Counter()
        list(read_records(path, unread=unread))
        assert unread == left


def test_any_number_of_frames_without_content_may_come_first(tmp_path: Path) -> None:
    frames = b"\x50\x2a\x4d\x18\0\0\0\0" * 20_000
    (tmp_path / "a").write_bytes(frames + zstandard.compress(b"one text"))
    assert [record.value for record in read_records(tmp_path / "a")] == ["one text"]
