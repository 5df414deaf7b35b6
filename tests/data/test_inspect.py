"""`parakeet data inspect`: what was dropped, where and why, as a user sees it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.cli import main
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build, use_recipe

from .cleaning.cleaning import PROSE

RECORDS = [
    *({"text": f"{PROSE} Number {number} of the story {number * 17}."} for number in range(200)),
    {"text": "spam eggs " * 80},
    {"text": "x"},
    {"text": "y"},
    {"text": f"{PROSE} Number 3 of the story 51."},
]


def inspect(home: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ("data", "inspect", *arguments), env={"PARAKEET_HOME": str(home)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def recipe_in(folder: Path) -> Recipe:
    lines = [*map(json.dumps, RECORDS), "no record at all \x1b[31m"]
    (folder / "stories.jsonl").write_text("\n".join(lines))
    file = folder / "recipe.yaml"
    file.write_text(
        "extends: demo\nname: inspected\nexecutor: {workers: 1}\n"
        "sources: [{name: stories, path: stories.jsonl, near_duplicates: false}]\n"
    )
    return load_recipe(str(file))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the stages that drop documents were built for the active recipe."""
    root = tmp_path_factory.mktemp("home")
    recipe = recipe_in(tmp_path_factory.mktemp("text"))
    use_recipe(root, recipe)
    build = Build(root, recipe)
    for stage in ("documents", "clean_documents", "deduplicated_documents"):
        build.ensure(stage, Progress(), launch=lambda command: None)
    return root


def test_the_table_counts_every_drop_by_stage_source_and_reason(home: Path) -> None:
    status, output = inspect(home)
    assert status == 0
    table = [line.split() for line in output.splitlines()]
    assert ["clean_documents", "stories", "too", "short", "2"] in table
    assert ["clean_documents", "stories", "repetition:", "one", "frequent", "phrase", "1"] in table
    assert ["deduplicated_documents", "stories", "exact", "duplicate", "1"] in table
    assert any(row[:2] == ["documents", "stories"] and row[-1] == "1" for row in table)
    assert "parakeet data inspect --reason TEXT" in output


def test_examples_say_where_they_are_from(home: Path) -> None:
    status, output = inspect(home, "--reason", "TOO SH", "--examples", "1")
    assert status == 0
    assert "stories: too short (clean_documents), 1 of 2" in output
    assert "stories.jsonl:202" in output
    assert "repetition" not in output
    # A part of a reason will do if no reason begins with it.
    assert "stories.jsonl:201" in inspect(home, "--reason", "frequent")[1]


def test_a_bad_record_is_shown_without_what_could_steer_a_terminal(home: Path) -> None:
    status, output = inspect(home, "--stage", "documents", "--reason", "json")
    assert status == 0
    assert "stories.jsonl:205" in output
    assert "no record at all" in output
    assert "\x1b" not in output


def test_a_pair_of_duplicates_is_shown_side_by_side(home: Path) -> None:
    status, output = inspect(home, "--reason", "exact", "--source", "stories")
    assert status == 0
    kept, dropped = output.splitlines()[-2:]
    assert kept.startswith(f"    kept     {PROSE[:40]}")
    assert dropped.startswith(f"    dropped  {PROSE[:40]}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reason", "language"), "The reasons are: "),
        (("--source", "poems"), "There is no source 'poems' here. The sources are: stories."),
        (("--stage", "tokenizer"), "'tokenizer' drops no documents. These do: documents, clean_documents"),
        (("--recipe", "demo"), "Run: parakeet build --recipe demo --select deduplicated_documents"),
        (("--recipe", "demo", "--stage", "documents"), "Run: parakeet build --recipe demo --select documents"),
    ],
)
def test_a_mistake_is_one_message(home: Path, arguments: tuple[str, ...], message: str) -> None:
    status, output = inspect(home, *arguments)
    assert status == 1
    assert message in output
    assert len(output.splitlines()) == 1


def test_a_build_under_way_shows_what_there_is(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    Build(tmp_path / "home", recipe).ensure("documents", Progress(), launch=lambda command: None)
    status, output = inspect(tmp_path / "home", "--recipe", str(tmp_path / "recipe.yaml"))
    assert status == 0
    assert "clean_documents" not in output


def test_a_trial_is_inspected_with_its_limit(tmp_path: Path) -> None:
    cut = {"messages": [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]}
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(cut) + "\n" for _ in range(100)))
    file = tmp_path / "recipe.yaml"
    file.write_text("extends: demo\nname: trial\nexecutor: {workers: 1}\nsources: [{name: talk, path: talk.jsonl}]\n")
    trial = load_recipe(str(file)).model_copy(update={"limit": 0.1})
    Build(tmp_path / "home", trial).ensure("documents", Progress(), launch=lambda command: None)
    status, output = inspect(tmp_path / "home", "--recipe", str(file), "--limit", "10%")
    assert status == 0
    (row,) = (line for line in output.splitlines() if "note: trailing Human turn without a reply dropped" in line)
    assert row.split()[-1] == "11"
    status, output = inspect(tmp_path / "home", "--recipe", str(file), "--limit", "20%", "--stage", "documents")
    assert status == 1
    assert f"Run: parakeet build --recipe {file} --limit 0.2 --select documents" in output
