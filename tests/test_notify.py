"""Notices: what arrives, what a server or command can do wrong, and that no record has the address."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from parakeet import notify
from parakeet.errors import ParakeetError
from parakeet.notify import MOST_CHARACTERS, describe, send, shown_address, tell
from parakeet.recipe import Notify, Recipe
from parakeet.recipe_changes import changed
from parakeet.recipe_file import load_recipe
from parakeet.stages import active_recipe, stages_of, use_recipe, who_is_told

SECRET = "T0ken-0f-the-hook"


class Hook(ThreadingHTTPServer):
    """Takes notices at /taken, and does something else at every other path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notices: list[dict[str, Any]] = []
        self.ended = threading.Event()

    def address(self, path: str) -> str:
        return f"http://me:{SECRET}@127.0.0.1:{self.server_port}/{path}?key={SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        kind = self.path.strip("/").partition("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if kind == "taken":
            self.server.notices.append(json.loads(body) | {"user": self.headers["Authorization"]})
        if kind == "slow":
            self.server.ended.wait(20)
        if kind == "drips":
            for _ in range(100):
                self.wfile.write(b"H")
                if self.server.ended.wait(0.2):
                    return
        if kind == "hangs_up":
            self.connection.close()
            return
        if kind == "other":
            self.wfile.write(b"220 smtp.example.org ESMTP\r\n")
            return
        self.send_response({"redirects": 302, "moved": 308}.get(kind, int(kind) if kind.isdigit() else 200))
        if kind in ("redirects", "moved"):
            self.send_header("Location", self.server.address("taken"))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


def test_a_notice_arrives_with_all_that_a_person_or_a_program_needs(hook: Hook) -> None:
    facts = {"recipe": "mine", "release": "ab-0", "bits": float("nan"), "folder": Path("/x"), "gates": ({"loss": 1.5},)}
    tell(Notify(url=hook.address("taken")), "promoted", "mine is now ab-0.\x1b[31m" + 9000 * "x", facts)
    (notice,) = hook.notices
    assert notice.keys() == {"event", "text", "recipe", "release", "facts", "host", "time", "user"}
    assert base64.b64decode(notice["user"].removeprefix("Basic ")).decode() == f"me:{SECRET}"
    assert (notice["event"], notice["recipe"], notice["release"]) == ("promoted", "mine", "ab-0")
    assert notice["facts"]["bits"] is None
    assert notice["facts"]["folder"] == "/x"
    assert notice["facts"]["gates"] == [{"loss": 1.5}]
    assert len(notice["text"]) == MOST_CHARACTERS
    assert "\x1b" not in notice["text"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("500", "answered 500"),
        ("404", "answered 404"),
        ("redirects", "redirects to http://127.0.0.1/…: set notify.url to that address"),
        ("moved", "redirects"),
        ("hangs_up", "did not answer as a web server does"),
        ("other", "did not answer as a web server does"),
        ("slow", "longer than 1 s"),
        ("drips", "longer than 1 s"),
    ],
)
def test_a_server_that_fails_is_reported_in_time_without_its_secret(
    path: str, words: str, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "SECONDS", 1.0)
    began = time.monotonic()
    tell(Notify(url=hook.address(path)), "failed", "A run failed.", {})
    assert time.monotonic() - began < 3
    assert words in caplog.text or ("slow" in path and "did not answer within 1 s" in caplog.text)
    assert "127.0.0.1" in caplog.text
    assert SECRET not in caplog.text
    assert hook.notices == []


@pytest.mark.parametrize(
    "address", [f"http://127.0.0.1:9/{SECRET}", f"http://nowhere.invalid/{SECRET}", f"https://127.0.0.1:9/{SECRET}"]
)
def test_a_server_that_is_not_there(address: str, caplog: pytest.LogCaptureFixture) -> None:
    tell(Notify(url=address), "disk_low", "The disk is nearly full.", {})
    assert "cannot be reached" in caplog.text
    assert SECRET not in caplog.text


def test_a_command_gets_the_text_and_runs_nothing_of_it(tmp_path: Path) -> None:
    text = f"$(touch {tmp_path}/ran) `touch {tmp_path}/ran` '; touch {tmp_path}/ran; \"\n| touch {tmp_path}/ran"
    command = (
        f'cat > {tmp_path}/stdin; printf %s "$PARAKEET_TEXT" > {tmp_path}/text; '
        f"printf %s $PARAKEET_EVENT/$PARAKEET_RECIPE/$PARAKEET_RELEASE > {tmp_path}/rest"
    )
    assert send(Notify(command=command), "refused", text, {"recipe": "mine", "release": "ab-0"}) == []
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "text").read_text(encoding="utf-8") == text
    assert (tmp_path / "stdin").read_text(encoding="utf-8") == f"{text}\n"
    assert (tmp_path / "rest").read_text(encoding="utf-8") == "refused/mine/ab-0"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo oh no >&2; exit 3", "status 3: oh no"),
        ("no-such-program-here", "status 127"),
        ("kill -9 $$", "status -9"),
        ("sleep 30", "longer than 1 s"),
        ("trap '' TERM INT; sleep 30 | cat", "longer than 1 s"),
    ],
)
def test_a_command_that_fails_is_reported_in_time(
    command: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "SECONDS", 1.0)
    began = time.monotonic()
    tell(Notify(command=command), "failed", "A run failed.", {})
    assert time.monotonic() - began < 3
    assert words in caplog.text


@pytest.mark.parametrize(
    "command",
    [
        f"curl-is-missing https://h.org/{SECRET}",
        f"echo 'cannot post to https://h.org/{SECRET}' >&2; exit 1",
        f"KEY={SECRET}; echo no $KEY >&2; exit 1",
        f'post() {{ echo "$@" >&2; exit 1; }}; post -H "Authorization: Bearer {SECRET}"',
        f"echo {SECRET} 'never closed",
        f"sleep 30 {SECRET}",
    ],
)
def test_no_command_is_printed(command: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(notify, "SECONDS", 1.0)
    settings = Notify(command=command)
    tell(settings, "failed", "A run failed.", {})
    assert "did not arrive" in caplog.text
    assert SECRET not in caplog.text
    assert describe(settings) == ["a command"]


def test_a_command_that_starts_another_program_or_reads_nothing_is_not_waited_for(hook: Hook) -> None:
    settings = Notify(command="sleep 8 & exit 0", url=hook.address("taken"))
    began = time.monotonic()
    assert send(settings, "failed", "x" * 100_000, {}) == []
    assert time.monotonic() - began < 4
    assert len(hook.notices) == 1


def test_nobody_is_told_without_notify() -> None:
    assert send(None, "failed", "A run failed.", {}) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.org/x",
        "ftp://h/x",
        "https://",
        "https://a b/x",
        "https://h:x/",
        "http://é.org/x",
        "file:///x",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_without_printing_it(url: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "demo", "notify": {"url": f"{url}{SECRET if url else ''}"}}), "utf-8")
    if url in ("https://",):
        path.write_text('extends: demo\nnotify: {url: "https://"}\n', "utf-8")
    with pytest.raises(ParakeetError, match=r"mine\.yaml, line \d+: notify\.url: the address has to begin") as raised:
        load_recipe(str(path))
    assert SECRET not in str(raised.value)
    with pytest.raises(ParakeetError, match=r"--set notify\.url=…") as raised:
        changed(load_recipe("demo"), [f"notify.url=x {SECRET}"])
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("values", ["{}", "{command: ' '}", "{url: null}", "{urls: [a]}"])
def test_settings_that_tell_nobody_are_refused(values: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: demo\nnotify: {values}\n", encoding="utf-8")
    with pytest.raises(ParakeetError, match=r"mine\.yaml, line 2: .*notify"):
        load_recipe(str(path))


@pytest.fixture
def told(tmp_path: Path) -> Recipe:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"extends: demo\nname: mine\nsources: [{{name: a, path: a.txt}}]\nnotify: {{url: 'https://h.org/{SECRET}'}}\n",
        encoding="utf-8",
    )
    return load_recipe(str(path))


def test_the_address_is_in_the_active_recipe_alone(told: Recipe, tmp_path: Path) -> None:
    silent = told.model_copy(update={"notify": None})
    records = [told.to_yaml(), repr(told), json.dumps(told.model_dump(mode="json")), str(told.notify)]
    records += [json.dumps(stage.settings(told), default=str) for stage in stages_of(told)]
    assert not [record for record in records if SECRET in record]
    assert told == silent
    assert told.to_yaml() == silent.to_yaml()
    assert describe(told.notify) == ["https://h.org/…"]  # type: ignore[arg-type]
    home = tmp_path / "home"
    use_recipe(home, told)
    assert active_recipe(home).notify == told.notify
    assert (home / "recipe.yaml").stat().st_mode & 0o077 == 0
    # A run's record of its recipe lacks it.
    assert who_is_told(home, silent) == told.notify
    assert who_is_told(tmp_path / "elsewhere", told) == told.notify
    assert who_is_told(tmp_path / "elsewhere", silent) is None


def test_a_recipe_made_of_another_one_keeps_it(told: Recipe) -> None:
    assert changed(told, ["training.tokens=64_000"]).notify == told.notify
    assert changed(told, ["notify.command=cat"]).notify == Notify(url=told.notify.url, command="cat")  # type: ignore[union-attr]


def test_a_recipe_that_is_extended_tells_nobody(
    told: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("extends: mine.yaml\n", encoding="utf-8")
    assert load_recipe(str(tmp_path / "own.yaml")).notify is None
    printed = capsys.readouterr().err
    assert "mine.yaml: notify is left out, since" in printed
    assert SECRET not in printed


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.slack.com/services/a/b?c", "https://hooks.slack.com/…"),
        ("https://me:pw@ntfy.sh", "https://ntfy.sh"),
        ("http://[::1]:80/", "http://::1"),
    ],
)
def test_of_an_address_only_the_host_is_shown(url: str, shown: str) -> None:
    assert shown_address(url) == shown
