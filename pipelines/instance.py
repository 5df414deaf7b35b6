"""The Dagster instance that `parakeet build` records its runs in: the one that `dagster dev` shows."""

import logging
import os
import shlex
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from filelock import FileLock
from sqlalchemy.exc import SQLAlchemyError

from parakeet.artifact import explain_os_error, replace_file
from parakeet.errors import ParakeetError
from parakeet.home import checkout, folder_of_variable, home
from parakeet.progress import Progress
from parakeet.recipe_file import yaml_reason
from pipelines.dagster_internals import DagsterYamlLoader, InstanceRef, NoOpComputeLogManager
from pipelines.history import DagsterSqliteStorage, check_path, explain_history_error, is_of_postgres, wait_until_usable

WRITTEN_FILE = "dagster.yaml.written"
"""Beside dagster.yaml: what Parakeet wrote to it last, so that a change of the user's is known as one."""
PATHS = (("storage", "sqlite"), ("local_artifact_storage", "config"), ("compute_logs", "config"))
WITHOUT_CHECKOUT: dict[str, Any] = {"telemetry": {"enabled": False}, "nux": {"enabled": False}}
# Captured output would go to a file first: no live progress on the terminal, and none of it in order.
ON_THE_TERMINAL = {
    "compute_logs": {
        "module": NoOpComputeLogManager.__module__,
        "class": NoOpComputeLogManager.__name__,
        "config": {},
    }
}


@contextmanager
def open_instance(root: Path, progress: Progress) -> Iterator[dg.DagsterInstance]:
    """DAGSTER_HOME's instance if it is set; else the history in `.dagster` of the checkout.

    Where PARAKEET_HOME (or an installation without a checkout) puts the artefacts elsewhere, their history
    lies beside them: `DAGSTER_HOME=$PARAKEET_HOME/.dagster dagster dev` shows it.

    Waits for some minutes if another program has locked the history. Raises ParakeetError, also from within the block,
    if the history cannot be used.
    """
    named = os.environ.get("DAGSTER_HOME")
    source = checkout()
    settings_file = (source or root) / "dagster.yaml"
    if named:
        folder = folder_of_variable("DAGSTER_HOME", named)
        # Dagster reads the variable itself in other places, and would make a folder called `~`.
        os.environ["DAGSTER_HOME"] = str(folder)
        settings_file = folder / "dagster.yaml"
        # Dagster's telemetry would write to ~/.dagster and to the network.
        settings = WITHOUT_CHECKOUT | _settings_of_user(settings_file)
    elif source is not None and root == source / "assets":
        # `dagster dev` does the same with the dagster.yaml of the folder that it is started in.
        folder = source / ".dagster"
        settings = _settings(source, folder) | ON_THE_TERMINAL
    else:
        folder = root / ".dagster"
        settings_file = folder / "dagster.yaml"
        settings = {}
    check_path(folder, "DAGSTER_HOME" if named else "PARAKEET_HOME")
    history = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not named and folder.parent == root:
            settings = write_settings(root) | ON_THE_TERMINAL
        reference = _reference(folder, settings)
        history = _history_folder(reference, folder)
        wait_until_usable(history, progress)
        # Dagster 1.13 creates the tables of a new history without a lock, and the second of two first builds fails
        # with "table already exists".
        with FileLock(folder / "opening.lock"), _retries_said_once(progress):
            instance = dg.DagsterInstance.from_ref(reference)
        instance.compute_log_manager  # noqa: B018  Loads its class, which Dagster would do within the run.
    # Whatever is raised here is about the folder or its dagster.yaml, which may name any class of Dagster.
    except Exception as error:
        raise explain_history_error(error, history, settings_file) from error
    try:
        with instance, _retries_said_once(progress):
            yield instance
    except Exception as error:
        if isinstance(error, sqlite3.Error | SQLAlchemyError) or is_of_postgres(error):
            raise explain_history_error(error, history, settings_file) from error
        raise


@contextmanager
def _retries_said_once(progress: Progress) -> Iterator[None]:
    """dagster_postgres logs each try to connect, with its whole error, before it raises the last one."""
    told = False

    def is_other(record: logging.LogRecord) -> bool:
        nonlocal told
        if not record.getMessage().startswith("Retrying failed database"):
            return True
        if not told:
            progress.say("Waiting for the database with Dagster's history, which does not answer.")
            told = True
        return False

    logger = logging.getLogger()
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _reference(folder: Path, settings: dict[str, Any]) -> InstanceRef:
    """`settings` as Dagster's. It is not given dagster.yaml itself: it takes `[x]` in the folder's name as a pattern,
    finds no file, and uses its defaults."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "dagster.yaml").write_text("{}", encoding="utf-8")
        return InstanceRef.from_dir(str(folder), config_dir=scratch, overrides=settings)


def write_settings(root: Path) -> dict[str, Any]:
    """Write the dagster.yaml of the history in `.dagster` under `root`, and return it. What the user changed stays.

    What Parakeet wrote is noted beside it. Where an early version wrote the file without a note, sections that Parakeet
    does not set, and a storage that is not SQLite, are the user's.
    """
    source, folder = checkout(), root / ".dagster"
    ours = (_settings(source, folder) if source is not None else WITHOUT_CHECKOUT) | _storage(folder, source)
    folder.mkdir(parents=True, exist_ok=True)
    file, note = folder / "dagster.yaml", folder / WRITTEN_FILE
    there = _settings_of_user(file)
    written = _settings_of_user(note)
    changed = {
        section: values
        for section, values in there.items()
        if (written.get(section) != values if written else _is_of_user(section, values, ours))
    }
    merged = ours | changed
    if there != merged:
        replace_file(file, yaml.safe_dump(merged, sort_keys=False))
    if written != ours:
        replace_file(note, yaml.safe_dump(ours, sort_keys=False))
    return merged


def _is_of_user(section: str, values: Any, ours: dict[str, Any]) -> bool:
    if section != "storage":
        return section not in ours
    kinds = values if isinstance(values, dict) else {}
    escaped = isinstance(kinds.get("custom"), dict) and kinds["custom"].get("module") == "pipelines.history"
    return "sqlite" not in kinds and not escaped


def _settings_of_user(file: Path) -> dict[str, Any]:
    """The settings in a dagster.yaml; empty if there is none."""
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), Loader=DagsterYamlLoader) or {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise explain_os_error(error, "reading Dagster's settings") from None
    except UnicodeDecodeError as error:
        raise ParakeetError(f"{file} is not a text file (byte {error.start} is not UTF-8).") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ParakeetError(f"{file} cannot be read as YAML: {yaml_reason(error)}") from None
    if not isinstance(settings, dict):
        raise ParakeetError(f"{file} is not a mapping of Dagster's settings: correct it, or move it away.")
    return settings


def _history_folder(reference: InstanceRef, folder: Path) -> Path:
    """Where the SQLite files are; `folder` if the history is kept otherwise."""
    storage = reference.storage_data
    if storage is None or storage.class_name != DagsterSqliteStorage.__name__:
        return folder
    place = storage.config_dict["base_dir"]
    return Path(place) if isinstance(place, str) else folder


def _settings(source: Path, folder: Path) -> dict[str, Any]:
    """The checkout's dagster.yaml with its relative paths made absolute, in `folder`.

    The user may have changed it: a storage that is no folder, or has an absolute path, stays as it is.
    """
    settings = _settings_of_user(source / "dagster.yaml")
    for section, key in PATHS:
        kinds = settings.get(section)
        if section == "storage" and isinstance(kinds, dict) and isinstance(kinds.get("custom"), dict):
            kinds, key = kinds["custom"], "config"
        place = kinds.get(key) if isinstance(kinds, dict) else None
        if isinstance(place, dict) and isinstance(base := place.get("base_dir"), str) and not Path(base).is_absolute():
            place["base_dir"] = str(folder / Path(base).name)
    return settings


def _storage(folder: Path, source: Path | None) -> dict[str, Any]:
    """The storage of a home: it takes a folder's name with a % or ?, and explains what is damaged."""
    place = folder / "storage" if source is not None else folder
    storage = {"module": "pipelines.history", "class": "DagsterSqliteStorage", "config": {"base_dir": str(place)}}
    return {"storage": {"custom": storage}}


def prepare_history(root: Path) -> Path | None:
    """Write the dagster.yaml of a home, so that `dagster dev` can be started before anything was built.

    Returns the folder that DAGSTER_HOME has to name; None for the checkout's own `assets/`, which needs no variable.
    Raises ParakeetError.
    """
    source = checkout()
    if source is not None and root == source / "assets":
        return None
    folder = root / ".dagster"
    check_path(folder, "PARAKEET_HOME")
    try:
        write_settings(root)
    except OSError as error:
        raise explain_os_error(error, "writing Dagster's settings") from None
    return folder


def settings_missing() -> str | None:
    """What to do about a DAGSTER_HOME whose dagster.yaml is not Parakeet's; None if it is, or the variable is not set.

    Without it Dagster starts two daemons on one history and trains twice at a time, and says nothing.
    """
    named = os.environ.get("DAGSTER_HOME")
    if not named:
        return None
    file = Path(named) / "dagster.yaml"
    try:
        missing = [name for name in _needed() if name not in _settings_of_user(file)]
    except ParakeetError:
        return None  # Dagster says so
    if not missing:
        return None
    return (
        f"{file} lacks Parakeet's settings ({', '.join(missing)}): runs that are lost are not noticed, and nothing "
        "keeps two trainings or two daemons apart. End Dagster, then run `python -m pipelines.instance` with "
        f"PARAKEET_HOME={shlex.quote(str(home()))} and start Dagster with "
        f"DAGSTER_HOME={shlex.quote(str(home() / '.dagster'))}"
    )


def _needed() -> list[str]:
    """The sections that Parakeet sets, apart from what says where the history is."""
    source = checkout()
    ours = _settings(source, source / ".dagster") if source is not None else WITHOUT_CHECKOUT
    return [name for name in ours if name not in ("storage", "telemetry", "nux", "compute_logs", "retention")]


def main() -> int:
    """`python -m pipelines.instance`: for a service that starts Dagster before anything was built."""
    try:
        root = home()
        check_path(root / ".dagster", "PARAKEET_HOME")
        write_settings(root)
    except (ParakeetError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"Dagster's settings are in {root / '.dagster' / 'dagster.yaml'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
