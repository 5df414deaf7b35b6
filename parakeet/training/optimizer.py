"""Optimizers by name. Weight decay acts on matrices only (DESIGN §3)."""

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
    """Several optimizers, each with its own parameters, that step, save and load as one.

    Its state dictionary has torch's usual shape, {"state": {number: …}, "param_groups": […]}, whatever the parts
    would make of theirs: bitsandbytes, for one, hides its tensors a level deeper.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        # The groups are taken over, not copied: whoever sets a learning rate here sets it in the part too.
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
        """Each part loads its own: torch's way would turn bitsandbytes' 8-bit codes into floats."""
        groups = iter(state_dict["param_groups"])
        for part in self._parts:
            own = [next(groups) for _ in part.param_groups]
            numbers = {number for group in own for number in group["params"]}
            state = {number: values for number, values in state_dict["state"].items() if number in numbers}
            part.load_state_dict({"state": state, "param_groups": own})
        self._share()

    def _share(self) -> None:
        """One state and one list of groups, which the parts' own are pieces of."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state = defaultdict(dict, (entry for part in self._parts for entry in part.state.items()))
        for part in self._parts:
            part.state = self.state


def make_optimizer(model: Parakeet, settings: Training) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's parameters; ParakeetError where its package is missing."""
    if settings.optimizer == "muon":
        return _muon(model, settings)
    if settings.optimizer == "adamw_8bit":
        return _adamw_8bit(model, settings)
    return _adamw(_decayed_apart(model.parameters(), settings), settings)


def _adamw(groups: Groups, settings: Training) -> torch.optim.AdamW:
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)


def _adamw_8bit(model: Parakeet, settings: Training) -> torch.optim.Optimizer:
    # It warns of missing 4-bit products, which nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        # Imported only here: it takes seconds, and on a CPU its step is 19 times slower than the fused one.
        import bitsandbytes
    except (ImportError, OSError) as error:
        raise ParakeetError(
            f"training.optimizer is adamw_8bit, but bitsandbytes cannot be loaded ({error}). "
            "Install it with: pip install 'bitsandbytes>=0.50', or set training.optimizer to adamw."
        ) from None
    # The embedding's rows are touched unevenly: its state stays at 32 bits, as StableEmbedding does it. The manager is
    # one for the whole process and never forgets, neither models nor the places of parameters in their groups.
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()
    manager.register_module_override(model.embedding, "weight", {"optim_bits": 32})
    groups = _decayed_apart(model.parameters(), settings)
    betas = (settings.beta1, settings.beta2)
    return JoinedOptimizer([bitsandbytes.optim.AdamW8bit(groups, lr=settings.learning_rate, betas=betas)])


def _muon(model: Parakeet, settings: Training) -> torch.optim.Optimizer:
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms.

    `match_rms_adamw` (arXiv 2502.16982 §2.2) scales Muon's update to the size of AdamW's, so that one learning rate
    and one weight decay serve both.
    """
    hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and name != "embedding.weight"]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or name == "embedding.weight"]
    muon = torch.optim.Muon(
        hidden, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return JoinedOptimizer([muon, _adamw(_decayed_apart(others, settings), settings)])


def _decayed_apart(parameters: Iterable[Tensor], settings: Training) -> Groups:
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
