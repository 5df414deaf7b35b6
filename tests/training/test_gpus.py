"""The table of GPUs, and device names."""

import pytest

from parakeet.errors import ParakeetError
from parakeet.training.gpus import GPUS, find_gpu, gpu_named


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA GeForce RTX 3080 Ti", "RTX 3080 Ti"),
        ("NVIDIA GeForce RTX 3080", "RTX 3080"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("A100-PCIE-40GB", "A100 PCIe 40GB"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("rtx3080ti", "RTX 3080 Ti"),
        ("4090", "RTX 4090"),
        ("RTX 4060 Ti 16 GB", "RTX 4060 Ti 16GB"),
    ],
)
def test_a_device_is_found_by_its_name(device: str, gpu: str) -> None:
    found = find_gpu(device)
    assert found is not None
    assert found.name == gpu


@pytest.mark.parametrize(
    "device",
    [
        "",
        "NVIDIA GeForce RTX 3080 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 NVL",
        "NVIDIA GeForce RTX 3080 12GB",
        "NVIDIA L40",
        "AMD Instinct MI300X",
        "Tesla V100-SXM2-16GB",
    ],
)
def test_a_gpu_that_is_not_in_the_table_is_unknown(device: str) -> None:
    assert find_gpu(device) is None


def test_every_gpu_is_found_by_its_own_name() -> None:
    assert [gpu_named(gpu.name) for gpu in GPUS] == list(GPUS)


# Streaming multiprocessors, boost clock in GHz, FLOP a clock and multiprocessor with fp32 sums.
@pytest.mark.parametrize(
    ("name", "processors", "clock", "flops"),
    [
        ("RTX 3060", 28, 1.777, 512),
        ("RTX 3060 Ti", 38, 1.665, 512),
        ("RTX 3070", 46, 1.725, 512),
        ("RTX 3070 Ti", 48, 1.770, 512),
        ("RTX 3080", 68, 1.710, 512),
        ("RTX 3080 Ti", 80, 1.665, 512),
        ("RTX 3090", 82, 1.695, 512),
        ("RTX 3090 Ti", 84, 1.860, 512),
        ("RTX 4060", 24, 2.460, 512),
        ("RTX 4060 Ti", 34, 2.535, 512),
        ("RTX 4070", 46, 2.475, 512),
        ("RTX 4070 SUPER", 56, 2.475, 512),
        ("RTX 4070 Ti", 60, 2.610, 512),
        ("RTX 4070 Ti SUPER", 66, 2.610, 512),
        ("RTX 4080", 76, 2.505, 512),
        ("RTX 4080 SUPER", 80, 2.550, 512),
        ("RTX 4090", 128, 2.520, 512),
        ("RTX 5070", 48, 2.512, 512),
        ("RTX 5070 Ti", 70, 2.452, 512),
        ("RTX 5080", 84, 2.617, 512),
        ("RTX 5090", 170, 2.407, 512),
        ("RTX A6000", 84, 1.800, 1024),
        ("L4", 58, 2.040, 1024),
        ("A10", 72, 1.695, 1024),
        ("A10G", 80, 1.710, 512),
        ("A100 40GB", 108, 1.410, 2048),
        ("H100 SXM", 132, 1.830, 4096),
    ],
)
def test_the_rates_are_those_of_the_formula(name: str, processors: int, clock: float, flops: int) -> None:
    assert gpu_named(name).tflops_bf16 == pytest.approx(processors * clock * flops / 1000, rel=0.005)


def test_an_unknown_gpu_is_answered_with_similar_ones_and_the_list() -> None:
    with pytest.raises(
        ParakeetError, match=r"Did you mean .*RTX 3080 Ti.*\? Give 12 GB\. The table has RTX 3060, .*H200\.$"
    ):
        gpu_named("RTX 3081 Ti", "Give 12 GB.")
