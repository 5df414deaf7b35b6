"""What an export reads: a release whose hashes were checked. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.release.verify import Release, open_release
from parakeet.tokenizer import Tokenizer


@dataclass(frozen=True)
class ExportSource:
    release: Release
    config: ModelConfig
    tokenizer: Tokenizer

    @classmethod
    def open(cls, folder: Path) -> "ExportSource":
        """Raises ParakeetError if the folder holds no complete release."""
        return cls(open_release(folder), ModelConfig.load(folder), Tokenizer.load(folder))

    @property
    def weights(self) -> Path:
        """The safetensors file, in fp32. Names and shapes are those of `Parakeet.state_dict`."""
        return self.release.directory / WEIGHTS_FILE
