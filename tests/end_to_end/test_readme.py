"""Every command of the README is run as it is written; CUT_SHORT lists the long ones and how they are shortened.

tests/test_documentation.py checks the options and values of all pages without running anything.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..program_server import PATIENCE
from ..test_documentation import invocations, shell_lines
from .conftest import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VOCABULARY = ROOT.parent / "shared" / "data" / "tiktoken"
original_state = runpy.run_path(str(ROOT / "tests" / "original_checkpoint.py"))["original_state"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The first that a command contains is added to it.
CUT_SHORT = {
    # Gigabytes from the internet; test_source_assets.py and test_original.py use servers of their own.
    "build --recipe parakeet-50gb": "--help",
    "build --select original_model": "--help",
    # Training takes minutes: builds stop before it, and bench measures whole builds.
    "parakeet build": "--select packing_plan",
    "bench": "--help",
    # Needs an account; tests/export/test_push.py has a hub of its own.
    "parakeet push": "--help",
    # It serves until it is ended; tests/server has servers of its own.
    "parakeet serve": "--help",
    # The small model's text contains no duplicates; tests/data/test_inspect.py has some.
    "data inspect --reason": "--help",
}


# `make demo` and `make test` are run by CI, `dagster dev` by test_dagster_dev.py.
COMMANDS = [line for line in shell_lines(README) if any(invocations(line))]


@pytest.fixture(scope="module")
def workplace(built: tuple[Path, Path, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout after `make demo`, with the files that the README mentions."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(built[0], folder / "assets", symlinks=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "parakeet").symlink_to(Path(sys.executable).with_name("parakeet"))
    (folder / "my-folder").mkdir()
    (key,) = (folder / "assets" / "training_runs").iterdir()
    shutil.copytree(key, key.with_name("f" * len(key.name)))  # a second run, for `compare`
    words = "\n\n".join(
        f"Note {n}: " + " ".join(f"w{(n * 7919 + i * i) % 9973}" for i in range(900)) for n in range(150)
    )
    (folder / "my-folder" / "notes.md").write_text(words, encoding="utf-8")
    lines = (f'{{"prompt": "What is note {n}?", "completion": "It says {n * n}."}}\n' for n in range(1500))
    (folder / "my-notes.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = {"extends": "demo", "name": "mine", "sources": [{"name": "notes", "path": "my-folder/*.md"}]}
    (folder / "my-recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    torch.save(original_state(layers=2, width=36), folder / "my-checkpoint.pth")
    if VOCABULARY.is_dir():
        shutil.copytree(VOCABULARY, folder / "tiktoken", copy_function=shutil.copyfile)
        # Instead of the published model, which `build --select original_model` would download.
        original = folder / "assets" / "original_model"
        sizes = ("--heads", "18", "--context", "8192", "-o", str(original / "tiny"))
        imported = run(folder, f".venv/bin/parakeet import my-checkpoint.pth {shlex.join(sizes)}")
        assert imported.returncode == 0, imported.stderr.decode()
        (original / "latest").symlink_to("tiny")
    return folder


def run(workplace: Path, command: str) -> subprocess.CompletedProcess[bytes]:
    variables = environment(workplace / "assets") | {"TIKTOKEN_CACHE_DIR": str(workplace / "tiktoken")}
    variables["PATH"] = f"{workplace / '.venv' / 'bin'}:{variables['PATH']}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=workplace,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_works(workplace: Path, command: str) -> None:
    if not VOCABULARY.is_dir() and any(
        name in command for name in ("import", "assets/original_model", "parakeet-378m")
    ):
        pytest.skip("the cl100k_base vocabulary is not beside this checkout, and tests use no network")
    runs = sorted((workplace / "assets" / "training_runs").iterdir())
    command = command.replace("RUN", runs[0].name).replace("OTHER", runs[-1].name)
    extra = next((words for start, words in CUT_SHORT.items() if start in command), "")
    finished = run(workplace, f"{command} {extra}")
    assert finished.returncode == 0, finished.stderr.decode()


def test_the_recipe_of_the_readme_loads(tmp_path: Path) -> None:
    from parakeet.recipe_file import load_recipe

    (text,) = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.yaml")).training.tokens == 3_000_000
