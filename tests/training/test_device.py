"""The device's memory and speed, and the plan of execution on it."""

import importlib.util
from pathlib import Path

import pytest
import torch

from parakeet.model.config import ModelConfig
from parakeet.training import device as device_module
from parakeet.training.device import ExecutionPlan, device_name, peak_flops, peak_resident
from parakeet.training.distributed import Ranks
from parakeet.training.forecast import GIB
from parakeet.training.gpus import find_gpu
from parakeet.training.job import TrainingJob
from parakeet.training.schedule import Phase, Schedule

from .conftest import MakeJob

CUDA = torch.device("cuda")
LONG = Schedule(1e-3, 0, 10, 10, (Phase(8192, 10),))


def test_the_peak_is_known_with_and_without_proc(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\n")
    assert peak_resident(tmp_path / "status") == 2048 * 1024
    assert peak_resident(tmp_path / "missing") > 1 << 20, "getrusage knows it"


@pytest.mark.parametrize(
    ("capability", "triton", "attention"),
    [((9, 0), True, "flex"), ((8, 0), True, "flex"), ((7, 5), True, "fused"), ((9, 0), False, "fused")],
)
def test_flex_is_chosen_only_if_the_gpu_can_compile_it(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], triton: bool, attention: str
) -> None:
    find_spec = importlib.util.find_spec
    there = {"triton": find_spec("json") if triton else None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there[name] if name in there else find_spec(name))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(device_module, "memory_budget", lambda device, processes: 80 * GIB)
    job = TrainingJob.load(make_job("run", batch_tokens=65_536, tokens=1 << 20, attention="auto"))
    config = ModelConfig(layers=2, heads=2, width=128, context=8192, vocabulary_rows=512)
    plan = ExecutionPlan(job, config, LONG, Ranks(0, 1, CUDA))
    assert plan.execution(8192).attention == attention


def test_the_peak_speed_of_a_cpu_is_unknown() -> None:
    assert peak_flops(torch.device("cpu"), "bf16") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_speed_of_a_gpu_is_known_only_in_bf16() -> None:
    if find_gpu(device_name(CUDA)) is None:
        pytest.skip("the GPU is not in the table")
    assert peak_flops(CUDA, "fp32") is None
    assert (peak_flops(CUDA, "bf16") or 0) > 1e12
