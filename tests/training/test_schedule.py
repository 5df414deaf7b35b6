import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate, groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.learning_rate import DECAYS
from parakeet.recipe import LaterBatches, LaterSequences, Packing, Recipe, Training
from parakeet.recipe_file import load_recipe
from parakeet.training.schedule import Phase, Schedule, total_steps

BATCH_TOKENS = 1 << 12
Later = Sequence[tuple[int, float]]


def training(
    steps: int, decay_fraction: float = 0.2, warmup_steps: int = 100, decay: str = "linear", then: Later = ()
) -> Training:
    """`then`: batches of so many times BATCH_TOKENS, with their share of the tokens."""
    return Training(
        then=[LaterBatches(batch_tokens=times * BATCH_TOKENS, share=share) for times, share in then],
        tokens=BATCH_TOKENS * steps,
        batch_tokens=BATCH_TOKENS,
        learning_rate=1e-3,
        warmup_steps=warmup_steps,
        decay_fraction=decay_fraction,
        decay=decay,
    )


def packing(*shares: float) -> Packing:
    """Sequences of 16 tokens, twice as long in each later phase."""
    return Packing(
        sequence_length=16,
        then=[LaterSequences(sequence_length=32 << n, share=share) for n, share in enumerate(shares)],
    )


def one_length(peak: float, warmup_steps: int, decay_start: int, total: int) -> Schedule:
    return Schedule(peak, warmup_steps, decay_start, total, (Phase(16, total),))


PLAIN = (st.integers(1, 300), st.floats(0, 1), st.integers(0, 100), st.sampled_from(sorted(DECAYS)))
LATER = st.lists(st.tuples(st.integers(1, 5), st.floats(0.001, 0.3)), max_size=3)
OF_ONE_SIZE = st.builds(training, *PLAIN)
TRAININGS = st.builds(training, *PLAIN, LATER)
PACKINGS = st.lists(st.floats(0.001, 0.3), max_size=3).map(lambda shares: packing(*shares))
SCHEDULES = st.builds(Schedule.from_recipe, TRAININGS, PACKINGS)


@given(SCHEDULES)
def test_rates_rise_stay_and_fall_within_bounds(schedule: Schedule) -> None:
    rates = [schedule.learning_rate(step) for step in range(1, schedule.total_steps + 1)]
    assert all(0 < rate <= schedule.peak * (1 + 1e-12) for rate in rates)
    warm, decay = schedule.warmup_steps, schedule.decay_start
    assert rates[:warm] == sorted(rates[:warm])
    assert all(rate == schedule.peak for rate in rates[warm:decay])
    assert rates[decay:] == sorted(rates[decay:], reverse=True)


def test_known_points() -> None:
    schedule = one_length(peak=1.0, warmup_steps=4, decay_start=8, total=11)
    rates = [schedule.learning_rate(step) for step in (1, 4, 8, 9, 11)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.75, 0.25])


def test_a_square_root_decay_is_below_the_linear_one() -> None:
    linear, sqrt = (Schedule.from_recipe(training(100, 0.5, 10, decay), packing()) for decay in ("linear", "sqrt"))
    assert [linear.learning_rate(step) for step in (1, 50)] == [sqrt.learning_rate(step) for step in (1, 50)]
    assert all(0 < sqrt.learning_rate(step) < linear.learning_rate(step) for step in range(52, 101))


@given(OF_ONE_SIZE, PACKINGS)
def test_every_length_has_its_share_of_the_steps(settings: Training, packed: Packing) -> None:
    schedule = Schedule.from_recipe(settings, packed)
    total = total_steps(settings)
    lengths = [schedule.sequence_length(step) for step in range(1, total + 1)]
    assert lengths == sorted(lengths)
    assert set(lengths) == set(packed.lengths[:total])
    # A phase may differ from its rounded share if phases without a step have been given one.
    for number, phase in enumerate(packed.then):
        after = sum(later.share for later in packed.then[number + 1 :])
        expected = round(total * (after + phase.share)) - round(total * after)
        assert abs(lengths.count(phase.sequence_length) - expected) <= len(packed.then)


def test_shares_are_counted_from_the_end() -> None:
    schedule = Schedule.from_recipe(training(1000), packing(0.1, 0.05))
    assert schedule.phases == (Phase(16, 850), Phase(32, 950), Phase(64, 1000))
    assert [schedule.phase(step) for step in (1, 850, 851, 950, 951, 1000)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("steps", "lengths"), [(1, [16]), (2, [16, 32]), (3, [16, 32, 64]), (4, [16, 16, 32, 64]), (5, [16] * 3 + [32, 64])]
)
def test_the_shortest_share_has_one_step_if_there_are_enough(steps: int, lengths: list[int]) -> None:
    schedule = Schedule.from_recipe(training(steps), packing(0.001, 0.001))
    assert [schedule.sequence_length(step) for step in range(1, steps + 1)] == lengths


def test_shares_that_leave_the_first_length_less_than_a_step() -> None:
    schedule = Schedule.from_recipe(training(3), packing(0.999))
    assert [schedule.sequence_length(step) for step in (1, 2, 3)] == [16, 32, 32]


@given(SCHEDULES)
def test_a_schedule_comes_back_from_json(schedule: Schedule) -> None:
    assert Schedule.from_values(json.loads(json.dumps(asdict(schedule)))) == schedule


@given(SCHEDULES, SCHEDULES)
def test_a_shared_step_has_the_same_past_in_both(one: Schedule, other: Schedule) -> None:
    for step in range(min(one.total_steps, other.total_steps) + 1):
        if one.shares_past(step, other):
            assert other.shares_past(step, one)
            for past in range(1, step + 1):
                assert one.learning_rate(past) == other.learning_rate(past)
                assert one.sequence_length(past) == other.sequence_length(past)
                assert one.tokens_in(past) == other.tokens_in(past)


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0, 1), PACKINGS)
def test_raised_tokens_share_all_that_is_stable(steps: int, more: int, decay: float, packed: Packing) -> None:
    short = Schedule.from_recipe(training(steps, decay, warmup_steps=0), packed)
    long = Schedule.from_recipe(training(steps + more, decay, warmup_steps=0), packed)
    shared = min(short.stable_until, long.stable_until)
    assert all(long.shares_past(step, short) for step in range(shared + 1))


def test_a_longer_run_continues_only_from_before_the_decay() -> None:
    short, long = one_length(1.0, 2, 8, 10), one_length(1.0, 2, 16, 20)
    assert short.stable_until == 8
    assert long.shares_past(8, short)
    assert not long.shares_past(9, short)
    assert short.shares_past(10, short)
    assert not one_length(0.5, 2, 16, 20).shares_past(4, short)


@pytest.mark.parametrize(("decay_fraction", "stable_until"), [(0.4, 60), (0.1, 80)])
def test_a_longer_run_continues_only_from_before_the_sequence_length_changes(
    decay_fraction: float, stable_until: int
) -> None:
    """The decay begins before the sequence length changes, then after."""
    short = Schedule.from_recipe(training(100, decay_fraction, 10), packing(0.2))
    long = Schedule.from_recipe(training(200, decay_fraction, 10), packing(0.2))
    assert short.stable_until == stable_until
    assert long.shares_past(stable_until, short)
    assert not long.shares_past(stable_until + 1, short)


def test_a_decay_branch_is_cut_from_any_stable_step() -> None:
    weeks, branch = Schedule.from_recipe(training(10_000), packing()), one_length(1e-3, 100, 3000, 3500)
    assert branch.shares_past(3000, weeks)
    assert not branch.shares_past(3001, weeks)
    assert not weeks.shares_past(3500, branch)


def test_a_later_decay_shares_the_phases_that_are_the_same() -> None:
    early = Schedule.from_recipe(training(100, 0.1, 10), packing(0.4))
    late = Schedule.from_recipe(training(100, 0.05, 10), packing(0.4))
    assert late.shares_past(90, early)
    assert not late.shares_past(91, early)


def test_other_sequence_lengths_share_nothing() -> None:
    one = Schedule(1.0, 2, 16, 20, (Phase(16, 20),))
    assert not one.shares_past(1, Schedule(1.0, 2, 16, 20, (Phase(32, 20),)))


@given(TRAININGS, PACKINGS)
def test_the_steps_of_growing_batches_make_up_the_tokens(settings: Training, packed: Packing) -> None:
    schedule = Schedule.from_recipe(settings, packed)
    tokens = [schedule.tokens_in(step) for step in range(1, schedule.total_steps + 1)]
    assert [schedule.tokens_until(step) for step in range(len(tokens) + 1)] == [0, *accumulate(tokens)]
    assert schedule.batch_sizes == [size for size, _ in groupby(tokens)]
    # Each size is rounded up to whole steps, so that all tokens are trained on and less than a step of each beyond.
    assert settings.tokens <= sum(tokens) < settings.tokens + max(settings.batch_sizes.values())
    assert schedule.total_steps == total_steps(settings)


def test_known_growth() -> None:
    """100 steps' tokens: half of them, then three tenths in batches twice as large, then a fifth in four times."""
    schedule = Schedule.from_recipe(training(100, 0.3, then=[(2, 0.3), (4, 0.2)]), packing(0.1))
    assert [(later.after_step, later.batch_tokens) for later in schedule.growth] == [(50, 8192), (65, 16384)]
    assert schedule.total_steps == 70
    # The last 30 % of the tokens are 5 steps of the second size and 5 of the third; the last 10 % are 2.5 of these.
    assert schedule.decay_start == 60
    assert [phase.last_step for phase in schedule.phases] == [68, 70]
    assert schedule.stable_until == 50


def test_a_run_continues_with_batches_that_grow_later() -> None:
    constant, growing = (
        Schedule.from_recipe(training(100, 0.1, 10, then=then), packing()) for then in ((), [(2, 0.4)])
    )
    assert growing.shares_past(60, constant)
    assert not growing.shares_past(61, constant)


def test_a_schedule_of_a_version_without_growth_is_read() -> None:
    schedule = Schedule.from_recipe(training(100), packing(0.1))
    values = {key: value for key, value in asdict(schedule).items() if key not in ("growth", "batch_tokens")}
    assert Schedule.from_values(json.loads(json.dumps(values))) == schedule


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ([{"batch_tokens": 1000, "share": 0.5}], r"training.then\[0\].batch_tokens 1000 is not a multiple of packing"),
        ([{"batch_tokens": 512, "share": 0.5}] * 2, "leave nothing for batches of training.batch_tokens"),
        (
            [{"batch_tokens": 512, "share": 0.5}],
            r"beyond training.then\[0\].batch_tokens 512; 0 takes what fits",
        ),
        ([{"batch_tokens": 0, "share": 0.5}], "greater than or equal to 16"),
        ([{"batch_tokens": 512, "share": 0.0}], "greater than 0"),
    ],
)
def test_growth_that_cannot_be_is_refused(then: list[dict[str, float]], reason: str) -> None:
    values = load_recipe("demo").model_dump()
    values["training"]["then"] = then
    with pytest.raises(ValueError, match=reason):
        Recipe.model_validate(values)
