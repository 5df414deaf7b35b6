"""`python -m benchmarks.data` on a megabyte."""

import json
import tempfile
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import data
from benchmarks.recall import BANDS
from parakeet.benchmarks import corpus
from parakeet.benchmarks.data import SEQUENCE_LENGTHS

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]


Measured = tuple[list[str], dict[str, Any]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("bench")
    labelled, scratch = folder / "labelled", folder / "scratch"
    labelled.mkdir()
    scratch.mkdir()
    article = " ".join(f"{word}{number}" for number in range(20) for word in WORDS[:5])
    other = " ".join(f"{word}{number}" for number in range(20) for word in WORDS[5:10])
    (labelled / "few.train").write_text(f"a {article} end\nb {other}\nc {article} stop\n", encoding="utf-8")
    (labelled / "few.truth").write_text("c a\n", encoding="utf-8")
    # On two workers, test_data.py measures the stages: starting them takes most of the time of a megabyte.
    options = ["--megabytes", "1", "--pairs", "2", "--labelled", str(labelled), "--workers", "1", "--rounds", "1"]
    variables = {"TMPDIR": str(scratch), "PARAKEET_HOME": str(folder / "home"), "TIKTOKEN_CACHE_DIR": ""}
    with pytest.MonkeyPatch.context() as patch:
        # Inventing 8 MiB of text takes as long as the stages, and the loader as long as it is given.
        patch.setattr(corpus, "INVENTED_DIALOGUES", 1500)
        patch.setattr(data, "invented_blocks", partial(corpus.invented_blocks, n_bytes=1 << 20))
        patch.setattr(data, "LOADER_DOCUMENTS", 3000)
        patch.setattr(data, "LOADER_SECONDS", 0.1)
        patch.setattr(tempfile, "tempdir", str(scratch))
        finished = CliRunner().invoke(data.main, options, env=variables)
    assert finished.exit_code == 0, finished.output
    assert not list(scratch.iterdir())
    *lines, last = finished.stdout.splitlines()
    return lines, json.loads(last)


@pytest.fixture
def result(measured: Measured) -> dict[str, Any]:
    return measured[1]


@pytest.mark.slow
def test_both_pipelines_keep_about_the_same_documents(result: dict[str, Any]) -> None:
    compared = result["pipelines"]
    assert compared["bytes"] >= 1_000_000
    (ours,) = compared["ours"]
    assert 0 < ours["kept"] < compared["documents"]
    if find_spec("spacy") is None:
        pytest.skip("spaCy is not installed")
    (datatrove,) = compared["datatrove"]
    assert datatrove["kept"] == pytest.approx(ours["kept"], rel=0.05)
    for seconds in (ours["seconds"], datatrove["seconds"]):
        assert seconds["all"] == pytest.approx(sum(seconds.values()) - seconds["all"])


@pytest.mark.slow
def test_recall_is_compared_with_the_formula_in_every_band(result: dict[str, Any]) -> None:
    bands = result["recall"]["bands"]
    assert [(band["low"], band["high"]) for band in bands] == list(BANDS)
    assert all(band["pairs"] == 2 >= band["found"] >= band["least"] for band in bands)
    assert bands[0]["expected"] < 0.6 < 1.98 < bands[-1]["expected"]
    assert result["recall"]["unrelated_found"] == 0


@pytest.mark.slow
def test_labelled_sets_are_scored(result: dict[str, Any]) -> None:
    (few,) = result["labelled"]
    assert (few["name"], few["documents"], few["precision"], few["recall"]) == ("few", 3, 1.0, 1.0)


@pytest.mark.slow
def test_tokenising_packing_and_loading_are_measured(result: dict[str, Any]) -> None:
    tokenize = result["tokenize"]
    assert all(tokenize[name][0] > 0 for name in ("stage", "starting", "bare"))
    assert tokenize["bare_with_start"][0] > tokenize["bare"][0]
    assert [fill["sequence_length"] for fill in result["packing"]] == 2 * list(SEQUENCE_LENGTHS)
    assert all(fill["lost"] == 0 and 0.8 < fill["share"] <= 1 for fill in result["packing"])
    assert result["loading"]["tokens_per_second"] > 0
    assert result["loading"]["allocated"] == 0


@pytest.mark.slow
def test_the_table_and_the_facts_of_the_machine_are_there(measured: Measured) -> None:
    lines, result = measured
    assert {"workers", "rounds", "cpus", "load_before", "load_after", "python"} <= result.keys()
    assert result["versions"]["datatrove"]
    table = "\n".join(lines)
    for said in (
        "Clean, exact and MinHash",
        "Planted pairs",
        "Stages over ",
        "Tokenize",
        "Packing",
        "50 GB with 1 worker",
    ):
        assert said in table
    for demand in result["demands"]:
        assert demand["text"] in table
