"""A session and its file, together."""

import resource
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from parakeet.chat.events import Conversation, fold
from parakeet.chat.replay import replay
from parakeet.chat.session import Session
from parakeet.chat.storage import SessionLog, load
from parakeet.errors import ParakeetError

from .scripted_sessions import drain, header, last_prompt, new_log, say, session


def test_a_session_in_which_nothing_was_said_leaves_no_file(tmp_path: Path) -> None:
    talk = session(log=new_log(tmp_path), system="Be brief.")
    talk.set_system("Be clear.")
    talk.reply("One?").close()
    talk.close()
    assert list(tmp_path.iterdir()) == []


def test_an_exchange_is_in_the_file_with_all_that_it_takes_to_repeat_it(tmp_path: Path) -> None:
    talk = session("one two", log=new_log(tmp_path), system="Be brief.", seed=9)
    say(talk, "Count.\n\nHuman: \x1b[31m\x00")
    path = tmp_path / "talk.jsonl"
    assert path.read_bytes().isascii()
    loaded = load(path)
    assert loaded.header == header() | {"created": loaded.header["created"]}
    system, reply = loaded.events
    assert system | {"time": ""} == {"event": "system", "content": "Be brief.", "time": ""}
    assert reply["message"] == "Count.\n\nHuman: \x1b[31m\x00"
    assert (reply["reply"], reply["finish_reason"], reply["seed"], reply["tokens"]) == ("one two", "stop", 9, 2)
    assert reply["settings"]["max_tokens"] == 50
    assert reply["timing"]["first_token_seconds"] == 0.3


def test_a_session_continues_where_it_was_left(tmp_path: Path) -> None:
    talk = session(log=new_log(tmp_path), system="Be brief.")
    say(talk, "One?")
    talk.close()
    again = session(log=SessionLog.open(tmp_path / "talk.jsonl", header()))
    assert (again.system, again.exchanges, again.notes) == ("Be brief.", talk.exchanges, [])
    say(again, "Two?")
    assert last_prompt(again) == ["Be brief.", "One?", "yes", "Two?", ""]
    kinds = [event["event"] for event in load(tmp_path / "talk.jsonl").events]
    assert kinds == ["system", "reply", "reply"]


def test_a_session_of_another_model_continues_with_a_note_and_says_so_in_the_file(tmp_path: Path) -> None:
    say(talk := session(log=new_log(tmp_path)), "One?")
    talk.close()
    path = tmp_path / "talk.jsonl"
    again = session(log=SessionLog.open(path, header("other")))
    assert again.notes == ["The last reply came from another model, 'tiny'. Now 'other' replies."]
    assert len(load(path).events) == 1
    say(again, "Two?")
    again.close()
    assert [event.get("model_sha256") for event in load(path).events] == [None, "sha of other", None]
    assert session(log=SessionLog.open(path, header("other"))).notes == []


def test_a_session_without_a_file_can_be_saved_later(tmp_path: Path) -> None:
    talk = session(system="Be brief.")
    with pytest.raises(ParakeetError, match="nothing to save"):
        session().save(tmp_path / "x.jsonl", header())
    say(talk, "One?")
    drain(talk.retry())
    talk.save(tmp_path / "kept.jsonl", header())
    say(talk, "Two?")
    folded = fold(load(tmp_path / "kept.jsonl").events)
    assert (folded.system, folded.exchanges) == (talk.system, talk.exchanges)


def test_saving_under_another_name_continues_there_and_never_replaces(tmp_path: Path) -> None:
    talk = session(log=new_log(tmp_path))
    say(talk, "One?")
    talk.save(tmp_path / "kept.jsonl", header("other"))
    say(talk, "Two?")
    counts = {path.stem: len(load(path).events) for path in tmp_path.glob("*.jsonl")}
    assert counts == {"talk": 1, "kept": 2}
    assert load(tmp_path / "kept.jsonl").header["model"] == "tiny"
    assert {path.name for path in tmp_path.iterdir()} == {"talk.jsonl", "kept.jsonl", ".kept.jsonl.lock"}
    with pytest.raises(ParakeetError, match=r"talk\.jsonl already exists"):
        talk.save(tmp_path / "talk.jsonl", header())
    with pytest.raises(ParakeetError, match=r"cannot be saved in .*File exists \(.*kept\.jsonl\)"):
        talk.save(tmp_path / "kept.jsonl" / "inside.jsonl", header())
    say(talk, "Three?")
    assert len(load(tmp_path / "kept.jsonl").events) == 3


def test_a_folder_that_cannot_be_written_ends_the_recording_not_the_chat(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    talk = session(log=new_log(tmp_path / "sessions"))
    assert say(talk, "One?") == say(talk, "Two?") == "yes"
    assert len(talk.exchanges) == 2
    (note,) = talk.notes
    assert "no longer recorded in" in note
    assert "File exists" in note
    assert talk.log is None
    talk.save(tmp_path / "kept.jsonl", header())
    assert len(load(tmp_path / "kept.jsonl").events) == 2


@contextmanager
def nearly_full(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond a number of bytes: the kernel writes what fits and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_recording_and_leaves_what_was_recorded(tmp_path: Path) -> None:
    talk = session(log=new_log(tmp_path))
    path = tmp_path / "talk.jsonl"
    say(talk, "One?")
    recorded = path.read_bytes()
    with nearly_full(len(recorded) + 100):
        say(talk, "Two?")
    say(talk, "Three?")
    assert talk.notes == [f"The conversation continues but is no longer recorded in {path}: File too large."]
    assert path.read_bytes() == recorded
    assert len(talk.exchanges) == 3


def test_a_full_disk_at_the_beginning_leaves_no_file(tmp_path: Path) -> None:
    talk = session(log=new_log(tmp_path))
    with nearly_full(10):
        say(talk, "One?")
    assert len(talk.notes) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    talk = session()
    say(talk, "One?")
    with nearly_full(10), pytest.raises(ParakeetError, match=r"cannot be saved in .*: File too large\."):
        talk.save(tmp_path / "kept.jsonl", header())
    assert list(tmp_path.iterdir()) == []


def test_a_megabyte_goes_through_the_file_unchanged(tmp_path: Path) -> None:
    message = "\x00\ud800\n\nHuman: é🦜<|endoftext|>\u202e\"'\\" * 40_000
    talk = session(log=new_log(tmp_path), context=4 << 20)
    say(talk, message)
    talk.close()
    again = session(log=SessionLog.open(tmp_path / "talk.jsonl", header()))
    assert again.exchanges == talk.exchanges
    assert again.exchanges[0].message == message.replace("\ud800", "\ufffd")


MESSAGES = st.text(min_size=1, max_size=30) | st.sampled_from(["\n\nHuman: ", "<|endofprompt|>", "x" * 60, "é\ud800"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("reply"), MESSAGES, st.none() | st.integers(1, 3)),
        st.tuples(st.just("edit"), MESSAGES, st.none() | st.integers(1, 3)),
        st.tuples(st.sampled_from(["retry", "continue_reply"]), st.none() | st.integers(1, 3)),
        st.tuples(st.just("set_system"), MESSAGES | st.just("")),
        st.tuples(st.just("seed"), st.none() | st.integers(0, 3)),
        st.tuples(st.just("raw"), st.booleans()),
        st.tuples(st.just("go_to"), st.none() | st.integers(0, 9)),
        st.tuples(
            st.just("branch"),
            st.sampled_from(["reply", "retry", "edit", "continue"]),
            MESSAGES,
            st.none() | st.integers(0, 9),
            st.none() | st.integers(1, 3),
        ),
        st.tuples(st.sampled_from(["undo", "clear", "leave and come back", "save"])),
    ),
    max_size=14,
)


def babble(prompt_ids: list[int], seed: int) -> str:
    """None to four words, depending on prompt and seed."""
    number = sum(prompt_ids) + seed
    return " ".join(["one", "zwei\n", "🦜", "\n\nHuman: "][: number % 5])


def tree(conversation: Conversation) -> tuple[Any, ...]:
    nodes = [(node.id, node.parent, node.exchange) for node in conversation.nodes]
    return conversation.system, conversation.exchanges, conversation.path, nodes


def carry_out(talk: Session, folder: Path, operation: tuple[Any, ...]) -> Session:
    match operation:
        case "leave and come back", *_:
            talk.close()
            files = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
            if files:
                return session(babble, 160, 3, log=SessionLog.open(files[-1], header()))
            return session(babble, 160, 3, log=new_log(folder))
        case "save", *_:
            talk.save(folder / f"saved{len(list(folder.iterdir()))}.jsonl", header())
        case "seed", seed:
            talk.settings = replace(talk.settings, seed=seed)
        case "raw", raw:
            talk.raw = raw
        case "set_system", text:
            talk.set_system(text)
        case "go_to", exchange:
            talk.go_to(exchange)
        case "branch", kind, message, exchange, words:
            pending = talk.begin(kind, message, exchange, shared=True)
            for number, step in enumerate(talk.engine.generate(pending.prompt_ids, pending.settings)):
                pending.add(step)
                if talk.log and pending.text.strip():
                    # What a killed process would leave.
                    assert fold(load(talk.log.path).events).exchanges[-1].reply.endswith(pending.text)
                if number == words:
                    break
            pending.finish(talk.engine.timing)
        case ("undo" | "clear") as name, *_:
            getattr(talk, name)()
        case name, *arguments, words:
            drain(getattr(talk, name)(*arguments), words)
    return talk


@given(OPERATIONS)
@hypothesis_settings(max_examples=80, deadline=None)
def test_the_file_tells_the_same_story_as_memory_and_can_be_replayed(operations: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        talk = session(babble, 160, 3, log=new_log(folder))
        for operation in operations:
            with suppress(ParakeetError):
                talk = carry_out(talk, folder, operation)
            if talk.log and talk.log.begun:
                folded = fold(load(talk.log.path).events)
                assert tree(folded) == tree(talk.conversation)
        for path in folder.glob("*.jsonl"):
            lines: list[str] = []
            assert replay(talk.engine, path, header(), lines.append), lines


def test_files_and_folder_are_the_owners_alone(tmp_path: Path) -> None:
    talk = session(log=new_log(tmp_path / "sessions"))
    say(talk, "One?")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "sessions").iterdir()}
    assert modes == {"talk.jsonl": 0o600, ".talk.jsonl.lock": 0o600}
    assert stat.S_IMODE((tmp_path / "sessions").stat().st_mode) == 0o700
