"""The forward and backward pass as the original project computed them, to compare with ours.

All attention scores exist at once, their probabilities are kept for the backward pass, and so are the logits of the
whole batch. The weights are a Parakeet's, so both run with the same optimizer and the same tokens.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.benchmarks.steps import IGNORED
from parakeet.model.transformer import Block, Parakeet

ORIGINAL = "the original's way"


class OriginalStep:
    """For sequences of one length, each a single document, as all were in the original.

    `autocast` is its mixed precision: products in bf16; softmax, norms, loss and weights in fp32.
    """

    def __init__(self, model: Parakeet, length: int, autocast: bool) -> None:
        self._model = model
        self._autocast = autocast
        # ALiBi and the causal mask in one: (heads, query position, key position).
        position = torch.arange(length, device=model.slopes.device)
        distance = position[None, :] - position[:, None]
        bias = model.slopes[:, None, None] * distance
        self._bias = bias.masked_fill(distance > 0, float("-inf"))

    def backward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats; the gradients are added to every parameter's .grad. ids and targets: (batch, length)."""
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._autocast):
            logits = self._logits(ids)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        return loss.detach()

    def _logits(self, ids: Tensor) -> Tensor:
        model = self._model
        x = model.embedding_norm(model.embedding(ids))
        x = F.dropout(x, model.config.dropout, model.training)
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            key_value = model.key_values[layer // 2]
            normed = block.attention_norm(x)
            keys, values = (self._split(half) for half in key_value(normed).chunk(2, dim=-1))
            mixed = self._attend(self._split(block.query(normed)), keys, values)
            x = x + self._dropped(block.attention_output(mixed.transpose(1, 2).reshape(x.shape)))
            x = x + self._dropped(block.mlp_output(F.gelu(block.mlp_input(block.mlp_norm(x)))))
        return F.linear(model.final_norm(x), model.embedding.weight)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1]) + self._bias
        return self._dropped(torch.softmax(scores, dim=-1)) @ values

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self._model.config.dropout, self._model.training)

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self._model.config.heads, width // self._model.config.heads).transpose(1, 2)
