"""Memory while loading: one copy of the weights at most, in a process of its own."""

from pathlib import Path

import pytest
import torch

from parakeet.benchmarks.generate import measure_loading
from parakeet.errors import ParakeetError
from parakeet.generation.decoder import DTYPES
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, save_model

CONFIG = ModelConfig(layers=8, heads=8, width=512, context=256, vocabulary_rows=32_768)
BYTES_PER_WEIGHT = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.625}


def saved(config: ModelConfig, folder: Path) -> Path:
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(CONFIG, tmp_path_factory.mktemp("middling"))


@pytest.fixture(scope="module")
def program_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What Python and torch take, with a model of next to nothing."""
    config = ModelConfig(layers=1, heads=1, width=64, context=16, vocabulary_rows=64)
    return int(measure_loading(saved(config, tmp_path_factory.mktemp("nothing")), "fp32", 1)["peak_bytes"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_loading_never_holds_two_copies(directory: Path, program_bytes: int, dtype: str) -> None:
    loaded = measure_loading(directory, dtype, 1)
    weights = CONFIG.parameter_count * BYTES_PER_WEIGHT[dtype]
    assert loaded["limit_bytes"] == pytest.approx(1.15 * weights + 2**29)
    assert weights < loaded["peak_bytes"] <= loaded["limit_bytes"]
    assert not loaded["over"]
    # The allowance hides a second copy of a model of this size; what Python and torch take is less than it.
    assert loaded["peak_bytes"] - program_bytes < 1.15 * weights + 2**26


def test_a_model_that_cannot_be_loaded_is_refused_with_a_reason(tmp_path: Path) -> None:
    assert "holds no model" in measure_loading(tmp_path, "fp32", 1)["refused"]


def test_a_process_that_fails_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match=r"Loading in fp33 failed: the process ended with status 1 \(KeyError"):
        measure_loading(saved(ModelConfig(1, 1, 64, 16, 64), tmp_path), "fp33", 1)
