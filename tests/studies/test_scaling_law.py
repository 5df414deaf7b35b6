"""The law of loss by size and tokens finds what runs were made with, and says how well it knows it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.studies.scaling_law import Form, Law, TrainedRun, fit_law, left_out, left_out_error, residuals
from tests.studies.size_records import LAW, SIZES, config

FIVE = list(SIZES)[:-1]
LARGEST = config("256x4").parameter_count
ALL, MATRICES = Form("all", "two exponents"), Form("without embedding", "two exponents")


def simulated(
    noise: float = 0.0, misfit: float = 0.0, seeds: int = 3, counted: Form = ALL, rng: int = 0, **law: float
) -> list[TrainedRun]:
    """Nine cells of five sizes; `noise` of seeds and `misfit` of cells are standard deviations of log L."""
    random, law = np.random.default_rng(rng), {**LAW, **law}
    runs = []
    for size in FIVE:
        model = config(size)
        run = TrainedRun(size, model.parameter_count, model.parameter_count - model.parameters()["embedding"], 0, 0.0)
        for tokens in {262_144, SIZES[size]["training.tokens"]}:
            said = law["E"] + law["A"] / run.counted(counted.counted) ** law["alpha"] + law["B"] / tokens ** law["beta"]
            off = misfit * random.standard_normal()
            for _ in range(seeds):
                loss = said * math.exp(off + noise * random.standard_normal())
                runs.append(TrainedRun(size, run.parameters, run.matrix_parameters, tokens, loss))
    return runs


def fitted(runs: list[TrainedRun], form: Form | None = ALL, draws: int = 150) -> Law:
    law, reason = fit_law(runs, form, draws)
    assert law is not None
    assert reason == ""
    return law


def test_the_parameters_of_the_law_are_within_their_intervals() -> None:
    law = fitted(simulated(noise=0.004))
    for name, (low, high) in law.intervals().items():
        assert low <= LAW[name] <= high
        assert low < law.parameters()[name] < high
    assert law.seed_noise == pytest.approx(0.004, rel=0.5)


def test_a_new_run_of_a_larger_size_is_within_its_interval() -> None:
    said = LAW["E"] + LAW["A"] / LARGEST ** LAW["alpha"] + LAW["B"] / 262_144 ** LAW["beta"]
    random = np.random.default_rng(3)
    inside = 0
    for number in range(6):
        low, high = fitted(simulated(0.004, 0.003, rng=number), draws=60).prediction_interval(LARGEST, 262_144)
        inside += low <= said * math.exp(math.hypot(0.004, 0.003) * random.standard_normal()) <= high
    assert inside >= 5


@settings(max_examples=12, deadline=None)
@given(
    E=st.floats(0.3, 1.5),
    A=st.floats(3.0, 12.0),
    alpha=st.floats(0.1, 0.4),
    B=st.floats(20.0, 100.0),
    beta=st.floats(0.2, 0.5),
)
def test_runs_without_noise_are_met_and_more_is_never_worse(**law: float) -> None:
    runs = simulated(seeds=1, **law)
    found = fitted(runs, draws=0)
    assert max(abs(cell["residual"] / cell["law"]) for cell in residuals(found, runs)) < 2e-3
    sizes, tokens = np.geomspace(1e4, 1e9, 30), np.geomspace(1e4, 1e10, 30)
    assert (np.diff(found.loss(sizes, 1e6)) <= 0).all()
    assert (np.diff(found.loss(1e6, tokens)) <= 0).all()


def test_cells_off_the_law_widen_the_forecast() -> None:
    def width(runs: list[TrainedRun]) -> float:
        low, high = fitted(runs, draws=80).prediction_interval(LARGEST, 262_144)
        return high - low

    smooth, rough = simulated(0.002, rng=1), simulated(0.002, 0.01, rng=1)
    assert fitted(rough, draws=0).misfit > 2 * fitted(smooth, draws=0).misfit
    assert width(rough) > 1.5 * width(smooth)


def test_one_seed_has_no_noise_of_seeds_but_an_interval() -> None:
    law = fitted(simulated(noise=0.004, seeds=1))
    assert law.seed_noise is None
    low, high = law.prediction_interval(LARGEST, 262_144)
    assert low < law.loss(LARGEST, 262_144)[0] < high


def test_the_form_is_the_one_that_forecasts_sizes_left_out() -> None:
    runs = simulated(seeds=1, counted=MATRICES, alpha=0.3)
    assert fitted(runs, form=None, draws=0).form == MATRICES
    assert (left_out_error(runs, MATRICES) or math.inf) < 2e-3
    assert {cell["size"] for cell in left_out(runs, MATRICES, draws=0)} == set(FIVE)


def test_too_few_runs_have_no_law_and_a_reason() -> None:
    runs = simulated()
    for few in ([], runs[:3], [run for run in runs if run.tokens == 262_144]):
        law, reason = fit_law(few)
        assert law is None
        assert "needs runs of 3 sizes with two numbers of tokens" in reason


def test_the_same_runs_give_the_same_law() -> None:
    runs = simulated(noise=0.004)
    assert fitted(runs, draws=20).as_dict() == fitted(runs, draws=20).as_dict()
