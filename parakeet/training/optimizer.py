"""Optimizers by name. Weight decay acts on matrices only, not on norms.

Parameters are in groups. A group's `rate` multiplies the learning rate of the schedule, which a step finds in `lr`.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from parakeet.errors import ParakeetError
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.forecast import MUON_AT_ONCE
from parakeet.training.muon import orthogonalise_, products_in_bf16

Group = dict[str, Any]
State = dict[Tensor, dict[str, Any]]

MUON_RMS = 0.2
"""An update of Muon has the root mean square of AdamW's usual one (Liu et al. 2025, arXiv 2502.16982 §2.2), so that
both can share a learning rate and weight decay."""
ADAMW_EPS = 1e-8


class Optimizer(Protocol):
    """What the trainer and its checkpoints need of an optimizer. torch's own classes have all of it but `name`."""

    @property
    def name(self) -> str: ...
    @property
    def param_groups(self) -> list[Group]: ...
    @property
    def state(self) -> State: ...
    def step(self) -> None: ...
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class GroupedOptimizer:
    """AdamW for some groups of parameters and Muon for others, as each group's `update` says.

    `state_dict` and `load_state_dict` have torch's form, {"state": {number: …}, "param_groups": […]}, and the states
    are named as in `torch.optim.AdamW` and `torch.optim.Muon`. It is no `torch.optim.Optimizer`, because constructing
    one imports torch._dynamo: 72 MiB and 1.7 s.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        """Raises ValueError if Muon is to treat anything but matrices: only they have singular values."""
        for group in groups:
            shapes = [tuple(parameter.shape) for parameter in group["params"]]
            if group["update"] == "Muon" and (wrong := [shape for shape in shapes if len(shape) != 2]):
                raise ValueError(f"Muon treats matrices, and a parameter has the shape {wrong[0]}: give it to AdamW")
        self.param_groups = list(groups)
        self.state: State = defaultdict(dict)

    @property
    def name(self) -> str:
        """The methods, `Muon+AdamW`."""
        return "+".join(dict.fromkeys(group["update"] for group in self.param_groups))

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            _UPDATES[group["update"]](group, self.state)

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        numbers = {parameter: number for number, parameter in enumerate(self._parameters())}
        groups = [{**group, "params": [numbers[p] for p in group["params"]]} for group in self.param_groups]
        return {"state": {numbers[p]: values for p, values in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of every parameter. The settings of the groups stay this optimizer's."""
        parameters = list(self._parameters())
        self.state.clear()
        for number, values in state_dict["state"].items():
            device = parameters[number].device
            self.state[parameters[number]] = {name: value.to(device) for name, value in values.items()}

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]


def _step_adamw(group: Group, state: State) -> None:
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    for parameter in parameters:
        if not state[parameter]:
            state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    if not parameters:
        return
    steps, first, second = ([state[p][name] for p in parameters] for name in ("step", "exp_avg", "exp_avg_sq"))
    torch._foreach_add_(steps, 1)
    # torch's own kernel for AdamW(fused=True): it reads and writes each value once and allocates nothing.
    torch._fused_adamw_(
        parameters,
        [parameter.grad for parameter in parameters],
        first,
        second,
        [],
        steps,
        lr=group["lr"],
        beta1=group["beta1"],
        beta2=group["beta2"],
        weight_decay=group["weight_decay"],
        eps=ADAMW_EPS,
        amsgrad=False,
        maximize=False,
    )


def _step_muon(group: Group, state: State) -> None:
    for parameters in _alike(group["params"]):
        shape = parameters[0].shape
        updates = torch.empty(len(parameters), *shape, device=parameters[0].device)
        for parameter, update in zip(parameters, updates, strict=True):
            if not state[parameter]:
                dtype = group["momentum_dtype"]
                state[parameter] = {"momentum_buffer": torch.zeros_like(parameter, dtype=dtype)}
            momentum = state[parameter]["momentum_buffer"]
            gradient = parameter.grad
            assert gradient is not None
            # In the gradient's precision: a bf16 momentum is rounded once, when it is stored.
            moved = momentum.to(gradient.dtype).lerp(gradient, 1 - group["momentum"])
            momentum.copy_(moved)
            # Nesterov's: where the momentum will be after another such gradient.
            torch.lerp(gradient, moved, group["momentum"], out=update)
        rate = group["lr"] * MUON_RMS * math.sqrt(max(shape))
        for parameter, update in zip(parameters, orthogonalise_(updates, group["in_bf16"]), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-rate)


def _alike(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters with a gradient, in lists of one shape and at most MUON_AT_ONCE values (or of one parameter)."""
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            by_shape[parameter.shape].append(parameter)
    for shape, alike in by_shape.items():
        most = max(1, MUON_AT_ONCE // shape.numel())
        for begin in range(0, len(alike), most):
            yield alike[begin : begin + most]


_UPDATES = {"Muon": _step_muon, "AdamW": _step_adamw}


class BitsandbytesOptimizer:
    """An optimizer of bitsandbytes, whose state dictionary keeps its tensors a level deeper than torch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    @property
    def name(self) -> str:
        return type(self._optimizer).__name__

    @property
    def param_groups(self) -> list[Group]:
        return self._optimizer.param_groups

    @property
    def state(self) -> State:
        return self._optimizer.state

    def step(self) -> None:
        self._optimizer.step()

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        numbers = {p: n for n, p in enumerate(p for group in self.param_groups for p in group["params"])}
        return {
            "state": {numbers[p]: values for p, values in self.state.items()},
            "param_groups": self._optimizer.state_dict()["param_groups"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # bitsandbytes' own method: torch's would convert its 8-bit codes to floats.
        self._optimizer.load_state_dict(state_dict)


def make_optimizer(model: Parakeet, settings: Training) -> Optimizer:
    """The recipe's optimizer for the model's parameters. ParakeetError if its package is missing."""
    groups = _groups(model, settings)
    if settings.optimizer == "adamw_8bit":
        return _adamw_8bit(model, groups, settings)
    return GroupedOptimizer(groups)


def _groups(model: Parakeet, settings: Training) -> list[Group]:
    """The matrices of the blocks, the embedding, and the norms.

    AdamW has embedding and matrices in one group, in the order of the model, when their rates are equal: so have the
    checkpoints that were made before there were rates.
    """
    embedding = model.get_parameter("embedding.weight")
    norms = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    common = {"update": "AdamW", "beta1": settings.beta1, "beta2": settings.beta2, "lr": settings.learning_rate}
    norm_group = {**common, "params": norms, "rate": settings.norm_rate, "weight_decay": 0.0}
    decayed = {**common, "rate": 1.0, "weight_decay": settings.weight_decay}
    if settings.optimizer != "muon" and settings.embedding_rate == 1.0:
        return [{**decayed, "params": matrices}, norm_group]
    blocks = {**decayed, "params": [parameter for parameter in matrices if parameter is not embedding]}
    if settings.optimizer == "muon":
        dtype = torch.bfloat16 if settings.momentum_precision == "bf16" else torch.float32
        in_bf16 = products_in_bf16(embedding.device, settings.precision)
        blocks |= {"update": "Muon", "momentum": settings.momentum, "momentum_dtype": dtype, "in_bf16": in_bf16}
    return [blocks, {**decayed, "params": [embedding], "rate": settings.embedding_rate}, norm_group]


def _adamw_8bit(model: Parakeet, groups: list[Group], settings: Training) -> Optimizer:
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
    betas = (settings.beta1, settings.beta2)
    own = [{name: group[name] for name in ("params", "rate", "weight_decay")} for group in groups]
    return BitsandbytesOptimizer(bitsandbytes.optim.AdamW8bit(own, lr=settings.learning_rate, betas=betas))
