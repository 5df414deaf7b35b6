"""The forecast against what torch allocates, and the choices that follow from it."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.tokens.loader import Batch
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.transformer import Parakeet
from parakeet.recipe import LaterBatches, Training
from parakeet.training.distributed import Ranks
from parakeet.training.forecast import (
    AUTO_SHARE,
    GIB,
    MemoryForecast,
    choose,
    fitting_change,
    forecast,
    longest_sequence,
)
from parakeet.training.optimizer import make_optimizer
from parakeet.training.steps import Stepper

from .allocation import peak_bytes

LARGE = ModelConfig(layers=18, heads=18, width=1152, context=8192, vocabulary_rows=100_288, dropout=0.07)
DEEP = ModelConfig(layers=3, heads=2, width=128, context=2048, vocabulary_rows=2048, dropout=0.1)
ONE = replace(DEEP, softmax_one=True)
WIDE = ModelConfig(layers=2, heads=1, width=32, context=2048, vocabulary_rows=50_304, dropout=0.0)
PADDING = 1


def training(**settings: object) -> Training:
    values = {"tokens": 1 << 30, "batch_tokens": 524_288, "learning_rate": 1e-3, "precision": "bf16"}
    return Training.model_validate(values | settings)


def measured(
    config: ModelConfig, execution: Execution, optimizer: str, sequences: int, sequence_length: int, passes: int
) -> int:
    """Peak of the trainer's own step, when the optimizer has its state."""

    def batch(shape: tuple[int, int]) -> Batch:
        ids = np.random.default_rng(1).integers(2, config.vocabulary_rows, shape)
        return Batch(ids, ids, np.broadcast_to(np.arange(shape[1]) // 100, shape).copy(), [])

    def steps() -> None:
        model = Parakeet(config, execution).train()
        settings = training(optimizer=optimizer, precision=execution.precision)
        stepper = Stepper(model, make_optimizer(model, settings), Ranks(0, 1, torch.device("cpu")), settings, PADDING)
        for step, shape in enumerate([(1, 16), (sequences * passes, sequence_length)]):
            stepper.apply(1e-4, stepper.measure(batch(shape), step, sequences, stopping=False).gradient_norm)

    return peak_bytes(steps)


def of_the_step(predicted: MemoryForecast) -> int:
    return predicted.total - predicted.parts["checkpoint copy"]


@pytest.mark.parametrize(
    ("config", "execution", "optimizer", "sequences", "sequence_length", "passes"),
    [
        (DEEP, Execution("fused", "fp32", "fp32", "none", loss_rows=128), "adamw", 1, 1024, 2),
        (DEEP, Execution("fused", "fp32", "fp32", "mlp", loss_rows=128), "adamw", 4, 256, 2),
        (DEEP, Execution("fused", "fp32", "fp32", "block", loss_rows=128), "adamw", 1, 2048, 2),
        (DEEP, Execution("tiled", "fp32", "fp32", "none", loss_rows=128), "adamw", 1, 1024, 2),
        (DEEP, Execution("tiled", "fp32", "fp32", "mlp", loss_rows=128), "adamw", 4, 256, 2),
        (DEEP, Execution("tiled", "fp32", "fp32", "block", loss_rows=128), "adamw", 1, 2048, 1),
        (WIDE, Execution("tiled", "fp32", "fp32", "none", loss_rows=128), "adamw", 1, 512, 2),
        (DEEP, Execution("tiled", "bf16", "fp32", "none", loss_rows=128), "adamw", 1, 512, 2),
        (DEEP, Execution("tiled", "bf16", "bf16", "mlp", loss_rows=128), "muon", 4, 256, 2),
        (DEEP, Execution("fused", "bf16", "fp32", "none", loss_rows=128), "adamw", 1, 512, 2),
        (DEEP, Execution("fused", "bf16", "bf16", "none", loss_rows=128), "adamw_8bit", 1, 512, 2),
        (DEEP, Execution("fused", "bf16", "bf16", "mlp", loss_rows=128), "muon", 2, 256, 2),
        (DEEP, Execution("fused", "bf16", "bf16", "block", loss_rows=128), "adamw", 1, 1024, 2),
        (ONE, Execution("fused", "fp32", "fp32", "none", loss_rows=128), "adamw", 4, 128, 2),
        (DEEP, Execution("reference", "fp32", "fp32", "none", loss_rows=128), "adamw", 8, 128, 2),
        (DEEP, Execution("reference", "fp32", "fp32", "mlp", loss_rows=128), "adamw", 1, 512, 2),
        (DEEP, Execution("reference", "bf16", "fp32", "block", loss_rows=128), "adamw", 1, 1024, 2),
        (DEEP, Execution("reference", "bf16", "bf16", "none", loss_rows=128), "muon", 1, 512, 2),
        (DEEP, Execution("fused", "fp32", "fp32", "none", loss_rows=128), "adamw", 1, 1024, 1),
        (DEEP, Execution("fused", "bf16", "bf16", "block", loss_rows=128), "adamw", 1, 1024, 1),
        (WIDE, Execution("fused", "fp32", "fp32", "none", loss_rows=128), "adamw", 1, 512, 2),
        (WIDE, Execution("fused", "bf16", "bf16", "none", loss_rows=128), "adamw_8bit", 1, 512, 2),
        (WIDE, Execution("reference", "fp32", "fp32", "block", loss_rows=64), "adamw", 4, 128, 1),
    ],
)
def test_the_forecast_is_within_a_tenth_of_what_is_allocated(
    config: ModelConfig, execution: Execution, optimizer: str, sequences: int, sequence_length: int, passes: int
) -> None:
    predicted = forecast(
        config, execution, optimizer, sequences * sequence_length, sequence_length, cuda=False, accumulates=passes > 1
    )  # fmt: skip
    assert of_the_step(predicted) == pytest.approx(
        measured(config, execution, optimizer, sequences, sequence_length, passes), rel=0.1
    )


@pytest.mark.parametrize(
    ("execution", "optimizer", "tokens", "most"),
    [
        (Execution("flex", "bf16", "fp32", "block"), "adamw", 8192, 8.6),
        (Execution("flex", "bf16", "fp32", "block"), "adamw", 24_576, 11.2),
        (Execution("flex", "bf16", "bf16", "mlp"), "adamw_8bit", 8192, 9.0),
        (Execution("flex", "bf16", "bf16", "none", compile=True), "adamw_8bit", 8192, 10.3),
    ],
)
def test_the_large_model_trains_on_a_12_gb_gpu(execution: Execution, optimizer: str, tokens: int, most: float) -> None:
    assert forecast(LARGE, execution, optimizer, tokens, tokens, cuda=True).total <= most * GIB


@given(
    st.sampled_from(["fused", "flex", "reference"]),
    st.sampled_from(["fp32", "bf16"]),
    st.integers(0, 5),
    st.integers(1, 8),
    st.booleans(),
)
def test_more_checkpointing_and_smaller_passes_never_take_more(
    attention: str, precision: str, doublings: int, sequences: int, cuda: bool
) -> None:
    sequence_length = 256 << doublings

    def total(activation_checkpointing: str, sequences: int) -> int:
        execution = Execution(attention, precision, "fp32", activation_checkpointing)  # type: ignore[arg-type]
        return forecast(LARGE, execution, "adamw", sequences * sequence_length, sequence_length, cuda=cuda).total

    assert total("none", sequences) <= total("none", sequences + 1)
    assert total("block", sequences) <= total("mlp", sequences) <= total("none", sequences)


@pytest.mark.parametrize("gib", [5.5, 6.5, 7.0, 8.0, 9.0, 10.0, 11.2, 12.0, 13.0, 14.0, 80.0])
def test_auto_takes_the_least_checkpointing_and_then_the_largest_pass_that_fits(gib: float) -> None:
    best_first = [(policy, tokens) for policy in ("none", "mlp") for tokens in (8192, 4096)]
    best_first += [("block", 8192 >> halvings) for halvings in range(4)]
    taken = {
        (policy, tokens): forecast(
            LARGE, Execution("fused", "bf16", "fp32", policy), "adamw", tokens, 1024, cuda=True
        ).total
        for policy, tokens in best_first
    }  # fmt: skip
    fitting = [one for one in best_first if taken[one] <= AUTO_SHARE * gib * GIB]
    choice = choose(LARGE, training(), 1024, round(gib * GIB), True)
    assert (choice.execution.activation_checkpointing, choice.micro_batch_tokens) == (
        fitting[0] if fitting else ("block", 1024)
    )
    assert choice.forecast.total == taken[choice.execution.activation_checkpointing, choice.micro_batch_tokens]


def test_a_pass_is_no_larger_than_a_step() -> None:
    assert choose(LARGE, training(batch_tokens=2048), 1024, 80 * GIB, True).micro_batch_tokens == 2048
    assert choose(LARGE, training(batch_tokens=2048), 1024, 80 * GIB, True, processes=2).micro_batch_tokens == 1024
    assert choose(LARGE, training(micro_batch_tokens=2500), 1024, 80 * GIB, True).micro_batch_tokens == 2048


def test_a_larger_step_later_is_accumulated_from_passes_of_the_first() -> None:
    constant, growing, accumulating = (
        choose(LARGE, training(**settings), 1024, 80 * GIB, True)
        for settings in (
            {"batch_tokens": 2048},
            {"batch_tokens": 2048, "then": [LaterBatches(batch_tokens=4096, share=0.5)]},
            {"batch_tokens": 4096, "micro_batch_tokens": 2048},
        )
    )
    assert growing.forecast == accumulating.forecast
    assert growing.forecast.total > constant.forecast.total


def test_explicit_settings_are_never_overridden() -> None:
    settings = training(
        attention="reference", activation_checkpointing="none", micro_batch_tokens=8192, residual="bf16"
    )
    choice = choose(LARGE, settings, 8192, 12 * GIB, True)
    assert choice.execution == Execution("reference", "bf16", "bf16", "none")
    assert choice.micro_batch_tokens == 8192
    assert not choice.fits


def test_attention_is_chosen_by_device_and_length() -> None:
    def backend(sequence_length: int, cuda: bool, flex: bool) -> str:
        return choose(LARGE, training(), sequence_length, 80 * GIB, cuda, flex=flex).execution.attention

    assert backend(1024, True, True) == "fused"
    assert backend(8192, True, True) == "flex"
    assert backend(8192, True, False) == "fused"
    assert backend(8192, False, True) == "tiled"
    assert choose(LARGE, training(compile=True), 256, 80 * GIB, False).execution.attention == "fused"


@given(st.integers(1, 100), st.sampled_from([256, 1024, 8192]), st.booleans(), st.integers(1, 4))
def test_the_same_arguments_give_the_same_choice(gib: int, sequence_length: int, cuda: bool, processes: int) -> None:
    choices = [
        choose(LARGE, training(), sequence_length, gib * GIB, cuda, processes=processes, flex=True) for _ in range(2)
    ]
    assert choices[0] == choices[1]
    assert choices[0].fits == (choices[0].forecast.total <= gib * GIB)
    assert choices[0].micro_batch_tokens % sequence_length == 0
    assert 0 < choices[0].micro_batch_tokens * processes <= 524_288


@pytest.mark.parametrize(
    ("settings", "sequence_length", "budget", "sentence"),
    [
        (
            {"activation_checkpointing": "none"},
            8192,
            11.2,
            r"^Set training\.activation_checkpointing to auto: the forecast is then \d+\.\d\d GiB\.$",
        ),
        ({"micro_batch_tokens": 65_536}, 1024, 11.2, r"^Set training\.micro_batch_tokens to 0: "),
        ({"attention": "reference"}, 8192, 11.2, r"^Set training\.attention to auto: "),
        ({}, 8192, 6.2, r"^Set training\.optimizer to adamw_8bit: "),
        (
            {"activation_checkpointing": "none"},
            8192,
            6.2,
            r"^Set training\.activation_checkpointing to auto and training\.optimizer to adamw_8bit: ",
        ),
        (
            {"optimizer": "adamw_8bit"},
            131_072,
            11.2,
            r"^Sequences of at most \d\d,\d\d\d tokens would fit: set pack",
        ),
        ({}, 1024, 4.0, r"^Weights, gradients and optimizer alone take 4\.18 GiB: make the model smaller"),
    ],
)
def test_the_mildest_change_that_fits_is_named(
    settings: dict[str, object], sequence_length: int, budget: float, sentence: str
) -> None:
    advice = fitting_change(LARGE, training(**settings), sequence_length, round(budget * GIB), True, flex=True)
    assert re.search(sentence, advice), advice


def test_the_longest_sequence_fits_and_the_next_does_not() -> None:
    longest = longest_sequence(LARGE, training(), 11 * GIB, True)
    assert longest >= 24_576
    for sequence_length, fits in ((longest, True), (longest + 256, False)):
        settings = training(
            activation_checkpointing="block", batch_tokens=2 * sequence_length, micro_batch_tokens=sequence_length
        )
        assert choose(LARGE, settings, sequence_length, 11 * GIB, True, flex=True).fits is fits
    assert longest_sequence(LARGE, training(), 2 * GIB, True) == 0
