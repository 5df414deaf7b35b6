"""Steps that went wrong, made so by the data: real runs that leave them out, go back, and give up."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from parakeet.data.loader import row_order
from parakeet.data.packing import pack, plan_file, write_plan
from parakeet.data.shards import ShardWriter, TokenDocument
from parakeet.training.checkpoint import checkpoints
from parakeet.training.job import TrainingJob

from ..conftest import Prepared
from .conftest import ForkServer, MakeJob, events, failure, history, result, until

STEPS, ROWS, ROW_TOKENS = 100, 4, 32
SKIPPED = (70, 71)
GONE_BACK = (85, 86, 87, 88, 89)
"""Steps whose rows repeat one token, among others of noise: a gradient ten times as long. Five in a row make the run
go back to step 80."""


@dataclass(frozen=True)
class Data:
    shards: Path
    plan: Path
    odd: set[str]


@pytest.fixture(scope="module")
def data(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Documents that fill a row each, so that the loader's order tells which step each belongs to."""
    shards, plan = tmp_path_factory.mktemp("shards"), tmp_path_factory.mktemp("plan")
    numbers = np.random.default_rng(1)
    order = row_order((STEPS + 20) * ROWS, prepared.recipe.packing.seed, 0)
    step_of = dict(zip(order.tolist(), (1 + place // ROWS for place in range(len(order))), strict=True))
    odd = set()
    writer = ShardWriter(shards, "train", prepared.tokenizer, ["text"], 1 << 20)
    for row in range(len(order)):
        ids = numbers.integers(0, 256, ROW_TOKENS + 1).astype(np.uint32)
        doc_id = row.to_bytes(16, "big")
        if step_of[row] in (*SKIPPED, *GONE_BACK):
            ids = np.full(ROW_TOKENS + 1, 97, np.uint32)
            odd.add(doc_id.hex())
        writer.write(TokenDocument(doc_id, "text", ids, [0, len(ids)], len(ids)))
    writer.close()
    ShardWriter(shards, "held_out", prepared.tokenizer, ["text"], 1 << 20).close()
    write_plan(plan / plan_file(ROW_TOKENS), pack(np.full(len(order), ROW_TOKENS + 1), ROW_TOKENS))
    return Data(shards, plan, odd)


def settings(data: Data) -> dict[str, object]:
    return {
        "shards": data.shards,
        "plan": data.plan,
        "batch_tokens": ROWS * ROW_TOKENS,
        "tokens": STEPS * ROWS * ROW_TOKENS,
        "checkpoint_steps": 5,
        "keep_checkpoints": 1,
        "learning_rate": 1e-4,
    }


@pytest.fixture(scope="module")
def finished(write_job: MakeJob, data: Data, trainers: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = write_job(tmp_path_factory.mktemp("runs") / "undisturbed", **settings(data))
    trainers.finish(job)
    return job


def test_spikes_are_left_out_and_told_with_their_documents(finished: Path, data: Data) -> None:
    skipped = events(finished, "skipped")
    assert [event["step"] for event in skipped] == [*SKIPPED, *GONE_BACK]
    assert {document for event in skipped for document in event["documents"]} == data.odd
    marked = {line[0]: line for line in history(finished) if line[6]}
    assert tuple(marked) == SKIPPED
    before = {line[0]: line[2] for line in history(finished)}
    assert before[SKIPPED[-1]] == before[SKIPPED[0] - 1], "a step that is left out trains on no token"


def test_several_in_a_row_go_back_and_on_past_the_data(finished: Path) -> None:
    (event,) = events(finished, "rolled_back")
    assert (event["step"], event["to"]) == (89, 80)
    lines = history(finished)
    assert [line[0] for line in lines] == list(range(1, STEPS + 1))
    assert not any(line[6] for line in lines[80:])


def test_a_run_that_left_out_and_went_back_goes_on_to_the_same_bits(
    make_job: MakeJob, data: Data, finished: Path, trainers: ForkServer
) -> None:
    job = make_job("disturbed", **settings(data))
    running = trainers.start(job)
    until(lambda: len(events(job, "skipped")) == 1, running)
    running.send(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    # Stopped between the checkpoint that it will go back to and the steps that make it: one more checkpoint.
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


def test_a_run_that_cannot_be_helped_ends_with_one_message(make_job: MakeJob, trainers: ForkServer) -> None:
    job = make_job("named", learning_rate=1.0, gradient_clip=1e30, warmup_steps=0, weight_decay=1e6)
    running = trainers.start(job)
    assert running.wait() == 1
    text = failure(job)
    assert len(events(job, "rolled_back")) == 3
    assert len(re.findall(r"\b[0-9a-f]{32}\b", text)) == 5
    assert "Lower training.learning_rate" in text
    assert "Traceback" not in running.said()
    assert "no good checkpoint" in text
    assert not checkpoints(job.parent)
    assert not (TrainingJob.load(job).output / "model.safetensors").exists()
