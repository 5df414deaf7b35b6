import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.training.schedule import Schedule

SCHEDULES = st.tuples(st.integers(1, 300), st.floats(0, 1), st.integers(0, 100)).map(
    lambda t: Schedule(1e-3, min(t[2], t[0] - round(t[0] * t[1])), t[0] - round(t[0] * t[1]), t[0])
)


@given(SCHEDULES)
def test_rates_rise_stay_and_fall_within_bounds(schedule: Schedule) -> None:
    rates = [schedule.learning_rate(step) for step in range(1, schedule.total_steps + 1)]
    assert all(0 < rate <= schedule.peak * (1 + 1e-12) for rate in rates)
    warm, decay = schedule.warmup_steps, schedule.decay_start
    assert rates[:warm] == sorted(rates[:warm])
    assert all(rate == schedule.peak for rate in rates[warm:decay])
    assert rates[decay:] == sorted(rates[decay:], reverse=True)


def test_known_points() -> None:
    schedule = Schedule(peak=1.0, warmup_steps=4, decay_start=8, total_steps=11)
    rates = [schedule.learning_rate(step) for step in (1, 4, 8, 9, 11)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.75, 0.25])


def test_a_longer_run_goes_on_only_from_before_the_decay() -> None:
    short, long = Schedule(1.0, 2, 8, 10), Schedule(1.0, 2, 16, 20)
    assert long.shares_past(8, short)
    assert not long.shares_past(9, short)
    assert short.shares_past(10, short)
    assert not Schedule(0.5, 2, 16, 20).shares_past(4, short)
