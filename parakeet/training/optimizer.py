"""Optimizers by name. Weight decay acts on matrices only, not on norms."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training

Groups = list[dict[str, Any]]


class JoinedOptimizer(torch.optim.Optimizer):
    """Several optimizers with their own parameters that step, save and load as one.

    Its state dictionary has torch's usual shape, {"state": {number: …}, "param_groups": […]}, even if the parts'
    differ: bitsandbytes keeps its tensors a level deeper.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        # The parts' own groups, not copies: a learning rate set here is set in the part too.
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    @property
    def name(self) -> str:
        """The classes of the parts, `Muon+AdamW`."""
        return "+".join(type(part).__name__ for part in self._parts)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("a JoinedOptimizer takes no closure")
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Each part loads its own state: torch's default would convert bitsandbytes' 8-bit codes to floats."""
        groups = iter(state_dict["param_groups"])
        for part in self._parts:
            own = [next(groups) for _ in part.param_groups]
            numbers = {number for group in own for number in group["params"]}
            state = {number: values for number, values in state_dict["state"].items() if number in numbers}
            part.load_state_dict({"state": state, "param_groups": own})
        self._share()

    def _share(self) -> None:
        """One state, shared with the parts, and one list of their groups."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state = defaultdict(dict, (entry for part in self._parts for entry in part.state.items()))
        for part in self._parts:
            part.state = self.state


def make_optimizer(model: Parakeet, settings: Training) -> torch.optim.Optimizer:
    """The recipe's optimizer for the model's parameters. ParakeetError if its package is missing."""
    if settings.optimizer == "muon":
        return _muon(model, settings)
    if settings.optimizer == "adamw_8bit":
        return _adamw_8bit(model, settings)
    return _adamw(_decay_groups(model.parameters(), settings), settings)


def _adamw(groups: Groups, settings: Training) -> torch.optim.AdamW:
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)


def _adamw_8bit(model: Parakeet, settings: Training) -> torch.optim.Optimizer:
    # It warns about missing 4-bit kernels, which are not used here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        # Imported only here: it takes seconds. (On a CPU its step is 19 times slower than fused AdamW.)
        import bitsandbytes
    except (ImportError, OSError) as error:
        raise ParakeetError(
            f"training.optimizer is adamw_8bit, but bitsandbytes cannot be loaded ({error}). "
            "Install it with: pip install 'bitsandbytes>=0.50', or set training.optimizer to adamw."
        ) from None
    # Embedding rows are updated unevenly, so their state stays at 32 bits, as in bitsandbytes' StableEmbedding. The
    # manager is global and remembers the models and parameter indices of earlier optimizers until it is initialised.
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()
    manager.register_module_override(model.embedding, "weight", {"optim_bits": 32})
    groups = _decay_groups(model.parameters(), settings)
    betas = (settings.beta1, settings.beta2)
    return JoinedOptimizer([bitsandbytes.optim.AdamW8bit(groups, lr=settings.learning_rate, betas=betas)])


def _muon(model: Parakeet, settings: Training) -> torch.optim.Optimizer:
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms.

    `match_rms_adamw` (arXiv 2502.16982 §2.2) scales Muon's update to the size of AdamW's, so that both can use the
    same learning rate and weight decay.
    """
    hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and name != "embedding.weight"]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or name == "embedding.weight"]
    muon = torch.optim.Muon(
        hidden, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return JoinedOptimizer([muon, _adamw(_decay_groups(others, settings), settings)])


def _decay_groups(parameters: Iterable[Tensor], settings: Training) -> Groups:
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
