"""A recipe whose model is measured in no time."""

import json
from pathlib import Path


def tiny_recipe(folder: Path) -> Path:
    values = {
        "extends": "demo",
        "name": "tiny",
        "tokenizer": {"vocabulary": 400},
        "packing": {"sequence_length": 32},
        "model": {"layers": 2, "heads": 2, "width": 32, "context": 64, "dropout": 0.1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
