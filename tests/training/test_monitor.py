import json
import math
import random
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.training.monitor import SpikeMonitor

POSITIVE = st.floats(1e-3, 1e6)
STEADY = st.lists(st.floats(0.9, 1.1), min_size=64, max_size=200)
ANY = st.lists(st.tuples(st.floats(), st.floats()), max_size=200)


def fed(losses: list[float]) -> SpikeMonitor:
    monitor = SpikeMonitor()
    assert [monitor.judge(loss, loss) for loss in losses] == [None] * len(losses)
    return monitor


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_a_constant_series_has_no_spike(loss: float, norm: float) -> None:
    monitor = SpikeMonitor()
    assert all(monitor.judge(loss, norm) is None for _ in range(300))


@given(POSITIVE, st.lists(st.floats(0.98, 1.0), min_size=200, max_size=200))
def test_a_falling_series_has_no_spike(start: float, factors: list[float]) -> None:
    losses = [start]
    for factor in factors:
        losses.append(losses[-1] * factor)
    fed(losses)


@given(STEADY, st.floats(1e-3, 1e6), st.floats(10, 1e30), st.sampled_from(["loss", "gradient norm"]))
def test_a_jump_to_ten_times_is_a_spike_and_hides_no_other(
    losses: list[float], level: float, times: float, which: str
) -> None:
    monitor = fed([loss * level for loss in losses])
    usual, high = losses[-1] * level, level * times
    for _ in range(5):
        reason = monitor.judge(*((high, usual) if which == "loss" else (usual, high)))
        assert reason is not None
        assert reason.startswith(f"the {which} is ")
        assert "more than 6 standard deviations" in reason
    assert monitor.judge(usual, usual) is None


@given(STEADY, st.floats(2, 20))
def test_a_lasting_change_is_followed_within_a_window(losses: list[float], times: float) -> None:
    monitor = fed(losses)
    verdicts = [monitor.judge(times, times) for _ in range(128)]
    assert verdicts[-1] is None


@given(st.integers(0, 1 << 32))
def test_gradients_that_slowly_grow_to_five_times_their_size_do_not_end_a_run(seed: int) -> None:
    noise = random.Random(seed)
    monitor = fed([noise.uniform(0.8, 1.2) for _ in range(128)])
    verdicts = [monitor.judge(1.0, noise.uniform(0.8, 1.2) * (1 + step / 100)) for step in range(400)]
    in_a_row = "".join("x" if verdict else " " for verdict in verdicts).split()
    assert all(len(left_out) < 5 for left_out in in_a_row)


@given(st.lists(POSITIVE, max_size=63), st.floats(0, allow_infinity=False))
def test_before_the_minimum_every_number_is_accepted(losses: list[float], last: float) -> None:
    fed([*losses, last])


@given(st.lists(POSITIVE, max_size=100), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_is_never_accepted(losses: list[float], value: float) -> None:
    monitor = SpikeMonitor()
    for loss in losses:
        monitor.judge(loss, loss)
    before = monitor.state()
    assert monitor.judge(value, 1.0) == f"the loss is {value}"
    assert monitor.judge(1.0, value) == f"the gradient norm is {value}"
    assert monitor.state() == before


@given(ANY, ANY)
def test_a_restored_monitor_judges_the_same(past: list[tuple[float, float]], future: list[tuple[float, float]]) -> None:
    monitor, restored = SpikeMonitor(), SpikeMonitor()
    for values in past:
        monitor.judge(*values)
    restored.judge(1.0, 2.0)
    restored.restore(json.loads(json.dumps(monitor.state(), allow_nan=False)))
    assert restored.state() == monitor.state()
    assert [restored.judge(*values) for values in future] == [monitor.judge(*values) for values in future]
    assert restored.state() == monitor.state()


def test_only_the_window_is_remembered() -> None:
    monitor = fed([100.0] * 128)
    for _ in repeat(None, 128):
        assert monitor.judge(1.0, 1.0) is None
    assert monitor.state() == fed([1.0] * 128).state()
    assert monitor.judge(100.0, 1.0) is not None


def test_a_converged_loss_may_rise_by_six_percent() -> None:
    monitor = fed([2.0] * 128)
    assert monitor.judge(2.0 * 1.0599, 2.0) is None
    assert fed([2.0] * 128).judge(2.0 * 1.0601, 2.0) is not None


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(KeyError):
        SpikeMonitor().restore({"losses": []})
