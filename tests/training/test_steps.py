"""A step's batch, and its passes. On a GPU the host would wait wherever it reads a value, so a pass reads none."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parakeet.data.tokens.goldfish import without_goldfish_targets
from parakeet.data.tokens.loader import Batch, Loader, LoaderState
from parakeet.data.tokens.packing import PackingPlan
from parakeet.data.tokens.shards import TokenShards
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.model.transformer import Parakeet
from parakeet.recipe import Training
from parakeet.training.distributed import Ranks
from parakeet.training.job import TrainingJob
from parakeet.training.optimizer import make_optimizer
from parakeet.training.schedule import Schedule
from parakeet.training.steps import Prefetcher, Stepper

from ..conftest import Prepared
from .conftest import MakeJob

PADDING = 1
AT_THE_END = 2
"""The loss and the norm of the gradient."""


class Reads(TorchDispatchMode):
    """Counts the operations that read a value on the host, or whose result's shape depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = [
            index
            for argument in arguments
            if name.startswith("index") and isinstance(argument, list | tuple)
            for index in argument
            if isinstance(index, torch.Tensor) and index.dtype == torch.bool
        ]
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal") or masks:
            self.found.append(name)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("activation_checkpointing", ["none", "mlp", "block"])
@pytest.mark.parametrize("complete", [True, False], ids=["every position has a target", "some have none"])
def test_passes_read_nothing_on_the_host(activation_checkpointing: str, complete: bool) -> None:
    config = ModelConfig(layers=2, heads=2, width=32, context=64, vocabulary_rows=128, dropout=0.1)
    # As on a GPU: in bf16, which no product of the CPU's own computes.
    execution = Execution("fused", "bf16", "fp32", activation_checkpointing, loss_rows=50)  # type: ignore[arg-type]
    model = Parakeet(config, execution).train()
    settings = Training.model_validate({"tokens": 1 << 20, "batch_tokens": 512, "learning_rate": 1e-3})
    stepper = Stepper(model, make_optimizer(model, settings), Ranks(0, 1, torch.device("cpu")), settings, PADDING)
    ids = np.random.default_rng(1).integers(2, 128, (4, 64))
    targets = ids.copy()
    if not complete:
        targets[:, 50:] = PADDING
    batch = Batch(ids, targets, np.broadcast_to(np.arange(64) // 10, ids.shape).copy(), ())
    stepper.measure(batch, 1, 4, stopping=False)  # makes the table of code words
    for sequences in (4, 1):
        with Reads() as reads:
            stepper.measure(batch, 1, sequences, stopping=False)
        assert len(reads.found) <= AT_THE_END, (sequences, reads.found)


@pytest.mark.parametrize("k", [0, 4])
def test_goldfish_leave_targets_out_of_the_batches_of_any_training(
    k: int, prepared: Prepared, make_job: MakeJob
) -> None:
    job = TrainingJob.load(make_job("run", goldfish=k))
    schedule, padding = Schedule.from_recipe(job.recipe.training, job.recipe.packing), prepared.tokenizer.padding
    shards, length = TokenShards(prepared.shards), job.recipe.packing.sequence_length
    state = LoaderState(job.shards_content, job.plan_digests[str(length)], job.recipe.packing.seed)
    plain = Loader(shards, PackingPlan(prepared.plan, length), length, padding, state)
    left_out = 0
    with Prefetcher(job, shards, padding, schedule) as prefetcher:
        for step in range(1, 6):
            found, expected = prefetcher.take(step)[0], plain.next_batch(schedule.tokens_in(step) // length)
            every = expected.targets
            if k:
                expected = without_goldfish_targets(expected, k, padding)
            for name in ("inputs", "targets", "documents"):
                assert np.array_equal(getattr(found, name), getattr(expected, name))
            left_out += int((found.targets != every).sum())
    assert (left_out > 0) == (k > 0)
