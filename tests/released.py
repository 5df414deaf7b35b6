"""A released model as files, without training one: what `parakeet.retraining` reads of a store."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.training.schedule import Schedule

RELEASE, RUN = "aaaaaaaaaaaaaaaa-0", "bbbbbbbbbbbbbbbb"
SHARDS = "c" * 64


def recipe_of(folder: Path, **retraining: Any) -> Recipe:
    """A recipe that reads the files in `folder`."""
    values = load_recipe("own-text").model_dump(mode="json")
    values |= {"name": "notes", "sources": [{"kind": "files", "name": "notes", "path": str(folder)}]}
    values["model"] |= {"layers": 2, "heads": 2, "width": 64, "context": 256}
    values["packing"] |= {"sequence_length": 256}
    values["training"] |= {
        "tokens": 100 * 512, "batch_tokens": 512, "micro_batch_tokens": 512, "decay_fraction": 0.2, "warmup_steps": 5,
    }  # fmt: skip
    values["retraining"] = {"least_new_tokens": 100, **retraining}
    return Recipe.model_validate(values)


def write_release(home: Path, recipe: Recipe, stable: int | None = 80, sizes: bool = True) -> Path:
    """Release what the present files of the recipe's first source would give, at one token for four bytes.

    `stable` is the step of the run's last checkpoint before its decay, None if the run is gone. Without `sizes`, the
    release does not know how large its files were, as one of an earlier Parakeet.
    """
    source = recipe.sources[0]
    folder = Path(source.path)  # type: ignore[union-attr]
    files = {f"{source.name}/{path.name}": path for path in sorted(folder.iterdir())}
    n_bytes = sum(path.stat().st_size for path in files.values())
    tally = {"documents": len(files), "tokens": n_bytes // 4, "bytes": n_bytes}
    train = {**tally, "sources": {source.name: tally}}
    release = home / "releases" / RELEASE
    release.mkdir(parents=True)
    manifest = {
        "recipe": recipe.model_dump(mode="json"),
        "source_files": {label: hashlib.sha256(path.read_bytes()).hexdigest() for label, path in files.items()},
        "stages": {
            "documents": {
                "counts": {"file_bytes": {label: path.stat().st_size for label, path in files.items()}} if sizes else {}
            },
            "token_shards": {"content": SHARDS, "counts": {"train": train}},
            "checkpoint": {"counts": {"run": RUN}},
        },
    }
    (release / "training_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    add_artifact(release, "release", RELEASE, {"name": recipe.name})
    add_artifact(home / "token_shards" / "dddddddddddddddd-0", "token_shards", SHARDS, {})
    promoted = home / "releases" / "promoted"
    promoted.mkdir()
    (promoted / recipe.name).symlink_to(f"../{RELEASE}")
    (home / "releases" / "latest").symlink_to(f"promoted/{recipe.name}")
    if stable is not None:
        run = home / "training_runs" / RUN
        saved = run / f"step-{stable:08d}"
        saved.mkdir(parents=True)
        job = {"recipe": recipe.model_dump(mode="json"), "shards_content": SHARDS, "plan_digests": {}}
        (run / "job.json").write_text(json.dumps(job), encoding="utf-8")
        schedule = asdict(Schedule.from_recipe(recipe.training, recipe.packing))
        (saved / "state.json").write_text(json.dumps({"step": stable, "schedule": schedule}), encoding="utf-8")
    return release


def add_artifact(
    folder: Path, stage: str, content: str, counts: dict[str, Any], inputs: dict[str, Path] | None = None
) -> None:
    made_from = {
        name: {
            "path": path.relative_to(folder.parent.parent).as_posix(),
            "content": json.loads((path / "manifest.json").read_text(encoding="utf-8"))["content"],
        }
        for name, path in (inputs or {}).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "schema": 1, "stage": stage, "fingerprint": folder.name[:16], "content": content, "version": 1, "settings": {},
        "inputs": made_from, "source_files": {}, "counts": counts, "files": {}, "made": "2026-01-01T00:00:00+00:00",
        "seconds": 0.0,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
