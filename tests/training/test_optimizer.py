"""Optimizers lower the loss, decay matrices only, and keep the state that they should."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from parakeet.model.config import ModelConfig
from parakeet.model.loss import backward_from_loss
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.optimizer import make_optimizer

# A width at which bitsandbytes quantises the state: matrices of less than 4,096 values are left alone.
CONFIG = ModelConfig(layers=3, heads=2, width=64, context=64, vocabulary_rows=448)
PADDING = 447
OPTIMIZERS = ("adamw", "adamw_8bit", "muon")


@pytest.fixture(autouse=True)
def _bitsandbytes_forgets() -> Iterator[None]:
    """Its global manager would apply one test's settings to the next test's parameters at the same indices."""
    yield
    if "bitsandbytes" in sys.modules:
        sys.modules["bitsandbytes"].optim.GlobalOptimManager.get_instance().initialize()


def settings(optimizer: str, **more: object) -> Training:
    values = {"tokens": 100, "batch_tokens": 64, "learning_rate": 1e-3, "optimizer": optimizer, **more}
    return Training.model_validate(values)


def made(training: Training) -> tuple[Parakeet, torch.optim.Optimizer]:
    model = Parakeet(CONFIG)
    model.initialise(torch.Generator().manual_seed(1))
    return model, make_optimizer(model, training)


def make_steps(model: Parakeet, optimizer: torch.optim.Optimizer, steps: range) -> float:
    """Returns the last step's loss; every step has the same ids, so it falls."""
    ids = torch.randint(0, PADDING, (2, 32), generator=torch.Generator().manual_seed(2))
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + step)
        hidden = model(ids, torch.zeros_like(ids))
        embedding = model.get_parameter("embedding.weight")
        loss = backward_from_loss(hidden, embedding, ids.roll(-1, 1), ignore=PADDING, normaliser=ids.numel())
        optimizer.step()
        optimizer.zero_grad()
    return float(loss) / ids.numel()


def weights(model: Parakeet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    model, optimizer = made(settings(name))
    first = make_steps(model, optimizer, range(1))
    assert make_steps(model, optimizer, range(1, 8)) < first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_on_matrices_and_every_parameter_is_stepped_once(name: str) -> None:
    moved = {}
    for decay in (0.0, 0.5):
        model, optimizer = made(settings(name, weight_decay=decay))
        make_steps(model, optimizer, range(1))
        moved[decay] = weights(model)
        counted = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(counted) == sorted(map(id, model.parameters()))
    begun, _ = made(settings(name))
    for key, start in weights(begun).items():
        assert not torch.equal(start, moved[0.0][key]), f"{key} was not stepped"
        decayed = not torch.equal(moved[0.0][key], moved[0.5][key])
        assert decayed == (start.dim() == 2), key


def test_blocks_have_8_bit_state_and_the_embedding_32_bit() -> None:
    for _ in range(2):
        model, optimizer = made(settings("adamw_8bit"))
        make_steps(model, optimizer, range(2))
        matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() == 2}
        for name, parameter in matrices.items():
            for moment in ("state1", "state2"):
                kept = optimizer.state[parameter][moment].dtype
                assert kept == (torch.float32 if name == "embedding.weight" else torch.uint8), name


def test_no_earlier_model_is_kept_by_bitsandbytes() -> None:
    """Its manager is global."""
    model, optimizer = made(settings("adamw_8bit"))
    make_steps(model, optimizer, range(1))
    gone = weakref.ref(model.get_parameter("embedding.weight"))
    del model, optimizer
    made(settings("adamw_8bit"))
    gc.collect()
    assert gone() is None


def test_muon_keeps_one_momentum_of_a_block_and_two_moments_of_the_embedding() -> None:
    model, optimizer = made(settings("muon"))
    make_steps(model, optimizer, range(1))
    for name, parameter in model.named_parameters():
        in_block = parameter.dim() == 2 and name != "embedding.weight"
        assert set(optimizer.state[parameter]) == (
            {"momentum_buffer"} if in_block else {"step", "exp_avg", "exp_avg_sq"}
        )


def test_a_missing_package_is_one_message() -> None:
    code = (
        "import sys; sys.modules['bitsandbytes'] = None\n"
        "from tests.training.test_optimizer import made, settings\n"
        "from parakeet.errors import ParakeetError\n"
        "try:\n    made(settings('adamw_8bit'))\n"
        "except ParakeetError as error:\n    print(error)"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "pip install 'bitsandbytes>=0.50'" in ended.stdout
    assert "training.optimizer to adamw" in ended.stdout
