"""Processes that measure: their answers, how they may end, and the memory that is sampled."""

from pathlib import Path

import pytest

from parakeet.benchmarks.process import OUT_OF_MEMORY, MeasuringProcess, MemorySampler, ask_once
from parakeet.benchmarks.timing import PeakMemory, in_rounds

PROGRAM = """
import os, time
from parakeet.errors import ParakeetError

def several(request):
    print("noise of a library")
    for number in range(request["count"]):
        yield {"number": number}
    raise MemoryError

def measure(request):
    match request["what"]:
        case "refuse":
            raise ParakeetError("There is no such thing.")
        case "hello":
            import torch
        case "memory":
            import torch
            raise torch.OutOfMemoryError("CUDA out of memory")
        case "fail":
            import torch
            raise RuntimeError("some kernel")
        case "exit":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), 9)
        case "terminated":
            os.kill(os.getpid(), 15)
        case "hang":
            time.sleep(600)
    return {"answer": request["what"]}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "measuring.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "measuring"


def test_an_answer_comes_back_with_the_threads(module: str) -> None:
    assert ask_once(f"{module}:measure", {"what": "hello"}, threads=1) == {"answer": "hello", "threads": 1}


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("refuse", "There is no such thing."),
        ("memory", OUT_OF_MEMORY),
        ("killed", f"{OUT_OF_MEMORY} (killed by signal 9)"),
        ("terminated", "the process was killed by signal 15"),
        ("fail", "the process ended with status 1 (RuntimeError: some kernel)"),
        ("exit", "the process ended with status 3"),
    ],
)
def test_an_error_in_the_process_is_an_answer(module: str, what: str, reason: str) -> None:
    assert ask_once(f"{module}:measure", {"what": what}, threads=1)["refused"] == reason


def test_a_process_that_hangs_is_stopped(module: str) -> None:
    answer = ask_once(f"{module}:measure", {"what": "hang"}, threads=1, seconds=0.5)
    assert answer["refused"].startswith("stopped after")


def test_a_process_answers_repeatedly_and_repeats_its_refusal(module: str) -> None:
    with MeasuringProcess(f"{module}:several", {"count": 2}, threads=1) as process:
        answers = [process.ask() for _ in range(4)]
    assert [answer.get("number") for answer in answers] == [0, 1, None, None]
    assert [answer.get("refused") for answer in answers] == [None, None, OUT_OF_MEMORY, OUT_OF_MEMORY]


def test_the_peak_counts_memory_that_was_freed_since_and_none_from_before() -> None:
    before = bytearray(1 << 25)
    with MemorySampler() as memory:
        first = memory.sample()
        held = bytearray(b"x") * (1 << 26)
        memory.sample()
        del held
    assert (1 << 26) <= memory.peak - first < (1 << 26) + (1 << 24)
    assert memory.main == memory.peak > len(before)
    assert memory.workers == 0


def test_the_meter_of_a_device_leaves_out_what_was_held_before() -> None:
    with PeakMemory("cpu") as memory:
        held = bytearray(b"x") * (1 << 26)
        assert (1 << 26) <= memory.above < memory.peak
    assert len(held) == 1 << 26


def test_samples_are_taken_in_rounds() -> None:
    taken: list[str] = []
    works = {name: lambda name=name: taken.append(name) for name in ("a", "b")}
    seconds = in_rounds(works, "cpu", 3)
    assert taken == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
