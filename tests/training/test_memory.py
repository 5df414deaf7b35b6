"""Amounts of memory, how much of it training may take, and the sizes of what training keeps."""

from pathlib import Path

import pytest
import torch

from parakeet.errors import ParakeetError
from parakeet.machine import group_limits
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.forecast import (
    GIB,
    checkpoint_bytes,
    gpu_budget,
    machine_budget,
    optimizer_bytes,
    parse_memory,
    run_bytes,
    weights_bytes,
)
from parakeet.training.optimizer import make_optimizer


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("11.2GiB", round(11.2 * GIB)),
        ("12GB", 12_000_000_000),
        ("11500MiB", 11500 << 20),
        (" 8 gib ", 8 << 30),
        ("1TB", 10**12),
    ],
)
def test_amounts_of_memory(text: str, n_bytes: int) -> None:
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "12", "much", "-1GB", "0GB", "0.0000000001KB", "12 GBit", "1e9GB", "9" * 40 + "GB"]
)
def test_nonsense_is_not_an_amount_of_memory(text: str) -> None:
    with pytest.raises(ParakeetError, match=r"is not an amount of memory: write it like 11\.2GiB"):
        parse_memory(text)


def test_a_gpu_reserves_some_for_itself_and_a_machine_a_fifth() -> None:
    assert gpu_budget(12 * GIB) == pytest.approx(11.2 * GIB, rel=1e-6)
    assert gpu_budget(12 * GIB, processes=2) == pytest.approx(10.8 * GIB, rel=1e-6), "NCCL's buffers"
    assert gpu_budget(GIB // 2) == 0
    assert 0 < machine_budget() == machine_budget()
    memory = Path("/proc/meminfo")
    if memory.exists():
        assert machine_budget() <= 0.8 * 1024 * int(memory.read_text().split()[1]) + 1


def test_limits_of_control_groups_are_found_in_both_versions(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")

    def limits(membership: str) -> list[int]:
        write("cgroup", membership)
        return sorted(group_limits(tmp_path, tmp_path / "cgroup"))

    write("job/memory.max", "max")
    write("job/step/memory.max", "8000")
    write("job/step/task/memory.max", "9000")
    assert limits("0::/job/step/task") == [8000, 9000]
    assert limits("0::/job") == []
    assert limits("0::/of/the/host") == []
    write("memory/memory.limit_in_bytes", "9223372036854771712")
    write("memory/job/memory.limit_in_bytes", "7000")
    assert limits("5:cpu,cpuacct:/job\n4:memory:/job\n0::/") == [7000]
    assert group_limits(tmp_path, tmp_path / "missing") == []


CONFIG = ModelConfig(layers=2, heads=2, width=128, context=64, vocabulary_rows=512)


def training(**settings: object) -> Training:
    return Training.model_validate({"tokens": 10_000, "batch_tokens": 100, "learning_rate": 1e-3} | settings)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "muon"])
def test_an_optimizers_state_has_the_forecast_size(name: str) -> None:
    model = Parakeet(CONFIG)
    optimizer = make_optimizer(model, training(optimizer=name))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    tensors = {id(value): value for values in state.values() for value in values.values() if torch.is_tensor(value)}
    held = sum(tensor.nbytes for tensor in tensors.values())
    assert held == pytest.approx(optimizer_bytes(CONFIG, name), rel=0.02)


def test_a_run_holds_every_checkpoint_that_is_kept() -> None:
    def checkpoints(**settings: object) -> int:
        settings = {"checkpoint_steps": 10, "keep_checkpoints": 2, "validation_tokens": 0} | settings
        one = checkpoint_bytes(CONFIG, training())
        return (run_bytes(CONFIG, training(**settings)) - weights_bytes(CONFIG)) // one

    # Two, the last stable one, and the one being written.
    assert checkpoints() == 4
    assert checkpoints(validation_tokens=1000) == 5
    assert checkpoints(keep_checkpoints=3) == 5
    assert checkpoints(keep_every=20) == 4 + 5
    assert checkpoints(keep_every=15) == 4 + 3
    assert run_bytes(CONFIG, training(tensorboard=True)) > run_bytes(CONFIG, training())
