"""The history of releases, and what is left of it after a power cut, a full disk or an edit."""

import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.release.history import ACTIONS, Decision, decision_on, decisions, history_file, record

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
FOLDERS = st.text("0123456789abcdef", min_size=16, max_size=16).map(lambda name: f"{name}-0")
DECISIONS = st.builds(
    Decision,
    action=st.sampled_from(ACTIONS),
    release=FOLDERS,
    content=st.text("0123456789abcdef", min_size=64, max_size=64),
    recipe=st.sampled_from(["demo", "notes", "a.b-c_d"]),
    previous=st.none() | FOLDERS,
    reasons=st.lists(TEXT, max_size=3).map(tuple),
    figures=st.dictionaries(TEXT, st.none() | st.integers() | st.floats(allow_nan=False) | TEXT, max_size=3),
    run=st.none() | TEXT,
    weights=st.none() | TEXT,
    time=TEXT,
)


def new_root(folder: Path) -> Path:
    root = folder / str(len(list(folder.iterdir())))
    root.mkdir()
    return root


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DECISIONS, min_size=1, max_size=4), st.data())
def test_what_was_recorded_is_read_in_the_order_of_the_lines(
    tmp_path: Path, made: list[Decision], data: st.DataObject
) -> None:
    """A line that a power cut tore, at whatever byte, is ignored and reported, and the next one is whole."""
    root = new_root(tmp_path)
    for decision in made:
        record(root, decision)
    assert decisions(root) == (made, [])
    assert decision_on(root, made[-1].release) == made[-1]
    file = history_file(root)
    content = file.read_bytes()
    whole = content.rfind(b"\n", 0, len(content) - 1) + 1
    kept = data.draw(st.integers(whole + 1, len(content) - 2))
    file.write_bytes(content[:kept] + data.draw(st.sampled_from([b"", b"\0" * 100])))
    found, (fault,) = decisions(root)
    assert found == made[:-1]
    assert f"line {len(made)} is torn" in fault
    record(root, made[-1])
    found, (fault,) = decisions(root)
    assert found == made
    assert f"line {len(made)} cannot be read" in fault


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"action": "promoted"}',
        b'{"action": "sold", "release": "a-0", "content": "c", "recipe": "demo", "time": "t"}',
        b'{"action": "promoted", "release": 7, "content": "c", "recipe": "demo", "time": "t"}',
        b'{"action": "promoted", "release": "../../etc", "content": "c", "recipe": "demo", "time": "t"}',
        b'{"action": "promoted", "release": "a-0", "content": "c", "recipe": "..", "time": "t"}',
        b'{"action": "promoted", "release": "a-0", "content": "c", "recipe": "demo", "time": "t", "previous": "x/y"}',
        b'{"action": "promoted", "release": "a-0", "content": "c", "recipe": "demo", "time": "t", "figures": 3}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_was_edited_hides_no_other(tmp_path: Path, line: bytes) -> None:
    first, last = (Decision("promoted", f"{n}-0", "c", "demo") for n in (1, 2))
    record(tmp_path, first)
    with history_file(tmp_path).open("ab") as file:
        file.write(line + b"\r\n\n")
    record(tmp_path, last)
    found, (fault,) = decisions(tmp_path)
    assert found == [first, last]
    assert f"{history_file(tmp_path)}, line 2 cannot be read" in fault


def test_a_key_of_a_later_parakeet_is_no_fault(tmp_path: Path) -> None:
    record(tmp_path, Decision("promoted", "1-0", "c", "demo"))
    file = history_file(tmp_path)
    values = json.loads(file.read_text(encoding="utf-8")) | {"weather": "fine"}
    file.write_text(json.dumps(values) + "\n", encoding="utf-8")
    assert len(decisions(tmp_path)[0]) == 1
    assert decisions(tmp_path)[1] == []


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_full_disk_leaves_the_history_as_it_was(tmp_path: Path, room: int) -> None:
    for number in range(5):
        record(tmp_path, Decision("promoted", f"{number}-0", "c" * 64, "demo"))
    file = history_file(tmp_path)
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, hard))
    try:
        with pytest.raises(ParakeetError, match=r"history\.jsonl\) while writing the history of releases"):
            record(tmp_path, Decision("refused", "9-0", "c" * 64, "demo"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before


def test_a_history_that_is_a_folder_is_one_message(tmp_path: Path) -> None:
    history_file(tmp_path).mkdir(parents=True)
    with pytest.raises(ParakeetError, match="Move that folder away"):
        decisions(tmp_path)
    with pytest.raises(ParakeetError, match="Move that folder away"):
        record(tmp_path, Decision("promoted", "1-0", "c", "demo"))
    assert os.listdir(history_file(tmp_path)) == []
