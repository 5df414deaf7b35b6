"""`training.start`: an imported checkpoint of the original project, and a release, trained on own text."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ..original_checkpoint import original_name, original_state
from .conftest import made, parakeet

NAME = original_name(2, 2, 16, 256)


def write_recipe(folder: Path, name: str, start: str, **training: Any) -> Path:
    notes = [f"Note {n}: the box of {n * 7919 % 97} holds {n % 5} red and {n % 3} blue balls." for n in range(400)]
    (folder / "notes.jsonl").write_text("".join(json.dumps({"text": note}) + "\n" for note in notes), "utf-8")
    settings = {"tokens": 4_096, "batch_tokens": 256, "micro_batch_tokens": 256, "learning_rate": 1e-2}
    settings |= {"checkpoint_steps": 8, "precision": "fp32", "optimizer": "adamw", "start": start, **training}
    values = {
        "extends": "own-text",
        "name": name,
        "executor": {"workers": 1},
        "sources": [{"name": "notes", "path": "notes.jsonl", "near_duplicates": False}],
        "deduplication": {"held_out_fraction": 0.2},
        "tokenizer": {"kind": "cl100k_base"},
        "packing": {"sequence_length": 64},
        "model": {"layers": 2, "heads": 2, "width": 16, "context": 128},
        "training": settings,
        "evaluation": {"prompts": ["Hello!"], "max_bytes": 1000, "trace_index": False},
        "generation": {"max_tokens": 8},
        "original": {"file_name": NAME, "mirrors": [], "drive_id": None},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_the_original_is_fine_tuned(tmp_path: Path, cl100k_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cl100k_cache))
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    recipe = write_recipe(tmp_path, "tuned", "original_model")

    early = parakeet(home, "build", "--recipe", str(recipe))
    assert early.returncode == 1
    assert b"--select original_model" in early.stderr
    assert made(early.stderr) == [], "before any work on the text"

    torch.save(original_state(), home / "models" / NAME)
    imported = parakeet(home, "build", "--recipe", str(recipe), "--select", "original_model")
    assert imported.returncode == 0, imported.stderr.decode()

    # Not what follows: with 100,000 tokens to choose from, the evaluation takes minutes.
    built = parakeet(home, "build", "--recipe", str(recipe), "--select", "checkpoint")
    assert built.returncode == 0, built.stderr.decode()
    assert b"Training starts from the weights of" in built.stderr
    manifest = json.loads((home / "checkpoint" / "latest" / "manifest.json").read_text())
    assert manifest["counts"]["final_loss"] < manifest["counts"]["first_loss"] - 0.5
    lineage = manifest["counts"]["start"]
    weights = json.loads((home / "original_model" / "latest" / "manifest.json").read_text())["files"]
    assert lineage["kind"] == "original model"
    assert lineage["model"] == NAME.removesuffix(".pth").replace("+", "-")
    assert lineage["weights_sha256"] == weights["model.safetensors"]["sha256"]
    assert manifest["source_files"] == {"training.start/model.safetensors": lineage["weights_sha256"]}


def test_a_release_is_trained_on_and_the_new_one_names_it(built: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(built[0], home, symlinks=True)
    before = (home / "releases" / "latest").resolve()
    name = json.loads((before / "generation_config.json").read_text())["name"]
    changes = ("--set", "name=tuned", "--set", "training.start=latest", "--set", "training.tokens=2560")
    command = ("build", "--recipe", str(built[1]), *changes)
    first = parakeet(home, *command)
    assert first.returncode == 0, first.stderr.decode()
    assert not {"token_shards", "packing_plan"} & set(made(first.stderr)), "its tokenizer is the same"

    release = (home / "releases" / "promoted" / "tuned").resolve()
    lineage = json.loads((release / "training_manifest.json").read_text())["start"]
    assert (lineage["kind"], lineage["model"], lineage["folder"]) == ("release", name, str(before))
    for page in ("README.md", "report.md"):
        assert lineage["weights_sha256"][:12] in (release / page).read_text(encoding="utf-8")
    shown = parakeet(home, "models", "show", "tuned")
    assert f"began with  {name} (release, weights {lineage['weights_sha256'][:12]}".encode() in shown.stdout

    again = parakeet(home, *command)
    assert again.returncode == 0, again.stderr.decode()
    assert made(again.stderr) == [], "its own release is now the latest of its name, and it does not start from that"
