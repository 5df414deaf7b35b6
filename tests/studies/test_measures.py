"""What studies measure, on models and matrices whose figures are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parakeet.data.tokens.loader import Loader, LoaderState
from parakeet.data.tokens.packing import PackingPlan
from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.base import Subject
from parakeet.evaluation.scoring import byte_lengths, is_control
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.recipe_changes import changed
from parakeet.studies.forgetting import Forgetting, last_readings
from parakeet.studies.measure import Trained
from parakeet.studies.norms import Norms
from parakeet.studies.output_rank import OutputRank, anisotropy, effective_rank
from parakeet.studies.quantised import Quantised, to_int4, to_int8

from ..conftest import Prepared

WIDTH = 32


def model_of(prepared: Prepared) -> Parakeet:
    model = Parakeet(ModelConfig(2, 2, WIDTH, 64, prepared.tokenizer.rows))
    model.initialise(torch.Generator().manual_seed(1), 0.3)
    return model.eval()


def trained_of(prepared: Prepared, model: Parakeet, tokens: int = 5120) -> Trained:
    recipe = changed(prepared.recipe, [f"training.tokens={tokens}"])
    held_out = TokenShards(prepared.shards, "held_out", prepared.tokenizer)
    subject = Subject(
        recipe,
        model,
        Engine(Decoder(model, "fp32", compiled=False), prepared.tokenizer),
        prepared.tokenizer,
        train=TokenShards(prepared.shards, "train", prepared.tokenizer),
        held_out=held_out,
        documents={"all": list(range(len(held_out))), "nothing": []},
        questions=[],
        progress=Progress(),
    )
    return Trained(subject, {"packing_plan": prepared.plan})


@pytest.fixture
def trained(prepared: Prepared) -> Trained:
    return trained_of(prepared, model_of(prepared))


def test_norms_are_those_of_known_weights(trained: Trained) -> None:
    with torch.no_grad():
        for name, parameter in trained.subject.model.named_parameters():
            if parameter.dim() == 2:
                parameter.fill_(3.0 if name == "embedding.weight" else -0.5)
        trained.subject.model.blocks[0].get_parameter("query.weight")[0, 0] = -7.0
    found = Norms().measure(trained)
    assert found["embedding"] == pytest.approx(3.0)
    assert found["blocks"] == pytest.approx(0.5, rel=0.02)
    assert 0.5 < found["all"] < 3.0
    assert found["largest"] == 7.0


def test_weights_that_few_bits_hold_cost_nothing(trained: Trained) -> None:
    """Each row holds −127/64, −8/8, 7/8 and 0: q · scale with both kinds of scales."""
    rows = torch.zeros(WIDTH * 4)
    rows[:2] = torch.tensor([-1.0, 0.875])
    with torch.no_grad():
        for parameter in trained.subject.model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(rows[: parameter.shape[1]].roll(3).expand_as(parameter))
    exact = to_int8(torch.full((2, 40), 127 / 64))
    assert torch.equal(exact, torch.full((2, 40), 127 / 64))
    found = Quantised().measure(trained)
    assert found is not None
    assert found["int4"]["value"] == found["fp32"]
    assert found["int4"]["cost"]["value"] == 0.0


def test_fewer_bits_cost_more(trained: Trained) -> None:
    before = {name: tensor.clone() for name, tensor in trained.subject.model.state_dict().items()}
    found = Quantised().measure(trained)
    assert found is not None
    assert abs(found["int8"]["cost"]["value"]) < abs(found["int4"]["cost"]["value"])
    assert found["int4"]["value"] == pytest.approx(found["fp32"] + found["int4"]["cost"]["value"])
    assert found == Quantised().measure(trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.subject.model.state_dict().items())


def test_rounding_is_within_half_a_step() -> None:
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(2))
    weight[3] = 0
    of_row = weight.abs().amax(1, keepdim=True)
    assert ((to_int8(weight) - weight).abs() <= of_row / 127 * 0.501).all()
    # The side of the farthest number has eight steps, the other seven: up to one step is cut.
    assert ((to_int4(weight) - weight).abs() <= of_row / 8 * 1.01).all()
    assert to_int4(weight)[3].eq(0).all()


def test_rank_of_known_matrices() -> None:
    one = torch.arange(1.0, 9.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    assert effective_rank(one) == pytest.approx(1.0)
    assert effective_rank(torch.eye(8)[:, :5] * -3) == pytest.approx(5.0)
    assert effective_rank(torch.zeros(4, 4)) == 0.0
    assert anisotropy(torch.tensor([[2.0, 0.0], [5.0, 0.0]])) == pytest.approx(1.0)
    assert anisotropy(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(-1 / 3)
    assert anisotropy(torch.ones(1, 2)) is None


def test_output_rank_of_a_model(trained: Trained) -> None:
    whole = OutputRank().measure(trained)
    assert 0.8 < whole["effective_rank"] <= 1.0
    assert -0.1 < whole["anisotropy"] < 1.0
    with torch.no_grad():
        embedding = trained.subject.model.embedding.weight
        embedding.copy_(embedding[:, :1] * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)))
    bottleneck = OutputRank().measure(trained)
    assert bottleneck["effective_rank"] == pytest.approx(1 / WIDTH, rel=1e-3)
    assert bottleneck["largest"] == pytest.approx(1.0)


@pytest.mark.parametrize("reads", [1, 7, 20, 26, 60, 71])
def test_last_readings_are_those_of_the_loader(prepared: Prepared, reads: int) -> None:
    plan = PackingPlan(prepared.plan, 32)
    plan.sequences = plan.sequences.take(np.arange(20))
    shards = TokenShards(prepared.shards, "train", prepared.tokenizer)
    loader = Loader(shards, plan, 32, prepared.tokenizer.padding, LoaderState("", "", 5))
    found = last_readings(20, 5, reads)
    assert found.max() == reads - 1
    assert np.count_nonzero(found >= 0) == min(20, reads)
    by_number = {int(when): number for number, when in enumerate(found) if when >= 0}
    for when in range(reads):
        batch = loader.next_batch(1)
        if when in by_number:
            members = plan.sequences.take(np.array([by_number[when]])).document
            assert batch.members == tuple(members.tolist())


def test_forgetting_reads_what_the_loader_gave(prepared: Prepared) -> None:
    """Fewer reads than the plan has sequences: `first` is the loader's first tenth, and some text was never read."""
    plan, tokenizer = PackingPlan(prepared.plan, 32), prepared.tokenizer
    tokens = len(plan) // 2 // 8 * 256
    trained = trained_of(prepared, model_of(prepared), tokens)
    found = Forgetting().measure(trained)
    state = LoaderState("", "", trained.subject.recipe.packing.seed)
    loader = Loader(trained.subject.train, plan, 32, tokenizer.padding, state)
    first = loader.next_batch(found["sequences"])
    sizes = byte_lengths(tokenizer, first.targets) * ~is_control(tokenizer)[first.targets]
    assert found["sequences"] == tokens // 32 // 10
    assert found["first"]["n"] == np.count_nonzero(sizes.sum(axis=1))
    assert found["first"]["times"] == found["last"]["times"] == 1
    assert found["first"]["ago"] > 0.9 > 0.1 > found["last"]["ago"]
    assert found["difference"]["value"] == pytest.approx(found["first"]["value"] - found["last"]["value"])
    assert found["unread"]["value"] > 0
    assert found["held_out"]["value"] > 0
    assert found == Forgetting().measure(trained)


def test_text_that_the_model_knows_is_told_from_unread_text(prepared: Prepared) -> None:
    """A model that was trained on nothing but its last sequences needs fewer bits for them."""
    plan, tokenizer = PackingPlan(prepared.plan, 32), prepared.tokenizer
    tokens = len(plan) // 2 // 8 * 256
    trained = trained_of(prepared, model_of(prepared), tokens)
    subject, reads = trained.subject, tokens // 32
    before = Forgetting().measure(trained)
    n = before["sequences"]
    state = LoaderState("", "", subject.recipe.packing.seed, next_row=reads - n)
    batch = Loader(subject.train, plan, 32, tokenizer.padding, state).next_batch(n)
    inputs, targets, pieces = map(torch.from_numpy, (batch.inputs, batch.targets, batch.documents))
    for _ in range(8):
        logits = subject.model.logits(subject.model(inputs, pieces))
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=tokenizer.padding
        )
        subject.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in subject.model.parameters():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad.sign()
    found = Forgetting().measure(trained)
    assert found["difference"]["value"] > before["difference"]["value"] + 0.1
    assert found["last"]["value"] < min(found[name]["value"] for name in ("first", "unread", "held_out"))


def test_several_epochs(prepared: Prepared) -> None:
    """All text of the plan was read: nothing of it is unread, and each piece as often as the epochs say."""
    rows = len(PackingPlan(prepared.plan, 32))
    trained = trained_of(prepared, model_of(prepared), 256 * (-(-2 * rows // 8) + 1))
    found = Forgetting().measure(trained)
    assert found["unread"] is None
    assert found["first"]["times"] == 2
    assert found["last"]["times"] <= 3
    assert 0 < found["last"]["ago"] < found["first"]["ago"] < 0.6


def test_nothing_held_out(prepared: Prepared) -> None:
    trained = trained_of(prepared, model_of(prepared))
    nothing = replace(trained.subject, documents={"all": []})
    assert Quantised().measure(Trained(nothing, trained.folders)) is None
    assert OutputRank().measure(Trained(nothing, trained.folders))["anisotropy"] is None
