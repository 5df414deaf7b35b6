"""What int8 and int4 cost a trained model, on text that it has not seen."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from parakeet.benchmarks.precision import PRECISIONS, bits_per_byte_by_precision, held_out_bits_per_byte
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.generation.decoder import Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet

from ..conftest import Prepared


def trained(shards: TokenShards, rows: int) -> Parakeet:
    """Of a width that every kernel reads, after 150 small steps on the corpus of `prepared`."""
    config = ModelConfig(layers=2, heads=2, width=64, context=64, vocabulary_rows=rows)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    text = torch.cat([torch.as_tensor(shards.tokens(number).astype("int64")) for number in range(len(shards))])
    starts = torch.Generator().manual_seed(2)
    for _ in range(150):
        begin = torch.randint(0, len(text) - 65, (8, 1), generator=starts)
        window = text[begin + torch.arange(65)]
        logits = model.logits(model(window[:, :-1], torch.zeros_like(window[:, :-1])))
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_quantised_weights_cost_little_held_out(prepared: Prepared) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = prepared.tokenizer
    model = trained(TokenShards(prepared.shards, "train", tokenizer), tokenizer.rows)
    held_out = TokenShards(prepared.shards, "held_out", tokenizer)
    documents = list(range(len(held_out)))
    decoders = {name: Decoder(model, dtype, cache_dtype=cache) for name, (dtype, cache) in PRECISIONS.items()}
    bits = {name: held_out_bits_per_byte(decoder, tokenizer, held_out, documents) for name, decoder in decoders.items()}
    steps = {
        name: held_out_bits_per_byte(decoder, tokenizer, held_out, documents[:2], by_steps=True)
        for name, decoder in decoders.items()
    }
    exact = held_out_bits_per_byte(decoders["fp32"], tokenizer, held_out, documents[:2])
    torch.set_num_threads(threads)
    assert steps["fp32"] == pytest.approx(exact, rel=1e-4)
    assert bits["fp32"] < 2  # it has learnt: weights at random would lose nothing that matters
    for name in PRECISIONS:
        most = 0.02 if name.startswith("int4") else 0.005
        assert bits[name] == pytest.approx(bits["fp32"], rel=most), name
        assert steps[name] == pytest.approx(steps["fp32"], rel=most), name


def test_without_a_trained_model_the_command_to_make_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match="Make one with: parakeet build"):
        bits_per_byte_by_precision(tmp_path)
