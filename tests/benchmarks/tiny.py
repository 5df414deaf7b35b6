"""A recipe whose model is measured in no time, and benchmarks as processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def tiny_recipe(folder: Path, **changes: Any) -> Path:
    values = {
        "extends": "demo",
        "name": "tiny",
        "tokenizer": {"vocabulary": 400},
        "packing": {"sequence_length": 32},
        "model": {"layers": 2, "heads": 2, "width": 32, "context": 64, "dropout": 0.1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values | changes), encoding="utf-8")
    return path


def run_benchmark(folder: Path, decoy: str, *command: str, **environment: str) -> tuple[list[str], dict[str, Any]]:
    """The lines that `python -m COMMAND` prints in `folder`, and the JSON of the last one.

    The folder holds a file called like the module `decoy`. It must not reach the processes that measure.
    """
    (folder / f"{decoy}.py").write_text(f"raise SystemExit('the wrong {decoy}')\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    finished = subprocess.run(
        [sys.executable, "-P", "-m", *command], cwd=folder, env=variables, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    *lines, last = finished.stdout.splitlines()
    return lines, json.loads(last)
