"""A home to fetch into, and a server that plays faults."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from parakeet.download.fetch import PARTS_FOLDER
from parakeet.download.original import obtain_original
from parakeet.download.transfer import Patience
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import OriginalCheckpoint

from ..fault_server import FaultServer
from .archives import BODY, NAME

QUICK = Patience(connect=2.0, silence=0.5, chunk=1.0, backoff=0.01)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(BODY) as running:
        yield running


class Fetching:
    """One home, and what was said in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.patience = QUICK
        self.file = root / "models" / NAME
        self.said = StringIO()

    def __call__(self, *mirrors: str, drive_id: str | None = None, **settings: object) -> Path:
        wanted = OriginalCheckpoint.model_validate(
            {"file_name": NAME, "drive_id": drive_id, "mirrors": list(mirrors), **settings}
        )
        return obtain_original(self.root, wanted, Progress(self.said), self.patience).path

    def refused(self, *mirrors: str, **settings: object) -> str:
        """The message, after making sure that nothing stands where the file should."""
        with pytest.raises(ParakeetError) as caught:
            self(*mirrors, **settings)  # type: ignore[arg-type]
        assert not self.file.exists()
        return str(caught.value)

    @property
    def parts(self) -> list[Path]:
        return [path for path in (self.root / "models" / PARTS_FOLDER).rglob("*") if path.is_file()]


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(tmp_path / "home")
