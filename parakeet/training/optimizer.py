"""Optimizers by name. Weight decay acts on matrices only (DESIGN §3)."""

from typing import Any

import torch

from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training


def make_optimizer(model: Parakeet, settings: Training) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    # Imported only here: the import takes 5 s, and on a CPU its step is 19 times slower than the fused one.
    import bitsandbytes

    # The embedding's rows are touched unevenly: its state stays at 32 bits, as StableEmbedding does it.
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.register_parameters(model.parameters())
    manager.override_config(model.embedding.weight, "optim_bits", 32)
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=settings.learning_rate, betas=betas)
    return optimizer
