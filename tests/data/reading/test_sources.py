import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.reading.readers import read_records
from parakeet.data.reading.sources import find_files, source_files
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import FileSource

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lz4": lambda content: pa.compress(content, "lz4", asbytes=True),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=8).filter(lambda records: len(records) != 1)
"""Not one: an only object may hold records by id (test_json_records.py)."""


def at(path: Path) -> FileSource:
    return FileSource(name="mine", path=str(path))


def problems(path: Path) -> list[tuple[int, str]]:
    return [(record.row, record.problem.reason) for record in read_records(path) if record.problem]


def values(path: Path) -> list[tuple[int, Any]]:
    return [(record.row, record.value) for record in read_records(path) if record.value is not None]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


Write = Callable[[str, bytes], Path]


class TestSourceFiles:
    def test_a_file(self, write: Write) -> None:
        path = write("Talk.JSONL.GZ", b"")
        assert source_files(at(path)) == [path]

    def test_a_folder_with_subfolders_sorted_and_recognised_only(self, tmp_path: Path) -> None:
        for name in ("b.txt", "a/z.parquet", "a/b.md.zst", "image.png", "archive.gz", ".hidden.txt", ".git/c.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = find_files(at(tmp_path))
        assert found.files == [tmp_path / "a/z.parquet"]
        assert found.beside == ["a/b.md.zst", "b.txt"]
        assert found.unread == {".png": 1, ".gz": 1, ".md.zst": 1, ".txt": 1}

    def test_linked_folders_are_followed_once(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/a.txt").touch()
        (tmp_path / "data").mkdir()
        (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data/round").symlink_to(tmp_path / "data")
        assert source_files(at(tmp_path / "data")) == [tmp_path / "data/link/a.txt"]

    def test_a_glob(self, tmp_path: Path, write: Write) -> None:
        paths = [write(name, b"") for name in ("a2.txt", "a1.txt", "b.txt", "a3.pdf")]
        assert source_files(at(tmp_path / "a*")) == [paths[1], paths[0]]

    def test_a_name_with_brackets_is_a_file_first(self, tmp_path: Path, write: Write) -> None:
        path = write("a[1].txt", b"")
        assert source_files(at(path)) == [path]

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ParakeetError, match=r"mine: .*nowhere\.txt does not exist"):
            source_files(at(tmp_path / "nowhere.txt"))

    @pytest.mark.parametrize("name", ["", "*.docx"])
    def test_nothing_recognised_lists_what_is(self, name: str, tmp_path: Path, write: Write) -> None:
        write("table.docx", b"")
        with pytest.raises(ParakeetError, match=r"\(\.docx 1\)\. It reads \.jsonl.*\.parquet.*\.zst"):
            source_files(at(tmp_path / name))

    def test_a_link_to_nowhere_is_not_left_out(self, tmp_path: Path, write: Write) -> None:
        write("a.txt", b"")
        (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
        with pytest.raises(ParakeetError, match=r"b\.txt"):
            source_files(at(tmp_path))

    def test_the_error_does_not_steer_the_terminal(self, tmp_path: Path) -> None:
        with pytest.raises(ParakeetError) as error:
            source_files(at(tmp_path / "a\x1b[2Jb.txt"))
        assert "\x1b" not in str(error.value)


class TestJson:
    @given(records=RECORDS, blanks=st.lists(st.sampled_from(["", "\n", " \r\n\n"]), min_size=8, max_size=8))
    @pytest.mark.parametrize("compression", list(PACK))
    def test_jsonl_comes_back_with_its_rows(self, records: list[Any], blanks: list[str], compression: str) -> None:
        text, expected = "", []
        for record, blank in zip(records, blanks, strict=False):
            text += blank
            expected.append((text.count("\n") + 1, record))
            text += json.dumps(record, ensure_ascii=len(blank) > 1) + ("\r\n" if blank else "\n")
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"a.jsonl{compression}"
            path.write_bytes(PACK[compression](text.encode()))
            assert list(values(path)) == expected
            assert problems(path) == []

    @given(records=RECORDS, indent=st.sampled_from([None, 2]))
    def test_an_array_comes_back_with_positions(self, records: list[Any], indent: int | None) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a.json"
            path.write_text(json.dumps(records, indent=indent), encoding="utf-8")
            assert values(path) == list(enumerate(records, start=1))

    def test_one_object_is_one_record(self, write: Write) -> None:
        assert values(write("a.json", b'{\n "text": "x"\n}\n')) == [(1, {"text": "x"})]

    def test_lines_of_objects_called_json(self, write: Write) -> None:
        path = write("a.json", b'\n{"a": 1}\nbroken\n{"a": 3}')
        assert values(path) == [(2, {"a": 1}), (4, {"a": 3})]
        assert problems(path) == [(3, "broken JSON")]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b'{"a": 1', "broken JSON"),
            (b'{"a": "\x00"}', "broken JSON"),
            (b'{"a": ' + b"9" * 5000 + b"}", "broken JSON"),
            (b'{"a": ' + b"[" * 100_000 + b"}", "broken JSON"),
            (b"[1, 2]", "not a JSON object"),
            (b'"text"', "not a JSON object"),
            (b"null", "not a JSON object"),
            (b'{"a": "\xff"}', "invalid UTF-8"),
            (rb'{"a": "\ud800"}', "lone surrogate"),
            (rb'{"\uDFFF": 1}', "lone surrogate"),
        ],
    )
    def test_a_bad_line_is_counted_and_the_next_is_read(self, write: Write, line: bytes, reason: str) -> None:
        path = write("a.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
        assert values(path) == [(1, {"a": 1}), (3, {"a": 3})]
        assert problems(path) == [(2, reason)]

    def test_surrogate_pairs_are_characters(self, write: Write) -> None:
        assert values(write("a.jsonl", rb'{"a": "\ud83e\udd9c"}')) == [(1, {"a": "🦜"})]

    def test_line_separators_inside_a_string_end_no_line(self, write: Write) -> None:
        assert values(write("a.jsonl", '{"a": "x\u2028y\x85"}\n'.encode())) == [(1, {"a": "x\u2028y\x85"})]

    @pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
    def test_byte_order_marks(self, write: Write, name: str) -> None:
        content = '{"a": 1}'
        utf_8 = values(write(name, b"\xef\xbb\xbf" + content.encode()))
        assert utf_8 == [(1, content if name == "a.txt" else {"a": 1})]
        with pytest.raises(ParakeetError, match="UTF-16"):
            list(read_records(write(name, content.encode("utf-16"))))

    @pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
    @pytest.mark.parametrize("compression", list(PACK))
    def test_an_empty_file_has_no_records(self, write: Write, name: str, compression: str) -> None:
        assert list(read_records(write(name + compression, PACK[compression](b" \n\n")))) == []


class TestText:
    def test_rows_blank_lines_and_line_ends(self, write: Write) -> None:
        paragraph = "word " * 1000
        path = write("a.md", f"\r\n# Title\r\n\r\n{paragraph}\r\n  \r\n\r\nThe end.\r\n".encode())
        assert values(path) == [(2, f"# Title\n\n{paragraph.strip()}"), (7, "The end.")]

    @pytest.mark.parametrize(("junk", "reason"), [(b"caf\xe9", "invalid UTF-8"), (b"a\x00b", "NUL byte")])
    def test_a_line_that_is_not_text(self, write: Write, junk: bytes, reason: str) -> None:
        path = write("a.txt", b"before\n" + junk + b"\nafter\nit\n\n")
        assert problems(path) == [(2, reason)]
        assert values(path) == [(1, "before"), (3, "after\nit")]

    def test_a_file_that_breaks_off_inside_a_character(self, write: Write) -> None:
        assert problems(write("a.txt", "naïve café".encode()[:-1])) == [(1, "invalid UTF-8")]

    def test_long_lines_are_read_whole(self, write: Write) -> None:
        text = "naïve " * 50_000
        found = values(write("a.txt", f"{text}\nend".encode()))
        assert " ".join(value for _, value in found).split() == f"{text} end".split()

    def test_a_long_line_that_is_bad_in_its_middle(self, write: Write) -> None:
        path = write("a.txt", b"x " * 50_000 + b"\xff" + b"y " * 100_000 + b"\nnext\n")
        assert problems(path) == [(1, "invalid UTF-8")]
        assert values(path)[-1] == (2, "next")


class TestParquet:
    ROWS = ({"messages": [{"role": "user", "content": "é"}], "n": 1}, {"messages": None, "n": None})

    @pytest.mark.parametrize("compression", list(PACK))
    def test_rows_come_back(self, tmp_path: Path, write: Write, compression: str) -> None:
        pq.write_table(pa.Table.from_pylist(list(self.ROWS) * 300), tmp_path / "a.parquet")
        path = write(f"a.parquet{compression}", PACK[compression]((tmp_path / "a.parquet").read_bytes()))
        assert values(path) == list(enumerate(list(self.ROWS) * 300, start=1))

    def test_a_string_that_is_none(self, tmp_path: Path) -> None:
        column = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        assert problems(tmp_path / "a.parquet") == [(2, "invalid UTF-8")]
        assert values(tmp_path / "a.parquet") == [(1, {"text": "good"}), (3, {"text": "fine"})]

    def test_times_are_no_obstacle(self, tmp_path: Path) -> None:
        times = pa.array([1, 2], pa.timestamp("ns"))
        pq.write_table(pa.table({"text": ["a", "b"], "time": times}), tmp_path / "a.parquet")
        assert values(tmp_path / "a.parquet") == [(1, {"text": "a"}), (2, {"text": "b"})]


class TestDamage:
    LINES = b"".join(b'{"number": %d}\n' % number for number in range(50_000))

    @pytest.mark.parametrize("compression", list(PACK)[1:])
    @pytest.mark.parametrize("keep", [3, 12, 1000, -1])
    def test_compressed_data_that_breaks_off(self, write: Write, compression: str, keep: int) -> None:
        path = write(f"a.jsonl{compression}", PACK[compression](self.LINES)[:keep])
        with pytest.raises(ParakeetError, match=r"a\.jsonl\.\w+ cannot be read beyond record [\d,]+"):
            list(read_records(path))

    @pytest.mark.parametrize("compression", list(PACK)[1:])
    def test_several_members_are_one_stream(self, write: Write, compression: str) -> None:
        pack = PACK[compression]
        path = write(f"a.jsonl{compression}", pack(b'{"a": 1}\n{"a"') + pack(b"") + pack(b": 2}\n"))
        assert values(path) == [(1, {"a": 1}), (2, {"a": 2})]

    @pytest.mark.parametrize("keep", [0, 2, 500, -8])
    def test_parquet_that_breaks_off(self, tmp_path: Path, write: Write, keep: int) -> None:
        pq.write_table(pa.table({"text": [str(number) for number in range(1000)]}), tmp_path / "whole.parquet")
        path = write("a.parquet", (tmp_path / "whole.parquet").read_bytes()[:keep])
        with pytest.raises(ParakeetError, match=r"a\.parquet cannot be read"):
            list(read_records(path))

    def test_parquet_that_is_damaged_inside(self, tmp_path: Path, write: Write) -> None:
        pq.write_table(pa.table({"text": [str(n) for n in range(9000)]}), tmp_path / "a.parquet", row_group_size=3000)
        content = bytearray((tmp_path / "a.parquet").read_bytes())
        middle = len(content) // 2
        content[middle - 2000 : middle + 2000] = bytes(4000)
        with pytest.raises(ParakeetError, match=r"beyond record [1-9]"):
            list(read_records(write("a.parquet", bytes(content))))

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").mkdir()
        with pytest.raises(ParakeetError, match=r"a\.txt cannot be opened"):
            list(read_records(tmp_path / "a.txt"))


def test_importing_loads_none_of_the_heavy_libraries() -> None:
    heavy = {"torch", "pyarrow", "datatrove", "dagster"}
    code = f"import sys, parakeet.data.reading.sources; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
