"""The shape of a model, and everything that follows from it by arithmetic. Imports no torch."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet.errors import ParakeetError

if TYPE_CHECKING:
    from parakeet.recipe import ModelSettings

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

LARGEST = {"layers": 1024, "heads": 1024, "width": 1 << 16, "context": 1 << 20, "vocabulary_rows": 1 << 20}
"""No model has larger sizes. A million layers would take minutes to set up before the first tensor is checked."""
OMITTED = {"softmax_one": False, "share_keys_values": True}
"""Keys that files have only where they differ from these values, so that files without them stay readable."""


@dataclass(frozen=True)
class ModelConfig:
    """`vocabulary_rows` is the number of rows of the tied embedding; `context` is in tokens.

    `softmax_one`: attention divides by one more than the sum of the exponentials.
    `share_keys_values`: neighbouring layers share a key/value projection in pairs; otherwise each layer has its own.
    """

    layers: int
    heads: int
    width: int
    context: int
    vocabulary_rows: int
    dropout: float = 0.0
    softmax_one: bool = False
    share_keys_values: bool = True

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def has_paper_slopes(self) -> bool:
        """Whether the ALiBi slopes are also those of Press et al.: heads are a power of two. See `alibi_slopes`."""
        return self.heads & (self.heads - 1) == 0

    @property
    def shared_projections(self) -> int:
        """Key/value projections: one for each pair of neighbouring layers, rounded up, or one for each layer."""
        return -(-self.layers // 2) if self.share_keys_values else self.layers

    def projection_of(self, layer: int) -> int:
        """The number of the layer's key/value projection."""
        return layer // 2 if self.share_keys_values else layer

    def parameters(self) -> dict[str, int]:
        """Parameters by part. The output projection is the embedding, which is counted once."""
        d = self.width
        return {
            "embedding": self.vocabulary_rows * d,
            "embedding norm": 2 * d,
            "queries": self.layers * d * d,
            "keys and values": self.shared_projections * 2 * d * d,
            "attention outputs": self.layers * d * d,
            "MLPs": self.layers * 8 * d * d,
            "layer norms": (2 * self.layers + 1) * d,
        }

    @property
    def parameter_count(self) -> int:
        return sum(self.parameters().values())

    def flops_per_token(self, length: int) -> int:
        """Training FLOPs per token at sequence length T, causal: 6 · matmul parameters + 6 · layers · width · T.

        Shared key/value weights are used in every layer, so they count in every layer.
        """
        matmul = self.layers * 12 * self.width**2 + self.vocabulary_rows * self.width
        return 6 * matmul + 6 * self.layers * self.width * length

    def palm_flops_per_token(self, length: int) -> int:
        """The same as PaLM counts them (arXiv 2204.02311, appendix B): with future scores, 12 · layers · width · T."""
        return self.flops_per_token(2 * length)

    def as_dict(self) -> dict[str, Any]:
        """As files have it."""
        return {name: value for name, value in asdict(self).items() if (name, value) not in OMITTED.items()}

    def save(self, directory: Path) -> None:
        values = {"architecture": "parakeet", **self.as_dict()}
        (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "ModelConfig":
        path = directory / CONFIG_FILE
        try:
            values = {**OMITTED, **json.loads(path.read_text(encoding="utf-8"))}
            config = cls(**{field.name: values[field.name] for field in fields(cls)})
        except FileNotFoundError:
            raise ParakeetError(f"{path} is missing: {directory} holds no model.") from None
        except KeyError as error:
            raise ParakeetError(f"{path} is not a model configuration: it lacks {error}.") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ParakeetError(f"{path} is not a model configuration: {error}") from None
        return config.checked(path)

    def checked(self, where: Path) -> "ModelConfig":
        """Refuse impossible sizes, before any memory is allocated."""
        for name, largest in LARGEST.items():
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= largest:
                raise ParakeetError(f"{where}: {name} is {size!r}; it must be a whole number from 1 to {largest:,}.")
        dropout = self.dropout
        # NaN fails every comparison.
        if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout < 1:
            raise ParakeetError(f"{where}: dropout is {dropout!r}; it must be a number from 0 to below 1.")
        for name in OMITTED:
            if not isinstance(value := getattr(self, name), bool):
                raise ParakeetError(f"{where}: {name} is {value!r}; it must be true or false.")
        if self.width % self.heads:
            raise ParakeetError(f"{where}: width {self.width} is not a multiple of heads {self.heads}.")
        return self

    @classmethod
    def from_recipe(cls, settings: "ModelSettings", vocabulary_rows: int) -> "ModelConfig":
        return cls(
            layers=settings.layers,
            heads=settings.heads,
            width=settings.width,
            context=settings.context,
            vocabulary_rows=vocabulary_rows,
            dropout=settings.dropout,
            softmax_one=settings.softmax_one,
            share_keys_values=settings.share_keys_values,
        )
