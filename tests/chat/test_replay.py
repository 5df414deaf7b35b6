import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parakeet.chat.replay import replay
from parakeet.chat.session import Session
from parakeet.chat.storage import SessionLog, load, session_header
from parakeet.errors import ParakeetError

from ..scripted import random_engine
from .scripted_engine import ScriptedEngine
from .scripted_sessions import TOKENIZER, drain, greedy, new_log, say, seeded, session


def long_talk(folder: Path, **options: Any) -> Session:
    """Everything that can happen to a reply, in a context that it outgrows."""
    talk = session(seeded, 256, system="Be brief.", log=new_log(folder), **options)
    say(talk, "One?")
    drain(talk.retry())
    drain(talk.retry(), words=2)
    drain(talk.continue_reply(), words=1)
    talk.settings = replace(talk.settings, seed=7, max_tokens=3, stop=("x",), top_p=0.5)
    say(talk, "\n\nHuman: two?")
    drain(talk.edit("Zwei? é🦜"))
    talk.set_system("Be clear.")
    talk.undo()
    for number in range(6):
        say(talk, f"Number {number}?" * 3)
    assert talk.dropped > 0
    drain(talk.continue_reply())
    talk.clear()
    say(talk, "Last?")
    talk.close()
    return talk


def run(path: Path, reply: Callable[[list[int], int], str] = seeded, **changes: Any) -> tuple[bool, list[str]]:
    engine = ScriptedEngine(reply, TOKENIZER, 256, **changes)
    lines: list[str] = []
    return replay(engine, path, session_header(engine, "tiny", "sha of tiny"), lines.append), lines


def test_every_reply_comes_out_again(tmp_path: Path) -> None:
    long_talk(tmp_path)
    same, lines = run(tmp_path / "talk.jsonl")
    assert same
    assert lines == [*(f"Reply {number}: identical" for number in range(1, 15)), "All 14 replies are identical."]


def test_the_real_engine_keeps_its_promise(tmp_path: Path) -> None:
    """A transformer with random weights, on bytes: half of its output is broken UTF-8."""
    engine = random_engine(256)
    settings = replace(greedy(max_tokens=40), temperature=1.0, stop=("e", "\n"))
    talk = Session(engine, settings, "Be brief.", new_log(tmp_path))
    for number in range(6):
        say(talk, f"Number {number}?" * 6, words=None if number % 2 else 7)
    drain(talk.continue_reply(), words=5)
    talk.settings = replace(settings, seed=3, stop=())
    drain(talk.retry(), words=20)
    assert talk.dropped > 0
    talk.close()
    again, lines = random_engine(256), list[str]()
    header = session_header(again, "tiny", "sha of tiny")
    assert replay(again, tmp_path / "talk.jsonl", header, lines.append), lines
    assert len(lines) > 4


def test_the_first_difference_is_shown_with_its_place(tmp_path: Path) -> None:
    talk = session(lambda ids, seed: "éa one two", log=new_log(tmp_path))
    say(talk, "One?")
    say(talk, "Two?")
    same, lines = run(tmp_path / "talk.jsonl", lambda ids, seed: "éa one two" if len(ids) < 10 else "éa\x1b[31m")
    assert not same
    assert lines == [
        "Reply 1: identical",
        "Reply 2: differs after 2 characters (3 bytes): it was ' one two', now it is '\\x1b[31m'",
        "1 of 2 replies differ.",
    ]


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        ("one", "it was ' two', now it is the end"),
        ("one two three", "it was the end, now it is ' three'"),
        ("one two " * 1000, "it was the end, now it is ' one two"),
        ("", "differs after 0 characters (0 bytes): it was 'one two', now it is the end"),
    ],
)
def test_a_reply_that_is_shorter_or_longer_differs_at_its_end(tmp_path: Path, now: str, shown: str) -> None:
    say(session("one two", log=new_log(tmp_path), max_tokens=500), "Count.")
    same, lines = run(tmp_path / "talk.jsonl", lambda ids, seed: now)
    assert not same
    assert shown in lines[0]
    assert len(lines[0]) < 200


def test_a_reply_that_never_ends_is_left_where_it_differs(tmp_path: Path) -> None:
    say(session("one two", log=new_log(tmp_path), max_tokens=100_000), "Count.")
    engine = ScriptedEngine(["one two three "], TOKENIZER, 10**9, ends=False)
    lines: list[str] = []
    assert not replay(engine, tmp_path / "talk.jsonl", session_header(engine, "tiny", "sha of tiny"), lines.append)
    assert engine.timing.reply_tokens < 50


def test_an_interrupted_reply_is_followed_as_far_as_it_went(tmp_path: Path) -> None:
    say(session("one two three", log=new_log(tmp_path)), "Count.", words=2)
    assert run(tmp_path / "talk.jsonl", lambda ids, seed: "one two and so on") == (
        True,
        ["Reply 1: identical", "The reply is identical."],
    )


def test_a_reply_that_ends_for_another_reason_differs(tmp_path: Path) -> None:
    say(session("one two", log=new_log(tmp_path), max_tokens=2), "Count.")
    path = tmp_path / "talk.jsonl"
    path.write_text(path.read_text().replace('"finish_reason": "length"', '"finish_reason": "stop"'))
    same, lines = run(path, lambda ids, seed: "one two")
    assert not same
    assert "the same text, but it ended with 'stop' and now ends with 'length'" in lines[0]


def test_a_changed_file_differs_where_it_was_changed_and_only_there(tmp_path: Path) -> None:
    talk = session("one two", log=new_log(tmp_path))
    say(talk, "One?")
    say(talk, "Two?")
    path = tmp_path / "talk.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace("one two", "one 2") + lines[2])
    same, printed = run(path, lambda ids, seed: "one two")
    assert not same
    assert printed[0] == "Reply 1: differs after 4 characters (4 bytes): it was '2', now it is 'two'"
    assert printed[1:] == ["Reply 2: identical", "1 of 2 replies differ."]


def test_other_conditions_are_reported_first(tmp_path: Path) -> None:
    long_talk(tmp_path)
    _, lines = run(tmp_path / "talk.jsonl", dtype="int8", threads=4)
    assert lines[0] == (
        "The session was recorded under other conditions: the dtype was 'fp32', now 'int8'; "
        "the number of threads was 1, now 4. This alone can change replies."
    )


def test_a_change_of_model_is_reported_where_it_happens(tmp_path: Path) -> None:
    talk = session(log=new_log(tmp_path))
    say(talk, "One?")
    talk.close()
    other = session_header(talk.engine, "other", "sha of other")
    say(session(log=SessionLog.open(tmp_path / "talk.jsonl", other)), "Two?")
    same, lines = run(tmp_path / "talk.jsonl", lambda ids, seed: "yes")
    assert same
    assert lines[1].startswith(
        "Reply 2 and those after it were recorded under other conditions: the model was 'other', now 'tiny'; "
    )


def test_a_session_that_was_cut_off_is_replayed_as_far_as_it_goes(tmp_path: Path) -> None:
    long_talk(tmp_path)
    path = tmp_path / "talk.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    same, lines = run(path)
    assert same
    assert lines[0] == f"The last line of {path} was cut off and is ignored."
    assert lines[-1] == "All 13 replies are identical."


def test_a_session_without_replies_has_nothing_to_differ(tmp_path: Path) -> None:
    new_log(tmp_path).append({"event": "system", "content": "Be brief."})
    assert run(tmp_path / "talk.jsonl") == (True, ["The session has no replies."])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"temperature": -1}, "temperature must be .*, not -1"),
        ({"stop": "ab"}, "stop"),
        ({"mirostat": 5}, "do not fit this version of Parakeet.*mirostat"),
        ({"max_tokens": None}, "max_tokens must be .*, not None"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    say(session(log=new_log(tmp_path)), "One?")
    path = tmp_path / "talk.jsonl"
    header, event = map(json.loads, path.read_text().splitlines())
    event["settings"] |= changes
    path.write_text(json.dumps(header) + "\n" + json.dumps(event) + "\n")
    with pytest.raises(ParakeetError, match=f"Reply 1 cannot be repeated: .*{problem}"):
        run(path)


def test_a_prompt_beyond_the_context_is_refused(tmp_path: Path) -> None:
    say(session(context=2048, log=new_log(tmp_path)), "x" * 1000)
    with pytest.raises(ParakeetError, match=r"Reply 1 cannot be repeated: .*1003 tokens; the context is 256"):
        run(tmp_path / "talk.jsonl")


def test_a_session_recorded_by_an_earlier_version_opens_and_replays(tmp_path: Path) -> None:
    """session_1eac929.jsonl was written by commit 1eac929; `seeded` gives the same replies as then."""
    path = tmp_path / "old.jsonl"
    path.write_bytes(Path(__file__).with_name("session_1eac929.jsonl").read_bytes())
    path.chmod(0o600)
    same, lines = run(path)
    assert same, lines
    assert lines[-1] == "All 6 replies are identical."
    engine = ScriptedEngine(seeded, TOKENIZER, 256)
    log = SessionLog.open(path, session_header(engine, "other", "sha of other"))
    talk = Session(engine, greedy(), log=log)
    assert (talk.system, talk.exchanges, talk.notes) == ("Be clear.", [], [])
    say(talk, "Five?")
    assert [event["event"] for event in load(path).events[-2:]] == ["clear", "reply"]
    talk.close()
