"""The trainer's figures as observations of the asset, while it trains. The trainer bounds their number.

Dagster's own reader keeps custom messages until the process ends; a training takes weeks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster_pipes import PipesMessage, PipesParams

from assets_defs.metadata import metadata_of

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


class ObservingMessageReader(dg.PipesTempFileMessageReader):
    """Reads messages as Dagster does, and logs an AssetObservation of each with metrics as it arrives."""

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[PipesParams]:
        with super().read_messages(_Observer(handler, self)) as params:
            yield params


class _Observer(dg.PipesMessageHandler):
    """Logs metrics, and passes every other message to the session's own handler."""

    def __init__(self, handler: dg.PipesMessageHandler, reader: dg.PipesMessageReader) -> None:
        super().__init__(handler._context, reader)
        self._handler = handler

    def handle_message(self, message: PipesMessage) -> None:
        payload = (message["params"] or {}).get("payload") if message["method"] == "report_custom_message" else None
        if not isinstance(payload, dict) or payload.get("kind") != "metrics":
            self._handler.handle_message(message)
            return
        try:
            metadata = _metadata(payload["values"], str(payload.get("recipe", "")))
            self._context.log_event(dg.AssetObservation(asset_key=self._context.asset_key, metadata=metadata))
        # An exception here, of a locked database say, would end the thread that reads all of the trainer's messages.
        except Exception as error:
            self._context.log.warning(
                f"An observation of {self._context.asset_key.to_user_string()} was lost: {error!r}"
            )


def _metadata(figures: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    """What was measured. The share of a GPU's peak speed is 'unknown', not 0, if its peak is in no table."""
    known = {name: figures[name] for name in FIGURES if figures.get(name) is not None}
    return metadata_of(known if "mfu" in known else known | {"mfu": "unknown"}, recipe)
