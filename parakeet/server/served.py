"""What is served: a model with its worker, which the newest promoted release may replace while others finish."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from parakeet.release.verify import Release
from parakeet.server.worker import Worker

if TYPE_CHECKING:
    from parakeet.trace.tracer import Tracer


@dataclass
class Served:
    release: Release
    worker: Worker
    root: Path
    """The folder of artefacts and sessions."""
    created: int = field(default=0)
    """When the model was made, in seconds since 1970."""

    @property
    def name(self) -> str:
        return self.release.name

    @cached_property
    def tracer(self) -> "Tracer":
        """Raises ParakeetError, which says what to run, if the model has no index of its training text."""
        from parakeet.trace.tracer import Tracer

        return Tracer.open(self.name, self.release.directory, self.root, self.worker.engine.tokenizer)
