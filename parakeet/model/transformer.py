"""The Parakeet transformer: pre-norm, ALiBi, and key/value projections that pairs of layers share."""

import errno
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from parakeet.errors import ParakeetError
from parakeet.model.attention import Mask, alibi_slopes, attend, compiled, prepare_mask
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.model.execution import ActivationCheckpointing, Execution, Precision
from parakeet.model.products import multiply

DEFAULT_EXECUTION = Execution()
DEVIATION = 0.02
"""Standard deviation of initial weights."""


class Linear(nn.Linear):
    """A product without a bias. On the meta device there is nothing to initialise (see `load_weights`)."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, bias=False)

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """A row for each id. On the meta device there is nothing to initialise: torch's way there imports its compiler."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Norm(nn.Module):
    """LayerNorm with a weight and no bias, eps 1e-5, in the precision of its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), None, 1e-5)


class Block(nn.Module):
    """x + attention(LN(x)); x + MLP(LN(x)). The key/value projection may belong to a pair of layers.

    Weights are cast at each use, so that the copies live no longer than a checkpointed block.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = Norm(d)
        self.query = Linear(d, d)
        self.attention_output = Linear(d, d)
        self.mlp_norm = Norm(d)
        self.mlp_input = Linear(d, 4 * d)
        self.mlp_output = Linear(4 * d, d)

    def forward(self, x: Tensor, key_value: Tensor, mask: Mask, dtype: torch.dtype, checkpoint_mlp: bool) -> Tensor:
        """x (batch, length, width); key_value (2 · width, width), keys first; products are computed in `dtype`."""
        normed = self.attention_norm(x).to(dtype)
        # query, keys, values (batch, heads, length, head width); one product (batch, length, 2 · width) gives the last
        # two. Two layers share the projection, but their inputs differ, so each has its own keys and values.
        query = self._split(_linear(normed, self.query.weight))
        keys, values = (self._split(half) for half in _linear(normed, key_value).chunk(2, dim=-1))
        # Heads side by side again: (batch, length, width).
        mixed = attend(query, keys, values, mask).transpose(1, 2).reshape(x.shape)
        x = x + F.dropout(_linear(mixed, self.attention_output.weight), self.dropout, self.training)
        hidden = _checkpointed(self._mlp, x, dtype) if checkpoint_mlp else self._mlp(x, dtype)
        return x + F.dropout(hidden, self.dropout, self.training)

    def _mlp(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        # (batch, length, width) to (batch, length, 4 · width) and back. The GELU is always computed again: keeping its
        # output would take a fifth of all activations, and a step on a CPU took as long either way (0.28 s).
        hidden = _linear(self.mlp_norm(x).to(dtype), self.mlp_input.weight)
        if _by_hand(hidden, self.mlp_output.weight):
            product: Tensor = _Product.apply(hidden, self.mlp_output.weight, True)
            return product
        return _checkpointed(_activated, hidden, self.mlp_output.weight)

    def _split(self, x: Tensor) -> Tensor:
        """(batch, length, width) to (batch, heads, length, head width)."""
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class _Lookup(torch.autograd.Function):
    """Embedding lookup whose gradient goes straight into the embedding's .grad.

    torch's own backward first makes a second dense gradient, 462 MB at 100,288 × 1,152.
    """

    @staticmethod
    def forward(context: Any, embedding: Tensor, ids: Tensor) -> Tensor:
        context.embedding = embedding
        context.save_for_backward(ids)
        return F.embedding(ids, embedding)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, None]:
        (ids,) = context.saved_tensors
        embedding, gradient = context.embedding, gradients[0]
        if embedding.grad is None:
            embedding.grad = torch.zeros_like(embedding)
        # ids (batch, length), gradient (batch, length, width): one row is added per position, repeats included.
        embedding.grad.index_add_(0, ids.reshape(-1), gradient.reshape(-1, gradient.shape[-1]).to(embedding.dtype))
        return None, None


class _Product(torch.autograd.Function):
    """x · weightᵀ, or GELU(x) · weightᵀ, in fp32 on a CPU. The weight's gradient goes straight into its .grad.

    x (…, n), weight (m, n). Autograd would make each weight gradient as a matrix of its own, in fresh memory, and
    `checkpoint` for the GELU takes longer than the GELU on small tensors.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, activated: bool) -> Tensor:
        context.weight, context.activated = weight, activated
        context.save_for_backward(x)
        return multiply(F.gelu(x) if activated else x, weight)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = context.saved_tensors
        weight = context.weight
        # rows (positions, m), factors (positions, n).
        rows = gradients[0].reshape(-1, len(weight))
        factors = (F.gelu(x) if context.activated else x).reshape(-1, weight.shape[1])
        if weight.grad is None:
            weight.grad = rows.T @ factors
        else:
            weight.grad.addmm_(rows.T, factors)
        del factors
        at_x = multiply(rows, weight.T).view(x.shape)
        if context.activated:
            torch.ops.aten.gelu_backward.grad_input(at_x, x, grad_input=at_x)
        return at_x, None, None


def _by_hand(x: Tensor, weight: Tensor) -> bool:
    """Whether `_Product` computes this product, and its gradients. Compiled code cannot write to a .grad."""
    tracked = weight.requires_grad and torch.is_grad_enabled()
    return tracked and x.device.type == "cpu" and x.dtype == weight.dtype and not torch.compiler.is_compiling()


def _activated(hidden: Tensor, weight: Tensor) -> Tensor:
    return _linear(F.gelu(hidden), weight)


def _checkpointed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """`function(*arguments)`, keeping only the arguments for the backward pass. The function must not draw numbers."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    if _by_hand(x, weight):
        product: Tensor = _Product.apply(x, weight, False)
        return product
    return F.linear(x, weight.to(x.dtype))


def _run_block(
    block: nn.Module,
    x: Tensor,
    key_value: Tensor,
    mask: Mask,
    dtype: torch.dtype,
    activation_checkpointing: ActivationCheckpointing,
) -> Tensor:
    if activation_checkpointing == "block" and torch.is_grad_enabled():
        # With the state of the random numbers, because dropout has to be drawn again as it was.
        return checkpoint(block, x, key_value, mask, dtype, False, use_reentrant=False)
    return block(x, key_value, mask, dtype, activation_checkpointing == "mlp")


@cache
def _compiled_block() -> Callable[..., Tensor]:
    """One graph for all blocks, with their weights as inputs. Checkpointing must be inside (pytorch issue 161889)."""
    return compiled(_run_block)


class Parakeet(nn.Module):
    """Input ids to hidden states. Logits are the hidden states times the transposed embedding."""

    slopes: Tensor

    def __init__(self, config: ModelConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__()
        self.config = config
        self.execution = execution
        self.embedding = Embedding(config.vocabulary_rows, config.width)
        self.embedding_norm = nn.LayerNorm(config.width)
        self.key_values = nn.ModuleList(
            Linear(config.width, 2 * config.width) for _ in range(config.shared_projections)
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = Norm(config.width)
        self.register_buffer("slopes", alibi_slopes(config.heads), persistent=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, embedding_deviation: float = DEVIATION) -> None:
        """N(0, 0.02), but N(0, 0.02/sqrt(2 · layers)) for the projections back to the residual stream."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("attention_output.weight", "mlp_output.weight"))
                deviation = DEVIATION / math.sqrt(2 * self.config.layers) if residual else DEVIATION
                deviation = embedding_deviation if name == "embedding.weight" else deviation
                parameter.normal_(0.0, deviation, generator=generator)

    def forward(self, ids: Tensor, documents: Tensor, last_document: int | None = None) -> Tensor:
        """Hidden states (batch, length, width) of packed sequences, in the precision of the products.

        ids (batch, length) int64; documents (batch, length), one number per packed document. No position attends to
        another document. last_document: see `prepare_mask`.
        """
        dtype = self._dtype(self.execution.precision)
        # Prepared once, outside the compiled blocks, and used in every layer.
        backend = self.execution.attention
        width, softmax_one = self.config.head_width, self.config.softmax_one
        mask = prepare_mask(backend, self.slopes, documents, width, dtype, last_document, softmax_one)
        return self.forward_masked(ids, mask)

    def forward_masked(self, ids: Tensor, mask: Mask) -> Tensor:
        """The same with what each position attends to as a mask of one of the backends."""
        chosen = self.execution
        dtype = self._dtype(chosen.precision)
        x = self._embed(ids).to(self._dtype(chosen.residual))
        run = _compiled_block() if chosen.compile else _run_block
        for layer, block in enumerate(self.blocks):
            key_value: Any = self.key_values[self.config.projection_of(layer)].weight
            x = run(block, x, key_value, mask, dtype, chosen.activation_checkpointing)
        return self.final_norm(x).to(dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, width) to (…, vocabulary rows)."""
        return _linear(hidden, self.embedding.weight)

    def _embed(self, ids: Tensor) -> Tensor:
        x = self.embedding_norm(_Lookup.apply(self.embedding.weight, ids))
        return F.dropout(x, self.config.dropout, self.training)

    def _dtype(self, precision: Precision) -> torch.dtype:
        return torch.bfloat16 if precision == "bf16" else self.embedding.weight.dtype


def save_model(model: Parakeet, directory: Path) -> None:
    """Write weights and configuration. The tied embedding and each shared projection are stored once."""
    save_tensors(model.state_dict(), directory / WEIGHTS_FILE)
    model.config.save(directory)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file. OSError if that fails, where the library raises a type of its own."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"The file could not be written: {error}", str(path)) from None
    path.chmod(0o644)  # the library makes the file readable by its owner only


def best_device() -> str:
    """`cuda` if there is a CUDA device, else `cpu`.

    Never Apple's `mps`: no training or measurement was tried there. A chat may use it (`generation.choice`).
    """
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(directory: Path, device: str) -> Parakeet:
    """A model in evaluation mode. ParakeetError if weights are missing, misshapen or not finite."""
    return load_weights(ModelConfig.load(directory), directory / WEIGHTS_FILE, device)


def load_weights(config: ModelConfig, path: Path, device: str) -> Parakeet:
    """The same from a file of weights and the shape of their model. On a CPU the weights are mapped from the file."""
    try:
        weights = load_file(path, device=device)
    except FileNotFoundError:
        raise ParakeetError(f"{path} is missing: {path.parent} holds no complete model.") from None
    except (SafetensorError, OSError) as error:
        raise ParakeetError(f"{path} cannot be read as safetensors: {error}") from None
    # Built without memory, so that the file's tensors become the parameters and nothing is held twice.
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
            f"{path} does not match its config.json: {name} has shape {found.get(name, 'missing')}, "
            f"expected {expected.get(name, 'nothing')} ({len(wrong)} tensors differ)."
        )
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32:
            raise ParakeetError(f"{path}: {name} has dtype {tensor.dtype}; Parakeet's weights are torch.float32.")
        # aminmax propagates NaN and infinity, and takes no memory: 5 ms for 100 MB on a core, isfinite takes 72.
        if not all(math.isfinite(extreme) for extreme in tensor.aminmax()):
            raise ParakeetError(f"{path}: {name} holds NaN or infinite values, so the model is unusable.")
