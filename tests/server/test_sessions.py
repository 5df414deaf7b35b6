"""Conversations over HTTP, as the page holds them."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from parakeet.chat.replay import replay
from parakeet.chat.session import Session
from parakeet.chat.storage import SessionLog, list_sessions, load, session_header, session_path, sessions_folder
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.generation.engine import Engine, load_engine
from parakeet.release.verify import open_release
from parakeet.server.errors import ApiError
from parakeet.server.open_sessions import MOST_OPEN, OpenSessions
from parakeet.server.served import Served
from parakeet.server.worker import Worker

from ..chat.test_recording import nearly_full
from ..chat.tiny_models import write_release
from .conftest import RunningServer, running_server

ENDLESS = {
    "temperature": 0, "frequency_penalty": 0, "presence_penalty": 0, "rolling": True, "max_tokens": 10_000_000,
}  # fmt: skip
SHORT = {"temperature": 0, "seed": None, "rolling": False, "max_tokens": 6}


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a model that says nothing but question marks, and no end of them."""
    root = tmp_path_factory.mktemp("babbler")
    folder = write_release(root / "releases" / "babbler", "babbler")
    with running_server(folder, root) as running:
        yield running


def new(server: RunningServer, name: str | None = None) -> str:
    """A session that is there, and not on disk."""
    answer = server.client.post("/api/sessions", json={} if name is None else {"name": name})
    assert answer.status_code == 201
    return str(answer.json()["name"])


def say(server: RunningServer, name: str, kind: str = "reply", **body: Any) -> dict[str, Any]:
    """The event `end` of a reply, which has all that was shown before it."""
    start, *texts, end = server.events(f"/api/sessions/{name}/replies", {"kind": kind, "settings": SHORT, **body})
    assert (start["type"], end["type"], {text["type"] for text in texts}) == ("start", "end", {"text"})
    assert start["exchange"]["id"] == end["exchange"]["id"]
    assert start["exchange"]["reply"] + "".join(text["text"] for text in texts) == end["exchange"]["reply"]
    found: dict[str, Any] = end
    return found


def shown(line: str) -> str:
    """The text in a line of a stream of events."""
    return str(json.loads(line.removeprefix("data: ")).get("text", "")) if line.startswith("data: ") else ""


def get(server: RunningServer, name: str) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get(f"/api/sessions/{name}").json()
    return found


def names(server: RunningServer, search: str = "") -> list[str]:
    answer = server.client.get("/api/sessions", params={"search": search})
    return [row["name"] for row in answer.json()["sessions"]]


def test_about_has_the_model_and_its_settings(server: RunningServer) -> None:
    about = server.client.get("/api/about").json()
    engine = server.served.worker.engine
    assert (about["model"], about["context"], about["dtype"]) == (server.release.name, engine.context, "fp32")
    assert (about["batch"], about["trace"]) == (4, False)
    kinds = {setting["name"]: setting["kind"] for setting in about["settings"]}
    assert (kinds["temperature"], kinds["top_k"], kinds["rolling"]) == ("number", "whole", "switch")
    assert (kinds["stop"], kinds["seed"]) == ("texts", "seed")
    values = {setting["name"]: setting["value"] for setting in about["settings"]}
    assert values["top_p"] == server.release.generation.top_p
    top_p = next(setting for setting in about["settings"] if setting["name"] == "top_p")
    assert (top_p["minimum"], top_p["maximum"]) == (0, 1)


def test_a_conversation_with_branches_from_its_first_message_to_its_end(
    server: RunningServer, served_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new(server)
    assert get(server, name)["exchanges"] == []
    assert names(server) == []  # nothing is on disk before the first reply
    first = say(server, name, message="What is 1 plus 1?", settings={"temperature": 1, "seed": 5, "max_tokens": 6})
    assert first["exchange"]["id"] == 0
    assert first["exchange"]["timing"]["first_token_seconds"] > 0
    assert first["context"]["used"] > first["exchange"]["tokens"]
    second = say(server, name, message="And 2?")["exchange"]
    retried = say(server, name, "retry", exchange=0)["exchange"]
    assert (retried["parent"], retried["message"]) == (None, "What is 1 plus 1?")
    assert retried["seed"] != 5
    edited = say(server, name, "edit", exchange=second["id"], message="And 3?")["exchange"]
    assert (edited["parent"], edited["message"]) == (0, "And 3?")
    again = say(server, name, "again", exchange=0)
    assert (again["same"], again["exchange"]["seed"], again["exchange"]["settings"]["temperature"]) == (True, 5, 1)
    longer = say(server, name, "continue", exchange=0)["exchange"]
    assert longer["reply"].startswith(first["exchange"]["reply"])
    assert say(server, name, "again", exchange=0)["same"] is True  # of the reply, without what continued it
    after = say(server, name, exchange=None, message="Anew")["exchange"]
    assert after["parent"] is None

    whole = get(server, name)
    assert [exchange["id"] for exchange in whole["exchanges"]] == list(range(len(whole["exchanges"])))
    assert (whole["at"], whole["replying"], whole["settings"]["max_tokens"]) == (after["id"], False, 6)
    back = server.client.patch(f"/api/sessions/{name}", json={"at": second["id"]}).json()
    assert back["at"] == second["id"]
    assert server.client.patch(f"/api/sessions/{name}", json={"system": "Be brief."}).json()["system"] == "Be brief."

    # The file is the terminal's: it lists, shows and replays it.
    path = session_path(server.root, name)
    monkeypatch.setenv("PARAKEET_HOME", str(server.root))
    assert [row.exchanges for row in list_sessions(server.root)] == [2]
    shown = CliRunner().invoke(main, ["sessions", "show", name]).output
    assert "And 2?" in shown
    assert "Anew" not in shown
    header = session_header(served_engine, server.release.name, server.release.weights_sha256)
    lines: list[str] = []
    assert replay(served_engine, path, header, lines.append), lines
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ParakeetError, match="is open in another"):
        SessionLog.open(path, header)

    # A copy of the file is the same conversation under another name.
    file = server.client.get(f"/api/sessions/{name}/file")
    assert file.headers["content-disposition"] == f'attachment; filename="{name}.jsonl"'
    assert file.content == path.read_bytes()
    copies = [server.client.post("/api/sessions/import?name=copy", content=file.content) for _ in range(2)]
    assert [copy.json()["name"] for copy in copies] == ["copy", "copy-2"]
    whole = get(server, name)
    assert copies[0].json() | {"name": ""} == whole | {"name": ""}
    assert names(server, "AND 3?") == names(server) != []
    assert names(server, "copy-") == ["copy-2"]
    assert names(server, "no such words") == []

    assert server.client.patch("/api/sessions/copy", json={"name": "copy-2"}).status_code == 409
    assert server.client.patch("/api/sessions/copy", json={"name": "third"}).json()["exchanges"] == whole["exchanges"]
    assert server.client.get("/api/sessions/copy").status_code == 404
    say(server, "third", message="Still there?")
    assert server.client.get("/api/sessions/third").json()["at"] == len(whole["exchanges"])
    for each in ("third", "copy-2", name):
        assert server.client.delete(f"/api/sessions/{each}").status_code == 204
    assert names(server) == []
    assert list(sessions_folder(server.root).iterdir()) == []


def test_the_tokens_of_a_reply_have_their_probabilities_and_alternatives(
    server: RunningServer, served_engine: Engine
) -> None:
    name = new(server)
    reply = say(server, name, message="What is 3 plus 4?")["exchange"]["reply"]
    tokens = server.client.post(f"/api/sessions/{name}/tokens", json={"exchange": 0}).json()["tokens"]
    assert "".join(token["text"] for token in tokens) == reply
    talk = Session(served_engine, server.release.generation)
    prompt = talk.begin("reply", "What is 3 plus 4?").prompt_ids
    expected = served_engine.likeliest(prompt, server.release.generation, 5)
    first = tokens[0]
    assert [each["probability"] for each in first["alternatives"]] == pytest.approx(
        [each.probability for each in expected], rel=1e-4
    )
    assert all(len(token["alternatives"]) == 5 and 0 < token["probability"] <= 1 for token in tokens)
    server.client.delete(f"/api/sessions/{name}")


def test_a_reader_who_leaves_ends_the_reply_and_one_reply_at_a_time(babbler: RunningServer) -> None:
    name, replies = new(babbler, "endless"), "/api/sessions/endless/replies"
    received = ""
    with babbler.client.stream("POST", replies, json={"kind": "reply", "message": "Hi", "settings": ENDLESS}) as answer:
        lines = answer.iter_lines()  # which closes the connection when it is let go
        while len(received) < 20:
            received += shown(next(lines))
        busy = babbler.client.post(replies, json={"kind": "reply", "message": "Me too"})
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")
        assert get(babbler, name)["replying"] is True
    # No need to wait for the end of what was stopped.
    after = say(babbler, name, message="And now?")["exchange"]
    stopped, _ = get(babbler, name)["exchanges"]
    assert (stopped["finish_reason"], after["parent"]) == ("interrupted", 0)
    assert stopped["reply"].startswith(received)
    babbler.client.delete("/api/sessions/endless")


def test_a_full_disk_ends_the_recording_and_not_the_conversation(babbler: RunningServer) -> None:
    name = new(babbler)
    say(babbler, name, message="One")
    path = session_path(babbler.root, name)
    recorded = path.read_bytes()
    with nearly_full(len(recorded) + 100):
        end = say(babbler, name, message="Two")
        refused = babbler.client.post("/api/sessions/import", content=recorded * 2)
    assert (refused.status_code, str(babbler.root) in refused.text) == (507, False)
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]
    (note,) = end["notes"]
    assert note.startswith(f"The conversation continues but is no longer recorded in {name}.jsonl: File too large.")
    say(babbler, name, message="Three")
    whole = get(babbler, name)
    assert ([each["message"] for each in whole["exchanges"]], whole["notes"]) == (["One", "Two", "Three"], [note])
    assert load(path).replies()[0][0].message == "One"
    assert path.read_bytes() == recorded
    # One without a file is in the list all the same.
    unrecorded = new(babbler)
    with nearly_full(100):
        say(babbler, unrecorded, message="Zebra")
    assert not session_path(babbler.root, unrecorded).exists()
    (row,) = babbler.client.get("/api/sessions?search=zEBRA").json()["sessions"]
    assert (row["name"], row["first_words"]) == (unrecorded, "Zebra")
    # What the disk lacks can be saved elsewhere.
    rescued = babbler.client.post(
        "/api/sessions/import?name=rescued", content=babbler.client.get(f"/api/sessions/{name}/file").content
    )
    assert rescued.json()["exchanges"] == whole["exchanges"]
    for each in ("rescued", name, unrecorded):
        assert babbler.client.delete(f"/api/sessions/{each}").status_code == 204


def test_a_session_that_a_chat_has_open_can_be_read_and_not_changed(babbler: RunningServer) -> None:
    header = session_header(babbler.served.worker.engine, "other", "of another")
    log = SessionLog.create(session_path(babbler.root, "theirs"), header)
    made = {"message": "Hi", "reply": "there", "seed": 1, "tokens": 1, "finish_reason": "stop", "dropped": 0}
    log.append({"event": "reply", "settings": {"no such": float("nan")}, "timing": [], "time": 7, **made})
    log.append({"event": "reply", "settings": {}, "timing": {"decode_seconds": 5e-324}, **made})
    exchange, fastest = get(babbler, "theirs")["exchanges"]
    assert (exchange["reply"], exchange["settings"], exchange["timing"]) == ("there", {}, {})
    assert fastest["timing"] == {"decode_seconds": 5e-324}  # the rate is beyond all numbers
    body = {"kind": "reply", "message": "Me?"}
    refused = [
        babbler.client.post("/api/sessions/theirs/replies", json=body),
        babbler.client.patch("/api/sessions/theirs", json={"name": "mine"}),
        babbler.client.delete("/api/sessions/theirs"),
        babbler.client.post("/api/sessions", json={"name": "theirs"}),
    ]
    assert [each.status_code for each in refused] == [409] * 4
    assert "is open in another parakeet chat" in refused[0].json()["error"]["message"]
    log.close()
    # Another model goes on with it, and the file says so.
    say(babbler, "theirs", message="Me?")
    assert [event["event"] for event in load(log.path).events] == ["reply", "reply", "model", "reply"]
    assert get(babbler, "theirs")["model"] == "babbler"
    babbler.client.delete("/api/sessions/theirs")


def test_what_is_wrong_is_said_and_names_no_folder(babbler: RunningServer) -> None:
    name = new(babbler, "wrong")
    say(babbler, name, message="Hi")
    replies = f"/api/sessions/{name}/replies"
    (sessions_folder(babbler.root) / "damaged.jsonl").write_text("{}\n")
    post, patch = babbler.client.post, babbler.client.patch
    expected: list[tuple[int, httpx2.Response]] = [
        (404, babbler.client.get("/api/sessions/none")),
        (404, babbler.client.get("/api/sessions/none/file")),
        (404, babbler.client.delete("/api/sessions/none")),
        (404, post("/api/sessions/none/replies", json={"kind": "reply", "message": "x"})),
        (404, post("/api/sessions/none/tokens", json={"exchange": 0})),
        (400, babbler.client.get("/api/sessions/..%5cx")),
        (400, babbler.client.get("/api/sessions/damaged")),
        (405, babbler.client.put(f"/api/sessions/{name}")),
        (400, post("/api/sessions", json={"name": "../x"})),
        (400, post("/api/sessions", json={"name": 7})),
        (409, post("/api/sessions", json={"name": name})),
        (400, post("/api/sessions", content=b"{")),
        (400, post("/api/sessions", content=b"[" * 100_000)),
        (400, post("/api/sessions", json=[])),
        (400, patch(f"/api/sessions/{name}", json={})),
        (400, patch(f"/api/sessions/{name}", json={"name": "a", "at": 0})),
        (400, patch(f"/api/sessions/{name}", json={"name": None})),
        (400, patch(f"/api/sessions/{name}", json={"name": "a/b"})),
        (400, patch(f"/api/sessions/{name}", json={"at": True})),
        (404, patch(f"/api/sessions/{name}", json={"at": 1})),
        (400, patch(f"/api/sessions/{name}", json={"system": "long " * 2000})),
        (400, post(replies, json={})),
        (400, post(replies, json={"kind": "undo"})),
        (400, post(replies, json={"kind": "reply"})),
        (400, post(replies, json={"kind": "reply", "message": "  "})),
        (400, post(replies, json={"kind": "reply", "message": "x" * 5000})),
        (400, post(replies, json={"kind": "reply", "message": "x", "settings": {"temperature": -1}})),
        (400, post(replies, json={"kind": "reply", "message": "x", "settings": {"temprature": 1}})),
        (400, post(replies, json={"kind": "reply", "message": "x", "settings": [1]})),
        (400, post(replies, content=b'{"kind": "reply", "message": "x", "settings": {"temperature": NaN}}')),
        (400, post(replies, json={"kind": "retry", "exchange": None})),
        (404, post(replies, json={"kind": "retry", "exchange": 9})),
        (400, post(replies, json={"kind": "edit", "exchange": 0})),
        (400, post(replies, json={"kind": "reply", "message": "x", "more": 1})),
        (400, post(f"/api/sessions/{name}/tokens", json={})),
        (400, post("/api/sessions/import", content=b"not a session")),
        (400, post("/api/sessions/import", content=b"")),
        (400, post("/api/sessions/import?name=.hidden", content=b"")),
    ]
    assert [answer.status_code for _, answer in expected] == [status for status, _ in expected]
    for _, answer in expected:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert str(babbler.root) not in answer.text
    assert "line 1" in expected[6][1].json()["error"]["message"]
    rows = {row["name"]: row for row in babbler.client.get("/api/sessions").json()["sessions"]}
    assert rows["damaged"]["problem"].startswith("damaged.jsonl, line 1: this is not a session")
    # Nothing of that changed the conversation, and a lone surrogate is a character like others.
    assert len(get(babbler, name)["exchanges"]) == 1
    surrogate = babbler.client.post(
        replies, content=rb'{"kind": "reply", "message": "\ud800", "settings": {"temperature": 0}}'
    )
    assert surrogate.status_code == 200
    assert get(babbler, name)["exchanges"][1]["message"] == "\ufffd"
    for each in (name, "damaged"):
        assert babbler.client.delete(f"/api/sessions/{each}").status_code == 204


def test_an_idle_session_is_put_down_and_a_new_model_goes_on_with_it(babbler: RunningServer, tmp_path: Path) -> None:
    """With an event loop of its own, in which sessions are idle at once."""
    release = open_release(babbler.release.directory)
    engine = load_engine(release.directory, "cpu", "fp32", threads=1)
    header = session_header(engine, release.name, release.weights_sha256)

    async def hold() -> None:
        served = Served(release, Worker(engine, 1), tmp_path)
        sessions = OpenSessions(tmp_path, idle_seconds=0.05)
        await sessions.create("said", served)
        await sessions.create("silent", served)
        async with sessions.use("silent", served) as found:
            found.session.set_system("Be brief.")
        async with sessions.use("said", served) as found:
            pending = found.session.begin("reply", "Hi", None, shared=True)
            for step in engine.generate(pending.prompt_ids, replace(pending.settings, temperature=0, max_tokens=3)):
                pending.add(step)
            assert pending.finish(engine.timing) is not None
        while True:
            try:
                SessionLog.open(session_path(tmp_path, "said"), header).close()
                SessionLog.create(session_path(tmp_path, "silent"), header).close()
                break
            except ParakeetError:
                await asyncio.sleep(0.01)
        promoted = Served(replace(release, name="newer", weights_sha256="newer"), served.worker, tmp_path)
        async with sessions.use("said", promoted) as found:
            assert [event["event"] for event in found.session.events] == ["reply", "model"]
        # What is in no file yet is not forgotten, and can be saved.
        assert b"Be brief." in await sessions.content("silent", promoted)
        async with sessions.use("silent", promoted) as found:
            assert found.session.log is not None
            assert found.session.system == "Be brief."
        with pytest.raises(ApiError, match="There is no session 'none'"):
            await sessions.read("none", served)
        # There is an end to how many are open at once.
        sessions.idle_seconds = 3600
        for number in range(MOST_OPEN + 10):
            await sessions.create(f"many-{number}", served)
        assert len(list(sessions_folder(tmp_path).glob("*.lock"))) == MOST_OPEN
        assert (await sessions.read("silent", served)).session.system == "Be brief."
        await sessions.close()
        await served.worker.close()

    asyncio.run(hold())


def test_after_kill_9_in_a_stream_the_file_holds_all_that_was_shown(
    babbler: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "PARAKEET_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "parakeet.cli", "serve", str(babbler.release.directory), "--port", "0"]
    command += ["--dtype", "fp32"]
    received = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        try:
            with httpx2.Client(base_url=url, timeout=60) as client:
                client.post("/api/sessions", json={"name": "killed"})
                body = {"kind": "reply", "message": "Hi", "settings": ENDLESS}
                with client.stream("POST", "/api/sessions/killed/replies", json=body) as answer:
                    for line in answer.iter_lines():
                        received += shown(line)
                        if len(received) > 50 and process.poll() is None:
                            process.send_signal(signal.SIGKILL)
        except httpx2.TransportError:
            pass  # as the process ended
        finally:
            process.kill()
    path = session_path(tmp_path, "killed")
    assert '"event": "reply"' not in path.read_text()
    (exchange,) = load(path).replies()[0][:1]
    assert (exchange.message, exchange.finish_reason) == ("Hi", "interrupted")
    assert len(received) > 50
    assert exchange.reply.startswith(received)

    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path))
    assert received in CliRunner().invoke(main, ["sessions", "show", "killed"]).output
    # A chat in the terminal goes on from there, then the page.
    engine = babbler.served.worker.engine
    header = session_header(engine, babbler.release.name, babbler.release.weights_sha256)
    talk = Session(engine, babbler.release.generation, log=SessionLog.open(path, header))
    pending = talk.begin("continue")
    assert len(pending.prompt_ids) > len(received)
    talk.undo()
    talk.close()
    with running_server(babbler.release.directory, tmp_path) as restarted:
        assert names(restarted, "hi") == ["killed"]
        assert say(restarted, "killed", "continue", exchange=0)["exchange"]["reply"].startswith(received)
