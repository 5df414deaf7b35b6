"""The data stages as processes: killed in each of them, on one worker, on two, and with Ray, always the same bytes."""

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import STAGES, parakeet, start

pytestmark = pytest.mark.slow

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("lo", "ming", "ter", "sk", "nd", "ra", "vel")]


def write_sources(folder: Path) -> Path:
    """Five sources, so that every stage has five tasks; a tenth of the documents stands twice, nearly or exactly."""
    draw = random.Random(7)
    names = [f"source-{number}" for number in range(5)]
    for name in names:
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(60, 400))) + "." for _ in range(250)]
        texts += [text + " Once more." * (number % 2) for number, text in enumerate(draw.sample(texts, 25))]
        lines = [json.dumps({"text": text}) for text in texts]
        lines[40] = '{"text": broken'
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe: dict[str, Any] = {
        "extends": "demo",
        "name": "scale",
        "sources": [
            {"name": name, "path": f"{name}.jsonl", "licence": "CC0-1.0", "weight": 1 + number}
            for number, name in enumerate(names)
        ],
        "deduplication": {"held_out_fraction": 0.1, "buckets": 4, "hashes_per_bucket": 4},
        "tokenizer": {"vocabulary": 600},
    }
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def with_executor(recipe: Path, **executor: Any) -> Path:
    values = json.loads(recipe.read_text(encoding="utf-8")) | {"executor": executor}
    path = recipe.with_name(f"{'-'.join(map(str, executor.values()))}.json")
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def contents(home: Path) -> dict[str, str]:
    """The content digests of the artefacts, which cover every file but the manifests."""
    return {
        name: json.loads((home / name / "latest" / "manifest.json").read_text(encoding="utf-8"))["content"]
        for name in (*STAGES[: STAGES.index("packing_plan") + 1], "data_card")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and the home of its build on one worker that nothing disturbed."""
    folder = tmp_path_factory.mktemp("scale")
    recipe = write_sources(folder)
    finished = parakeet(
        folder / "home",
        "build",
        "--recipe",
        str(with_executor(recipe, kind="local", workers=1)),
        "--select",
        "data_card",
    )
    assert finished.returncode == 0, finished.stderr.decode()
    return recipe, folder / "home"


def test_the_same_bytes_on_one_worker_and_with_ray(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """On two workers too: the next test's build ends there."""
    pytest.importorskip("ray", reason="Ray is not installed here (pip install 'parakeet-lm[ray]')")
    recipe, home = undisturbed
    on_ray = with_executor(recipe, kind="ray", workers=2)
    finished = parakeet(tmp_path, "build", "--recipe", str(on_ray), "--select", "data_card")
    assert finished.returncode == 0, finished.stderr.decode()
    same(tmp_path, home)


def same(found: Path, expected: Path) -> None:
    """The artefacts' content, and the shards byte for byte."""
    assert contents(found) == contents(expected)
    shards, others = (home / "token_shards" / "latest" for home in (found, expected))
    written = {path.name: path.read_bytes() for path in shards.glob("*.arrow")}
    assert written == {path.name: path.read_bytes() for path in others.glob("*.arrow")}


PIPELINES = (
    ("documents", "reading"),
    ("clean_documents", "cleaning"),
    ("deduplicated_documents", "signing"),
    ("deduplicated_documents", "comparing"),
    ("deduplicated_documents", "writing"),
    ("token_shards", "tokenising"),
)
"""The stages that work by tasks, with their pipelines; the last of a stage writes what becomes the artefact."""


def finished_files(partial: Path, pipeline: str) -> set[tuple[int, int]]:
    """Inode and time of what the finished tasks of a pipeline have written, which a second try leaves alone."""
    ranks = [path.name for path in partial.glob(f"work/{pipeline}/completions/*")]
    pattern = "*-{}-*.arrow" if pipeline == "tokenising" else "work/kept/{}/*.parquet"
    found = [path.stat() for rank in ranks for path in partial.glob(pattern.format(rank))]
    return {(status.st_ino, status.st_mtime_ns) for status in found}


def kill_within(stage: str, pipeline: str, home: Path, build: subprocess.Popen[bytes]) -> set[tuple[int, int]]:
    """SIGKILL the build as soon as a task of the pipeline is finished; what finished tasks had written."""
    deadline = time.monotonic() + 120
    while True:
        assert build.poll() is None, build.communicate()[1].decode()
        assert time.monotonic() < deadline
        for partial in (home / stage).glob(".partial-*"):
            if list(partial.glob(f"work/**/{pipeline}/completions/*")):
                build.kill()
                build.wait()
                return finished_files(partial, pipeline)
        time.sleep(0.002)


def test_kill_9_in_every_stage_gives_the_same_bytes_and_repeats_no_finished_task(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, home = undisturbed
    command = ("build", "--recipe", str(with_executor(recipe, kind="local", workers=2)), "--select", "data_card")
    written: dict[str, set[tuple[int, int]]] = {}
    for stage, pipeline in PIPELINES:
        written[stage] = kill_within(stage, pipeline, tmp_path, start(tmp_path, *command))
    finished = parakeet(tmp_path, *command)
    assert finished.returncode == 0, finished.stderr.decode()
    same(tmp_path, home)
    for stage in written:
        status = [path.stat() for path in (tmp_path / stage / "latest").iterdir()]
        assert written[stage] <= {(s.st_ino, s.st_mtime_ns) for s in status}, stage
        assert not list((tmp_path / stage).glob(".partial-*"))
        assert not (tmp_path / stage / "latest" / "work").exists()
        assert written[stage], stage
