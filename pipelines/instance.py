"""The Dagster instance that `parakeet build` records its runs in: the one that `dagster dev` shows."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.instance.ref import InstanceRef
from filelock import FileLock

from parakeet.artifact import replace_file
from parakeet.home import checkout

PATHS = (("storage", "sqlite"), ("local_artifact_storage", "config"), ("compute_logs", "config"))
WITHOUT_CHECKOUT: dict[str, Any] = {"telemetry": {"enabled": False}, "nux": {"enabled": False}}
# Captured output would go to a file first: no live progress on the terminal, and none of it in order.
ON_THE_TERMINAL = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
        "config": {},
    }
}


@contextmanager
def open_instance(root: Path) -> Iterator[dg.DagsterInstance]:
    """DAGSTER_HOME's instance if it is set; else the history in `.dagster` of the checkout.

    Where PARAKEET_HOME (or an installation without a checkout) puts the artefacts elsewhere, their history
    lies beside them: `DAGSTER_HOME=$PARAKEET_HOME/.dagster dagster dev` shows it.
    """
    named = os.environ.get("DAGSTER_HOME")
    if named:
        with _opened_alone(Path(named), dg.DagsterInstance.get) as instance:
            yield instance
        return
    source = checkout()
    if source is not None and root == source / "assets":
        # `dagster dev` does the same with the dagster.yaml of the folder that it is started in.
        with tempfile.TemporaryDirectory() as scratch:
            settings = _settings(source, source / ".dagster") | ON_THE_TERMINAL
            reference = InstanceRef.from_dir(scratch, overrides=settings)
            with _opened_alone(source / ".dagster", lambda: dg.DagsterInstance.from_ref(reference)) as instance:
                yield instance
        return
    folder = root / ".dagster"
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(source, folder) if source is not None else WITHOUT_CHECKOUT
    replace_file(folder / "dagster.yaml", yaml.safe_dump(settings, sort_keys=False))
    reference = InstanceRef.from_dir(str(folder), overrides=ON_THE_TERMINAL)
    with _opened_alone(folder, lambda: dg.DagsterInstance.from_ref(reference)) as instance:
        yield instance


def _opened_alone(folder: Path, opener: Callable[[], dg.DagsterInstance]) -> dg.DagsterInstance:
    """One process at a time: Dagster 1.13 creates the tables of a new history without a lock, and the second of two
    first builds fails with "table already exists"."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "opening.lock"):
        return opener()


def _settings(source: Path, folder: Path) -> dict[str, Any]:
    """The checkout's dagster.yaml with its storage paths made absolute, in `folder`."""
    settings: dict[str, Any] = yaml.safe_load((source / "dagster.yaml").read_text(encoding="utf-8"))
    for section, key in PATHS:
        settings[section][key]["base_dir"] = str(folder / Path(settings[section][key]["base_dir"]).name)
    return settings
