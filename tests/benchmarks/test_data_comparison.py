"""`python -m benchmarks.data` on a megabyte."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.recall import BANDS
from parakeet.benchmarks.data import ROW_TOKENS, STAGES

ROOT = Path(__file__).parents[2]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bench")
    labelled = folder / "labelled"
    labelled.mkdir()
    article = " ".join(f"{word}{number}" for number in range(20) for word in WORDS[:5])
    other = " ".join(f"{word}{number}" for number in range(20) for word in WORDS[5:10])
    (labelled / "few.train").write_text(f"a {article} end\nb {other}\nc {article} stop\n", encoding="utf-8")
    (labelled / "few.truth").write_text("c a\n", encoding="utf-8")
    command = [sys.executable, "-P", "-m", "benchmarks.data", "--megabytes", "1", "--pairs", "2"]
    command += ["--labelled", str(labelled), "--workers", "2", "--rounds", "1"]
    # What lies where the user stands must not reach the processes that measure.
    (folder / "random.py").write_text("raise SystemExit('the wrong random')\n", encoding="utf-8")
    scratch = folder / "scratch"
    scratch.mkdir()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "TMPDIR": str(scratch), "PARAKEET_HOME": str(folder / "home"), "PYTHONPATH": path}
    environment.pop("TIKTOKEN_CACHE_DIR", None)
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    assert not list(scratch.iterdir())
    return finished.stdout.splitlines()


@pytest.fixture(scope="module")
def result(printed: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed[-1])
    return found


@pytest.mark.slow
def test_both_pipelines_keep_about_the_same_documents(result: dict[str, Any]) -> None:
    compared = result["pipelines"]
    assert compared["bytes"] >= 1_000_000
    assert 0 < compared["ours"]["kept"] < compared["documents"]
    if find_spec("spacy") is None:
        pytest.skip("spaCy is not installed")
    assert compared["datatrove"]["kept"] == pytest.approx(compared["ours"]["kept"], rel=0.05)
    for side in ("ours", "datatrove"):
        (seconds,) = compared[side]["seconds"]
        assert seconds["all"] == pytest.approx(sum(seconds.values()) - seconds["all"])


@pytest.mark.slow
def test_recall_stands_beside_the_formula_in_every_band(result: dict[str, Any]) -> None:
    bands = result["recall"]["bands"]
    assert [(band["low"], band["high"]) for band in bands] == list(BANDS)
    assert all(band["pairs"] == 2 and band["met"] for band in bands)
    assert bands[0]["formula"] < 0.3 < 0.99 < bands[-1]["formula"]
    assert result["recall"]["unrelated_found"] == 0


@pytest.mark.slow
def test_labelled_sets_are_scored(result: dict[str, Any]) -> None:
    (few,) = result["labelled"]
    assert (few["name"], few["documents"], few["precision"], few["recall"]) == ("few", 3, 1.0, 1.0)


@pytest.mark.slow
def test_every_stage_is_measured_and_forecast(result: dict[str, Any]) -> None:
    (chain,) = result["chains"]
    assert [run["stage"] for run in chain["stages"]] == list(STAGES)
    assert all(run["documents"] > 0 and run["artefact"] > 0 and run["seconds"] > 0 for run in chain["stages"])
    if Path("/proc/self/status").exists():
        assert all(run["memory"] >= run["memory_main"] > 1 << 20 for run in chain["stages"])
    assert [row["stage"] for row in result["forecast"]] == list(STAGES)
    times = 50e9 / chain["bytes"]
    for row, run in zip(result["forecast"], chain["stages"], strict=True):
        assert row["hours"] == pytest.approx(times * run["seconds"] / 3600)


@pytest.mark.slow
def test_tokenising_packing_and_loading_are_measured(result: dict[str, Any]) -> None:
    tokenise = result["tokenise"]
    assert tokenise["tokenizer"] == "bpe"
    assert all(tokenise[name][0] > 0 for name in ("stage", "starting", "bare"))
    assert tokenise["bare_with_start"][0] > tokenise["bare"][0]
    assert [fill["sequence_length"] for fill in result["packing"]] == 2 * list(ROW_TOKENS)
    assert all(fill["lost"] == 0 and 0.8 < fill["share"] <= 1 for fill in result["packing"])
    assert result["loading"]["tokens_per_second"] > 0
    assert result["loading"]["allocated"] == 0


@pytest.mark.slow
def test_the_table_and_the_facts_of_the_machine_are_there(printed: list[str], result: dict[str, Any]) -> None:
    assert {"workers", "rounds", "cpus", "load_before", "load_after", "python"} <= result.keys()
    assert result["versions"]["datatrove"]
    table = "\n".join(printed[:-1])
    for said in (
        "Clean, exact and MinHash",
        "Planted pairs",
        "Stages over 1 MB",
        "Tokenize",
        "Packing",
        "50 GB with 2 workers",
    ):
        assert said in table
    for demand in result["demands"]:
        assert demand["text"] in table
