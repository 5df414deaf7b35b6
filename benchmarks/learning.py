"""What the trainer learns from the same text: held-out bits per byte and CPU seconds, seed by seed.

.venv/bin/python -m benchmarks.learning BOOKS SETUP [--against CHECKOUT] [--tokens N] [--seeds N] [--set KEY=VALUE]
    [--home FOLDER]

BOOKS is a file of books (JSON lines with `text`). SETUP is a folder with the vocabulary that the figures are in
(tokenizer/) and held-out windows (eval.npz: rows, token_bytes). Both checkouts train 4 layers × 256 with the settings
that they give to a text of one's own (and --set for this one), in whole processes with one thread; a seed of one, then
of the other, so that another load slows both alike.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.nn import functional as F

from parakeet.benchmarks.process import print_result
from parakeet.errors import ParakeetError
from parakeet.formatting import render_table
from parakeet.model.transformer import load_model

HERE = Path(__file__).parents[1]
VOCABULARY = "vocabulary.tiktoken"
BATCH = 8
"""Windows of held-out text that are scored at once."""


@dataclass(frozen=True)
class Trained:
    """One run. `seconds` are CPU seconds of its process, with its start, validation and checkpoint."""

    checkout: str
    seed: int
    tokens: int
    bits_per_byte: float
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("setup", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout of Parakeet")
    parser.add_argument("--tokens", type=int, default=256_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="sets a key of `training` for this checkout only; repeatable",
    )
    parser.add_argument("--home", type=Path, help="where runs are kept; a temporary folder by default")
    options = parser.parse_args()
    checkouts = {"this": HERE} | ({"other": options.against.resolve()} if options.against else {})
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.home or Path(temporary)).resolve()
        try:
            runs = [
                _train(name, checkout, options, home, seed)
                for seed in range(1, options.seeds + 1)
                for name, checkout in checkouts.items()
            ]
        except ParakeetError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    _print(runs, list(checkouts), options.changes)
    return 0


def _train(name: str, checkout: Path, options: argparse.Namespace, home: Path, seed: int) -> Trained:
    store = home / name
    recipe = home / f"{name}-{seed}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump(_recipe(checkout, options, seed)), encoding="utf-8")
    _build(checkout, store, recipe, "packing_plan")
    mine, theirs = (place / VOCABULARY for place in (store / "tokenizer" / "latest", options.setup / "tokenizer"))
    if mine.read_bytes() != theirs.read_bytes():
        raise ParakeetError(f"{checkout} trains another vocabulary than {options.setup}: nothing can be compared.")
    began = _child_seconds()
    _build(checkout, store, recipe, "checkpoint")
    seconds = _child_seconds() - began
    model = (store / "checkpoint" / "latest").resolve()
    counts: dict[str, Any] = json.loads((model / "manifest.json").read_text(encoding="utf-8"))["counts"]
    trained = Trained(name, seed, counts["tokens"], bits_per_byte(model, options.setup / "eval.npz"), seconds)
    print(f"{name}, seed {seed}: {trained.bits_per_byte:.4f} bits per byte, {seconds:.1f} CPU s", flush=True)
    return trained


def _recipe(checkout: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    # The settings that a checkout gives to a text of one's own. At first these were the demo's.
    recipes = [checkout / "parakeet" / "recipes" / f"{name}.yaml" for name in ("own-text", "demo")]
    shipped = yaml.safe_load(next(path for path in recipes if path.exists()).read_text(encoding="utf-8"))
    mine = {"tokens": options.tokens, "threads": 1, "seed": seed, "device": "cpu", "checkpoint_steps": 100_000}
    if checkout == HERE:
        changes = (change.partition("=") for change in options.changes)
        mine |= {key: yaml.safe_load(value) for key, _, value in changes}
    source = {"name": "books", "path": str(options.books.resolve()), "columns": {"text": "text"}, "licence": "CC0-1.0"}
    return {
        "name": "books",
        "sources": [source],
        "deduplication": {"held_out_fraction": 0.06},
        "tokenizer": {"kind": "bpe", "vocabulary": 4096},
        "packing": {"sequence_length": 256},
        "model": {"layers": 4, "heads": 4, "width": 256, "context": 1024},
        "training": {**shipped["training"], **mine},
        "executor": {"workers": 1},
    }


def _build(checkout: Path, store: Path, recipe: Path, stage: str) -> None:
    code = "import sys; from parakeet.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "build", "--recipe", str(recipe), "--select", stage]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PARAKEET_HOME": str(store), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise ParakeetError(f"{checkout} could not build {stage}: {ended.stderr.strip() or ended.stdout.strip()}")


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@torch.no_grad()
def bits_per_byte(model_folder: Path, windows: Path) -> float:
    """Of the windows' targets: rows (windows, length + 1), token_bytes (vocabulary rows,), 0 for control tokens."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    data = np.load(windows)
    rows, n_bytes = torch.from_numpy(data["rows"]), torch.from_numpy(data["token_bytes"])
    model = load_model(model_folder, "cpu")
    nats = 0.0
    for some in rows.split(BATCH):
        inputs, targets = some[:, :-1].contiguous(), some[:, 1:].contiguous()
        # (windows · length, vocabulary rows) logits of 8 windows: 33 MB at 4,160 rows.
        logits = model.logits(model(inputs, torch.zeros_like(inputs))).flatten(0, 1)
        losses = F.cross_entropy(logits, targets.flatten(), reduction="none").double()
        nats += losses[(n_bytes[targets] > 0).flatten()].sum().item()
    return nats / math.log(2) / int(n_bytes[rows[:, 1:]].sum())


def _print(runs: list[Trained], names: list[str], changes: list[str]) -> None:
    rows: list[tuple[object, ...]] = [
        (r.checkout, r.seed, f"{r.tokens:,}", f"{r.bits_per_byte:.4f}", f"{r.seconds:.1f}") for r in runs
    ]
    summary = {}
    for name in names:
        mine = [run for run in runs if run.checkout == name]
        bits, seconds = ([getattr(run, field) for run in mine] for field in ("bits_per_byte", "seconds"))
        spread = statistics.stdev(bits) if len(bits) > 1 else 0.0
        summary[name] = {
            "bits_per_byte": statistics.mean(bits), "standard_deviation": spread, "seconds": statistics.mean(seconds)
        }  # fmt: skip
        rows.append(
            (name, "mean", "", f"{statistics.mean(bits):.4f} ± {spread:.4f}", f"{statistics.mean(seconds):.1f}")
        )
    print(render_table(("checkout", "seed", "tokens", "bits per byte", "CPU s"), rows, right=(1, 2, 3, 4)))
    found = {"benchmark": "learning", "changes": changes, "runs": [vars(run) for run in runs], "summary": summary}
    print_result(found, 1)


if __name__ == "__main__":
    sys.exit(main())
