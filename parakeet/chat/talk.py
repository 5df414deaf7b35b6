"""What the commands of a chat work on."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.chat.output import write
from parakeet.chat.session import Session
from parakeet.chat.speaking import Speaker
from parakeet.chat.storage import session_header
from parakeet.sanitise import sanitise

if TYPE_CHECKING:
    from parakeet.generation.engine import Step


@dataclass(frozen=True)
class Model:
    """The model as people know it: its name, the hash of its weights, the folder that it was opened from."""

    name: str
    sha256: str
    directory: Path


@dataclass
class Talk:
    """What the commands work on: the model, the session of the moment and its speaker, the root of artefacts."""

    model: Model
    speaker: Speaker
    root: Path
    label: str
    """Stands before every reply."""
    aside: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered while another program has the terminal."""
    leaving: bool = False

    @property
    def session(self) -> Session:
        return self.speaker.session

    def header(self) -> dict[str, Any]:
        """What a session file says of the model."""
        return session_header(self.session.engine, self.model.name, self.model.sha256)

    def say(self, steps: Generator["Step", None, None]) -> None:
        """Write a reply on the terminal."""
        self.speaker.say(steps, self.label)
        self.leaving = self.speaker.presses.leave

    def tell(self, text: str) -> None:
        """Lines on standard output, which may hold words of others."""
        write(sanitise(text) + "\n")
