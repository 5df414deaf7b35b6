"""`parakeet bench data` on a megabyte."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.benchmarks import corpus
from parakeet.benchmarks.data import STAGES
from parakeet.cli import main


@pytest.mark.slow
def test_every_stage_is_measured_and_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "INVENTED_DIALOGUES", 500)  # inventing the text takes most of the time
    environment = {"TMPDIR": str(tmp_path), "PARAKEET_HOME": str(tmp_path), "TIKTOKEN_CACHE_DIR": ""}
    arguments = ["bench", "data", "--megabytes", "1", "--workers", "2"]
    finished = CliRunner().invoke(main, arguments, env=environment)
    assert finished.exit_code == 0, finished.output
    *lines, last = finished.stdout.splitlines()
    result = json.loads(last)
    assert (result["benchmark"], result["workers"], result["tokenizer"]) == ("data", 2, "bpe")
    runs = result["chain"]["stages"]
    assert [run["stage"] for run in runs] == [row["stage"] for row in result["forecast"]] == list(STAGES)
    times = 50e9 / result["chain"]["bytes"]
    for run, row in zip(runs, result["forecast"], strict=True):
        assert run["documents"] > 0
        assert run["artefact"] > 0
        assert run["memory"] >= run["memory_main"] > 1 << 20
        assert row["hours"] == pytest.approx(times * run["seconds"] / 3600)
    assert lines[0].startswith("Stages over ")
    assert any(line.startswith("50 GB with 2 workers") for line in lines)


def test_a_disk_without_room_is_refused_before_any_work() -> None:
    refused = CliRunner().invoke(main, ["bench", "data", "--megabytes", str(10**9)])
    assert refused.exit_code == 1
    assert "Make room, set TMPDIR to a folder with more, or lower --megabytes." in refused.stderr
