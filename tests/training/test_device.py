"""The device's memory and speed, and the plan of execution on it."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.training import device as device_module
from parakeet.training.device import ExecutionPlan, device_name, peak_flops, peak_resident
from parakeet.training.distributed import Ranks
from parakeet.training.flex import flex_failure
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


@pytest.fixture
def plan(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExecutionPlan]:
    """The plan of a job on a CUDA device of 80 GiB and this capability, whose FlexAttention has this failure."""

    def made(capability: tuple[int, int], failure: str | None = None, **settings: object) -> ExecutionPlan:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(device_module, "memory_budget", lambda device, processes: 80 * GIB)
        if failure != "real":
            monkeypatch.setattr(device_module, "flex_failure", lambda *size: failure)
        chosen: dict[str, object] = {"attention": "auto", "precision": "bf16"}
        job = TrainingJob.load(make_job("run", batch_tokens=65_536, tokens=1 << 20, **chosen | settings))
        config = ModelConfig(layers=2, heads=2, width=128, context=8192, vocabulary_rows=512)
        return ExecutionPlan(job, config, LONG, Ranks(0, 1, CUDA))

    return made


def test_flex_is_chosen_where_it_runs(plan: Callable[..., ExecutionPlan]) -> None:
    chosen = plan((8, 6))
    assert chosen.execution(8192).attention == "flex"
    assert len(chosen.lines()) == 1
    assert plan((8, 6), attention="fused").execution(8192).attention == "fused"


def test_where_flex_fails_the_run_takes_fused_and_says_why(plan: Callable[..., ExecutionPlan]) -> None:
    chosen = plan((8, 6), failure="out of resource: shared memory.")
    assert chosen.execution(8192).attention == "fused"
    warning, line = chosen.lines()
    assert warning.startswith("FlexAttention does not run here: out of resource: shared memory. This run takes fused")
    assert "fused attention" in line
    # The forecast and every later suggestion are those of fused attention too.
    assert chosen.forecast_bytes == plan((8, 6), attention="fused").forecast_bytes


def test_flex_that_the_recipe_asks_for_is_not_replaced(plan: Callable[..., ExecutionPlan]) -> None:
    with pytest.raises(
        ParakeetError, match=r"attention is flex, but FlexAttention does not run here: no. Set training"
    ):
        plan((8, 6), failure="no.", attention="flex")


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles here")
@pytest.mark.parametrize(
    ("capability", "has_triton", "environment", "reason"),
    [
        ((8, 6), False, {}, "Triton is not installed."),
        ((7, 5), True, {}, "the GPU's compute capability is 7.5, and Triton needs 8.0."),
        ((8, 6), True, {"PATH": ""}, "Triton needs a C compiler. Install gcc or clang, or set CC."),
        ((8, 6), True, {"CC": "no-such-cc"}, "the C compiler that CC names, 'no-such-cc', was not found."),
        # As a broken driver or a compiler that fails: an exception of torch's own.
        ((8, 6), True, {"CC": sys.executable}, "not compiled with CUDA enabled."),
    ],
)
def test_what_flex_lacks_is_named(
    plan: Callable[..., ExecutionPlan],
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    has_triton: bool,
    environment: dict[str, str],
    reason: str,
) -> None:
    find_spec = importlib.util.find_spec
    there = {"triton": find_spec("json") if has_triton else None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there[name] if name in there else find_spec(name))
    monkeypatch.delenv("CC", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = plan(capability, failure="real", precision="fp32")
    assert chosen.execution(8192).attention == "fused"
    assert reason in chosen.lines()[0]


def test_bf16_on_a_gpu_without_units_for_it_is_refused(plan: Callable[..., ExecutionPlan]) -> None:
    with pytest.raises(ParakeetError, match=r"no units for bf16.* Set training.precision to fp32"):
        plan((7, 5), failure="the GPU is old.")
    assert plan((7, 5), failure="the GPU is old.", precision="fp32").execution(8192).attention == "fused"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flex_runs_on_a_gpu_that_has_all_it_needs() -> None:
    config = ModelConfig(layers=2, heads=2, width=128, context=8192, vocabulary_rows=512)
    assert flex_failure(CUDA, config, "bf16", 2, 512) is None


def test_the_peak_speed_of_a_cpu_is_unknown() -> None:
    assert peak_flops(torch.device("cpu"), "bf16") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_speed_of_a_gpu_is_known_only_in_bf16() -> None:
    if find_gpu(device_name(CUDA)) is None:
        pytest.skip("the GPU is not in the table")
    assert peak_flops(CUDA, "fp32") is None
    assert (peak_flops(CUDA, "bf16") or 0) > 1e12
