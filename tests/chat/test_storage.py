import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.chat.events import fold
from parakeet.chat.storage import MAX_LINE_BYTES, SessionLog, list_sessions, load, session_path, sessions_folder
from parakeet.errors import ParakeetError

from ..conftest import without_root_rights

HEADER = {"model": "tiny", "model_sha256": "aa", "tokenizer_sha256": "bb", "dtype": "fp32"}
SETTINGS = {"temperature": 0.5, "stop": ["a", "b"]}


def reply(message: str = "One?", text: str = "yes", kind: str = "reply", **changes: Any) -> dict[str, Any]:
    spoken = {"reply": text, "seed": 1, "tokens": 2, "finish_reason": "stop", "dropped": 0, "settings": SETTINGS}
    said = {} if kind == "continue" else {"message": message}
    return {"event": kind, **said, **spoken, "time": "2026-01-01T00:00:00+00:00", **changes}


STORY = [
    {"event": "system", "content": "Be brief: é🦜"},
    reply("One?", "yes\n"),
    reply("One?", "no", kind="retry"),
    reply(text=" more", kind="continue"),
    reply("Two?", "two"),
    reply("Zwei?", "zwei", kind="edit"),
    {"event": "model", **HEADER, "dtype": "bf16"},
    {"event": "undo"},
    {"event": "clear"},
    reply("\u202eThree?", "\x1b[31m"),
]


def written(path: Path, *events: dict[str, Any]) -> Path:
    log = SessionLog.create(path, HEADER)
    log.append(*events)
    log.close()
    return path


def test_what_is_appended_can_be_loaded(tmp_path: Path) -> None:
    log = SessionLog.create(tmp_path / "talk.jsonl", HEADER)
    for event in STORY:
        log.append(event)
    loaded = load(log.path)
    assert (loaded.events, loaded.notes) == (STORY, [])
    assert loaded.header == {"schema": 1, "kind": "parakeet session", "created": loaded.header["created"], **HEADER}
    assert list(json.loads(log.path.read_bytes().splitlines()[0]))[:2] == ["schema", "kind"]
    assert loaded.identity["dtype"] == "bf16"


def test_events_fold_to_a_conversation() -> None:
    conversation = fold(STORY[:6])
    assert conversation.system == "Be brief: é🦜"
    assert [(e.message, e.reply, e.tokens) for e in conversation.exchanges] == [
        ("One?", "no more", 4),
        ("Zwei?", "zwei", 2),
    ]
    assert [exchange.message for exchange in fold(STORY[:8]).exchanges] == ["One?"]
    assert fold(STORY[:9]).exchanges == []


def test_files_and_folder_are_the_owners_alone_from_the_beginning(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = session_path(tmp_path, "talk")
        written(path, *STORY)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(sessions_folder(tmp_path).stat().st_mode) == 0o700
    assert [entry.name for entry in sessions_folder(tmp_path).iterdir()] == ["talk.jsonl"]


def test_a_file_that_others_could_read_is_closed_to_them_when_it_is_gone_on_in(tmp_path: Path) -> None:
    path = written(tmp_path / "talk.jsonl", *STORY)
    path.chmod(0o644)
    load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    log = SessionLog.open(path, HEADER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert log.notes == [f"{path} was readable by others (mode 0644); now only you can read it."]


def test_a_file_cut_off_at_any_byte_loads_to_what_was_whole(tmp_path: Path) -> None:
    whole = written(tmp_path / "talk.jsonl", *STORY).read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "cut.jsonl"
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        loaded = load(path)
        # A line that only lacks its newline is whole.
        lines = sum(end - 1 <= n_bytes for end in ends)
        assert loaded.events == STORY[: max(0, lines - 1)]
        assert bool(loaded.header) == (lines > 0)
        assert len(loaded.notes) == (n_bytes == 0 or n_bytes not in [*ends, *(end - 1 for end in ends)])


@pytest.mark.parametrize("cut", [0, 5, 60, "in the last line", "before the last newline", "nowhere"])
def test_a_file_that_was_cut_off_can_be_gone_on_in(tmp_path: Path, cut: int | str) -> None:
    path = written(tmp_path / "talk.jsonl", *STORY)
    n_bytes = {"in the last line": -20, "before the last newline": -1, "nowhere": None}.get(str(cut), cut)
    path.write_bytes(path.read_bytes()[:n_bytes])
    kept = load(path).events
    log = SessionLog.open(path, {**HEADER, "dtype": "bf16"})
    log.append(reply("Four?"))
    loaded = load(path)
    assert (loaded.events, loaded.notes) == ([*kept, reply("Four?")], [])
    assert loaded.header["kind"] == "parakeet session"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[1]", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"event": "reply", "tokens": ' + b"9" * 5000 + b"}", "damaged"),
        (b"{}", "'None' is not an event"),
        (b'{"event": ["x"]}', "is not an event"),
        (b'{"event": "shutdown"}', "'shutdown' is not an event"),
        (b'{"event": "system"}', "'system' needs text as 'content'"),
        (b'{"event": "system", "content": 5}', "'system' needs text as 'content'"),
        (json.dumps(reply(tokens=-1)).encode(), "'reply' needs a whole number from 0 as 'tokens'"),
        (json.dumps(reply(seed=True)).encode(), "'reply' needs a whole number from 0 as 'seed'"),
        (json.dumps(reply(settings=[])).encode(), "'reply' needs an object as 'settings'"),
        (json.dumps(reply(reply=None)).encode(), "'reply' needs text as 'reply'"),
        (b'{"event": "undo"}', "the event 'undo' changes an exchange, but there is none"),
        (json.dumps(reply(kind="continue")).encode(), "the event 'continue' changes an exchange"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    path = written(tmp_path / "talk.jsonl", STORY[0], reply())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + line + b"\n" + lines[2])
    with pytest.raises(ParakeetError, match=rf"talk\.jsonl, line 3: .*{problem}"):
        load(path)
    with pytest.raises(ParakeetError, match="line 3"):
        SessionLog.open(path, HEADER)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\n", "not a session"),
        (b"\x00" * 100, "not a session"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a session"),
        (b"Once upon a time", "not a session"),
        (b'{"event": "undo"}\n', "not a session"),
        (b'{"schema": 1, "kind": "something else"}\n', "not a session"),
        (b'{"schema": 2, "kind": "parakeet session"}\n', "schema 2, but this version of Parakeet reads schema 1"),
        (b'{"schema": "\\u001b[31m", "kind": "parakeet session"}\n', "has schema"),
        (b'{"kind": "parakeet session"}\n', "schema None"),
        ("{}".encode("utf-16"), "not a session"),
    ],
)
def test_what_is_no_session_is_refused_and_left_alone(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_bytes(content)
    with pytest.raises(ParakeetError, match=rf"talk\.jsonl, line 1: .*{problem}"):
        SessionLog.open(path, HEADER)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("beginning", [b"", b'{"schema": 1, "kind": "parakeet session"}\n'])
def test_a_line_without_an_end_is_refused(tmp_path: Path, beginning: bytes) -> None:
    path = tmp_path / "talk.jsonl"
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(MAX_LINE_BYTES + 1_000_000_000)  # a hole: it takes no disk
    with pytest.raises(ParakeetError, match=rf"line {2 if beginning else 1}: it is over 64 MiB long"):
        load(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "folder", "x" * 300, "a\x00b", "pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for read in (load, lambda path: SessionLog.open(path, HEADER)):
        with pytest.raises(ParakeetError, match=r"does not exist|is not a file|cannot be read"):
            read(tmp_path / name)


def test_a_new_session_never_replaces_one(tmp_path: Path) -> None:
    path = written(tmp_path / "talk.jsonl", *STORY)
    (tmp_path / "link.jsonl").symlink_to("nowhere")
    for taken in (path, tmp_path / "link.jsonl"):
        with pytest.raises(ParakeetError, match="already exists"):
            SessionLog.create(taken, HEADER)
    assert load(path).events == STORY


@pytest.mark.parametrize("begun", [True, False])
def test_in_a_folder_that_is_read_only_a_session_loads_and_cannot_be_written(tmp_path: Path, begun: bool) -> None:
    path = tmp_path / "talk.jsonl"
    if begun:
        written(path, *STORY).chmod(0o400)
    tmp_path.chmod(0o500)
    code = (
        "import sys; from pathlib import Path; from parakeet.chat.storage import SessionLog\n"
        "path = Path(sys.argv[1])\n"
        "log = (SessionLog.open if path.exists() else SessionLog.create)(path, {})\n"
        "print(len(log.events), log.begun)\n"
        "try: log.append({'event': 'undo'})\n"
        "except OSError as error: print(error.strerror)"
    )
    command = [*without_root_rights(), sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    tmp_path.chmod(0o700)
    assert (done.stdout, done.stderr) == (f"{len(STORY) if begun else 0} {begun}\nPermission denied\n", "")


def hold(path: Path) -> subprocess.Popen[str]:
    """A process that has the session open."""
    code = (
        "import sys; from pathlib import Path; from parakeet.chat.storage import SessionLog\n"
        "path = Path(sys.argv[1])\n"
        "log = (SessionLog.open if path.exists() else SessionLog.create)(path, {})\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("begun", [True, False])
def test_two_processes_cannot_hold_the_same_session(tmp_path: Path, begun: bool) -> None:
    path = tmp_path / "talk.jsonl"
    if begun:
        written(path, *STORY)
    with hold(path) as other:
        with pytest.raises(ParakeetError, match="open in another parakeet chat"):
            (SessionLog.open if begun else SessionLog.create)(path, HEADER)
        assert len(load(path).events) == len(STORY) if begun else not path.exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
    (SessionLog.open if begun else SessionLog.create)(path, HEADER).append(reply())
    assert load(path).events == [*(STORY if begun else []), reply()]


@given(st.text() | st.from_regex(r"[A-Za-z0-9._/\\-]*", fullmatch=True))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    root = Path("/somewhere")
    try:
        path = session_path(root, name)
    except ParakeetError:
        return
    assert os.path.dirname(os.path.normpath(path)) == str(sessions_folder(root))
    assert 1 <= len(name) <= 64
    assert path.name == f"{name}.jsonl"
    assert not name.startswith(".")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\n", "/etc/passwd", "é", "x" * 65, ".hidden", "a b", "\x00"]
)
def test_a_name_that_is_no_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParakeetError, match="is not a session name"):
        session_path(tmp_path, name)


def test_the_list_shows_the_latest_first_and_what_cannot_be_read_last(tmp_path: Path) -> None:
    assert list_sessions(tmp_path) == []
    written(session_path(tmp_path, "old"), *STORY[:5])
    written(session_path(tmp_path, "new"), reply("Why\n is\tthe sky " + "blue" * 50, time="2026-02-01T00:00:00+00:00"))
    session_path(tmp_path, "broken").write_text("{}\n")
    written(session_path(tmp_path, "cleared"), reply("A secret."), {"event": "clear"})
    session_path(tmp_path, "empty").write_text("")
    (sessions_folder(tmp_path) / ".hidden.jsonl").write_text("{}\n")
    (sessions_folder(tmp_path) / "notes.txt").write_text("mine")
    rows = {row.name: row for row in list_sessions(tmp_path)}
    new, old, broken = rows["new"], rows["old"], rows["broken"]
    assert next(iter(rows)) == "new"
    assert list(rows)[-1] in ("broken", "empty")
    assert (rows["cleared"].exchanges, rows["cleared"].first_words) == (0, "")
    assert (rows["empty"].exchanges, rows["empty"].model) == (0, "")
    assert (new.name, new.exchanges, new.when[:10], new.model) == ("new", 1, "2026-02-01", "tiny")
    assert new.first_words == ("Why is the sky " + "blue" * 50)[:60]
    assert (old.name, old.exchanges, old.first_words) == ("old", 2, "One?")
    assert (broken.name, broken.exchanges) == ("broken", 0)
    assert "not a session" in broken.problem
