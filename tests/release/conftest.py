"""A store with releases of tiny models, as stage `release` leaves them, and the gates' verdicts on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import Artifact, Store, Work
from parakeet.progress import Progress
from parakeet.release.pointers import incumbent
from parakeet.release.promotion import Judgement, Outcome, promote
from tests.chat.tiny_models import write_release


@dataclass
class Releases:
    root: Path
    made: list[Artifact] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / "releases"

    def add(self, recipe: str = "demo", weights_of: Artifact | None = None) -> Artifact:
        """One more release of a recipe, not judged: of weights of its own, or of another one's."""
        number = len(self.made) + 1
        seed = number if weights_of is None else 1 + self.made.index(weights_of)

        def make(output: Path, progress: Progress) -> dict[str, Any]:
            output.rmdir()
            write_release(output, recipe, seed)
            return {"name": recipe, "parameters": 1, "bits_per_byte": {"talk": 1.0 / number}}

        work = Work("release", 2, {"number": number}, folder="releases", recipe=recipe, links=())
        artifact, _ = Store(self.root).ensure(work, make, Progress())
        self.made.append(artifact)
        return artifact

    def judged(self, release: Artifact, *reasons: str) -> Judgement:
        """The verdict of gates that compared it with the promoted release of its recipe: refused for any `reasons`."""
        now = incumbent(self.root, str(release.counts["name"]))
        figures: Mapping[str, Any] = {"bits_per_byte": 1.25}
        return Judgement(release.path.name, now.name if now is not None else None, reasons, figures)

    def promoted(self, recipe: str = "demo", takes_chat: bool = False) -> Artifact:
        """One more release, promoted."""
        release = self.add(recipe)
        assert self.promote(release, takes_chat=takes_chat).is_promoted
        return release

    def promote(self, release: Artifact, *reasons: str, takes_chat: bool = False) -> Outcome:
        return promote(self.root, release, self.judged(release, *reasons), takes_chat=takes_chat)

    def pointers(self) -> dict[str, str]:
        """The folder's name that every link leads to."""
        links = [self.folder / "latest", *sorted((self.folder / "promoted").glob("*"))]
        return {link.name: link.resolve().name for link in links if link.is_symlink()}


@pytest.fixture
def store(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "home")
