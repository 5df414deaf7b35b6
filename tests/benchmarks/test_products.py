"""`python -m benchmarks.products`: each kernel computes the product, whatever its speed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.products import KERNELS, main, measure, shapes_of
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig

from .tiny import tiny_recipe

CONFIG = ModelConfig(layers=1, heads=1, width=64, context=64, vocabulary_rows=128)
MOST_ERROR = {4.0: 1e-5, 2.0: 0.01, 1.0: 0.03, 0.625: 0.15, 0.5625: 0.15}
"""By bytes a weight."""
SATURATING = 0.15
"""Of oneDNN's int8 without AVX-512: two products are added in 16 bits, which may overflow; measured 0.08."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine


@pytest.mark.filterwarnings("ignore:.*quantize_per_channel")
@pytest.mark.parametrize("name", KERNELS)
def test_each_kernel_computes_the_product(name: str) -> None:
    request: dict[str, Any] = {"kernel": name, "shapes": shapes_of(CONFIG), "layers": 1, "rounds": 1}
    try:
        answer = measure(request)
    except (ParakeetError, RuntimeError, AttributeError) as error:  # this torch or processor has no such kernel
        pytest.skip(str(error).splitlines()[0])
    kernel = KERNELS[name]
    assert answer["bytes"] == kernel.bytes_per_weight * (12 * 64 * 64 + 128 * 64)
    saturates = name == "onednn.qlinear_pointwise" and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    most = SATURATING if saturates else MOST_ERROR[kernel.bytes_per_weight]
    assert 0 < answer["error"] < most
    assert answer["seconds"][0] > 0
    assert answer["prompt_rate"] > 0


def test_an_unknown_kernel_is_told_the_known_ones() -> None:
    finished = CliRunner().invoke(main, ["--kernel", "magic"])
    assert isinstance(finished.exception, ParakeetError)
    assert "No kernel is named magic. There are: F.linear fp32, " in str(finished.exception)


@pytest.mark.slow
def test_the_table_has_each_kernel_as_it_is_and_limited(tmp_path: Any) -> None:
    recipe = tiny_recipe(tmp_path, model={"layers": 1, "heads": 1, "width": 64, "context": 64})
    options = ["--recipe", str(recipe), "--rounds", "1", "--threads", "1", "--kernel", "torch.mv fp32"]
    finished = CliRunner().invoke(main, options)
    assert finished.exit_code == 0, finished.output
    *printed, last = finished.stdout.splitlines()
    assert [row["limit"] for row in json.loads(last)["rows"]] == ["", "avx2"]
    assert sum(line.startswith("torch.mv fp32 ") for line in printed) == 2
