"""JSON files: which records they hold, whatever their layout and however their bytes arrive."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.data.reading.json_records import read_json, read_jsonl
from parakeet.data.reading.json_values import JsonText
from parakeet.data.reading.records import Record
from parakeet.errors import ParakeetError

TURNS = [{"role": "user", "content": 'Hi, “you” \\ "there"'}, {"role": "assistant", "content": "[{Hello}]"}]
OTHER_TURNS = [{"from": "human", "value": "What?\n"}, {"from": "gpt", "value": "That."}]
RECORDS = [{"text": "one, {two}"}, {"text": "three"}, {"text": 'f"our\\'}]


def found(content: str | bytes, has_lines: bool = False) -> list[Any]:
    """The values of the records, or their problems."""
    return [one.problem.reason if one.problem else one.value for one in records(content, has_lines)]


def records(content: str | bytes, has_lines: bool = False) -> list[Record]:
    stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
    return list((read_jsonl if has_lines else read_json)(stream, "a.json"))


def by_lines(*values: Any) -> str:
    return "".join(f"{json.dumps(value)}\n" for value in values)


def with_ids(values: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{"id": name, **value} for name, value in zip(names, values, strict=True)]


class TestLayouts:
    """Each value as one line, indented, with a line for each element, and under either ending."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (RECORDS, RECORDS),
            ([TURNS, OTHER_TURNS], [TURNS, OTHER_TURNS]),
            ([["Hi", "Hello"], ["What?", "That."]], [["Hi", "Hello"], ["What?", "That."]]),
            (TURNS, [TURNS]),
            (OTHER_TURNS, [OTHER_TURNS]),
            ([*TURNS, {"text": "a"}], [*TURNS, {"text": "a"}]),
            ([{**turn, "conversation": 7} for turn in TURNS], [{**turn, "conversation": 7} for turn in TURNS]),
            ({"data": RECORDS}, RECORDS),
            ({"version": "1.1", "Data": RECORDS, "licence": {"name": "MIT"}, "tags": ["a"]}, RECORDS),
            ({"licences": [], "rows": [TURNS, OTHER_TURNS]}, [TURNS, OTHER_TURNS]),
            ({"anything": RECORDS}, RECORDS),
            ({"train": RECORDS[:1], "test": RECORDS[1:]}, RECORDS),
            ({"en": RECORDS[:1], "fr": RECORDS[1:]}, RECORDS),
            ({"a1": RECORDS[0], "a2": RECORDS[1]}, with_ids(RECORDS[:2], "a1", "a2")),
            ({"a1": {"id": 5, "text": "a"}, "a2": RECORDS[1]}, [{"id": 5, "text": "a"}, {"id": "a2", **RECORDS[1]}]),
            ({"v": 1, "data": {"train": RECORDS[:1], "test": RECORDS[1:]}}, RECORDS),
            ({"v": 1, "data": {"a1": RECORDS[0], "a2": RECORDS[1]}}, with_ids(RECORDS[:2], "a1", "a2")),
            ({"a1": TURNS, "a2": OTHER_TURNS, "a3": []}, [TURNS, OTHER_TURNS, []]),
            ({"train": {"a1": TURNS}, "test": {"a2": OTHER_TURNS}}, [TURNS, OTHER_TURNS]),
            # pandas' orient="table" and orient="split"
            ({"schema": {"fields": [{"name": "text"}]}, "data": RECORDS}, RECORDS),
            (
                {"columns": ["text", "n"], "index": [0, 1], "data": [["a", 1], ["b", 2]]},
                [{"text": "a", "n": 1}, {"text": "b", "n": 2}],
            ),
            # One record
            ({"text": "a"}, [{"text": "a"}]),
            ({"messages": TURNS}, [{"messages": TURNS}]),
            (
                {"id": 3, "conversations": OTHER_TURNS, "data": RECORDS},
                [{"id": 3, "conversations": OTHER_TURNS, "data": RECORDS}],
            ),
            ({"chosen": TURNS, "rejected": OTHER_TURNS}, [{"chosen": TURNS, "rejected": OTHER_TURNS}]),
            ({"id": 3, "spoken": [{"who": "A", "what": "b"}]}, [{"id": 3, "spoken": [{"who": "A", "what": "b"}]}]),
            ({"id": 3, "spoken": TURNS}, [{"id": 3, "spoken": TURNS}]),
            ({"id": 3, "data": ["Hi", "Hello"]}, [{"id": 3, "data": ["Hi", "Hello"]}]),
            (
                {"meta": {"a": 1}, "more": {"b": 2}, "passage": "text"},
                [{"meta": {"a": 1}, "more": {"b": 2}, "passage": "text"}],
            ),
            ({"data": {}, "x": 1}, [{"data": {}, "x": 1}]),
            ({"data": {"a": 1}, "x": 1}, [{"data": {"a": 1}, "x": 1}]),
            ({}, [{}]),
            ([], []),
        ],
    )
    @pytest.mark.parametrize("has_lines", [False, True])
    def test_records_are_found(self, value: Any, expected: list[Any], has_lines: bool) -> None:
        assert found(json.dumps(value), has_lines) == expected
        assert found(f"\n \n{json.dumps(value)}\n\n", has_lines) == expected
        assert found(json.dumps(value, indent=1), has_lines) == expected
        assert found(json.dumps(value, separators=(",\n", ":\n")), has_lines) == expected
        assert found(json.dumps(value, separators=("\n,", ": ")), has_lines) == expected

    @pytest.mark.parametrize("has_lines", [False, True])
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (by_lines(*RECORDS), RECORDS),
            (by_lines(RECORDS[0]) + "\n \n" + by_lines(*RECORDS[1:]), RECORDS),
            (by_lines(TURNS, OTHER_TURNS), [TURNS, OTHER_TURNS]),
            (by_lines(RECORDS[0], TURNS), [RECORDS[0], TURNS]),
            # Two lines or more are never records one level down: these are UltraChat's and others' records.
            (
                by_lines({"data": ["Hi", "Hello"]}, {"data": ["What?", "That."]}),
                [{"data": ["Hi", "Hello"]}, {"data": ["What?", "That."]}],
            ),
            (by_lines({"data": RECORDS}, {"data": []}), [{"data": RECORDS}, {"data": []}]),
            ("".join(json.dumps(record, indent=1) + "\n" for record in RECORDS), RECORDS),
            ('{"text": "cut of\n' + by_lines(*RECORDS), ["broken JSON", *RECORDS]),
            ('{"text": "cut off",\n' + by_lines(*RECORDS), ["broken JSON", *RECORDS]),
            ('[{"role": "user"\n' + by_lines(TURNS), ["broken JSON", TURNS]),
            (by_lines(RECORDS[0], 7, "a", None, TURNS), [RECORDS[0], *["not a JSON object"] * 3, TURNS]),
            (
                by_lines([{"role": "user", "content": "x" * 200_000}, TURNS[1]], TURNS),
                [[{"role": "user", "content": "x" * 200_000}, TURNS[1]], TURNS],
            ),
            ('{"text": NaN}\n{"text": 1e999}\n{"n": ' + "9" * 400 + "}\n", None),
        ],
    )
    def test_lines_stay_lines(self, content: str, expected: list[Any] | None, has_lines: bool) -> None:
        if expected is None:
            expected = [json.loads(line) for line in content.splitlines()]
        assert str(found(content, has_lines)) == str(expected)

    def test_marks_of_files_that_were_joined(self) -> None:
        assert found("".join("\ufeff" + json.dumps(record) + "\n" for record in RECORDS), has_lines=True) == RECORDS

    def test_rows_are_lines_or_positions(self) -> None:
        assert [one.row for one in records("\n" + by_lines(TURNS) + "\n\n" + by_lines(TURNS, 7), True)] == [2, 5, 6]
        assert [one.row for one in records(json.dumps({"v": 1, "data": RECORDS}, indent=1))] == [1, 2, 3]

    @pytest.mark.parametrize("content", ['{"text": }', '"text": "a"', "Hello", '{"text": "a"} x', "[1, 2}"])
    def test_a_broken_line_is_one_record_of_a_jsonl_file_and_the_end_of_a_json_file(self, content: str) -> None:
        assert found(f"{content}\n", has_lines=True) == ["broken JSON"]
        with pytest.raises(ParakeetError, match=r"a\.json, line 1: neither an array"):
            found(content)

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            ('{\n"data": [\n{"text": "a"},\n{"text" "b"}]}', "line 4: .*Expecting ':'"),
            ('{\n"data": [{"text": "a"}\n', "line 3: .*Expecting ',' delimiter"),
            ('{\n"data" [', "line 2: .*Expecting ':'"),
            ('{\n"a": 1,\n}', "line 3: .*property name"),
            ("{\n5: 1}", "line 2: .*property name"),
            ('{\n"a": 1\n}\n[', "line 4: .*Extra data"),
            ('{\n"a": {"b": 1}\n', "line 3: .*Expecting ',' delimiter"),
        ],
    )
    def test_a_broken_object_is_reported_with_its_line(self, content: str, complaint: str) -> None:
        with pytest.raises(ParakeetError, match=complaint):
            found(content)

    def test_lone_surrogates_cost_their_records(self) -> None:
        assert found('{"data": [{"text": "\\ud800"}, {"text": "\\ud83d\\ude00"}]}') == [
            "lone surrogate",
            {"text": "😀"},
        ]
        assert found('{"text": "a",\n"more": "\\udfff"}') == ["lone surrogate"]
        assert found('["\\ud800"]\n["a"]\n') == ["lone surrogate", ["a"]]


class Dripping(io.BytesIO):
    def __init__(self, content: bytes, step: int) -> None:
        super().__init__(content)
        self.step = step

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.step)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(
    members=st.dictionaries(NAMES | st.sampled_from(["data", "train", "rows"]), JSON, max_size=4),
    column=st.sampled_from(["text", "question", "input"]),
    indent=st.sampled_from([None, 1]),
    step=st.integers(1, 40),
)
def test_an_object_with_a_known_column_is_what_json_says(
    members: dict[str, Any], column: str, indent: int | None, step: int
) -> None:
    value = {**members, column: "a"}
    content = json.dumps(value, indent=indent).encode()
    assert [one for one, _ in JsonText(Dripping(content[step:], step), content[:step], 1, "a").elements()] == [value]


@settings(max_examples=40)
@given(
    records=st.lists(st.dictionaries(NAMES, JSON, max_size=3), min_size=1, max_size=5),
    way=st.sampled_from(["array", "data", "other name", "ids", "data by ids", "two lists", "one after another"]),
    indent=st.sampled_from([None, 1]),
    step=st.integers(1, 40),
)
def test_records_come_back_from_wherever_they_are(records: list[Any], way: str, indent: int | None, step: int) -> None:
    ids = {f"#{number}": record for number, record in enumerate(records)}
    if "ids" in way:
        records = [{"id": name, **record} for name, record in ids.items()]
    if way == "one after another":
        records = [{"text": "a", **record} for record in records]
    content = {
        "array": [records],
        "data": [{"n": 1, "data": records, "m": None}],
        "other name": [{"mine": records}],
        "ids": [ids],
        "data by ids": [{"n": [1], "data": ids}],
        "two lists": [{"one": records[:1], "two": records[1:]}],
        "one after another": records,
    }[way]
    text = "\n".join(json.dumps(value, indent=indent) for value in content).encode()
    assert [one for one, _ in JsonText(Dripping(text[step:], step), text[:step], 1, "a").elements()] == records


@pytest.mark.parametrize("way", ["array", "data", "ids", "data by ids", "conversations by ids"])
def test_long_files_are_read_in_the_memory_of_a_few_records(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.json"
    count, long = 80, "x" * (300 << 10)
    record = json.dumps([{"role": "user", "content": long}] if "conversations" in way else {"note": long})
    begin, end = {"array": "[]", "data": ('{"data": [', "]}"), "data by ids": ('{"data": {', "}}")}.get(way, "{}")
    key = '"#{}": ' if "ids" in way else ""
    with path.open("w", encoding="utf-8") as file:
        file.write(begin + "\n" + ",".join(key.format(number) + record for number in range(count)) + end)
    tracemalloc.start()
    with path.open("rb") as stream:
        assert sum(1 for _ in read_json(stream, "a.json")) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Of an object, 8 MiB are held until it is known what they are.
    assert peak < (5 if way == "array" else 14) << 20


@pytest.mark.parametrize("has_lines", [False, True])
def test_a_line_of_millions_of_values_is_refused_before_it_is_parsed(has_lines: bool) -> None:
    content = b'{"a": 1}\n{"a": [' + b"5," * 4_200_000 + b"5]}\n"
    tracemalloc.start()
    assert found(content, has_lines) == [{"a": 1}, "record too long"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 << 20


def test_an_element_of_millions_of_values_ends_the_file() -> None:
    with pytest.raises(ParakeetError, match=r"line 1: .*more than 4,194,304 values"):
        found(b'[{"a": [' + b"5," * 4_200_000 + b"5]}]")


def test_an_object_on_one_line_is_read_element_by_element() -> None:
    """Its values are not counted together. (40 MB by id took ten minutes, since all that follows was counted.)"""
    few = b'{"a": [' + b"5," * 43_000 + b"5]}"
    line = b"{" + b",".join(b'"#%d": %b' % (number, few) for number in range(100)) + b"}"
    assert len(found(line)) == 100
