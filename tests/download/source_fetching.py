"""What a stage of a source does, without the store around it."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import WORK_FOLDER
from parakeet.download.sources import fetch_source
from parakeet.download.transfer import Patience
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe_sources import RemoteSource

QUICK = Patience(connect=2.0, silence=0.5, chunk=1.0, tries=3, backoff=0.01, longest_wait=0.05)


class SourceFetching:
    """One source's folder, and what was said about it."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.said = StringIO()

    def __call__(self, source: RemoteSource, limit: float = 1.0) -> dict[str, Any]:
        self.output.mkdir(exist_ok=True)
        return fetch_source(source, limit, self.output, Progress(self.said), QUICK)

    def refused(self, source: RemoteSource, limit: float = 1.0) -> str:
        with pytest.raises(ParakeetError) as caught:
            self(source, limit)
        message = str(caught.value)
        assert message.startswith(f"Source {source.name}")
        assert message.isprintable()
        return message

    @property
    def files(self) -> dict[str, bytes]:
        """What would become the artefact."""
        return {
            path.relative_to(self.output).as_posix(): path.read_bytes()
            for path in sorted(self.output.rglob("*"))
            if path.is_file() and path.relative_to(self.output).parts[0] != WORK_FOLDER
        }
