"""How long a source is waited for, what its answers mean, and how it is named; without waiting."""

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.download import sources
from parakeet.download.http import fault_of_status, name_of
from parakeet.download.transfer import Retries, RetryPolicy, TransientError
from parakeet.download.web_pages import fault_of_page


@pytest.mark.parametrize("asked", [None, 0.0, 1.0])
def test_a_night_with_a_broken_line_is_waited_out(monkeypatch: pytest.MonkeyPatch, asked: float | None) -> None:
    """More than eight minutes, whatever the server says of a second, and no more than ten."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    retries = Retries(sources.RETRY_POLICY, lambda text: None)
    for _ in range(9):
        retries.failed(TransientError("gone", asked))
    with pytest.raises(TransientError, match=r"gone \(asked 10 times\)"):
        retries.failed(TransientError("gone", asked))
    assert 480 < sum(waits) < 600
    assert max(waits) <= sources.RETRY_POLICY.max_wait


def test_a_server_that_says_when_is_believed_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    retries = Retries(RetryPolicy(max_wait=60), lambda text: None)
    for asked in (30.0, 1000.0):
        retries.failed(TransientError("busy", asked))
    assert waits == [30.0, 60.0]


def test_a_line_that_drops_but_makes_progress_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    retries = Retries(RetryPolicy(attempts=2), lambda text: None)
    for position in range(1, 50):
        retries.failed(TransientError("gone"), position)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("in 100", 100), ("in -100", 0), ("soon", None), ("", None), ("Fri, 99 Zzz 2026 00:00:00 GMT", None)],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    if header.startswith("in "):
        header = email.utils.formatdate(1_700_000_000 + int(header[3:]), usegmt=True)
    fault = fault_of_status(503, {"Retry-After": header})
    assert isinstance(fault, TransientError)
    assert fault.wait == seconds


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
