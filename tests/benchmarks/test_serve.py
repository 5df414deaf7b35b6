"""`parakeet bench serve` as a process, with a small model."""

from pathlib import Path

import pytest

from parakeet.benchmarks.load import Plan
from parakeet.benchmarks.loopback import Streamed

from .tiny import run_benchmark, tiny_recipe


def test_what_is_measured_fits_the_context() -> None:
    assert Plan.of(8192) == Plan(short=16, long=512, tokens=64, arriving=(512, 2000), longest=2048)
    for context in (64, 640):
        plan = Plan.of(context)
        assert plan.short + plan.tokens <= context // 2
        assert max(plan.long, plan.longest, *plan.arriving) <= context // 2


def test_a_gap_counts_if_some_of_it_is_in_the_time() -> None:
    reply = Streamed(began=0.0, arrivals=[1.0, 2.0, 4.0, 7.0])
    assert reply.gaps() == [1.0, 2.0, 3.0]
    assert reply.gaps(since=2.0, until=3.0) == [2.0]
    assert reply.gaps(since=5.0, until=6.0) == [3.0]
    assert (reply.first_token_seconds, reply.decode_rate) == (1.0, 0.5)


@pytest.mark.slow
def test_a_server_is_measured_beside_a_chat(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, model={"layers": 2, "heads": 2, "width": 32, "context": 512})
    options = ("--recipe", str(recipe), "--rounds", "1", "--dtype", "auto")
    lines, result = run_benchmark(
        tmp_path, "torch", "parakeet.cli", "bench", "serve", *options, PARAKEET_HOME=str(tmp_path)
    )
    assert result["served"].keys() == {"fp32"}
    found = result["served"]["fp32"]
    assert (found["server"]["rounds"], found["different_texts"]) == (1, 0)
    for middle, low, high in (*found["server"]["figures"].values(), *found["chat"].values()):
        assert 0 < low <= middle <= high
    assert found["ratios"].keys() >= {"1 stream beside chat, tokens/s", "8 streams beside 1, tokens/s"}
    gaps = found["server"]["gaps"]
    assert gaps["1 stream"]["number"] == 63
    assert gaps["8 streams"]["number"] >= 8 * 64
    assert "4 streams, a prompt of 256 arrives" in gaps
    assert "The replies are chat's." in "\n".join(lines)
