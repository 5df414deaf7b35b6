"""`parakeet push`, to a local hub over HTTP."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from click.testing import CliRunner, Result

from parakeet.cli import main
from parakeet.export.push import gates_said
from parakeet.release.listing import ListedModel

from ..fake_hub_upload import READ_TOKEN, TOKEN, Repository, UploadHub

Push = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def hub_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For the whole module: hf_xet reads them when the first upload of a process begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with UploadHub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def home(trained_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "home"
    shutil.copytree(trained_release, root / "imported" / "tiny")
    monkeypatch.setenv("PARAKEET_HOME", str(root))
    return root


@pytest.fixture
def push(home: Path, hub: UploadHub) -> Push:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["push", "--model", "tiny", *arguments])

    return run


@pytest.fixture
def exported(push: Push, home: Path, hub: UploadHub) -> Path:
    """What a push to me/bird that broke off left. So the processes that go on need no torch."""
    hub.failures["/repos/create"] = 409, {}
    push("me/bird", "--yes")
    hub.failures.clear()
    hub.requests.clear()
    (folder,) = (home / "pushes" / "me--bird").iterdir()
    return folder


def test_a_model_is_pushed_and_changes_nothing_the_second_time(push: Push, home: Path, hub: UploadHub) -> None:
    shown = push("me/bird", "--private", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert f"{hub.address}/me/bird (new)" in shown.output
    assert "private" in shown.output
    assert "never judged" in shown.output
    assert "model.safetensors" in shown.output
    assert "Nothing was pushed: this is a dry run." in shown.output
    assert hub.repositories == {}
    assert list((home / "pushes").iterdir()) == []

    done = push("me/bird", "--private", "--yes")
    assert done.exit_code == 0, done.output + done.stderr
    repository = hub.repositories["me/bird"]
    assert f"Pushed: {hub.address}/me/bird (commit {repository.newest})" in done.output
    assert repository.private
    assert repository.commits == 1
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= repository.files.keys()
    assert {request.authorization for request in hub.sent("/api/")} == {f"Bearer {TOKEN}"}
    assert list((home / "pushes").iterdir()) == []

    sent = sum(hub.blocks.values())
    again = push("me/bird", "--yes")
    assert "me/bird has all of these files already." in again.output
    assert "replaced" in again.output
    assert (repository.commits, sum(hub.blocks.values())) == (1, sent)


def test_a_gguf_file_is_pushed_with_its_card(push: Push, hub: UploadHub) -> None:
    hub.repositories["birds/small"] = Repository(files={"notes.txt": "1"})
    done = push("birds/small", "--format", "gguf", "--yes")
    assert done.exit_code == 0, done.output + done.stderr
    assert "stays there  notes.txt" in done.output
    assert hub.repositories["birds/small"].files.keys() == {
        "notes.txt", "README.md", "SHA256SUMS", "tiny-fp16.gguf", "tiny-fp16.Modelfile"
    }  # fmt: skip
    other = push("birds/small", "--yes")
    assert other.exit_code == 1
    assert "birds/small holds tiny-fp16.gguf: a model in another format" in other.stderr


@pytest.mark.parametrize(("store", "held"), [("xet", "/v1/shards"), ("lfs", "/commit/")])
def test_what_arrived_before_a_kill_is_not_sent_again(exported: Path, hub: UploadHub, store: str, held: str) -> None:
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "0" if store == "xet" else "1"}
    command = [sys.executable, "-m", "parakeet.cli", "push", "me/bird", "--model", "tiny", "--yes"]
    hub.held = held
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not hub.holding.wait(1):
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert large_files_sent(hub)
    assert exported.is_dir()

    hub.held = "nothing"
    hub.requests.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not large_files_sent(hub)
    assert "model.safetensors" in hub.repositories["me/bird"].files
    assert not exported.exists()


def large_files_sent(hub: UploadHub) -> list[str]:
    return [request.path for request in hub.requests if request.path.startswith(("/v1/xorbs/", "/lfs/"))]


@pytest.mark.parametrize(
    ("path", "status", "headers", "message"),
    [
        ("/whoami-v2", 200, {}, "its answer cannot be understood"),
        ("/whoami-v2", 429, {"Retry-After": "60"}, "it was asked too often"),
        ("/whoami-v2", 500, {}, "it fails"),
        ("/models/me/bird", 503, {}, "HTTP status 503"),
        ("/repos/create", 409, {}, "something else changed the repository at the same time"),
        ("/preupload/", 404, {"X-Error-Code": "RepoNotFound"}, "it has no such repository for you"),
        ("/preupload/", 403, {"X-Error-Message": "no\x1b[31m"}, "your token may not write there"),
        ("/xet-write-token/", 403, {}, "your token may not write there"),
        ("/commit/", 413, {}, "it takes no files of this size"),
        ("/commit/", 409, {}, "Run the same command again"),
    ],
)
def test_what_the_hub_refuses_is_one_message(
    push: Push, home: Path, hub: UploadHub, path: str, status: int, headers: dict[str, str], message: str
) -> None:
    hub.failures[path] = status, headers
    failed = push("me/bird", "--yes")
    assert failed.exit_code == 1
    assert message in failed.stderr
    assert failed.stderr.startswith(f"Error: The hub {hub.address} failed while ")
    assert "Traceback" not in failed.stderr
    assert "\x1b" not in failed.stderr
    began = any(request.path == "/api/repos/create" for request in hub.requests)
    assert ("the export is kept in" in failed.stderr) == began
    assert bool(list(home.glob("pushes/me--bird/*"))) == began


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("bird", "--yes"), {}, "'bird' is not the name of a repository: give OWNER/NAME"),
        (("me/a b", "--yes"), {}, "'me/a b' is not the name"),
        (("me/bird/three", "--yes"), {}, "is not the name"),
        (("me/bird",), {}, "Nothing was pushed: there is no terminal to ask on. Confirm with --yes."),
        (("me/bird", "--yes"), {"HF_TOKEN": ""}, "Log in with `hf auth login`"),
        (("me/bird", "--yes"), {"HF_TOKEN": "hf_wrong"}, "it does not accept your token"),
        (("me/bird", "--yes"), {"HF_TOKEN": READ_TOKEN}, "The token of me may only read"),
        (("strangers/bird", "--yes"), {}, "your token may not write there"),
        (("me/open", "--private", "--yes"), {}, "me/open is public already"),
        (("me/bird", "--yes"), {"HF_ENDPOINT": "http://127.0.0.1:9"}, "it refuses the connection"),
        (("me/bird", "--dtype", "q8_0", "--yes"), {}, "--dtype q8_0 does not fit --format hf"),
    ],
)
def test_a_push_that_cannot_be_is_refused(
    push: Push, hub: UploadHub, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], variables: dict[str, str], message: str,
) -> None:  # fmt: skip
    hub.repositories["me/open"] = Repository()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused = push(*arguments)
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert hub.repositories.keys() == {"me/open"}
    assert not hub.sent("/commit/")


def test_a_terminal_is_asked(exported: Path, hub: UploadHub) -> None:
    command = ["-m", "parakeet.cli", "push", "me/bird", "--model", "tiny"]
    child = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=None)
    child.expect("public: everyone can read and download it")
    child.expect(r"Upload to http.*/me/bird\? \[y/N\]")
    child.sendline("n")
    child.expect("Nothing was pushed.")
    child.expect(pexpect.EOF)
    assert not hub.sent("/repos/create")
    assert not exported.exists(), "the answer was no"


@pytest.mark.parametrize(
    ("state", "said"),
    [("promoted", "promoted"), ("refused", "REFUSED: Worse."), ("rolled back", "ROLLED BACK"), ("", "never judged")],
)
def test_the_plan_says_what_the_gates_said(state: str, said: str) -> None:
    reasons = ("Worse.",) if state == "refused" else ()
    assert gates_said(ListedModel(Path("x"), "x", 1, {}, "", False, 0, state, reasons)).startswith(said)
    assert gates_said(None).startswith("never judged")
