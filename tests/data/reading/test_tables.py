"""CSV, Arrow and Parquet: values come back, columns that hold no text are left out, and memory is bounded."""

import csv
import io
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.reading.csv_records import read_csv
from parakeet.data.reading.records import Record
from parakeet.data.reading.tables import read_arrow, read_row_groups
from parakeet.errors import ParakeetError

MIB = 1 << 20


def outcomes(records: Any) -> list[Any]:
    return [record.problem.reason if record.problem else record.value for record in records]


def csv_records(content: str | bytes, delimiter: str | None = ",") -> list[Record]:
    stream = io.BufferedReader(io.BytesIO(content.encode() if isinstance(content, str) else content))  # type: ignore[arg-type]
    found = list(read_csv(stream, delimiter, "a.csv"))
    assert not stream.closed
    return found


VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


class TestCsv:
    @settings(max_examples=80)
    @given(
        rows=st.lists(st.tuples(VALUES, VALUES), max_size=8),
        delimiter=st.sampled_from([",", ";", "\t", "|"]),
        end=st.sampled_from(["\n", "\r\n"]),
        quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        mark=st.sampled_from(["", "\ufeff", "sep={}\n"]),
    )
    def test_what_was_written_comes_back(
        self, rows: list[tuple[str, str]], delimiter: str, end: str, quoting: int, mark: str
    ) -> None:
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
        # Spaces at the beginning of a value are lost: others write them before quotes.
        rows = [(first.lstrip(" "), second.lstrip(" ")) for first, second in rows]
        writer.writerows([("question", "answer"), *rows])
        found = outcomes(csv_records(mark.format(delimiter) + out.getvalue(), None))
        assert found == [{"question": one or None, "answer": two or None} for one, two in rows]

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ('text,n\n"a\n\nb""c",1\n\nd,2\n', [(2, 'a\n\nb"c'), (6, "d")]),
            ("text;n\nä, b;1\n", [(2, "ä, b")]),
            ("text\tn\na, b\t1\n", [(2, "a, b")]),
            ("sep=;\r\ntext;n\r\na;1\r\n", [(3, "a")]),
            ("text,n\ra,1\rb,2\r", [(2, "a"), (3, "b")]),
            ("\n\ntext , n\na,1", [(4, "a")]),
            ('text, n\n"a, b", 1\n', [(2, "a, b")]),
            ('n, text\n1, "a, b"\n', [(2, "a, b")]),
            # Backslashes before quotes
            ('text,n\n"He said \\"hi, you\\" to\nme",1\nb,2\n', [(2, 'He said "hi, you" to\nme'), (4, "b")]),
            # Quotes that mean nothing
            ('text\tn\n"Hi\t1\nHo."\t2\n"a" b\t3\nc "d\t4\n', [(2, '"Hi'), (3, 'Ho."'), (4, '"a" b'), (5, 'c "d')]),
            ('text,n\n5" pipe,1\n"open,2\nnext,3\n', [(2, '5" pipe'), (3, '"open'), (4, "next")]),
            ('text\tn\n"a\nb"\t1\n', [(2, "a\nb")]),
            ('n\ttext\n1\t"a ""b""\nc"\n2\td\n', [(2, 'a "b"\nc'), (4, "d")]),
            ('n\ttext\n1\t"a\n2\tb"\n', [(2, '"a'), (3, 'b"')]),
            # A table of one column needs no quotes
            ('text\na, b\n"c, d"\ne, "f"\n', [(2, "a, b"), (3, "c, d"), (4, 'e, "f"')]),
            ("text,n\na,1,\nb,2,,\n", [(2, "a"), (3, "b")]),
            # Problems of one record
            ("text,n\na,1,2\nb\nc,3\n", [(2, "wrong number of values"), (3, "wrong number of values"), (4, "c")]),
            ('text,n\n"a" b "c\nd,4\n', [(2, "broken quotes"), (3, "d")]),
            (b"text,n\ncaf\xe9,1\nb,2\n", [(2, "invalid UTF-8"), (3, "b")]),
            ("text,n\na\0b,1\n", [(2, "a\0b")]),
            ("text,n\n,1\n", [(2, None)]),
            ("text\n\na\n \n", [(3, "a")]),
            ("text,n\n", []),
            ("", []),
            (" \n\n", []),
        ],
    )
    def test_rows_are_the_lines_where_records_begin(self, content: str | bytes, expected: list[Any]) -> None:
        found = [(one.row, one.problem.reason if one.problem else one.value["text"]) for one in csv_records(content)]  # type: ignore[call-overload,index]
        assert found == expected

    def test_columns_without_a_name_of_their_own_get_their_number(self) -> None:
        assert outcomes(csv_records(",text,text\n0,a,b\n")) == [
            {"(column 1)": "0", "text": "a", "text (column 3)": "b"}
        ]

    @pytest.mark.parametrize("header", ["a" * 600 + ",b", ",,", '"a\nb",c', "a\0b,c", "x" * (65 * MIB)])
    def test_a_first_line_that_names_nothing_is_refused(self, header: str) -> None:
        with pytest.raises(ParakeetError, match=r"a\.csv: the first line does not name the columns"):
            csv_records(f"{header}\n1,2\n")

    @pytest.mark.parametrize("long", ["x" * (64 * MIB) + ",1", "," * 5_000_000])
    def test_a_line_that_is_too_long_costs_one_record(self, long: str) -> None:
        assert outcomes(csv_records(f"text,n\n{long}\na,1\n")) == ["line too long", {"text": "a", "n": "1"}]

    def test_a_quote_that_is_never_closed_costs_one_record_and_no_time(self) -> None:
        lines = "".join(f"word {number},2\n" for number in range(20_000))
        found = outcomes(csv_records(f'text,n\n"open\n{lines}'))
        assert found[0] == "broken quotes"
        assert found[1:] == [{"text": f"word {number}", "n": "2"} for number in range(20_000)]

    def test_quotes_that_never_pair_end_the_file(self) -> None:
        with pytest.raises(ParakeetError, match=r"a\.csv, line \d+: the quotes from here on do not pair"):
            csv_records("text,n\n" + 'a","b\n' * 400_000)


def stream_of(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=100)
    return out.getvalue()


def file_of(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=100)
    return out.getvalue()


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def arrow(content: bytes) -> list[Record]:
    return list(read_arrow(io.BytesIO(content), "a.arrow"))


def parquet(content: bytes) -> list[Record]:
    return list(read_row_groups(io.BytesIO(content), where="a.parquet"))


Way = tuple[Callable[..., bytes], Callable[[bytes], list[Record]]]
WAYS = [(stream_of, arrow), (file_of, arrow), (parquet_of, parquet)]


class TestArrow:
    @pytest.mark.parametrize("write", [stream_of, file_of])
    @pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
    def test_all_batches_are_read(self, write: Callable[..., bytes], compression: str | None) -> None:
        texts = [f"text {number}" if number % 9 else None for number in range(450)]
        found = arrow(write(pa.table({"text": texts}), compression=compression))
        assert [(one.row, one.value) for one in found] == [(row, {"text": text}) for row, text in enumerate(texts, 1)]

    def test_polars_and_pandas_types(self) -> None:
        """Views are what Polars writes, dictionaries what pandas makes of categories."""
        texts = ["a", None, "a text of more than twelve bytes"] * 200
        table = pa.table(
            {
                "view": pa.array(texts, pa.string_view()),
                "large": pa.array(texts, pa.large_string()),
                "category": pa.array(texts).dictionary_encode(),
                "runs": pa.RunEndEncodedArray.from_arrays([len(texts)], ["a"]),
                "turns": pa.array([[{"role": "user", "content": text}] for text in texts]),
                "views": pa.array([[text] for text in texts], pa.large_list(pa.string_view())),
            }
        )
        assert outcomes(arrow(stream_of(table))) == [
            {
                **dict.fromkeys(("view", "large", "category"), text),
                "runs": "a",
                "turns": [{"role": "user", "content": text}],
                "views": [text],
            }
            for text in texts
        ]

    @pytest.mark.parametrize("cut", [1, 7, 8, 9, 500])
    def test_a_stream_that_is_cut_off_is_no_whole_one(self, cut: int) -> None:
        content = stream_of(pa.table({"text": ["a"] * 300}))
        with pytest.raises((ParakeetError, pa.ArrowException, OSError)):
            arrow(content[:-cut])

    def test_data_after_the_end_is_not_lost_silently(self) -> None:
        content = stream_of(pa.table({"text": ["a"] * 300}))
        with pytest.raises(ParakeetError, match=r"more than one stream: .* after 300 records"):
            arrow(content * 2)

    def test_the_first_feather_is_named(self) -> None:
        with pytest.raises(ParakeetError, match=r"a\.arrow is of version 1 of Feather"):
            arrow(b"FEA1" + bytes(100))

    def test_texts_that_are_not_utf8_cost_their_records(self) -> None:
        values = [b"a", b"caf\xe9", b"b", None] * 100
        binary = pa.array(values, pa.binary())
        table = pa.table({"text": pa.Array.from_buffers(pa.string(), len(values), binary.buffers(), binary.null_count)})
        expected = [{"text": "a"}, "invalid UTF-8", {"text": "b"}, {"text": None}] * 100
        assert outcomes(arrow(stream_of(table))) == expected
        assert outcomes(parquet(parquet_of(table))) == expected

    def test_wrong_offsets_cost_their_records(self) -> None:
        good = stream_of(pa.table({"text": ["abcd"] * 3}))
        offsets = b"".join(number.to_bytes(4, "little") for number in (0, 4, 8, 12))
        wrong = b"".join(number.to_bytes(4, "little") for number in (0, 4, 2_000_000_000, 12))
        assert good.count(offsets) == 1
        found = outcomes(arrow(good.replace(offsets, wrong)))
        assert found == [{"text": "abcd"}, "unreadable value", "unreadable value"]


NS = pa.timestamp("ns")


@pytest.mark.parametrize("way", WAYS)
class TestTypes:
    """What stands beside a text in published tables."""

    @pytest.mark.parametrize(
        ("column", "expected"),
        [
            (pa.array([1], NS), None),
            (pa.array([2**60], pa.timestamp("us")), None),
            (pa.array([1], pa.duration("ns")), None),
            (pa.array([1], pa.time64("ns")), None),
            (pa.array([{"at": 1, "by": "me"}], pa.struct([("at", NS), ("by", pa.string())])), {"by": "me"}),
            (pa.array([{"at": 1}], pa.struct([("at", NS)])), None),
            (pa.array([[1, 2]], pa.list_(NS)), None),
            (
                pa.array([[{"at": 1, "by": ["me"]}]], pa.list_(pa.struct([("at", NS), ("by", pa.list_(pa.string()))]))),
                [{"by": ["me"]}],
            ),
            (
                pa.array(
                    [{"in": {"at": 2**60, "n": 1}}],
                    pa.struct([("in", pa.struct([("at", pa.timestamp("ms")), ("n", pa.int8())]))]),
                ),
                {"in": {"n": 1}},
            ),
            (pa.array([[("a", 1)]], pa.map_(pa.string(), NS)), None),
            (pa.array([Decimal("1.50")], pa.decimal128(38, 2)), "1.50"),
            (pa.array([{"price": Decimal("1.50")}], pa.struct([("price", pa.decimal128(9, 2))])), {"price": "1.50"}),
            (
                pa.array([[("role", "user"), ("content", "Hi")]], pa.map_(pa.string(), pa.string())),
                {"role": "user", "content": "Hi"},
            ),
            (
                pa.array([[[("role", "user")], [("role", "gpt")]]], pa.list_(pa.map_(pa.string(), pa.string()))),
                [{"role": "user"}, {"role": "gpt"}],
            ),
            (pa.array(["Grüße".encode()], pa.binary()), "Grüße"),
            (pa.array([b"\xff\xd8\xff"], pa.binary()), b"\xff\xd8\xff"),
            (pa.array([1.5], pa.float64()), 1.5),
            (pa.array([True]), True),
            (pa.nulls(1), None),
        ],
    )
    def test_a_column(self, way: Way, column: pa.Array, expected: Any) -> None:
        write, read = way
        (record,) = outcomes(read(write(pa.table({"text": ["a"], "x": column}))))
        assert record.pop("text") == "a"
        assert record.get("x") == expected

    def test_a_key_twice_in_a_map_costs_its_record(self, way: Way) -> None:
        write, read = way
        maps = pa.array([[("a", "1")], [("a", "1"), ("a", "2")]], pa.map_(pa.string(), pa.string()))
        assert outcomes(read(write(pa.table({"x": maps})))) == [{"x": {"a": "1"}}, "unreadable value"]

    def test_rows_without_any_column_that_is_read_are_records(self, way: Way) -> None:
        write, read = way
        assert outcomes(read(write(pa.table({"at": pa.array([1, 2, 3], NS)})))) == [{}, {}, {}]

    def test_two_columns_of_one_name(self, way: Way) -> None:
        write, read = way
        table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
        assert outcomes(read(write(table))) == [{"text": "a", "text (column 2)": "b"}]

    @settings(max_examples=25)
    @given(data=st.data())
    def test_values_come_back(self, way: Way, data: st.DataObject) -> None:
        write, read = way
        kinds = st.recursive(
            st.sampled_from([pa.string(), pa.int64(), pa.bool_(), NS, pa.large_string()]),
            lambda inner: inner.map(pa.list_) | inner.map(lambda kind: pa.struct([("a", kind), ("b", NS)])),
            max_leaves=3,
        )
        kind = data.draw(kinds)
        values = data.draw(st.lists(values_of(kind), max_size=5))
        found = outcomes(read(write(pa.table({"n": list(range(len(values))), "x": pa.array(values, kind)}))))
        expected = [{"n": number, "x": without_times(value)} for number, value in enumerate(values)]
        if without_times(kind) is None:
            expected = [{"n": row["n"]} for row in expected]
        assert found == expected


def values_of(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return st.none() | st.lists(values_of(kind.value_type), max_size=3)
    if pa.types.is_struct(kind):
        return st.none() | st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    if kind == NS:
        return st.just(datetime(2020, 1, 1) + timedelta(seconds=1))
    return st.none() | {pa.int64(): st.integers(-5, 5), pa.bool_(): st.booleans()}.get(kind, st.text(max_size=5))


def without_times(value: Any) -> Any:
    """A value or a type without times; None if nothing remains."""
    if isinstance(value, pa.DataType):
        if pa.types.is_list(value):
            return without_times(value.value_type)
        if pa.types.is_struct(value):
            return next((field for field in value if without_times(field.type) is not None), None)
        return None if value == NS else value
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name != "b" and item is not ...}
    return [without_times(item) for item in value] if isinstance(value, list) else value
