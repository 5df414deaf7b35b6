"""`python -m benchmarks.soak` for seconds."""

from pathlib import Path

import pytest

from parakeet.benchmarks.server_process import ServerProcess
from parakeet.errors import ParakeetError

from .tiny import run_benchmark, tiny_recipe


@pytest.mark.slow
def test_clients_of_every_kind_find_nothing_wrong(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, model={"layers": 2, "heads": 2, "width": 32, "context": 512})
    options = ("--recipe", str(recipe), "--minutes", "0.08", "--clients", "6")
    _, result = run_benchmark(tmp_path, "torch", "benchmarks.soak", *options)
    assert result["violations"] == []
    assert result["requests"].keys() >= {"whole", "streamed", "bad"}
    assert result["compared"]["greedy"] > 13
    different = [result["compared"].get(f"{kind}, different", 0) for kind in ("greedy", "sampled", "log-probabilities")]
    assert different == [0, 0, 0]
    assert {demand["met"] for demand in result["demands"]} == {True, None}
    assert len(result["idle"]) == 2


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "none", [], {"PARAKEET_HOME": str(tmp_path)})
    with pytest.raises(ParakeetError, match="There is no"), server:
        pass
