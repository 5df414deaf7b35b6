"""The built wheel, installed into a fresh environment outside the checkout and used there."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from .conftest import write_recipe

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PARTS = ("parakeet", "assets_defs", "pipelines", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(folder: Path) -> Path:
    """From a copy, since setuptools leaves folders beside what it builds."""
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / part, source / part)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment's bin folder. It has the wheel, and borrows what Parakeet depends on: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    # A .pth file adds these folders, but not what their own .pth files name: an editable checkout stays out.
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(ROOT), str(ROOT / "tests")}
    borrowed = [path for path in sys.path if Path(path).is_dir() and path not in standard and "lib-dynload" not in path]
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    Path(site.stdout.strip(), "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return python.parent


def run(installed: Path, folder: Path, *command: str) -> str:
    hidden = ("DAGSTER_HOME", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PARAKEET_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [str(installed / command[0]), *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_it_runs_from_its_own_files(installed: Path, tmp_path: Path) -> None:
    code = "import parakeet, assets_defs, pipelines; print(parakeet.__file__, assets_defs.__file__, pipelines.__file__)"
    places = run(installed, tmp_path, "python", "-c", code).split()
    assert len(places) == 3
    assert all(Path(place).is_relative_to(installed.parent) for place in places)


def test_no_file_of_the_packages_is_missing(installed: Path) -> None:
    (site,) = installed.parent.glob("lib/python*/site-packages")
    for package in ("parakeet", "assets_defs", "pipelines"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert (site / path.relative_to(ROOT)).is_file(), path
    assert not (site / "benchmarks").exists()
    assert not (site / "tests").exists()


def test_help_and_plan_answer(installed: Path, tmp_path: Path) -> None:
    assert "build" in run(installed, tmp_path, "parakeet", "--help")
    assert "demo" in run(installed, tmp_path, "parakeet", "plan", "--recipe", "demo")


def test_a_recipe_is_built_down_to_the_data_card(installed: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run(installed, tmp_path, "parakeet", "build", "--recipe", str(recipe), "--select", "data_card")
    card = tmp_path / "home" / "data_card" / "latest"
    manifest = json.loads((card / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["stage"] == "data_card"
    assert any(path.suffix == ".html" for path in card.iterdir())
