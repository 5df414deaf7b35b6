"""Spikes are found and skipped, several in a row roll the run back, and a run that cannot be helped ends."""

import json
import math
import random
import re
import resource
import signal
import subprocess
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.tokens.loader import sequence_order
from parakeet.data.tokens.packing import pack, plan_file, write_plan
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.errors import INTERRUPTED
from parakeet.training.checkpoint import checkpoints, read_state
from parakeet.training.job import TrainingJob
from parakeet.training.stability import SpikeDetector, StabilityMonitor

from ..conftest import Prepared
from .conftest import ForkServer, MakeJob, events, failure, history, result, until

POSITIVE = st.floats(1e-3, 1e6)
STEADY = st.lists(st.floats(0.9, 1.1), min_size=64, max_size=200)
ANY = st.lists(st.tuples(st.floats(), st.floats()), max_size=200)


def fed(losses: list[float]) -> SpikeDetector:
    monitor = SpikeDetector()
    assert [monitor.check(loss, loss) for loss in losses] == [None] * len(losses)
    return monitor


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_a_constant_series_has_no_spike(loss: float, norm: float) -> None:
    monitor = SpikeDetector()
    assert all(monitor.check(loss, norm) is None for _ in range(300))


@given(POSITIVE, st.lists(st.floats(0.98, 1.0), min_size=200, max_size=200))
def test_a_falling_series_has_no_spike(start: float, factors: list[float]) -> None:
    losses = [start]
    for factor in factors:
        losses.append(losses[-1] * factor)
    fed(losses)


@given(STEADY, st.floats(1, 1e6), st.floats(10, 1e30), st.sampled_from(["loss", "gradient norm"]))
def test_a_jump_to_ten_times_is_a_spike_and_hides_no_other(
    losses: list[float], level: float, times: float, which: str
) -> None:
    monitor = fed([loss * level for loss in losses])
    usual, high = losses[-1] * level, level * times
    for _ in range(5):
        reason = monitor.check(*((high, usual) if which == "loss" else (usual, high)))
        assert reason is not None
        assert reason.startswith(f"the {which} is ")
        assert "above the limit of" in reason
    assert monitor.check(usual, usual) is None


@given(STEADY, st.floats(2, 20))
def test_a_lasting_change_is_followed_within_two_windows(losses: list[float], times: float) -> None:
    monitor = fed(losses)
    verdicts = [monitor.check(times, times) for _ in range(256)]
    assert verdicts[-1] is None


@given(st.integers(0, 1 << 32))
def test_gradients_that_slowly_grow_to_five_times_their_size_do_not_end_a_run(seed: int) -> None:
    noise = random.Random(seed)
    monitor = fed([noise.uniform(0.8, 1.2) for _ in range(128)])
    verdicts = [monitor.check(1.0, noise.uniform(0.8, 1.2) * (1 + step / 100)) for step in range(400)]
    in_a_row = "".join("x" if verdict else " " for verdict in verdicts).split()
    assert all(len(left_out) < 5 for left_out in in_a_row)


@given(st.lists(POSITIVE, max_size=63), st.floats(0, allow_infinity=False))
def test_before_the_minimum_every_number_is_accepted(losses: list[float], last: float) -> None:
    fed([*losses, last])


@given(st.lists(POSITIVE, max_size=100), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_is_never_accepted(losses: list[float], value: float) -> None:
    monitor = SpikeDetector()
    for loss in losses:
        monitor.check(loss, loss)
    before = monitor.state()
    assert monitor.check(value, 1.0) == f"the loss is {value}"
    assert monitor.check(1.0, value) == f"the gradient norm is {value}"
    assert monitor.state() == before


@given(ANY, ANY)
def test_a_restored_monitor_judges_the_same(past: list[tuple[float, float]], future: list[tuple[float, float]]) -> None:
    monitor, restored = SpikeDetector(), SpikeDetector()
    for values in past:
        monitor.check(*values)
    restored.check(1.0, 2.0)
    restored.restore(json.loads(json.dumps(monitor.state(), allow_nan=False)))
    assert restored.state() == monitor.state()
    assert [restored.check(*values) for values in future] == [monitor.check(*values) for values in future]
    assert restored.state() == monitor.state()


def test_only_the_window_is_remembered() -> None:
    monitor = fed([100.0] * 128)
    for _ in repeat(None, 128):
        assert monitor.check(1.0, 1.0) is None
    assert monitor.state() == fed([1.0] * 128).state()
    assert monitor.check(100.0, 1.0) is not None


@pytest.mark.parametrize(
    ("usual", "limit", "which"),
    [
        ([2.0], 2.7, "loss"),
        ([2.0, 2.05, 2.1], 2.05 + 0.7, "loss"),
        ([2.0, 3.0, 4.0], 3.0 + 6 * 1.4826, "loss"),
        ([2.0], 8.0, "gradient norm"),
        ([2.0, 2.2, 2.4], 8.8, "gradient norm"),
        ([2.0, 4.0, 6.0], 4.0 + 10 * 1.4826 * 2, "gradient norm"),
    ],
)
def test_the_limit_is_the_larger_of_the_floor_and_the_deviations(usual: list[float], limit: float, which: str) -> None:
    def verdict(value: float) -> str | None:
        monitor = SpikeDetector()
        # 129 values, of which 128 are remembered: as many of each, so that the median is the middle one.
        for other in usual * (129 // len(usual)):
            assert monitor.check(*((other, 1.0) if which == "loss" else (1.0, other))) is None
        return monitor.check(*((value, 1.0) if which == "loss" else (1.0, value)))

    assert verdict(limit * 0.999) is None
    assert str(verdict(limit * 1.001)).startswith(f"the {which} is")


@given(st.integers(0, 1 << 32), st.sampled_from(["loss", "gradient norm", "both"]))
def test_a_slow_divergence_rolls_back_within_20_steps(seed: int, what: str) -> None:
    """Of a run as noisy as the demo's: 0.06 nats more at each step, or a norm that grows by an eighth."""
    noise = random.Random(seed)
    monitor = StabilityMonitor()
    for _ in range(128):
        assert monitor.check(noise.gauss(0.6, 0.04), noise.lognormvariate(-0.3, 0.12)) is None
    for step in range(1, 21):
        rise, times = 0.06 * step if what != "gradient norm" else 0.0, 1.125**step if what != "loss" else 1.0
        monitor.check(noise.gauss(0.6, 0.04) + rise, noise.lognormvariate(-0.3, 0.12) * times)
        if monitor.must_roll_back:
            break
    assert monitor.must_roll_back


@given(st.integers(0, 1 << 32), st.floats(0.3, 0.6))
def test_a_text_that_is_much_harder_than_most_is_no_spike(seed: int, share: float) -> None:
    """As one new book beside one that was read 30 times: its batches cost 2.8 nats a token, the others 0.04."""
    noise = random.Random(seed)
    detector = SpikeDetector()
    easy = 3.0
    for _ in range(600):
        easy = max(0.04, 0.98 * easy)
        loss = noise.gauss(2.8, 0.1) if noise.random() < share else noise.gauss(easy, 0.1 * easy)
        assert detector.check(loss, 1.0) is None


@hypothesis.settings(max_examples=10)
@given(st.integers(0, 1 << 32))
def test_a_healthy_run_with_heavy_tails_is_left_alone(seed: int) -> None:
    """Student's t with four degrees of freedom, on a logarithmic scale: a kurtosis as in recorded gradient norms."""
    numbers = np.random.default_rng(seed)
    monitor = StabilityMonitor()
    losses = 3 * np.exp(-np.arange(1000) / 150) + 2 + 0.15 * numbers.standard_normal(1000)
    norms = np.exp(0.12 * numbers.standard_t(4, 1000))
    for loss, norm in zip(losses.tolist(), norms.tolist(), strict=True):
        monitor.check(loss, norm)
    assert monitor.skipped <= 3


@hypothesis.settings(max_examples=10)
@given(st.integers(0, 1 << 32), st.floats(0.1, 0.9))
def test_batches_without_a_target_change_no_verdict(seed: int, share: float) -> None:
    noise = random.Random(seed)
    monitor, undisturbed = SpikeDetector(), SpikeDetector()
    for _ in range(300):
        while noise.random() < share:
            assert monitor.check(0.0, 0.0) is None
        values = noise.uniform(1, 2), noise.uniform(0.5, 1)
        assert monitor.check(*values) == undisturbed.check(*values)
    assert monitor.state() == undisturbed.state()


def test_a_state_that_the_rule_before_wrote_goes_on() -> None:
    """It kept the same values; those too high had entered as the mean and six standard deviations."""
    state = {
        "window": {"losses": [2.0, 2.1, 2.05] * 40, "gradient_norms": [0.5, 0.6, 1.16] * 40},
        "in_a_row": 4,
        "returns": 2,
    }
    monitor = StabilityMonitor()
    monitor.restore(json.loads(json.dumps(state)), good_step=200, skipped=14, rolled_back=2)
    assert monitor.state() == state
    assert monitor.check(2.6, 2.3) is None
    assert monitor.check(2.0, 11.0) is not None
    assert (monitor.skipped, monitor.rollbacks_in_a_row, monitor.good_step) == (15, 2, 200)


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(KeyError):
        SpikeDetector().restore({"losses": []})


# The same in real runs, with steps that go wrong because of their data.

STEPS, SEQUENCES, SEQUENCE_LENGTH = 100, 4, 32
SKIPPED = (70, 71)
ROLLED_BACK = (85, 86, 87, 88, 89)
"""Steps whose sequences repeat one token; all others are noise. Their gradient is ten times as long. Five in a row make
the run roll back to step 80."""


@dataclass(frozen=True)
class Data:
    shards: Path
    plan: Path
    odd: set[str]


@pytest.fixture(scope="module")
def data(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Documents that fill one sequence each, so that the loader's order gives the step of each."""
    shards, plan = tmp_path_factory.mktemp("shards"), tmp_path_factory.mktemp("plan")
    numbers = np.random.default_rng(1)
    order = sequence_order((STEPS + 20) * SEQUENCES, prepared.recipe.packing.seed, 0)
    step_of = dict(zip(order.tolist(), (1 + place // SEQUENCES for place in range(len(order))), strict=True))
    odd = set()
    writer = ShardWriter(shards, "train", prepared.tokenizer, ["text"], 1 << 20)
    for row in range(len(order)):
        ids = numbers.integers(0, 256, SEQUENCE_LENGTH + 1).astype(np.uint32)
        doc_id = row.to_bytes(16, "big")
        if step_of[row] in (*SKIPPED, *ROLLED_BACK):
            ids = np.full(SEQUENCE_LENGTH + 1, 97, np.uint32)
            odd.add(doc_id.hex())
        writer.write(TokenDocument(doc_id, "text", ids, [0, len(ids)], len(ids)))
    writer.close()
    held_out = ShardWriter(shards, "held_out", prepared.tokenizer, ["text"], 1 << 20)
    ids = numbers.integers(0, 256, SEQUENCE_LENGTH + 1).astype(np.uint32)
    held_out.write(TokenDocument(b"h" * 16, "text", ids, [0, len(ids)], len(ids)))
    held_out.close()
    write_plan(plan / plan_file(SEQUENCE_LENGTH), pack(np.full(len(order), SEQUENCE_LENGTH + 1), SEQUENCE_LENGTH))
    return Data(shards, plan, odd)


def settings(data: Data) -> dict[str, object]:
    return {
        "shards": data.shards,
        "plan": data.plan,
        "batch_tokens": SEQUENCES * SEQUENCE_LENGTH,
        "tokens": STEPS * SEQUENCES * SEQUENCE_LENGTH,
        "checkpoint_steps": 5,
        "keep_checkpoints": 1,
        "learning_rate": 1e-4,
    }


@pytest.fixture(scope="module")
def finished(write_job: MakeJob, data: Data, trainers: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = write_job(tmp_path_factory.mktemp("runs") / "undisturbed", **settings(data))
    trainers.finish(job)
    return job


def test_spikes_are_skipped_and_logged_with_their_documents(finished: Path, data: Data) -> None:
    skipped = events(finished, "skipped")
    assert [event["step"] for event in skipped] == [*SKIPPED, *ROLLED_BACK]
    assert {document for event in skipped for document in event["documents"]} == data.odd
    marked = {line[0]: line for line in history(finished) if line[6]}
    assert tuple(marked) == SKIPPED
    before = {line[0]: line[2] for line in history(finished)}
    assert before[SKIPPED[-1]] == before[SKIPPED[0] - 1], "a skipped step trains on no token"


@pytest.mark.parametrize("steps", [SKIPPED[0], SKIPPED[0] + 5])
def test_a_skipped_milestone_has_its_checkpoint_and_validation(
    make_job: MakeJob, data: Data, trainers: ForkServer, steps: int
) -> None:
    """As the last step of the run, and as one of `checkpoint_steps`. No run rolls back to it."""
    changed = {"checkpoint_steps": SKIPPED[0], "tokens": steps * SEQUENCES * SEQUENCE_LENGTH, "decay_fraction": 0.0}
    job = make_job("milestone", **settings(data) | changed | {"keep_checkpoints": 2})
    trainers.finish(job)
    (line,) = [line for line in history(job) if line[0] == SKIPPED[0]]
    assert line[6] is not None, "skipped"
    assert line[7] is not None, "validated"
    assert steps_saved(job) == sorted({SKIPPED[0], steps})
    states = [read_state(path) for path in checkpoints(job.parent)]
    assert [state.validation_loss is None for state in states] == [False] * len(states)
    assert states[0].good_step == 0


def test_several_in_a_row_roll_back_and_continue_past_the_data(finished: Path) -> None:
    (event,) = events(finished, "rolled_back")
    assert (event["step"], event["to"]) == (89, 80)
    lines = history(finished)
    assert [line[0] for line in lines] == list(range(1, STEPS + 1))
    assert not any(line[6] for line in lines[80:])


def test_a_run_that_skipped_and_rolled_back_resumes_to_the_same_bits(
    make_job: MakeJob, data: Data, finished: Path, trainers: ForkServer
) -> None:
    job = make_job("disturbed", **settings(data))
    running = trainers.start(job)
    until(lambda: len(events(job, "skipped")) == 1, running)
    running.send(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    # Stopped between the checkpoint that it will roll back to and the steps that cause it: one more checkpoint.
    for step in (81, 82):
        running = trainers.start(job)
        until(lambda s=step: len(history(job)) >= s, running)  # type: ignore[misc]
        running.send(signal.SIGTERM)
        running.wait()
    running = trainers.start(job)
    until(lambda: bool(events(job, "rolled_back")), running)
    running.send(signal.SIGKILL)
    running.wait()
    trainers.finish(job)
    assert result(job) == result(finished)


def test_if_the_last_good_checkpoint_was_not_saved_the_run_rolls_back_to_the_one_before_it(
    make_job: MakeJob, data: Data, trainers: ForkServer
) -> None:
    """The disk is full at step 60 only; then somebody stops the run, which saves checkpoints."""
    job = make_job("full", **settings(data) | {"checkpoint_steps": 30, "decay_fraction": 0.0})
    running = trainers.start(job)
    until(lambda: steps_saved(job) == [30], running)
    resource.prlimit(running.process, resource.RLIMIT_FSIZE, (1 << 15, resource.RLIM_INFINITY))
    until(lambda: bool(events(job, "save_failed")), running)
    resource.prlimit(running.process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    running.send(signal.SIGTERM)
    assert running.wait() == INTERRUPTED
    (failed,) = events(job, "save_failed")
    stopped = len(history(job))
    assert failed["step"] == 60
    assert 60 < stopped < ROLLED_BACK[0]
    assert steps_saved(job) == [30, stopped]
    trainers.finish(job)
    (event,) = events(job, "rolled_back")
    assert (event["step"], event["to"]) == (89, 30)
    assert [line[0] for line in history(job)] == list(range(1, STEPS + 1))


@pytest.fixture
def stopped(make_job: MakeJob, data: Data, trainers: ForkServer) -> Path:
    """The job of a run that was stopped at step 81, with the good checkpoints of 75 and 80. Step 85, the next of the
    schedule, is skipped."""
    whole = settings(data) | {"decay_fraction": 0.0, "keep_checkpoints": 4}
    trainers.finish(make_job("run", **whole | {"tokens": 80 * SEQUENCES * SEQUENCE_LENGTH}))
    job = make_job("run", **whole)
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert trainers.start(job, parent=gone.pid).wait() == INTERRUPTED
    assert steps_saved(job) == [70, 75, 80, 81]
    return job


def test_a_damaged_good_checkpoint_is_replaced_by_the_one_before_it(stopped: Path, trainers: ForkServer) -> None:
    tear(stopped, 80)
    assert "step-00000080/model.safetensors was changed" in trainers.finish(stopped)
    (event,) = events(stopped, "rolled_back")
    assert (event["step"], event["to"]) == (89, 75)
    assert history(stopped)[-1][0] == STEPS


def test_a_run_without_a_good_checkpoint_keeps_the_others_and_ends_with_one_message(
    stopped: Path, trainers: ForkServer
) -> None:
    for step in (70, 75, 80):
        tear(stopped, step)
    for _ in range(2):
        running = trainers.start(stopped)
        assert running.wait() == 1
        assert "Training has to roll back to the checkpoint of step 80" in failure(stopped)
        assert "--force checkpoint" in failure(stopped)
        assert "Traceback" not in running.printed()
        assert steps_saved(stopped) == [75, 80, 81, 85]
        assert not events(stopped, "rolled_back")


def test_a_run_of_damaged_checkpoints_is_not_restarted(stopped: Path, trainers: ForkServer) -> None:
    before = history(stopped)
    for step in (70, 75, 80, 81):
        tear(stopped, step)
    assert trainers.start(stopped).wait() == 1
    assert "Nothing was changed" in failure(stopped)
    assert history(stopped) == before
    assert steps_saved(stopped) == [70, 75, 80, 81]


def steps_saved(job: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints(job.parent)]


def tear(job: Path, step: int) -> None:
    weights = job.parent / f"step-{step:08d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def test_a_run_that_cannot_be_helped_ends_with_one_message(make_job: MakeJob, trainers: ForkServer) -> None:
    job = make_job("named", learning_rate=1.0, gradient_clip=1e30, warmup_steps=0, weight_decay=1e6)
    running = trainers.start(job)
    assert running.wait() == 1
    text = failure(job)
    assert len(events(job, "rolled_back")) == 3
    assert len(re.findall(r"\b[0-9a-f]{32}\b", text)) == 5
    assert "Lower training.learning_rate" in text
    assert "Traceback" not in running.printed()
    assert "no good checkpoint" in text
    assert not any(read_state(path).good_step for path in checkpoints(job.parent))
    assert not (TrainingJob.load(job).output / "model.safetensors").exists()
