"""A disk that fills in the middle of a stage: one message, what is finished stays, and the same bytes in the end."""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build

from ..program_server import programs

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("lo", "ming", "ter", "sk", "nd", "ra", "vel")]
STAGES = ["documents", "clean_documents"]
MOST_BYTES = 100_000
"""Larger than the part of a small source, smaller than that of the large one."""
MAKE = """
import resource, signal, sys
from pathlib import Path
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build
# A write past the limit is an error then, as on a full disk.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    Build(Path(sys.argv[1]), load_recipe(sys.argv[2])).ensure(sys.argv[3], Progress(), launch=lambda command: None)
except ParakeetError as error:
    sys.exit(f"ParakeetError: {error}")
"""


def recipe_in(folder: Path) -> Path:
    """Four small sources and then a large one."""
    draw = random.Random(5)
    for name, documents in (("a", 20), ("b", 20), ("c", 20), ("d", 20), ("large", 800)):
        lines = [json.dumps({"text": " ".join(draw.choices(WORDS, k=100))}) for _ in range(documents)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sources = [{"name": name, "path": f"{name}.jsonl"} for name in ("a", "b", "c", "d", "large")]
    path = folder / "recipe.json"
    recipe = {"extends": "demo", "name": "full", "sources": sources, "executor": {"workers": 1}}
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def make(home: Path, recipe: Recipe, stage: str) -> str:
    """The digest of what the stage makes."""
    artefact, _ = Build(home, recipe).ensure(stage, Progress(), launch=lambda command: None)
    return str(artefact.manifest["content"])


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_half_way(tmp_path: Path, stage: str) -> None:
    path = recipe_in(tmp_path)
    recipe = load_recipe(str(path))
    home = tmp_path / "full"
    for before in STAGES[: STAGES.index(stage)]:
        make(tmp_path / "undisturbed", recipe, before)
        make(home, recipe, before)
    undisturbed = make(tmp_path / "undisturbed", recipe, stage)
    command = [sys.executable, "-c", MAKE, str(home), str(path), stage, str(MOST_BYTES)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    (message,) = (line for line in ended.stderr.splitlines() if line.startswith("ParakeetError: "))
    assert "File too large" in message
    assert f"while making {stage}." in message
    assert not (home / stage / "latest").exists()
    assert sorted(path.name for path in home.rglob("completions/*")) == ["00000", "00001", "00002", "00003"]
    parts = {path: path.stat().st_mtime_ns for path in home.rglob("kept/0000[0-3]/*.parquet")}
    assert len(parts) == 4
    # The stage removes its scratch at the end, so the finished parts are recognised by their times.
    assert make(home, recipe, stage) == undisturbed
    artefact = home / stage / "latest"
    times = {path.stat().st_mtime_ns for path in artefact.glob("part-*.parquet")}
    assert set(parts.values()) <= times
    assert len(times) == 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 100 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a file system: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("moment", ["documents ", "deduplicated_documents "])
def test_a_disk_that_another_program_fills_during_a_build(tmp_path: Path, small_disk: Path, moment: str) -> None:
    """Dagster's history is on that disk too."""
    (tmp_path / "recipe").mkdir()
    command = ("build", "--select", "packing_plan", "--recipe", str(recipe_in(tmp_path / "recipe")))
    hidden = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment = hidden | {"PARAKEET_HOME": str(small_disk / "home")}
    build = programs().start(command, environment)
    while not re.search(f"^{moment}", build.errors(), flags=re.MULTILINE):
        assert build.poll() is None, build.errors()
        time.sleep(0.01)
    before = len(build.errors().splitlines())
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    assert build.wait() == 1
    said = build.errors().splitlines()[before:]
    assert "No space left on device" in said[-1] or "Too little disk space" in said[-1]
    assert [line for line in said if not line.startswith(("Error: ", *STAGES, "deduplicated_", "tokenizer"))] == []
    assert sum(line.startswith("Error: ") for line in said) == 1
    (small_disk / "filler").unlink()
    finished = programs().start(command, environment)
    assert finished.wait() == 0, finished.errors()
