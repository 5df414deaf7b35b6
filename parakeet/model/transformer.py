"""The Parakeet transformer (DESIGN §3): pre-norm, ALiBi, key/value projections shared by pairs of layers."""

import errno
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from parakeet.errors import ParakeetError
from parakeet.model.attention import alibi_slopes, training_bias
from parakeet.model.config import WEIGHTS_FILE, ModelConfig

VALUES_PER_CHECK = 1 << 22


class Norm(nn.Module):
    """LayerNorm with a weight and no bias, eps 1e-5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    """x + attention(LN(x)); x + MLP(LN(x)). The key/value projection belongs to the pair of layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = Norm(d)
        self.query = nn.Linear(d, d, bias=False)
        self.attention_output = nn.Linear(d, d, bias=False)
        self.mlp_norm = Norm(d)
        self.mlp_input = nn.Linear(d, 4 * d, bias=False)
        self.mlp_output = nn.Linear(4 * d, d, bias=False)

    def forward(self, x: Tensor, key_value: nn.Linear, bias: Tensor) -> Tensor:
        """x (batch, length, width); bias broadcastable to (batch, heads, length, keys)."""
        normed = self.attention_norm(x)
        query = self._split(self.query(normed))
        keys, values = (self._split(half) for half in key_value(normed).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        mixed = mixed.transpose(1, 2).reshape(x.shape)
        x = x + F.dropout(self.attention_output(mixed), self.dropout, self.training)
        hidden = F.gelu(self.mlp_input(self.mlp_norm(x)))
        return x + F.dropout(self.mlp_output(hidden), self.dropout, self.training)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class Parakeet(nn.Module):
    """Input ids to hidden states; logits are hidden states times the embedding, transposed."""

    slopes: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_rows, config.width)
        self.embedding_norm = nn.LayerNorm(config.width)
        self.key_values = nn.ModuleList(
            nn.Linear(config.width, 2 * config.width, bias=False) for _ in range(config.shared_projections)
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = Norm(config.width)
        self.register_buffer("slopes", alibi_slopes(config.heads), persistent=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, 0.02); projections back to the residual stream N(0, 0.02/sqrt(2 · layers))."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("attention_output.weight", "mlp_output.weight"))
                deviation = 0.02 / math.sqrt(2 * self.config.layers) if residual else 0.02
                parameter.normal_(0.0, deviation, generator=generator)

    def forward(self, ids: Tensor, documents: Tensor) -> Tensor:
        """Hidden states (batch, length, width) of packed rows.

        ids (batch, length) int64; documents (batch, length), one number per packed document: nothing
        is attended to across documents.
        """
        x = self._embed(ids)
        bias = training_bias(self.slopes, documents, _compute_dtype(x))
        for layer, block in enumerate(self.blocks):
            x = block(x, self.key_values[layer // 2], bias)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, width) to (…, vocabulary rows)."""
        return F.linear(hidden, self.embedding.weight)

    def _embed(self, ids: Tensor) -> Tensor:
        x = self.embedding_norm(self.embedding(ids))
        return F.dropout(x, self.config.dropout, self.training)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """Queries take this dtype, and the mask of scaled_dot_product_attention must share it."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def save_model(model: Parakeet, directory: Path) -> None:
    """Weights and configuration; the tied embedding and each shared projection are stored once."""
    save_tensors(model.state_dict(), directory / WEIGHTS_FILE)
    model.config.save(directory)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; OSError where it cannot be written (the library raises a type of its own)."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"The file could not be written: {error}", str(path)) from None
    path.chmod(0o644)  # the library makes it for its owner only


def best_device() -> str:
    """`cuda` where there is a CUDA device, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(directory: Path, device: str) -> Parakeet:
    """A model in evaluation mode. Raises ParakeetError on missing, misshapen or non-finite weights."""
    config = ModelConfig.load(directory)
    path = directory / WEIGHTS_FILE
    try:
        weights = load_file(path, device=device)
    except FileNotFoundError:
        raise ParakeetError(f"{path} is missing: {directory} holds no whole model.") from None
    except (SafetensorError, OSError) as error:
        raise ParakeetError(f"{path} cannot be read as safetensors: {error}") from None
    # Built without memory first: the file's tensors become the parameters, so nothing is held twice.
    with torch.device("meta"):
        model = Parakeet(config)
    _check_weights(model, weights, path)
    model.load_state_dict(weights, assign=True)
    model.slopes = alibi_slopes(config.heads).to(device)
    return model.eval()


def _check_weights(model: Parakeet, weights: dict[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ParakeetError(
            f"{path} does not fit its config.json: {name} has shape {found.get(name, 'missing')}, "
            f"expected {expected.get(name, 'nothing')} ({len(wrong)} tensors differ)."
        )
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32:
            raise ParakeetError(f"{path}: {name} has dtype {tensor.dtype}; Parakeet's weights are torch.float32.")
        # In pieces: torch.isfinite takes twice the memory of what it looks at, and a weight has up to 462 MB.
        if not all(torch.isfinite(piece).all() for piece in tensor.view(-1).split(VALUES_PER_CHECK)):
            raise ParakeetError(f"{path}: {name} holds NaN or infinite values; the model is unusable.")
