import json
import math
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.by_position import BitsPerByteByPosition
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.pages import Table
from parakeet.pages.charts import save_png
from parakeet.tokenizer import Tokenizer

from ..conftest import Prepared
from .conftest import subject_of

PNG = b"\x89PNG\r\n\x1a\n"


def model_of(tokenizer: Tokenizer, scale: float = 1.0) -> Parakeet:
    config = ModelConfig(layers=2, heads=2, width=16, context=64, vocabulary_rows=tokenizer.rows)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.embedding.weight.mul_(scale)
    return model.eval()


def shards_of(directory: Path, tokenizer: Tokenizer, lengths: list[int]) -> TokenShards:
    """Documents of random ordinary ids between a control token and another."""
    draw = np.random.default_rng(1)
    ordinary = len(tokenizer.defined_ids())
    writer = ShardWriter(directory, "held_out", tokenizer, ["text"], 1 << 30)
    for number, length in enumerate(lengths):
        ids = draw.integers(0, ordinary, length).astype(np.uint32)
        ids[0], ids[-1] = tokenizer.role_id("Human"), tokenizer.end_of_prompt
        writer.write(TokenDocument(number.to_bytes(16, "big"), "text", ids, [0, length], length))
    writer.close()
    return TokenShards(directory, "held_out", tokenizer)


def measured(prepared: Prepared, model: Parakeet, shards: TokenShards, sequence_length: int) -> dict[str, Any] | None:
    evaluation = prepared.recipe.evaluation.model_copy(update={"position_tokens": sequence_length})
    recipe = prepared.recipe.model_copy(update={"evaluation": evaluation})
    subject = subject_of(prepared, model, held_out=shards, recipe=recipe)
    figures = BitsPerByteByPosition().measure(subject)
    assert figures["longest_trained_row_tokens"] == 32
    found: dict[str, Any] | None = figures["sources"]["all"]
    return found


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_content_token(prepared: Prepared) -> None:
    """Golden: with an embedding of zeros all logits are equal, at every position. Control tokens count as neither."""
    tokenizer, shards = prepared.tokenizer, TokenShards(prepared.shards, "held_out", prepared.tokenizer)
    found = measured(prepared, model_of(tokenizer, 0.0), shards, 64)
    assert found is not None
    assert [(bucket["first"], bucket["last"]) for bucket in found["buckets"]] == [(0, 15), (16, 31), (32, 63)]
    ids = np.concatenate([shards.tokens(number) for number in range(len(shards))])[1 : 64 * found["rows"] + 1]
    content = [int(token) for token in ids if int(token) not in tokenizer.control_ids]
    assert len(content) < len(ids)
    assert sum(bucket["tokens"] for bucket in found["buckets"]) == len(content)
    assert sum(bucket["n_bytes"] for bucket in found["buckets"]) == sum(len(tokenizer.token_bytes(t)) for t in content)
    for bucket in found["buckets"]:
        assert bucket["bits_per_byte"] * bucket["n_bytes"] == pytest.approx(
            bucket["tokens"] * math.log2(tokenizer.rows)
        )


def test_buckets_are_what_each_row_says_as_one_document(prepared: Prepared, tmp_path: Path) -> None:
    """Against the model's logits, row by row: nothing is masked between documents, and errors are those over rows."""
    tokenizer = prepared.tokenizer
    model = model_of(tokenizer, 30.0)
    shards = shards_of(tmp_path, tokenizer, [9, 50, 3, 130, 2, 77, 40])
    found = measured(prepared, model, shards, 100)
    assert found is not None
    assert (found["row_tokens"], found["rows"]) == (100, 3)
    ids = np.concatenate([shards.tokens(number) for number in range(len(shards))]).astype(np.int64)
    bits, n_bytes = np.zeros((3, 100)), np.zeros((3, 100))
    for row in range(3):
        piece = torch.from_numpy(ids[100 * row : 100 * row + 101])
        with torch.no_grad():
            logits = model.logits(model(piece[None, :-1], torch.zeros(1, 100, dtype=torch.int64)))[0]
        bits[row] = F.cross_entropy(logits, piece[1:], reduction="none").numpy() / math.log(2)
        n_bytes[row] = [len(tokenizer.token_bytes(int(token))) for token in piece[1:]]
    bits[n_bytes == 0] = 0.0
    for bucket, (first, end) in zip(found["buckets"], [(0, 16), (16, 32), (32, 64), (64, 100)], strict=True):
        b, n = bits[:, first:end].sum(1), n_bytes[:, first:end].sum(1)
        ratio = b.sum() / n.sum()
        assert bucket["bits_per_byte"] == pytest.approx(ratio, rel=1e-5)
        error = np.std(b - ratio * n, ddof=1) / (math.sqrt(3) * n.mean())
        assert bucket["standard_error"] == pytest.approx(error, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 400), st.integers(1, 300))
def test_positions_are_cut_to_what_the_text_has_two_rows_of(
    prepared: Prepared, tokens: int, sequence_length: int
) -> None:
    """Beyond the model's context too. Buckets follow one another from 0 to the last position."""
    tokenizer = prepared.tokenizer
    with TemporaryDirectory() as folder:
        found = measured(prepared, model_of(tokenizer), shards_of(Path(folder), tokenizer, [tokens]), sequence_length)
    if 2 * sequence_length <= tokens - 1:
        expected = sequence_length
    else:
        expected = max((1 << n for n in range(9) if 2 << n <= tokens - 1), default=0)
    assert (found is None) == (expected < 32)
    if found is not None:
        assert found["row_tokens"] == expected
        assert found["rows"] == (tokens - 1) // expected
        assert [bucket["first"] for bucket in found["buckets"][1:]] == [
            bucket["last"] + 1 for bucket in found["buckets"][:-1]
        ]
        assert (found["buckets"][0]["first"], found["buckets"][-1]["last"]) == (0, expected - 1)


def test_tokens_are_bounded(prepared: Prepared, tmp_path: Path) -> None:
    shards = shards_of(tmp_path, prepared.tokenizer, [40_000, 30_000])
    model = model_of(prepared.tokenizer)
    short, long = (measured(prepared, model, shards, sequence_length) for sequence_length in (64, 8192))
    assert short is not None
    assert long is not None
    assert (short["rows"], long["rows"]) == (512, 8)


def test_broken_weights_are_not_scored(prepared: Prepared, tmp_path: Path) -> None:
    model = model_of(prepared.tokenizer)
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(ParakeetError, match="not finite"):
        measured(prepared, model, shards_of(tmp_path, prepared.tokenizer, [200]), 64)


def test_the_table_and_the_picture_say_what_was_measured(prepared: Prepared, tmp_path: Path) -> None:
    shards = TokenShards(prepared.shards, "held_out", prepared.tokenizer)
    found = measured(prepared, model_of(prepared.tokenizer), shards, 256)
    assert found is not None
    metric = BitsPerByteByPosition()
    figures = {"longest_trained_row_tokens": 32, "sources": {"talk": found, "text": None}}
    nothing = {"longest_trained_row_tokens": 32, "sources": {"text": None}}
    assert json.loads(json.dumps(figures)) == figures
    method, table = metric.render(figures)
    assert isinstance(table, Table)
    last = found["buckets"][-1]
    bits = f"{last['bits_per_byte']:.3f} ± {last['standard_error']:.3f}"
    assert table.rows[-2:] == [
        (f"{last['first']:,} to {last['last']:,}", bits),
        ("sequences measured", f"{found['rows']} of 256 tokens"),
    ]
    assert "up to 32 tokens" in str(method)
    assert "Not measured" in str(metric.render(nothing))
    for name, shown in (("some", figures), ("none", nothing)):
        pictures = [tmp_path / f"{name}-{copy}.png" for copy in range(2)]
        for path in pictures:
            save_png(partial(metric.plot, shown), path)
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
        assert pictures[0].read_bytes().startswith(PNG)
