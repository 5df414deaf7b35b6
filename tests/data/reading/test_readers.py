"""What streams: documents between separators, elements of arrays, lines without an end, row groups."""

import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.reading.json_values import PIECE_BYTES, JsonText
from parakeet.data.reading.pieces import Piece, divided
from parakeet.data.reading.readers import read_records
from parakeet.data.reading.records import MAX_LINE_BYTES, Record
from parakeet.errors import ParakeetError

END = "<|endoftext|>"
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12)


def records(name: str, content: bytes, separator: str | None = None) -> list[Record]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return list(read_records(path, separator))


def outcomes(found: list[Record]) -> list[tuple[int, Any]]:
    return [(record.row, record.problem.reason if record.problem else record.value) for record in found]


class TestSeparator:
    @given(documents=st.lists(st.lists(LINES.filter(lambda line: line.strip() != END), max_size=4), max_size=5))
    def test_documents_come_back_with_their_first_lines(self, documents: list[list[str]]) -> None:
        text, expected = "", []
        for number, lines in enumerate(documents):
            text += f"{END}\n" if number else ""
            whole = "".join(f"{line}\n" for line in lines)
            if whole.strip():
                blank = next(index for index, line in enumerate(lines) if line.strip())
                expected.append((text.count("\n") + blank + 1, whole.strip()))
            text += whole
        assert outcomes(records("a.txt", text.encode(), END)) == expected

    def test_lines_that_only_hold_it_among_others_part_nothing(self) -> None:
        content = f"One {END}\n\n{END}.\n {END} \r\nTwo\n{END}".encode()
        assert outcomes(records("a.txt", content, END)) == [(1, f"One {END}\n\n{END}."), (5, "Two")]

    def test_a_long_document_is_one(self) -> None:
        long = "word " * 50_000
        assert outcomes(records("a.txt", f"{long}\n{long}\n{END}\nb".encode(), END)) == [
            (1, f"{long}\n{long}".strip()),
            (4, "b"),
        ]

    def test_a_document_that_is_not_text_is_one_problem_with_its_row(self) -> None:
        content = b"a\n" + END.encode() + b"\nb\ncaf\xe9\n" + END.encode() + b"\nc\n"
        assert outcomes(records("a.txt", content, END)) == [(1, "a"), (4, "invalid UTF-8"), (6, "c")]

    def test_without_a_separator_in_sight_memory_is_bounded(self) -> None:
        packed = gzip.compress(b"words and words\n" * (MAX_LINE_BYTES // 16 + 10) + END.encode() + b"\nb\n", 1)
        found = records("a.txt.gz", packed, END)
        assert [reason for _, reason in outcomes(found)] == ["document too long", "b"]
        assert found[0].excerpt.startswith("words and words")

    def test_other_kinds_have_no_separators(self) -> None:
        assert outcomes(records("a.jsonl", b'{"a": 1}\n', END)) == [(1, {"a": 1})]


class TestArrays:
    @settings(max_examples=30)
    @given(
        values=st.lists(
            st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=200) | st.floats(allow_nan=False)),
            max_size=6,
        ),
        indent=st.sampled_from([None, 1]),
        ascii_only=st.booleans(),
        step=st.integers(1, 60),
    )
    def test_elements_come_back_however_the_bytes_arrive(
        self, values: list[Any], indent: int | None, ascii_only: bool, step: int
    ) -> None:
        class Dripping(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                return super().read(step)

        text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
        try:
            content = text.encode()
        except UnicodeEncodeError:  # hypothesis' lone surrogates can only be written as escapes
            content = json.dumps(values, indent=indent).encode()
        found = JsonText(Dripping(content[step:]), content[:step], 1, "a.json").elements()
        assert [value for value, _ in found] == values

    def test_a_long_array_is_read_in_the_memory_of_a_few_elements(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        elements = 80
        with path.open("w", encoding="utf-8") as file:
            file.write("[" + ",".join(json.dumps({"text": "x" * PIECE_BYTES}) for _ in range(elements)) + "]")
        tracemalloc.start()
        assert sum(1 for _ in read_records(path)) == elements
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < elements * PIECE_BYTES / 3

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b'[{"a": 1}', r"line 1: .*Expecting ',' delimiter"),
            (b'[{"a": 1},\n{"a": 2} {"a": 3}]', r"line 2: .*Expecting ',' delimiter"),
            (b'[{"a": 1}]\n\n[', "line 3: .*Extra data"),
            (b'[{"a": 1},\n]', "line 2: .*Expecting value"),
            (b'[\n\n{"a": "b', "line 3: .*Unterminated string"),
            (b'[\n{"a": "\xff"}]', "line 2: .*invalid UTF-8"),
            (b"[" * 100_000, "line 1: .*nested too deeply"),
            (b'[\n{"a": ' + b"9" * 5000 + b"}]", "line 2: .*digits"),
            (b'[{"a": "' + b"x" * (PIECE_BYTES * 2) + b'"},\n{"a" "b"}]', "line 2: .*Expecting ':'"),
        ],
    )
    def test_broken_json_is_reported_with_its_line(self, content: bytes, expected: str) -> None:
        with pytest.raises(ParakeetError, match=rf"a\.json, {expected}"):
            records("a.json", content)

    def test_one_lone_surrogate_costs_one_element(self) -> None:
        found = records("a.json", rb'[{"a": "\ud800"}, {"a": "b"}, 7]')
        assert outcomes(found) == [(1, "lone surrogate"), (2, {"a": "b"}), (3, "not a JSON object")]


def test_a_line_without_an_end_costs_one_record() -> None:
    packed = gzip.compress(b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}\n{"a": 2}\n', 1)
    found = records("a.jsonl.gz", packed)
    assert outcomes(found) == [(1, "line too long"), (2, {"a": 2})]


def test_a_large_row_group_is_read_in_the_memory_of_its_pages(tmp_path: Path) -> None:
    rows = 4000
    table = pa.table({"text": [f"{row:05d}" * 800 for row in range(rows)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows, use_dictionary=False, compression="none")
    assert (tmp_path / "a.parquet").stat().st_size > 16_000_000
    tracemalloc.start()
    assert sum(1 for _ in read_records(tmp_path / "a.parquet")) == rows
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


class TestPieces:
    @staticmethod
    def all_of(tasks: list[list[Piece]]) -> Iterator[tuple[str, int, Any]]:
        for pieces in tasks:
            for piece in pieces:
                yield from ((piece.name, record.row, record.value) for record in piece.records(None))

    @given(
        rows=st.lists(st.integers(0, 40), min_size=1, max_size=4),
        group=st.integers(1, 15),
        task_bytes=st.integers(1, 3000),
    )
    @settings(max_examples=30)
    def test_every_row_is_read_once_and_in_order(self, rows: list[int], group: int, task_bytes: int) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "b").mkdir()
            files = [folder / "b" / f"{number}.parquet" for number in range(len(rows))]
            for path, count in zip(files, rows, strict=True):
                table = pa.table({"text": pa.array([f"{path.stem} {row}" for row in range(count)], pa.string())})
                pq.write_table(table, path, row_group_size=group)
            found = list(self.all_of(divided(files, folder, task_bytes)))
            assert found == [
                (f"b/{path.name}", row + 1, {"text": f"{path.stem} {row}"})
                for path, count in zip(files, rows, strict=True)
                for row in range(count)
            ]

    def test_a_large_parquet_file_is_divided_and_small_files_are_read_together(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"n": list(range(9000))}), tmp_path / "large.parquet", row_group_size=1000)
        size = (tmp_path / "large.parquet").stat().st_size
        for name in ("x.txt", "y.txt"):
            (tmp_path / name).write_text("text")
        tasks = divided(sorted(tmp_path.iterdir()), tmp_path, size // 3 + 20)
        assert [[(p.name, p.groups, p.rows_before) for p in pieces] for pieces in tasks] == [
            [("large.parquet", (0, 2), 0)],
            [("large.parquet", (3, 5), 3000)],
            [("large.parquet", (6, 8), 6000), ("x.txt", None, 0), ("y.txt", None, 0)],
        ]

    def test_a_broken_parquet_file_is_left_to_its_task(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 1000)
        (task,) = divided([tmp_path / "a.parquet"], tmp_path, 100)
        with pytest.raises(ParakeetError, match=r"a\.parquet cannot be read beyond record 0"):
            list(task[0].records(None))
