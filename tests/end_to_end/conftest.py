"""A very small model, built once for all end-to-end tests, and the commands to build more."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..program_server import Program, programs

STAGES = (
    "documents",
    "clean_documents",
    "deduplicated_documents",
    "tokenizer",
    "token_shards",
    "packing_plan",
    "trace_index",
    "data_card",
    "checkpoint",
    "evaluation",
    "memorisation",
    "report",
    "release",
    "comparison",
)


def environment(home: Path) -> dict[str, str]:
    hidden = ("DAGSTER_HOME", "PARAKEET_HOME")
    # One thread: on a shared machine two that wait for each other are ten times slower at this size.
    return {name: value for name, value in os.environ.items() if name not in hidden} | {
        "PARAKEET_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }


def parakeet(home: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = programs().start(arguments, environment(home), stdin)
    out, errors = program.communicate()
    assert program.returncode is not None
    return subprocess.CompletedProcess(arguments, program.returncode, out, errors)


def start(home: Path, *arguments: str) -> Program:
    return programs().start(arguments, environment(home))


def write_recipe(folder: Path, text: str = "", **training: Any) -> Path:
    """A recipe with dialogues and one text file; `training` changes its settings."""
    # fp32: at this width, what `auto` measures differs from run to run.
    settings = {"tokens": 20_480, "batch_tokens": 512, "micro_batch_tokens": 512, "checkpoint_steps": 5}
    settings |= {"precision": "fp32", **training}
    (folder / "story.txt").write_text(
        "\n\n".join(" ".join(f"word{(n * 7919 + i * i) % 997}" for i in range(700)) for n in range(40)),
        encoding="utf-8",
    )
    path = folder / f"recipe-{len(list(folder.iterdir()))}.yaml"
    path.write_text(
        json.dumps(
            {
                "extends": "own-text",
                "name": "tiny",
                # On two, starting the workers takes three times the work; test_data_stages.py has them.
                "executor": {"workers": 1},
                "sources": [
                    {"name": "synthetic", "kind": "synthetic", "documents": 1000, "near_duplicates": False},
                    {"name": "story", "path": "story.txt", "licence": "MIT", "near_duplicates": False},
                ],
                "deduplication": {"held_out_fraction": 0.2},
                "model": {"layers": 2, "heads": 2, "width": 64, "context": 256},
                "training": settings,
                "evaluation": {"questions_per_task": 3, "chat_prompts": False},
                # It is trained for seconds, and passes no gate.
                "gates": None,
            }
        ),
        encoding="utf-8",
    )
    return path


def made(output: bytes) -> list[str]:
    """The stages that a build says it made."""
    return re.findall(r"^(\w+) +made in", output.decode(), flags=re.MULTILINE)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """A finished build: its home, its recipe, what it printed."""
    folder = tmp_path_factory.mktemp("built")
    recipe = write_recipe(folder)
    assert parakeet(folder / "home", "use", str(recipe)).returncode == 0
    finished = parakeet(folder / "home", "build", "--recipe", str(recipe))
    assert finished.returncode == 0, finished.stderr.decode()
    return folder / "home", recipe, finished.stderr


@pytest.fixture
def copy(built: tuple[Path, Path, bytes], tmp_path: Path) -> tuple[Path, Path]:
    """A home of its own to damage."""
    home, recipe, _ = built
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    return tmp_path / "home", recipe
