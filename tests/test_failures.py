"""Whatever is raised, the user gets one message; the traceback of a bug goes to a file."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from parakeet.failures import DETAILS_FILE, explain
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build


def endless() -> None:
    endless()


RAISED: dict[str, tuple[Callable[[], object], str]] = {
    "memory": (lambda: bytearray(1 << 62), "Not enough memory while counting"),
    "Arrow's memory": (lambda: pa.allocate_buffer(1 << 60), "Not enough memory while counting"),
    "torch's memory": (lambda: torch.empty(1 << 60), "Not enough memory while counting"),
    "folder": (lambda: Path("/").read_text(), "Is a directory (/) while counting"),
    "missing": (lambda: Path("/no/such").read_text(), "No such file or directory (/no/such) while counting"),
    "long name": (lambda: Path("/tmp", "x" * 300).read_text(), "Choose shorter names"),
    "Arrow's overflow": (lambda: pa.array([1 << 70], pa.int64()), "OverflowError: Python int too large"),
    "Arrow's type": (lambda: pa.array(["a", 1]), "ArrowTypeError"),
    "recursion": (endless, "RecursionError: maximum recursion depth exceeded"),
    "JSON": (lambda: json.loads("{"), "JSONDecodeError: Expecting property name"),
    "zip": (lambda: zipfile.ZipFile(io.BytesIO(b"x")), "BadZipFile: File is not a zip file"),
    "encoding": (lambda: "Наука".encode("ascii"), "UnicodeEncodeError"),
    "pydantic": (lambda: Recipe.model_validate({}), "ValidationError: 4 validation errors for Recipe"),
    "nothing to say": (lambda: next(iter(())), "StopIteration"),
}


@pytest.mark.parametrize("name", RAISED)
def test_any_exception_is_one_message(tmp_path: Path, name: str) -> None:
    action, expected = RAISED[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        action()
    message = str(explain(caught.value, "counting", tmp_path))
    assert expected in message
    assert "\n" not in message
    details = tmp_path / DETAILS_FILE
    assert details.is_file() == ("This is a bug in Parakeet" in message)
    if details.is_file():
        assert str(details) in message
        assert details.read_text(encoding="utf-8").startswith("Traceback")


def test_a_message_does_not_need_a_folder_that_can_be_written(tmp_path: Path) -> None:
    assert str(explain(KeyError("a"), "counting", tmp_path / "missing")).endswith("What was finished is kept.")


def parakeet(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    hidden = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    command = [sys.executable, "-m", "parakeet.cli", *arguments]
    settings = hidden | {"PARAKEET_HOME": str(home)} | environment
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)


def test_a_bug_within_a_build_names_its_place_and_its_details(tmp_path: Path) -> None:
    """A manifest that was edited: nobody foresees every way."""
    (tmp_path / "notes.txt").write_text("A note that is long enough.\n", encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: demo\nname: edited\nsources: [{name: notes, path: notes.txt}]\n", encoding="utf-8")
    home = tmp_path / "home"
    Build(home, load_recipe(str(recipe))).ensure("documents", Progress(), lambda *arguments: None)
    manifest = home / "documents" / "latest" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text(encoding="utf-8")) | {"counts": 5}), encoding="utf-8")
    ended = parakeet(home, "build", "--recipe", str(recipe), "--select", "documents")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: An unexpected error while making documents: TypeError")
    assert "parakeet/" in line
    assert line.endswith(f"The details are in {home / DETAILS_FILE}: please report them.")
    assert "Traceback" in (home / DETAILS_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_the_letters_shows_escapes(tmp_path: Path, encoding: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: demo\ndescription: Наука\n", encoding="utf-8")
    ended = parakeet(tmp_path, "plan", "--recipe", str(recipe), PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert ended.returncode == 0
    # click prints UTF-8 where Python says ASCII: then no locale was set.
    assert (r"\u041d" if encoding == "latin-1" else "Наука") in ended.stdout
