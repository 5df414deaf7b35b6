"""`parakeet retrain`, as far as it trains nothing. tests/benchmarks/test_season.py trains."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from parakeet.cli import main
from parakeet.stages import use_recipe

from .released import RELEASE, RUN, recipe_of, write_release


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("word " * 800, encoding="utf-8")
    home, recipe = tmp_path / "home", recipe_of(tmp_path / "text")
    write_release(home, recipe)
    use_recipe(home, recipe)
    monkeypatch.setenv("PARAKEET_HOME", str(home))
    return home


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["retrain", *arguments])


def test_it_says_that_nothing_is_new(home: Path) -> None:
    done = run()
    assert done.exit_code == 0
    assert f"Nothing is new since release {RELEASE}: 1 file, none new or changed." in done.stderr


def test_it_knows_what_the_trainer_tells_to_add(home: Path) -> None:
    assert run("--try-anyway").exit_code == 0


def test_it_takes_another_recipe_than_the_one_in_use(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("extends: own-text\nname: notes\nsources: [{name: gone, path: gone.txt}]\n", encoding="utf-8")
    done = run("--recipe", str(path))
    assert done.exit_code == 1
    assert "gone.txt does not exist" in done.stderr


def test_without_a_release_of_the_recipe_it_names_the_commands_and_trains_nothing(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("extends: own-text\nname: other\nsources: [{name: text, path: text}]\n", encoding="utf-8")
    for more in ((), ("--from-scratch",), ("--anyway",)):
        done = run("--recipe", str(path), *more)
        assert done.exit_code == 1
        assert "Recipe other has no promoted release to train on new text. Promoted releases are there of: notes." in (
            done.stderr
        )
        assert (
            f"parakeet use NAME. To train the first model of other, run: parakeet build --recipe {path}" in done.stderr
        )
    (home / "recipe.yaml").unlink()
    done = run()
    assert done.exit_code == 1
    assert "Recipe demo (no recipe is in use) has no promoted release" in done.stderr
    shutil.rmtree(home / "releases")
    use_recipe(home, recipe_of(tmp_path / "text"))
    assert (
        "Recipe notes, the recipe in use, has no promoted release to train on new text. To train the first model of "
        f"notes, run: parakeet build --recipe {home / 'recipe.yaml'}" in run().stderr
    )


def test_anyway_without_new_text_is_refused_at_once(home: Path) -> None:
    done = run("--anyway")
    assert done.exit_code == 1
    assert (
        "There is nothing to continue with. To train on all text from new weights, run: parakeet retrain" in done.stderr
    )


def test_it_waits_for_nobody(home: Path) -> None:
    with FileLock(home / "training_runs" / RUN / "run.lock"):
        done = run()
    assert done.exit_code == 1
    assert "Run bbbbbbbb is being trained: run this again when it has ended." in done.stderr
