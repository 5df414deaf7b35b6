"""Sources of the kind `download`, from a server that plays faults."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ..fault_server import PAGES, FaultServer, rewriting
from .conftest import SourceFetching
from .conftest import download_source as source

LINES = b"".join(b'{"text": "%06d"}\n' % number for number in range(150_000))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(LINES) as running:
        yield running


@pytest.fixture
def fetching(source_fetching: SourceFetching) -> SourceFetching:
    return source_fetching


def test_files_are_named_after_their_addresses_or_by_the_recipe(server: FaultServer, fetching: SourceFetching) -> None:
    first = server.address("cut", "train%20one.jsonl?version=2")
    counts = fetching(source(first, {"url": server.address("flaky", "x"), "file_name": "two.jsonl"}))
    assert fetching.files == {"train one.jsonl": LINES, "two.jsonl": LINES}
    assert "set-1.0: file 2 of 2, two.jsonl." in fetching.said.getvalue()
    assert counts == {
        "files": 2,
        "bytes": 2 * len(LINES),
        "share": 1.0,
        "entries": [
            {
                "name": name,
                "bytes": len(LINES),
                "sha256": hashlib.sha256(LINES).hexdigest(),
                "origin": server.address(fault, place),
            }
            for name, fault, place in (
                ("train one.jsonl", "cut", "train%20one.jsonl"),
                ("two.jsonl", "flaky", "x"),
            )
        ],
    }


@pytest.mark.parametrize("limit", [1.0, 0.5])
@pytest.mark.parametrize("fault", ["whole", "gzip", "labelled_gzip"])
def test_a_gzip_file_is_kept_as_published(
    server: FaultServer, fetching: SourceFetching, fault: str, limit: float
) -> None:
    server.body = gzip.compress(LINES)
    fetching(source({"url": server.address(fault, "a"), "file_name": "a.jsonl.gz"}), limit)
    if limit == 1.0:
        assert fetching.files == {"a.jsonl.gz": server.body}
    else:
        assert LINES.startswith(gzip.decompress(fetching.files["a.jsonl.gz"]))


def test_what_is_plain_under_the_name_of_gzip_comes_as_something_that_is_read(
    server: FaultServer, fetching: SourceFetching
) -> None:
    server.body = LINES[:1000]
    fetching(source(server.address("gzip", "a.jsonl.gz")))
    assert gzip.decompress(fetching.files["a.jsonl.gz"]) == server.body


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("limit", [1.0, 0.5])
def test_a_page_is_no_file(server: FaultServer, fetching: SourceFetching, page: str, limit: float) -> None:
    message = fetching.refused(source(server.address(page, "a.jsonl?token=secret")), limit)
    assert "secret" not in message + fetching.said.getvalue()
    assert server.address(page, "a.jsonl") in message
    assert fetching.files == {}


@pytest.mark.parametrize("expected", [{"n_bytes": 7}, {"sha256": "0" * 64}])
@pytest.mark.parametrize("limit", [1.0, 0.5])
def test_what_the_recipe_knows_is_checked(
    server: FaultServer, fetching: SourceFetching, expected: dict[str, Any], limit: float
) -> None:
    files = source({"url": server.address("whole", "a.jsonl"), **expected}, server.address("whole", "b.jsonl"))
    assert ", expected" in fetching.refused(files, limit)
    assert fetching.files == {}


@pytest.mark.parametrize("limit", [1.0, 0.5])
def test_a_refused_address_is_named_without_its_token(
    server: FaultServer, fetching: SourceFetching, limit: float
) -> None:
    message = fetching.refused(source(server.address("status_500", "a.jsonl?token=secret")), limit)
    assert server.address("status_500", "a.jsonl") in message
    assert "secret" not in message + fetching.said.getvalue()


def test_names_that_are_missing_or_stand_twice(server: FaultServer, fetching: SourceFetching) -> None:
    nameless = server.address("whole", "")
    assert "has no name. Give it a file_name in the recipe" in fetching.refused(source(nameless))
    twice = (server.address("whole", "a.jsonl"), server.address("cut", "A.jsonl"))
    assert f"would have the same name as {twice[0]}" in fetching.refused(source(*twice))
    assert server.requests == []


def test_a_file_that_was_damaged_between_two_tries(server: FaultServer, fetching: SourceFetching) -> None:
    files = source(server.address("whole", "a.jsonl"), server.address("status_404", "b.jsonl"))
    fetching.refused(files)
    (fetching.output / "a.jsonl").write_bytes(LINES[:-1] + b"?")
    fetching.refused(files)
    assert fetching.files == {"a.jsonl": LINES}
    assert "a.jsonl: it was changed after it had arrived; fetching it again" in fetching.said.getvalue()


def test_a_second_try_leaves_what_has_arrived(server: FaultServer, fetching: SourceFetching) -> None:
    files = source(server.address("whole", "a.jsonl"), server.address("begins_then_refuses", "b.jsonl"))
    assert "too many people" in fetching.refused(files)
    assert fetching.files["a.jsonl"] == LINES
    server.refuse_after = 99
    asked = len(server.requests)
    fetching(files)
    assert fetching.files == {"a.jsonl": LINES, "b.jsonl": LINES}
    assert {fault for fault, _ in server.requests[asked:]} == {"begins_then_refuses"}
    assert server.ranges("begins_then_refuses")


def test_a_slice_of_lines(server: FaultServer, fetching: SourceFetching) -> None:
    addresses = [server.address("whole", f"{name}.jsonl") for name in "abc"]
    counts = fetching(source(*addresses), limit=0.1)
    assert list(fetching.files) == ["a.jsonl"]
    cut = fetching.files["a.jsonl"]
    assert cut == LINES[: len(cut)]
    assert cut.endswith(b"\n")
    assert 0 <= 0.3 * len(LINES) - len(cut) < 20
    assert counts["sliced"] is True
    assert counts["share"] == len(cut) / (3 * len(LINES))
    assert [wanted for wanted in server.ranges("whole") if wanted] == [f"bytes=0-{round(0.3 * len(LINES)) - 1}"]


def test_a_slice_holds_one_whole_line_however_long(server: FaultServer, fetching: SourceFetching) -> None:
    server.body = b"x" * 300_000 + b"\n" + b"y\n" * 1_000_000
    fetching(source(server.address("whole", "a.txt")), limit=0.000_001)
    (cut,) = fetching.files.values()
    assert server.body.startswith(cut)
    assert cut.endswith(b"\n")
    assert 300_000 < len(cut) < 700_000


def test_a_slice_continues_where_it_was_interrupted(server: FaultServer, fetching: SourceFetching) -> None:
    server.cut_bytes = 500_000
    fetching(source(server.address("cut", "a.jsonl")), limit=0.5)
    (cut,) = fetching.files.values()
    assert LINES.startswith(cut)
    starts = [wanted.removeprefix("bytes=").partition("-")[0] for wanted in server.ranges("cut")]
    assert starts == ["0", "500000", "1000000"]


@pytest.mark.parametrize(
    ("fault", "name"), [("whole", "a.jsonl.gz"), ("whole", "a.json"), ("short", "a.jsonl"), ("no_length", "a.jsonl")]
)
def test_what_cannot_be_cut_is_taken_whole(
    server: FaultServer, fetching: SourceFetching, fault: str, name: str
) -> None:
    server.cut_bytes = len(LINES)
    counts = fetching(source(server.address(fault, name), server.address(fault, f"b-{name}")), limit=0.1)
    assert fetching.files == {name: LINES}
    assert (counts["sliced"], counts["share"]) == (True, 0.5)


def test_a_password_comes_from_netrc(
    server: FaultServer, fetching: SourceFetching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = source(server.address("password", "a.jsonl"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password wrong")
    assert "it wants a password, and ~/.netrc has none that it accepts" in fetching.refused(files)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password word")
    for limit in (0.5, 1.0):
        assert fetching(files, limit)["bytes"] == pytest.approx(limit * len(LINES), abs=20)


def test_a_hash_that_was_learnt_is_asked_of_what_had_arrived(server: FaultServer, fetching: SourceFetching) -> None:
    address, gone = server.address("whole", "a.jsonl"), server.address("status_404", "b.jsonl")
    fetching.refused(source(address, gone))
    asked = server.asked["whole"]
    fetching.refused(source({"url": address, "sha256": hashlib.sha256(LINES).hexdigest()}, gone))
    assert server.asked["whole"] == asked
    assert f"expected {'0' * 64}" in fetching.refused(source({"url": address, "sha256": "0" * 64}, gone))
    assert server.asked["whole"] > asked
    assert "a.jsonl" not in fetching.files


def test_a_file_that_changes_while_it_is_sliced(server: FaultServer, fetching: SourceFetching) -> None:
    server.cut_bytes = 300_000
    files = source(server.address("cut", "a.jsonl"))
    answers = server.RequestHandlerClass.play_cut  # type: ignore[attr-defined]

    class Changing(server.RequestHandlerClass):  # type: ignore[name-defined, misc]
        def play_cut(self) -> None:
            answers(self)
            if "Range" in self.headers:
                self.server.version = '"two"'

    server.RequestHandlerClass = Changing
    assert "the file changed while it was being downloaded" in fetching.refused(files, 0.5)
    fetching(files, 0.5)
    assert LINES.startswith(next(iter(fetching.files.values())))


def test_an_empty_file_is_a_file(server: FaultServer, fetching: SourceFetching) -> None:
    fetching(source(server.address("empty", "a.txt")))
    assert fetching.files == {"a.txt": b""}


def test_of_google_drive_only_whole_files_are_fetched(
    server: FaultServer, fetching: SourceFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def address(url: str) -> str | None:
        return f"{server.address('drive')}?{url.partition('?')[2]}" if "google.com" in url else None

    monkeypatch.setattr(requests.Session, "get", rewriting(address, requests.Session.get))
    counts = fetching(source({"drive_id": "abcdefghijk", "file_name": "a.jsonl"}), limit=0.5)
    assert fetching.files == {"a.jsonl": LINES}
    assert counts["entries"][0]["origin"] == "Google Drive abcdefghijk"


def test_what_version_0_1_0_had_begun_leaves_no_folder(server: FaultServer, fetching: SourceFetching) -> None:
    """A server that is listed for a share of its files continues the old part too, or drops it."""
    address = server.address("whole", "a.jsonl")
    key = hashlib.sha256(json.dumps([address, None, None]).encode()).hexdigest()[:16]
    folder = fetching.output / ".download" / "a.jsonl" / key
    folder.mkdir(parents=True)
    (folder / "fileABCDEFGH.part").write_bytes(LINES[:1000])
    (folder / "offer.json").write_text(json.dumps({"total": len(LINES), "validator": '"one"'}))
    fetching(source(address), limit=0.5)
    (cut,) = fetching.files.values()
    assert LINES.startswith(cut)
    assert not (fetching.output / ".download").exists()
