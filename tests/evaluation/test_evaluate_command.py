"""`parakeet evaluate` on releases and checkpoints of random weights."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from parakeet.cli import main

from ..chat.tiny_models import write_release, write_run
from .benchmark_records import write_all

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models") / "home"
    write_release(root / "releases" / "e2f4-0", "built", seed=7)
    (root / "releases" / "latest").symlink_to("e2f4-0")
    write_run(root, "abcd1234abcd1234", (10,))
    write_all(root / "sets")
    return root


def evaluate(home: Path, *arguments: str) -> Result:
    asked = ["evaluate", *arguments, "--task-data", str(home / "sets")]
    return CliRunner().invoke(main, asked, env={"PARAKEET_HOME": str(home)})


def test_a_release_gets_a_table_and_a_file(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    done = evaluate(home, "--suite", "standard,wikitext", "--items", "5", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert re.search(r"^piqa +validation +5 of 12 +\d+\.0% ", done.output, re.MULTILINE)
    assert "Items were not looked up in the training text" in done.output
    result = json.loads(file.read_text())
    assert (result["model"], result["lm_eval"][:4]) == ("built", "0.4.")
    assert list(result["tasks"])[-1] == "wikitext"
    assert re.search(rf"^wikitext .* {result['tasks']['wikitext']['bits_per_byte']['value']:.3f}$", done.output, re.M)
    again = evaluate(home, str(home / "releases" / "e2f4-0"), "--suite", "PIQA", "--items", "5", "--json", "-")
    assert json.loads(again.stdout)["tasks"]["piqa"] == result["tasks"]["piqa"]


def test_a_checkpoint_of_a_run_and_a_model_that_is_not_there(home: Path) -> None:
    done = evaluate(home, "abcd@10", "--suite", "copa")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("run abcd1234@10 (")
    missing = evaluate(home, "nothing", "--suite", "copa")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: ")
