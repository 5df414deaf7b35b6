"""The trainer's figures as observations of the asset, while it trains.

Dagster's own reader keeps custom messages until the process ends; a training takes weeks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster_pipes import PipesMessage, PipesParams

FIGURES = (
    "step",
    "tokens",
    "loss",
    "validation_loss",
    "tokens_per_second",
    "mfu",
    "learning_rate",
    "gradient_norm",
)


class ObservingTrainer(dg.PipesSubprocessClient):
    """Runs a command as Dagster does, and logs an AssetObservation of each message with metrics as it arrives."""

    def __init__(self, termination_timeout_seconds: float) -> None:
        """A process may take `termination_timeout_seconds` to save when its run is ended."""
        self._reader = _ObservingReader()
        super().__init__(message_reader=self._reader, termination_timeout_seconds=termination_timeout_seconds)

    def run(self, *, context: Any, **arguments: Any) -> Any:
        """As PipesSubprocessClient.run. One command at a time."""
        self._reader.context = context
        return super().run(context=context, **arguments)


class _ObservingReader(dg.PipesTempFileMessageReader):
    context: dg.AssetExecutionContext

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[PipesParams]:
        with super().read_messages(_Observer(handler, self)) as params:
            yield params


class _Observer(dg.PipesMessageHandler):
    """Logs metrics, and passes every other message to the session's own handler."""

    def __init__(self, handler: dg.PipesMessageHandler, reader: _ObservingReader) -> None:
        super().__init__(reader.context, reader)
        self._asset_context = reader.context
        self._handler = handler

    def handle_message(self, message: PipesMessage) -> None:
        payload = (message["params"] or {}).get("payload") if message["method"] == "report_custom_message" else None
        if not isinstance(payload, dict) or payload.get("kind") != "metrics":
            self._handler.handle_message(message)
            return
        try:
            metadata = _metadata(payload["values"])
            key = self._asset_context.asset_key
            self._asset_context.log_event(dg.AssetObservation(asset_key=key, metadata=metadata))
        # An exception here, of a locked database say, would end the thread that reads all of the trainer's messages.
        except Exception as error:
            name = self._asset_context.asset_key.to_user_string()
            self._asset_context.log.warning(f"An observation of {name} was lost: {error!r}")


def _metadata(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured. The share of a GPU's peak speed is 'unknown', not 0, if its peak is in no table."""
    known = {name: figures[name] for name in FIGURES if figures.get(name) is not None}
    return known if "mfu" in known else known | {"mfu": "unknown"}
