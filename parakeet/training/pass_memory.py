"""What a forward and backward pass allocates, tensor by tensor. Imports no torch.

It counts what parakeet/model/{transformer,attention,loss}.py do: a change there is a change here, and
tests/training/test_forecast.py holds both to the allocator. Widths are in values, everything else is in bytes.
"""

from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution

BYTES = {"fp32": 4, "bf16": 2}
FUSED_FEATURES = 21
"""Seventeen of the document and four of ALiBi, which ride around those of a head."""
KERNEL_WIDTH = 8
MATRICES_KEPT = {"none": 8, "mlp": 4, "block": 0}
"""Of a block's 12 · width² weights (a shared projection counts in both of its blocks), those whose bf16 copies the
backward pass reads."""


class PassMemory:
    """The moments of a pass over one micro-batch that can be its fullest. Each property is a number of bytes."""

    def __init__(self, config: ModelConfig, execution: Execution, tokens: int, row_tokens: int, cuda: bool) -> None:
        self.execution = execution
        self.layers, self.heads, self.width = config.layers, config.heads, config.width
        self.head_width = config.head_width
        self.vocabulary = config.vocabulary_rows
        self.tokens = tokens
        self.row_tokens = row_tokens
        self.cuda = cuda
        self.product = BYTES[execution.precision]
        self.residual = BYTES[execution.residual]
        self.casts = self.product < 4
        # Where dropout decided, CUDA and compiled graphs keep a byte, and the CPU's kernel a factor.
        small = cuda or execution.compile
        self.block_mask = 0 if not config.dropout else 1 if small else self.product
        self.embedding_mask = 0 if not config.dropout else 1 if cuda else 4

    @property
    def kept(self) -> int:
        """What the forward pass leaves for the backward pass: of all blocks, and around them."""
        return self.layers * self._block(self.execution.recompute) + self._around

    @property
    def kept_last(self) -> int:
        """What is left of that when the backward pass comes to the first block."""
        return self._block(self.execution.recompute) + self._around

    @property
    def loss(self) -> int:
        """While a piece of the logits exists: its fp32 values, their and the embedding's bf16 copies, then products."""
        piece = min(self.execution.loss_rows, self.tokens) * self.vocabulary
        if not self.casts:
            return self.after_loss + 4 * piece
        # Only CUDA adds a bf16 product to an fp32 gradient.
        copy = 2 * self.vocabulary * self.width
        return self.after_loss + copy + 2 * piece + max(4 * piece, 0 if self.cuda else copy)

    @property
    def after_loss(self) -> int:
        """The hidden states and their gradient."""
        return 2 * self.product * self.width * self.tokens

    @property
    def backward(self) -> int:
        """What the backward pass of a block adds: what it computes again, and the gradients that are alive at once."""
        recompute = self.execution.recompute
        again = 0 if recompute == "none" else self._block("none") - self._block(recompute)
        moments = [again + self._mlp_gradients()]
        if self.execution.attention == "reference":
            moments.append((again if recompute == "block" else 0) + self._score_gradients())
        return max(moments)

    @property
    def _around(self) -> int:
        """The norms' inputs before and after the blocks, ids, targets and documents."""
        around = (4 + self.embedding_mask + self.residual) * self.width + 3 * 8
        # Only a block that is computed again asks for the bias of its scores again.
        if self.execution.recompute == "block" and self.execution.attention == "reference":
            around += self.product * self.heads * self.row_tokens
        return around * self.tokens

    def _block(self, recompute: str) -> int:
        """What one block keeps, under a policy."""
        d, c, r = self.width, self.product, self.residual
        if recompute == "block":
            return r * d * self.tokens
        # Its input, both dropout masks, the first norm's output; the compiled block computes the middle of the stream
        # again from what was added to it.
        kept = (r + 2 * self.block_mask + c + (c if self.execution.compile else r)) * d + self._attention
        # The second norm's output and the hidden layer before the GELU.
        kept += 5 * c * d if recompute == "none" else 0
        copies = MATRICES_KEPT[recompute] * d * d * c if self.casts else 0
        return kept * self.tokens + copies

    @property
    def _attention(self) -> int:
        """Bytes a token of queries, keys, values, what was mixed, and what the backend keeps beside them."""
        c, d, heads = self.product, self.width, self.heads
        if self.execution.attention == "reference":
            # Probabilities in fp32, and again in the precision of the product with the values.
            return 4 * c * d + (4 + (c if self.casts else 0)) * heads * self.row_tokens
        if self.execution.attention == "flex":
            return 4 * c * d + 4 * heads
        # What was mixed stands among features first and is copied out.
        return c * (4 * heads * self._fused_width + d) + 4 * heads

    @property
    def _fused_width(self) -> int:
        return -(-(self.head_width + FUSED_FEATURES) // KERNEL_WIDTH) * KERNEL_WIDTH

    def _mlp_gradients(self) -> int:
        """The GELU again; gradients of the stream, the MLP's output, its hidden layer and its last weight."""
        d, c, r = self.width, self.product, self.residual
        return (r + 9 * c - self.block_mask) * d * self.tokens + 4 * d * d * (4 + (2 * c if self.casts else 0))

    def _score_gradients(self) -> int:
        """Of every score before and after the softmax, when the tensors of the MLP are gone again."""
        d, c, r = self.width, self.product, self.residual
        gone = 2 * self.block_mask + c + (5 * c if self.execution.recompute != "mlp" else 0)
        # CUDA's softmax returns bf16 at once.
        scores = (8 if not self.casts else 4 if self.cuda else 6) * self.heads * self.row_tokens
        return (scores + (r + c - gone) * d) * self.tokens
