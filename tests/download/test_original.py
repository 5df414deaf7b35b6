"""The original checkpoint: where it comes from, and what is known of it."""

import json
import os
from pathlib import Path

import pytest
import requests

from parakeet.artifact import sha256_of
from parakeet.download.original import obtain_original
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import OriginalCheckpoint

from ..fault_server import PAGES, FaultServer, rewriting
from .archives import BODY, NAME, archive, damaged
from .conftest import QUICK, Fetching


def test_the_second_call_asks_nobody_and_reads_nothing(server: FaultServer, fetching: Fetching) -> None:
    fetching(server.address("whole"))
    before, accessed = len(server.requests), fetching.file.stat()
    fetching.file.write_bytes(bytes(len(BODY)))  # not looked at: size and time are as they were
    os.utime(fetching.file, ns=(accessed.st_atime_ns, accessed.st_mtime_ns))
    assert fetching(server.address("whole")) == fetching.file
    assert len(server.requests) == before


def test_what_is_known_of_the_file(server: FaultServer, fetching: Fetching) -> None:
    address = server.address("whole").replace("http://", "http://me:secret@") + "?token=secret"
    settings = OriginalCheckpoint(file_name=NAME, drive_id=None, mirrors=[address])
    for _ in range(2):
        checked = obtain_original(fetching.root, settings, Progress(fetching.said), QUICK)
        assert (checked.path, checked.n_bytes) == (fetching.file, len(BODY))
        assert checked.sha256 == sha256_of(fetching.file)
        assert checked.source == server.address("whole")
    assert "secret" not in (fetching.root / "models" / ".checked.json").read_text()


def test_a_file_of_the_users_is_used(fetching: Fetching) -> None:
    fetching.file.parent.mkdir(parents=True)
    fetching.file.write_bytes(BODY)
    assert fetching() == fetching.file
    known = json.loads((fetching.file.parent / ".checked.json").read_text())[NAME]
    assert known["source"] == "found in the folder of models"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (BODY[:-9], "it is a cut-off archive"),
        (b"<!doctype html><title>Oops</title>", "it sent a web page titled “Oops”"),
        (PAGES["quota"].encode(), "Google Drive says that too many people"),
        (archive(seed=9), "its sha256 is"),
    ],
)
def test_a_bad_file_of_the_users_is_named_and_kept(
    server: FaultServer, fetching: Fetching, content: bytes, fault: str
) -> None:
    fetching.file.parent.mkdir(parents=True)
    fetching.file.write_bytes(content)
    with pytest.raises(ParakeetError, match=rf"cannot be used: {fault}.*move it away"):
        fetching(server.address("whole"), sha256="1" * 64)
    assert fetching.file.read_bytes() == content
    assert server.requests == []


def test_a_file_that_was_changed_later_is_looked_at_again(server: FaultServer, fetching: Fetching) -> None:
    fetching(server.address("whole"))
    fetching.file.write_bytes(damaged(BODY))
    with pytest.raises(ParakeetError, match="Bad CRC-32"):
        fetching(server.address("whole"))


def test_a_recipe_that_learns_the_hash_later_is_obeyed(server: FaultServer, fetching: Fetching) -> None:
    fetching(server.address("whole"))
    with pytest.raises(ParakeetError, match="expected 1111"):
        fetching(server.address("whole"), sha256="1" * 64)


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_no_file_is_never_written_over(server: FaultServer, fetching: Fetching, kind: str) -> None:
    fetching.file.parent.mkdir(parents=True)
    if kind == "folder":
        fetching.file.mkdir()
    else:
        fetching.file.symlink_to("/nowhere/at/all.pth")
    with pytest.raises(ParakeetError, match="Move it away"):
        fetching(server.address("whole"))
    assert os.path.lexists(fetching.file)


def test_mirrors_are_tried_in_order_and_each_failure_is_reported(
    server: FaultServer, fetching: Fetching, tmp_path: Path
) -> None:
    good = tmp_path / "good.pth"
    good.write_bytes(BODY)
    fetching(server.address("quota"), str(tmp_path / "missing.pth"), str(good), server.address("whole"))
    said = fetching.said.getvalue()
    assert said.index("too many people") < said.index("there is no such file. Trying") < said.index(str(good))
    assert [fault for fault, _ in server.requests] == ["quota"]
    assert good.read_bytes() == BODY


def test_a_checkpoint_with_something_behind_it_is_refused_and_the_next_mirror_tried(
    server: FaultServer, fetching: Fetching, tmp_path: Path
) -> None:
    server.body = BODY + bytes(100)
    good = tmp_path / "good.pth"
    good.write_bytes(BODY)
    fetching(server.address("whole"), str(good))
    assert "it has more bytes after the end of its archive" in fetching.said.getvalue()
    assert fetching.file.read_bytes() == BODY


def test_a_path_may_begin_with_the_home(fetching: Fetching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.pth").write_bytes(BODY)
    fetching("~/mine.pth")
    assert fetching.file.read_bytes() == BODY


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{}/missing.pth", "there is no such file"),
        ("{}", "it is not a file"),
        ("{}/bad.pth", "it begins with"),
        ("{}/half.pth", "a cut-off archive"),
        ("s3://bucket/x.pth", "neither an http(s) address nor a path"),
        ("~nobody-of-this-name/x.pth", "cannot be read"),
    ],
)
def test_a_local_mirror_that_will_not_do(fetching: Fetching, tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "bad.pth").write_bytes(b"bad bytes")
    (tmp_path / "half.pth").write_bytes(BODY[: len(BODY) // 2])
    assert words in fetching.refused(place.format(tmp_path))
    assert fetching.parts == []


def test_no_source_at_all(fetching: Fetching) -> None:
    assert "The recipe names no source" in fetching.refused()


def test_after_all_mirrors_google_drive_is_asked(
    server: FaultServer, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = rewriting(lambda url: server.address("quota") if "google" in url else None, requests.Session.get)
    monkeypatch.setattr(requests.Session, "get", quota)
    message = fetching.refused(server.address("status_404"), drive_id="abcdefghijk")
    assert "Trying Google Drive instead" in fetching.said.getvalue()
    assert "https://drive.google.com/file/d/abcdefghijk/view" in message


def test_a_copy_from_a_path_is_checked_like_a_download(fetching: Fetching, tmp_path: Path) -> None:
    good = tmp_path / "good.pth"
    good.write_bytes(BODY)
    assert "expected 7" in fetching.refused(str(good), n_bytes=7)
    fetching(str(good), n_bytes=len(BODY))
    assert fetching.file.read_bytes() == BODY == good.read_bytes()
    assert sorted(os.listdir(fetching.file.parent)) == [".checked.json", NAME]
