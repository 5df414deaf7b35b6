"""Replies as they are printed, and what Ctrl-C does to them."""

import signal
from collections.abc import Generator
from types import SimpleNamespace

import pytest

from parakeet.chat.output import Interrupts, ReplyPrinter, TextOutput
from parakeet.generation.engine import Step

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
