"""Dagster's history of runs, in SQLite: in a folder of any name, and what is said when it cannot be used.

dagster.yaml names this module as its storage where the folder's name has a % or ?, so that `dagster dev` finds the
same files.
"""

import errno
import os
import re
import shlex
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import dagster as dg
from sqlalchemy import make_url

from parakeet.artifact import explain_os_error
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from pipelines.dagster_internals import replace_sqlite_address, silence_event_errors, sqlite_storage


class DagsterSqliteStorage(sqlite_storage()):  # type: ignore[misc]
    """Dagster's own, named by the dagster.yaml of a home. Dagster opens it first of all, so a damaged history ends a
    server or daemon here, with one message.
    """

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "DagsterSqliteStorage":
        if is_server():
            refuse_damaged(Path(config_value["base_dir"]))
        storage: DagsterSqliteStorage = super().from_config_value(inst_data, config_value)
        return storage


SECONDS_TO_WAIT = 300
"""For another program that has locked the history when a build begins: a backup of it takes seconds."""
SECONDS_WITHIN_A_RUN = 90
"""SQLite waits this long in the middle of a run. Ctrl-C has to wait as well."""
SECONDS_BETWEEN_TRIES = 0.5
MOST_BYTES_OF_A_PATH = 500
"""SQLite refuses to open a path of 505 bytes (measured)."""
LEAST_ROOM = 1 << 20
"""With less free disk space, SQLite's `disk I/O error` means a full disk."""
LONGEST_FILE = Path("history") / "runs" / f"{'0' * 36}.db"
POSTGRES_MODULE = "dagster_postgres"
FILES = (Path("history") / "runs.db", Path("history") / "runs" / "index.db", Path("schedules") / "schedules.db")
"""Each is written to in every run, beside a file of its own."""


def _address(base_dir: str, db_name: str) -> str:
    """The URL of a database file. Dagster 1.13 does not escape the path: `a%2Fb` would be the file b in a folder a,
    and of `what?x=1` only `what` would be the file."""
    path = os.path.join(os.path.abspath(base_dir), f"{db_name}.db")
    for written in (quote(path), path):  # SQLAlchemy before 2.1 does not decode the path.
        address = f"sqlite:///{written}"
        if make_url(address).database == path:
            # Dagster gives the event log 30 s, and the others none: Python's 5 s would apply.
            return f"{address}?timeout={SECONDS_WITHIN_A_RUN}"
    raise ParakeetError(f"{path} cannot be opened by the installed SQLAlchemy: choose a folder without % and ? in it.")


replace_sqlite_address(_address, SECONDS_WITHIN_A_RUN)
silence_event_errors()


def check_path(folder: Path, variable: str) -> None:
    """Raise ParakeetError if SQLite could not open the files of a history in `folder`."""
    n_bytes = len(os.fsencode(folder / LONGEST_FILE))
    if n_bytes > MOST_BYTES_OF_A_PATH:
        raise ParakeetError(
            f"{folder} is too long for Dagster's history by {n_bytes - MOST_BYTES_OF_A_PATH} bytes: set {variable} to "
            "a folder with a shorter path."
        )


def wait_until_usable(folder: Path, progress: Progress) -> None:
    """Return when no other program has locked the history in `folder`.

    Raises sqlite3.Error after `SECONDS_TO_WAIT`, or at once if a file is damaged or cannot be written to.
    """
    deadline = time.monotonic() + SECONDS_TO_WAIT
    told = False
    for file in FILES:
        while (error := _fault(folder / file)) is not None:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise error
            if not told:
                progress.say(
                    f"Waiting for {folder / file}, which another program has locked: at most "
                    f"{SECONDS_TO_WAIT // 60} minutes."
                )
                told = True
            time.sleep(SECONDS_BETWEEN_TRIES)


def fault_of(folder: Path) -> sqlite3.Error | None:
    """Why a database of the history in `folder` cannot be used, after reading all of it; None if each can, or if a
    program that has locked one will be waited for."""
    faults = (_fault(folder / file, thorough=True) for file in FILES)
    return next((fault for fault in faults if fault is not None and not _is_locked(fault)), None)


def is_server() -> bool:
    """Whether this process is a `dagster dev`, a daemon or a webserver, and not a child of the first."""
    program, arguments = Path(sys.argv[0]), sys.argv[1:2]
    if "DAGSTER_IS_DEV_CLI" in os.environ:
        return arguments == ["dev"]
    return program.name == "dagster-webserver" or (program.name == "dagster-daemon" and arguments == ["run"])


def refuse_damaged(place: Path) -> None:
    """Raise click.ClickException if a database cannot be used: Dagster would print pages of traceback."""
    if (error := fault_of(place)) is not None:
        settings = place.parent / "dagster.yaml"
        raise click.ClickException(str(explain_history_error(error, place, settings)))


def explain_history_error(error: BaseException, folder: Path, settings: Path) -> ParakeetError:
    """A message for the user, from what Dagster or SQLAlchemy raised while it used the history in `folder`.

    `settings` is the dagster.yaml that it was opened with.
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ParakeetError):
        return cause
    if isinstance(error, dg.DagsterInvalidConfigError):
        # Each goes on with the whole schema, or with a stack.
        faults = [re.split(r" Expected: |\s+Stack Trace:", fault.message)[0] for fault in error.errors]
        reason = " ".join(" ".join(faults).split())
        return ParakeetError(f"{settings} cannot be used by Dagster: {reason} Correct it, or move it away.")
    if isinstance(cause, OSError):
        return explain_os_error(cause, "using Dagster's history of runs")
    reason = (str(cause).strip().splitlines() or ["no reason is given"])[0]
    if is_of_postgres(cause):
        return _explain_postgres(reason, settings)
    if POSTGRES_MODULE in reason:
        return ParakeetError(
            f"{settings} keeps the history in Postgres, and {POSTGRES_MODULE} is not installed. Install it with: "
            "pip install 'parakeet-lm[postgres]'"
        )
    if not isinstance(cause, sqlite3.Error):
        return ParakeetError(
            f"Dagster's history of runs in {folder} cannot be used ({type(cause).__name__}: {reason}). Artefacts and "
            f"models are not concerned. Correct {settings}, or move the history away, and run the same command again."
        )
    file = next((file for file in FILES if _fault(folder / file, thorough=True) is not None), FILES[0].parent)
    if _is_locked(cause):
        return ParakeetError(
            f"{folder / file} is locked by another program. It holds Dagster's history of runs. What was made is kept: "
            "end that program, then run the same command again."
        )
    no_room = shutil.disk_usage(folder).free < LEAST_ROOM
    if "is full" in reason or (no_room and ("I/O error" in reason or "unable to open" in reason)):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return explain_os_error(full, "writing Dagster's history of runs")
    if "not a database" in reason or "malformed" in reason:
        # The whole folder: a database's -wal file, left behind, would damage the next one of that name.
        place = shlex.quote(str(folder / file.parts[0]))
        return ParakeetError(
            f"{folder / file} is damaged ({reason}). It holds only Dagster's history of runs: artefacts and models are "
            f"not concerned. Move it away, then run the same command again: mv {place} {place}.damaged"
        )
    return ParakeetError(
        f"{folder / file} cannot be used ({reason}). It holds only Dagster's history of runs: what was made is kept. "
        "Check the disk and the permissions, also of the files -wal and -shm beside it, then run the same command "
        "again."
    )


def is_of_postgres(error: BaseException) -> bool:
    """Whether the database with the history, or its driver, is at fault."""
    named = f"{type(error).__module__} {error}"
    return "psycopg" in named or type(error).__module__.startswith(f"{POSTGRES_MODULE}.")


def _explain_postgres(reason: str, settings: Path) -> ParakeetError:
    if "No module named" in reason:
        return ParakeetError(
            f"{settings} keeps the history in Postgres, and SQLAlchemy 2.1 looks for a driver that is not installed. "
            "Add to its postgres_db: scheme: postgresql+psycopg2"
        )
    return ParakeetError(
        f"Dagster's history of runs is in Postgres, which cannot be used ({reason.rstrip('.')}). What was made is "
        f"kept. Start the database, or correct storage in {settings}, then run the same command again."
    )


def _fault(file: Path, thorough: bool = False) -> sqlite3.Error | None:
    """Why a database cannot be written to now; None if it can, or does not exist.

    `thorough` reads all of it: SQLite notices a damaged page only when it reads that page.
    """
    if not file.exists():
        return None
    if not os.access(file, os.W_OK):
        # Not left to SQLite: it would make -wal and -shm files that cannot be written to either, and leave them.
        return sqlite3.OperationalError("attempt to write a readonly database")
    try:
        with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.execute("ROLLBACK")
            if thorough and connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return sqlite3.DatabaseError("database disk image is malformed")
    except sqlite3.Error as error:
        return error
    return None


def _is_locked(error: sqlite3.Error) -> bool:
    return "is locked" in str(error)
