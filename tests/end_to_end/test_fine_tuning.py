"""`training.start`: an imported checkpoint of the original project, then the release of it, trained on own text."""

import json
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
    settings = {"tokens": 8_192, "batch_tokens": 256, "micro_batch_tokens": 256, "learning_rate": 3e-3}
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


def test_the_original_is_fine_tuned_and_the_result_trained_on(
    tmp_path: Path, cl100k_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    built = parakeet(home, "build", "--recipe", str(recipe))
    assert built.returncode == 0, built.stderr.decode()
    assert b"Training starts from the weights of" in built.stderr
    counts = json.loads((home / "checkpoint" / "latest" / "manifest.json").read_text())["counts"]
    assert counts["final_loss"] < counts["first_loss"] - 0.5
    lineage = json.loads((home / "releases" / "latest" / "training_manifest.json").read_text())["start"]
    weights = json.loads((home / "original_model" / "latest" / "manifest.json").read_text())["files"]
    assert lineage["kind"] == "original model"
    assert lineage["model"] == NAME.removesuffix(".pth").replace("+", "-")
    assert lineage["weights_sha256"] == weights["model.safetensors"]["sha256"]
    for page in ("README.md", "report.md"):
        assert lineage["weights_sha256"][:12] in (home / "releases" / "latest" / page).read_text(encoding="utf-8")
    shown = parakeet(home, "models", "show", "tuned")
    assert f"began with  {lineage['model']} (original model, weights".encode() in shown.stdout

    # It has the same tokenizer, so that the text need not be cut into tokens again.
    onward = write_recipe(tmp_path, "onward", "latest", tokens=2_048)
    built = parakeet(home, "build", "--recipe", str(onward), "--select", "checkpoint")
    assert built.returncode == 0, built.stderr.decode()
    assert made(built.stderr) == ["checkpoint"]
    later = json.loads((home / "checkpoint" / "latest" / "manifest.json").read_text())["counts"]["start"]
    assert (later["kind"], later["model"]) == ("release", "tuned")
    assert [facts["weights_sha256"] for facts in later["earlier"]] == [lineage["weights_sha256"]]
