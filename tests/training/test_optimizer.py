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
from parakeet.training.muon import orthogonalise_
from parakeet.training.optimizer import GroupedOptimizer, Optimizer, make_optimizer

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


def made(training: Training) -> tuple[Parakeet, Optimizer]:
    model = Parakeet(CONFIG)
    model.initialise(torch.Generator().manual_seed(1))
    return model, make_optimizer(model, training)


def make_steps(model: Parakeet, optimizer: Optimizer, steps: range) -> float:
    """Returns the last step's loss; every step has the same ids, so it falls."""
    ids = torch.randint(0, PADDING, (2, 32), generator=torch.Generator().manual_seed(2))
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + step) * group["rate"]
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


def test_adamw_and_its_state_are_those_of_torch() -> None:
    """Checkpoints of earlier versions hold the state of torch's optimizer."""
    model, optimizer = made(settings("adamw"))
    other, _ = made(settings("adamw"))
    matrices = [p for p in other.parameters() if p.dim() == 2]
    norms = [p for p in other.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.03}, {"params": norms, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
    for group in theirs.param_groups:
        group["rate"] = 1.0
    make_steps(model, optimizer, range(2))
    make_steps(other, theirs, range(2))
    for (name, mine), their in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, their), name
    mine, their = optimizer.state_dict(), theirs.state_dict()
    assert [group["params"] for group in mine["param_groups"]] == [group["params"] for group in their["param_groups"]]
    for number, values in their["state"].items():
        assert values.keys() == mine["state"][number].keys()
        assert all(torch.equal(values[name], mine["state"][number][name]) for name in values)
    # Its state is taken over.
    fresh, loaded = made(settings("adamw"))
    fresh.load_state_dict(other.state_dict())
    loaded.load_state_dict(their)
    make_steps(model, optimizer, range(2, 4))
    make_steps(fresh, loaded, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


def test_no_optimizer_of_ours_imports_torch_dynamo() -> None:
    """It takes 72 MiB and 1.7 s."""
    code = (
        "import sys\nfrom tests.training.toy_run import ToyRun\n"
        "for name in ('adamw', 'muon'):\n    ToyRun(name).make_step(1)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert ended.stdout == "False\n"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_have_rates_of_their_own(name: str) -> None:
    """Adam's first step moves every weight by the learning rate, so it shows the rate."""
    model, optimizer = made(settings(name, embedding_rate=4.0, norm_rate=0.5, weight_decay=0.0))
    before = weights(model)
    make_steps(model, optimizer, range(1))
    moved = {key: float((before[key] - value).abs().max()) for key, value in weights(model).items()}
    assert moved["embedding.weight"] == pytest.approx(4e-3, rel=0.02)
    assert moved["final_norm.weight"] == pytest.approx(5e-4, rel=0.02)


@pytest.mark.parametrize(("in_bf16", "tolerance"), [(False, 1e-3), (True, 0.1)])
@pytest.mark.parametrize("shape", [(5, 16, 16), (3, 48, 16), (3, 16, 64), (1, 64, 16), (2, 8, 24)])
def test_muon_updates_have_the_directions_of_the_matrix_and_singular_values_near_one(
    shape: tuple[int, int, int], in_bf16: bool, tolerance: float
) -> None:
    """Against a singular value decomposition in float64. From a ratio of 2 on, it runs on XXᵀ in fp32."""
    generator = torch.Generator().manual_seed(sum(shape))
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), False)
    values = torch.logspace(0, -2, left.shape[-1], dtype=torch.float64)
    found = orthogonalise_(((left * values) @ right).float(), in_bf16).double()
    # In the directions of the matrix, the result is diagonal.
    rotated = left.mT @ found @ right.mT
    diagonal = rotated.diagonal(dim1=-2, dim2=-1)
    assert (rotated - torch.diag_embed(diagonal)).abs().max() < tolerance
    assert diagonal.min() > 0.1
    assert diagonal.max() < 1.9


def test_muon_multiplies_in_bf16_where_the_model_does() -> None:
    """The updates are alike then, and not the same."""
    moved = []
    for precision in ("fp32", "bf16"):
        model, optimizer = made(settings("muon", precision=precision, weight_decay=0.0))
        before = weights(model)
        make_steps(model, optimizer, range(1))
        after = weights(model)
        moved.append(torch.cat([(after[key] - before[key]).flatten() for key in before if before[key].dim() == 2]))
    assert not torch.equal(*moved)
    assert float((moved[0] - moved[1]).norm() / moved[0].norm()) < 0.1


def test_the_update_of_a_zero_gradient_is_zero() -> None:
    for in_bf16 in (False, True):
        assert not orthogonalise_(torch.zeros(2, 8, 32), in_bf16).any()
        assert not orthogonalise_(torch.zeros(2, 8, 8), in_bf16).any()


def test_matrices_are_updated_alike_whether_together_or_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for most in (1 << 24, 1):
        monkeypatch.setattr("parakeet.training.optimizer.MUON_AT_ONCE", most)
        model, optimizer = made(settings("muon"))
        make_steps(model, optimizer, range(3))
        results.append(weights(model))
    for key, value in results[0].items():
        assert torch.allclose(value, results[1][key], atol=1e-5), key


def test_muon_refuses_what_is_no_matrix() -> None:
    group = {"params": [torch.zeros(4, requires_grad=True)], "update": "Muon", "rate": 1.0}
    with pytest.raises(ValueError, match=r"Muon treats matrices, and a parameter has the shape \(4,\)"):
        GroupedOptimizer([group])


def test_bf16_momentum_takes_half_the_memory_and_lowers_the_loss() -> None:
    model, optimizer = made(settings("muon", momentum_precision="bf16"))
    first = make_steps(model, optimizer, range(1))
    kept = [values["momentum_buffer"] for values in optimizer.state.values() if "momentum_buffer" in values]
    assert {momentum.dtype for momentum in kept} == {torch.bfloat16}
    assert make_steps(model, optimizer, range(1, 8)) < first


@pytest.mark.parametrize("key", ["learning_rate", "embedding_rate", "norm_rate", "embedding_deviation"])
def test_a_rate_of_zero_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        settings("muon", **{key: 0.0})


def test_the_embedding_begins_with_a_deviation_of_its_own() -> None:
    usual, other = Parakeet(CONFIG), Parakeet(CONFIG)
    usual.initialise(torch.Generator().manual_seed(1))
    other.initialise(torch.Generator().manual_seed(1), embedding_deviation=0.01)
    for (name, mine), theirs in zip(usual.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine * (0.5 if name == "embedding.weight" else 1.0), theirs), name
