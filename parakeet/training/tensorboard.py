"""A run's figures for TensorBoard, which is an extra. Imports torch only where it is asked for."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.training.metrics import StepRecord

FOLDER = "tensorboard"
FIGURES = (
    "loss",
    "validation_loss",
    "gradient_norm",
    "learning_rate",
    "tokens_per_second",
    "data_seconds",
    "mfu",
    "mfu_palm",
    "memory_bytes",
)


class TensorBoard:
    """Event files in `run`/tensorboard. ParakeetError if TensorBoard is not installed, before anything is trained.

    A write that fails is said, and the next `flush` is the next try: the figures between are in `metrics.jsonl`.
    """

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ParakeetError(
                f"training.tensorboard is on, but TensorBoard cannot be imported ({error}). Install it with "
                "pip install 'parakeet-lm[tensorboard]', or set training.tensorboard to false."
            ) from None
        self._open = SummaryWriter
        self._folder = run / FOLDER
        self._say = say
        self._writer: Any = None
        self._failed = False

    def step(self, record: "StepRecord") -> None:
        if self._failed:
            return
        try:
            if self._writer is None:
                # Steps from here on in the files of an earlier process are made again: TensorBoard hides them.
                self._writer = self._open(str(self._folder), purge_step=record.step)
            for name, value in asdict(record).items():
                if name in FIGURES and value is not None:
                    self._writer.add_scalar(name, value, record.step, walltime=record.time)
        except OSError as error:
            self._give_up(error)

    def flush(self) -> None:
        self._failed = False
        try:
            if self._writer is not None:
                self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def cut_back(self) -> None:
        """The next step is one that was made before: begin a new file, which hides it."""
        self.close()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._say(f"{error.strerror or error} while writing {self._folder}; tried again with the next checkpoint.")
        self._writer = None
        self._failed = True
