"""Measurements by processes of their own: what they say, and how they may end."""

from pathlib import Path

import pytest

from parakeet.benchmarks.apart import OUT_OF_MEMORY, Apart, ask_apart
from parakeet.benchmarks.rounds import in_rounds

SEVERAL = """
from parakeet.benchmarks.apart import answer_each

def measure(request):
    print("noise of a library")
    for number in range(request["count"]):
        yield {"number": number}
    raise MemoryError

answer_each(measure)
"""
PROGRAM = """
import os, time, torch
from parakeet.benchmarks.apart import answer
from parakeet.benchmarks.rounds import PeakMeter
from parakeet.errors import ParakeetError

def measure(request):
    match request["what"]:
        case "refuse":
            raise ParakeetError("There is no such thing.")
        case "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        case "fail":
            raise RuntimeError("some kernel")
        case "killed":
            os.kill(os.getpid(), 9)
        case "hang":
            time.sleep(60)
        case "peak":
            torch.ones(1 << 24)  # freed before the meter is made
            meter = PeakMeter("cpu")
            kept = torch.ones(1 << 22)
            torch.ones(1 << 23)
            return {"above": meter.above, "peak": meter.peak}
    return {"said": request["what"]}

answer(measure)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "measuring.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "measuring"


def test_an_answer_comes_back_with_the_threads(program: str) -> None:
    assert ask_apart(program, {"what": "hello"}, threads=1) == {"said": "hello", "threads": 1}


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("refuse", "There is no such thing."),
        ("memory", OUT_OF_MEMORY),
        ("killed", f"{OUT_OF_MEMORY} (stopped by signal 9)"),
        ("fail", "the process ended with status 1 (RuntimeError: some kernel)"),
    ],
)
def test_what_goes_wrong_is_an_answer(program: str, what: str, why: str) -> None:
    assert ask_apart(program, {"what": what}, threads=1)["refused"] == why


def test_a_process_that_hangs_is_given_up(program: str) -> None:
    assert ask_apart(program, {"what": "hang"}, threads=1, seconds=0.5)["refused"].startswith("given up after")


def test_a_process_answers_again_and_again_and_keeps_to_its_refusal(program: str, tmp_path: Path) -> None:
    (tmp_path / "several.py").write_text(SEVERAL, encoding="utf-8")
    with Apart("several", {"count": 2}, threads=1) as process:
        answers = [process.ask() for _ in range(4)]
    assert [answer.get("number") for answer in answers] == [0, 1, None, None]
    assert [answer.get("refused") for answer in answers] == [None, None, OUT_OF_MEMORY, OUT_OF_MEMORY]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lowers the high-water mark")
def test_the_peak_counts_what_was_freed_meanwhile_and_nothing_from_before(program: str) -> None:
    answer = ask_apart(program, {"what": "peak"}, threads=1)
    assert answer["above"] == pytest.approx((4 << 22) + (4 << 23), rel=0.05)
    assert answer["peak"] > answer["above"]


def test_samples_are_taken_in_rounds() -> None:
    taken: list[str] = []
    works = {name: lambda name=name: taken.append(name) for name in ("a", "b")}
    seconds = in_rounds(works, "cpu", 3)
    assert taken == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
