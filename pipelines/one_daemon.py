"""A history of runs has one daemon. Two would start every schedule and every queued run twice."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from parakeet.artifact import explain_os_error
from parakeet.dagster_history import DAEMON_LOCK, DEV_LOCK
from parakeet.locking import claim, is_held, named_holder
from pipelines.dagster_internals import LocalArtifactStorage


class ArtifactStorage(LocalArtifactStorage):
    """Dagster's folder for files of runs. dagster.yaml names this class, so each of Dagster's processes makes one as
    it starts: a second `dagster dev` and a second daemon on the same history end here, with one message.
    """

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "ArtifactStorage":
        _refuse_second(Path(os.path.abspath(config_value["base_dir"])).parent)
        return cls(inst_data=inst_data, **config_value)


def _refuse_second(history: Path) -> None:
    """Raise click.ClickException if this process is a `dagster dev` or a daemon, and `history` has one or cannot be
    locked.
    """
    program, arguments = Path(sys.argv[0]), sys.argv[1:2]
    # `dagster dev` sets the variable, and its children inherit it.
    of_dev = "DAGSTER_IS_DEV_CLI" in os.environ
    if arguments == ["dev"] and of_dev:
        lock = DEV_LOCK
    elif arguments == ["run"] and (program.name == "dagster-daemon" or "_daemon" in program.parts):
        lock = DAEMON_LOCK
    else:
        return
    try:
        history.mkdir(parents=True, exist_ok=True)
        holder = claim(history / lock)
        if holder is None and lock == DEV_LOCK and is_held(history / DAEMON_LOCK):
            holder = named_holder(history / DAEMON_LOCK)
    except OSError as error:
        message = str(explain_os_error(error, f"locking the history of runs in {history}"))
        raise click.ClickException(message) from None
    if holder is not None:
        raise click.ClickException(
            f"Dagster already runs on the history in {history}: {holder}. Open its page, or end it first (kill -INT "
            "with the number of that process)."
        )
