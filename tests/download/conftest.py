"""Homes to download into, and a server that plays faults.

What every download must survive is tested with `download`, for the original checkpoint and for a file of a source.
"""

import hashlib
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import WORK_FOLDER
from parakeet.download.original import PARTS_FOLDER, obtain_original
from parakeet.download.sources import fetch_source
from parakeet.download.transfer import RetryPolicy
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import OriginalCheckpoint
from parakeet.recipe_sources import DownloadSource, RemoteSource

from ..fault_server import FaultServer
from .archives import BODY, NAME

QUICK = RetryPolicy(connect_timeout=60.0, stall_timeout=120.0, attempts=3, backoff=0.01, max_wait=0.05)
"""Short waits after failures, but a slow machine is no failure."""
IMPATIENT = RetryPolicy(read_timeout=0.3, stall_timeout=0.3, attempts=1)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(BODY) as running:
        yield running


class Fetching:
    """The original checkpoint in one home, and what was printed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.policy = QUICK
        self.file = root / "models" / NAME
        self.said = StringIO()

    def __call__(self, *mirrors: str, drive_id: str | None = None, **settings: object) -> Path:
        wanted = OriginalCheckpoint.model_validate(
            {"file_name": NAME, "drive_id": drive_id, "mirrors": list(mirrors), **settings}
        )
        return obtain_original(self.root, wanted, Progress(self.said), self.policy).path

    def refused(self, *mirrors: str, **settings: object) -> str:
        """The message, after making sure that nothing stands where the file should."""
        with pytest.raises(ParakeetError) as caught:
            self(*mirrors, **settings)  # type: ignore[arg-type]
        assert not self.file.exists()
        return str(caught.value)

    @property
    def parts(self) -> list[Path]:
        return list((self.root / "models" / PARTS_FOLDER).rglob("*.part"))


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(tmp_path / "home")


class SourceFetching:
    """What the stage of a source does, without the store around it."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.policy = QUICK
        self.said = StringIO()

    def __call__(self, source: RemoteSource, limit: float = 1.0) -> dict[str, Any]:
        self.output.mkdir(parents=True, exist_ok=True)
        return fetch_source(source, limit, self.output, Progress(self.said), self.policy)

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

    @property
    def parts(self) -> list[Path]:
        return [path for path in (self.output / WORK_FOLDER / "parts").glob("*") if "." not in path.name]


@pytest.fixture
def source_fetching(tmp_path: Path) -> SourceFetching:
    return SourceFetching(tmp_path / "output")


def download_source(*files: str | dict[str, Any]) -> DownloadSource:
    chosen = [{"url": file} if isinstance(file, str) else file for file in files]
    return DownloadSource.model_validate({"kind": "download", "name": "set-1.0", "files": chosen})


class Download:
    """One file from one address: the original checkpoint, or the file of a source."""

    def __init__(self, kind: str, root: Path) -> None:
        self.root = root
        self.is_original = kind == "original"
        self._original, self._source = Fetching(root), SourceFetching(root)
        self._used: Fetching | SourceFetching = self._original if self.is_original else self._source
        self.file = self._original.file if self.is_original else root / NAME
        self.policy = QUICK

    def _arguments(self, address: str, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._used.policy = self.policy
        if self.is_original:
            return address, settings
        return download_source({"url": address, "file_name": NAME, **settings}), {}

    def __call__(self, address: str, **settings: Any) -> bytes:
        """The file's content."""
        place, settings = self._arguments(address, settings)
        self._used(place, **settings)
        return self.file.read_bytes()

    def from_drive(self) -> bytes:
        if self.is_original:
            self._original(drive_id="abcdefghijk")
        else:
            self._source(download_source({"drive_id": "abcdefghijk", "file_name": NAME}))
        return self.file.read_bytes()

    def refused(self, address: str, **settings: Any) -> str:
        place, settings = self._arguments(address, settings)
        message = self._used.refused(place, **settings)
        assert not self.file.exists()
        return message

    @property
    def said(self) -> str:
        return self._used.said.getvalue()

    @property
    def parts(self) -> list[Path]:
        return self._used.parts

    def earlier_folder(self, address: str) -> Path:
        """Where Parakeet at commit 1eac929 kept the unfinished download of an address."""
        key = hashlib.sha256(json.dumps([address, None, None]).encode()).hexdigest()[:16]
        folder = self.file.parent / ".download" / NAME / key
        folder.mkdir(parents=True)
        return folder


@pytest.fixture(params=["original", "source"])
def download(request: pytest.FixtureRequest, tmp_path: Path) -> Download:
    return Download(request.param, tmp_path / "home")
