"""What an export reads: a release whose hashes were checked. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from parakeet.evaluation.metrics import EVALUATION_FILE
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.release.card import CARD_FILE
from parakeet.release.verify import TRAINING_MANIFEST_FILE, Release, open_release, verify_release
from parakeet.tokenizer import Tokenizer


@dataclass(frozen=True)
class ExportSource:
    release: Release
    config: ModelConfig
    tokenizer: Tokenizer

    @classmethod
    def open(cls, folder: Path) -> "ExportSource":
        """Raises ParakeetError if the folder holds no complete release."""
        release = open_release(folder)
        verify_release(folder, (TRAINING_MANIFEST_FILE, EVALUATION_FILE, CARD_FILE))
        return cls(release, ModelConfig.load(folder), Tokenizer.load(folder))

    @property
    def weights(self) -> Path:
        """The safetensors file, in fp32. Names and shapes are those of `Parakeet.state_dict`."""
        return self.release.directory / WEIGHTS_FILE
