"""`fetch` for any file, with checks of the caller's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.artifact import sha256_of
from parakeet.download.fetch import Checks, SourceError, fetch, name_of
from parakeet.download.pages import fault_of_page
from parakeet.download.transfer import Patience
from parakeet.errors import ParakeetError
from parakeet.progress import Progress

from ..fault_server import PAGES, FaultServer

TEXT = b"Once upon a time there was a parakeet.\n" * 40_000
QUICK = Patience(silence=0.5, chunk=1.0, tries=2, backoff=0.01)


def test_any_file_is_fetched_and_its_hash_checked(tmp_path: Path) -> None:
    good, path = tmp_path / "good.txt", tmp_path / "new" / "corpus.txt"
    good.write_bytes(TEXT)
    with FaultServer(TEXT) as server:
        with pytest.raises(SourceError, match="its sha256 is") as caught:
            fetch(server.address("whole"), path, Checks(sha256="0" * 64), Progress(), QUICK)
        assert caught.value.reason.startswith("its sha256 is")
        assert list(path.parent.iterdir()) == []
        fetch(server.address("cut"), path, Checks(sha256=sha256_of(good)), Progress(), QUICK)
    assert path.read_bytes() == TEXT


def test_an_empty_file_is_a_file_unless_a_check_says_otherwise(tmp_path: Path) -> None:
    with FaultServer(b"") as server:
        fetch(server.address("empty"), tmp_path / "a", Checks(), Progress(), QUICK)
    assert (tmp_path / "a").read_bytes() == b""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_no_file(tmp_path: Path, page: str) -> None:
    with FaultServer(TEXT) as server, pytest.raises(SourceError):
        fetch(server.address(page), tmp_path / "a", Checks(), Progress(), QUICK)
    assert list(tmp_path.iterdir()) == []


def test_what_was_put_there_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def somebody_is_quicker(head: bytes) -> None:
        path.write_text("mine")

    with FaultServer(TEXT) as server, pytest.raises(ParakeetError, match="was put there while"):
        fetch(server.address("whole"), path, Checks(of_head=somebody_is_quicker), Progress(), QUICK)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("https://me:word@example.org:8/a/b.pth?token=x#y", "https://example.org:8/a/b.pth"),
        ("https://drive.google.com/uc?id=abc", "Google Drive"),
        ("~/a.pth", "~/a.pth"),
        ("http://[bad", "http://[bad"),
    ],
)
def test_names_of_sources_hold_no_passwords(place: str, name: str) -> None:
    assert name_of(place) == name


@pytest.mark.parametrize("head", [b"<!---->" * 60 + b"x", b"<html>" + b"<title>" * 70_000, b"<?xml ?>" * 9 + b"<a>"])
def test_hostile_pages_are_judged_at_once(head: bytes) -> None:
    assert (fault_of_page(head) is None) == (not head.startswith(b"<html"))


@given(st.binary(max_size=200), st.sampled_from([b"<html>", b"\xef\xbb\xbf<!DOCTYPE HTML>", b" <head><title>"]))
def test_pages_are_named_without_control_codes(rest: bytes, beginning: bytes) -> None:
    fault = fault_of_page(beginning + rest)
    assert fault is not None
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in fault)
