"""Replies as they are printed, and what Ctrl-C does to them."""

import signal
from collections.abc import Generator
from types import SimpleNamespace

import pytest

from parakeet.chat.output import Interrupts, ReplyPrinter, TextOutput, figures, stats_line
from parakeet.generation.engine import Step, Timing

from .scripted_sessions import session


def pressing(steps: Generator[Step, None, None], presses: int) -> Generator[Step, None, None]:
    """The same steps, with Ctrl-C pressed a number of times before the second word."""
    try:
        for number, step in enumerate(steps):
            if number == 2:
                for _ in range(presses):
                    signal.raise_signal(signal.SIGINT)
            yield step
    finally:
        steps.close()


@pytest.mark.parametrize(("presses", "leave"), [(0, False), (1, False), (2, True)])
def test_ctrl_c_ends_a_reply_after_the_present_word(
    capsys: pytest.CaptureFixture[str], presses: int, leave: bool
) -> None:
    printer = ReplyPrinter(session("one two three"), TextOutput())
    finish_reason = printer.print_reply(pressing(printer.session.reply("Count."), presses), "Parakeet: ")
    printed = "one two" if presses else "one two three"
    assert finish_reason == printer.session.exchanges[-1].finish_reason == ("interrupted" if presses else "stop")
    assert capsys.readouterr().out == f"Parakeet: {printed}\n"
    assert printer.session.exchanges[-1].reply == printed
    assert (printer.interrupts.requested, printer.interrupts.leave) == (presses > 0, leave)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_only_two_presses_within_a_second_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.5, 12.5, 13.4, 20.0])
    monkeypatch.setattr("parakeet.chat.output.time", SimpleNamespace(monotonic=lambda: next(times)))
    interrupts, leave = Interrupts(), []
    for _ in range(5):
        interrupts.press()
        leave.append(interrupts.leave)
    assert leave == [False, False, False, True, True]


def test_the_statistics_of_a_reply() -> None:
    timing = Timing(prompt_tokens=600, kept_tokens=512, reply_tokens=41, prefill_seconds=0.5, decode_seconds=2.0,
                    decoded_tokens=40, first_token_seconds=0.51, bytes_read=4e9)  # fmt: skip
    begin = "prompt 600 tokens (512 cached) at 176 tokens/s · first token 0.51 s · 41 tokens at 20.0 tokens/s"
    assert stats_line(timing, 3, "stop") == f"{begin} · 2.0 GB/s · seed 3 · stop"
    timing.drafted_tokens, timing.accepted_tokens = 15, 12
    assert stats_line(timing, 3, "stop") == f"{begin} · 12 of 15 drafted tokens accepted · 2.0 GB/s · seed 3 · stop"
    assert figures(timing) == {
        "prompt_tokens": 600, "kept_tokens": 512, "prompt_tokens_per_second": 176.0, "first_token_seconds": 0.51,
        "tokens_per_second": 20.0, "gigabytes_per_second": 2.0, "drafted_tokens": 15, "accepted_tokens": 12,
    }  # fmt: skip
