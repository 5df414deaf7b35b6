# SPDX-License-Identifier: GPL-3.0-or-later
"""A Parakeet language model for transformers. It stands alone: this file is copied into exported folders.

It is MPT with two differences: the ALiBi slopes are 2^(-8h/heads) for h = 1 … heads with any number of heads, and a
LayerNorm follows the embedding, whose weights are the output projection's too.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import MptConfig, MptForCausalLM, MptModel


class ParakeetConfig(MptConfig):
    model_type = "parakeet"


class ParakeetModel(MptModel):
    config_class = ParakeetConfig

    def __init__(self, config: ParakeetConfig) -> None:
        super().__init__(config)
        self.embedding_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.post_init()

    def build_mpt_alibi_tensor(
        self, num_heads: int, sequence_length: int, alibi_bias_max: int = 8, device: torch.device | None = None
    ) -> Tensor:
        """(heads, 1, length) fp32: 0 at the last position, less before it. MPT would round the heads up to 2^n."""
        slopes = [2.0 ** (-alibi_bias_max * head / num_heads) for head in range(1, num_heads + 1)]
        distances = torch.arange(1 - sequence_length, 1, dtype=torch.float32, device=device)
        return torch.tensor(slopes, dtype=torch.float32, device=device)[:, None, None] * distances

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Any:
        """`inputs_embeds` are rows of the embedding, before its norm."""
        if (input_ids is None) != (inputs_embeds is None):
            rows = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
            input_ids, inputs_embeds = None, self.embedding_norm(rows)
        # Both or none of them: MPT refuses that.
        return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)


class ParakeetForCausalLM(MptForCausalLM):
    config_class = ParakeetConfig

    def __init__(self, config: ParakeetConfig) -> None:
        super().__init__(config)
        self.transformer = ParakeetModel(config)
        self.post_init()
