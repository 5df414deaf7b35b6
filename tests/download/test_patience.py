"""How long a source is waited for, without waiting."""

import email.utils
import time

import pytest

from parakeet.download import sources, transfer
from parakeet.download.transfer import Attempts, Broken, Patience, fault_of_status


@pytest.mark.parametrize("told", [None, 0.0, 1.0])
def test_a_night_with_a_broken_line_is_waited_out(monkeypatch: pytest.MonkeyPatch, told: float | None) -> None:
    """More than eight minutes, whatever the server says of a second, and no more than ten."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    attempts = Attempts(sources.PATIENCE, lambda text: None)
    for _ in range(9):
        attempts.failed(Broken("gone", told))
    with pytest.raises(Broken, match=r"gone \(asked 10 times\)"):
        attempts.failed(Broken("gone", told))
    assert 480 < sum(waits) < 600
    assert max(waits) <= sources.PATIENCE.longest_wait


def test_a_server_that_says_when_is_believed_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    attempts = Attempts(Patience(longest_wait=60), lambda text: None)
    for told in (30.0, 1000.0):
        attempts.failed(Broken("busy", told))
    assert waits == [30.0, 60.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("in 100", 100), ("in -100", 0), ("soon", None), ("", None), ("Fri, 99 Zzz 2026 00:00:00 GMT", None)],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: int | None) -> None:
    if header.startswith("in "):
        header = email.utils.formatdate(time.time() + int(header[3:]), usegmt=True)
    fault = fault_of_status(503, {"Retry-After": header}, transfer.PATIENCE)
    assert isinstance(fault, Broken)
    assert fault.wait == (None if seconds is None else pytest.approx(seconds, abs=2))
