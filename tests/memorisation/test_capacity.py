"""Bits that a model has memorised of random text: none of a uniform model, most of one that was trained on a little."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from parakeet.data.random_text import random_texts
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.memorisation.capacity import code_length
from parakeet.progress import Progress
from parakeet.recipe import Training
from parakeet.recipe_sources import RandomSource
from parakeet.template import render_text
from parakeet.tokenizer import Tokenizer, count_words
from parakeet.training.optimizer import make_optimizer

from .conftest import untrained

OPTIMIZER = Training(tokens=1, batch_tokens=512, learning_rate=0.02, optimizer="muon", embedding_rate=1.6)
SOURCE = RandomSource(name="strings", kind="random", documents=16, symbols=32, alphabet=16)
DATA_BITS = 16 * 32 * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return count_words(random_texts(16, 32, 16, seed=1), 308)


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 16 random documents, and of another source that must not count."""
    folder = tmp_path_factory.mktemp("shards")
    for split, held_out in (("train", False), ("held_out", True)):
        writer = ShardWriter(folder, split, tokenizer, ["other", "strings"], 1 << 20)
        texts = [("other", "xyz" * 30), *(("strings", t) for t in random_texts(16, 32, 16, seed=1, held_out=held_out))]
        for number, (source, text) in enumerate(texts):
            ids, spans = render_text(tokenizer, text)
            writer.write(TokenDocument(number.to_bytes(16, "big"), source, ids, spans, len(text)))
        writer.close()
    return folder


def test_a_uniform_model_has_memorised_nothing(tokenizer: Tokenizer, folder: Path) -> None:
    model = untrained(tokenizer)
    torch.nn.init.zeros_(model.embedding.weight)
    found = code_length(model, tokenizer, TokenShards(folder, "train", tokenizer), SOURCE, Progress())
    assert (found["documents"], found["data_bits"], found["memorised_bits"]) == (16, DATA_BITS, 0.0)
    assert found["code_bits"] == pytest.approx(16 * 32 * math.log2(tokenizer.rows), rel=1e-6)
    assert found["bits_per_parameter"] == {"n": 16, "value": 0.0, "interval": [0.0, 0.0]}
    # Of the embedding's rows, 16 letters, x, y and z and the end of a text are in use.
    assert found["parameters"] - found["used_parameters"] == (tokenizer.rows - 20) * 16


def test_a_trained_model_has_memorised_its_training_text_and_no_other(tokenizer: Tokenizer, folder: Path) -> None:
    shards = TokenShards(folder, "train", tokenizer)
    model = untrained(tokenizer, width=32)
    ids = torch.from_numpy(np.stack([shards.tokens(number) for number in range(1, 17)]).astype(np.int64))
    optimizer = make_optimizer(model, OPTIMIZER)
    steps = 120
    for step in range(steps):
        hidden = model(ids[:, :-1], torch.zeros_like(ids[:, :-1]))
        logits = (hidden @ model.embedding.weight.T).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * min(1.0, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    train, held_out = (
        code_length(model.eval(), tokenizer, TokenShards(folder, split, tokenizer), SOURCE, Progress())
        for split in ("train", "held_out")
    )
    expected = DATA_BITS - 16 * 32 * loss.item() / math.log(2)
    assert train["memorised_bits"] == pytest.approx(expected, rel=0.02)
    assert train["memorised_bits"] > 0.8 * DATA_BITS
    assert train["share"]["value"] == pytest.approx(train["memorised_bits"] / DATA_BITS)
    low, high = train["bits_per_parameter"]["interval"]
    assert low <= train["memorised_bits"] / train["parameters"] <= high
    assert held_out["memorised_bits"] < 0.01 * DATA_BITS


def test_what_cannot_be_measured_is_refused(tokenizer: Tokenizer, folder: Path) -> None:
    shards = TokenShards(folder, "train", tokenizer)
    other = SOURCE.model_copy(update={"name": "absent"})
    with pytest.raises(ParakeetError, match="have no document of the source absent"):
        code_length(untrained(tokenizer), tokenizer, shards, other, Progress())
    with pytest.raises(ParakeetError, match=r"32 tokens, more than the model's context of 16: raise model\.context"):
        code_length(untrained(tokenizer, context=16), tokenizer, shards, SOURCE, Progress())
