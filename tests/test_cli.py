"""The command line as a user meets it, apart from whole builds (tests/end_to_end)."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.cli import main


def run(*arguments: str, home: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, env={"PARAKEET_HOME": str(home)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "--recipe", "demmo"), "did you mean demo?"),
        (("build", "--select", "tokens_shards"), "did you mean token_shards?"),
        (("build", "--force", "everything"), "The assets are: documents, clean_documents"),
        (("plan", "--recipe", "nowhere.yaml"), "There is no recipe"),
        (("use", "nowhere.yaml"), "There is no recipe"),
        (("models",), "Make one with: parakeet build"),
        (("chat", "-m", "hi"), "Make one with: parakeet build"),
        (("chat", "-m", "hi", "--model", "./nowhere"), "There is no file or folder ./nowhere."),
        (("verify", "nowhere"), "is not a folder"),
        (("bench", "startup"), "Make one with: parakeet build"),
        (("bench", "startup", "--against", "."), "Make one with: parakeet build"),
    ],
)
def test_mistakes_are_one_message_and_status_1(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    status, output = run(*arguments, home=tmp_path / "home")
    assert status == 1
    assert message in output
    assert "Traceback" not in output


def test_use_makes_a_recipe_the_active_one(tmp_path: Path) -> None:
    status, output = run("use", "parakeet-378m", home=tmp_path)
    assert status == 0
    assert "parakeet-378m is the recipe in use" in output
    assert "name: parakeet-378m" in (tmp_path / "recipe.yaml").read_text(encoding="utf-8")


def test_clean_on_an_empty_home_has_nothing_to_do(tmp_path: Path) -> None:
    assert run("clean", home=tmp_path) == (0, "Nothing to remove: everything is referred to.\n")


def test_verify_refuses_a_folder_that_is_no_artefact(tmp_path: Path) -> None:
    status, output = run("verify", str(tmp_path), home=tmp_path)
    assert status == 1
    assert "is not an artefact" in output


def test_help_names_every_command(tmp_path: Path) -> None:
    status, output = run("--help", home=tmp_path)
    assert status == 0
    for command in ("bench", "build", "chat", "clean", "models", "plan", "use", "verify"):
        assert f"  {command}" in output


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m parakeet.cli plan --recipe parakeet-378m | true"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, timeout=300)
    assert finished.stderr == b""


@pytest.mark.parametrize(
    "command", [("chat",), ("import",), ("data", "inspect"), ("bench", "data"), ("bench", "train")]
)
def test_ranges_in_help_are_words(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*command, "--help"])
    text = done.output
    assert done.exit_code == 0, text
    assert " N  " in text
    assert "RANGE" not in text
    assert "x>=" not in text
    assert "<=x" not in text
