"""Tiny corpora with an index, and a model that knows three documents by heart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from parakeet.data.tokens.packing import make_packing_plan
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.memorisation.measure import Subject
from parakeet.memorisation.read import times_read
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.template import render_text
from parakeet.tokenizer import Tokenizer
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex
from parakeet.training.optimizer import make_optimizer

from ..conftest import Prepared

CONTEXT = 128


def recipe_of(prepared: Prepared, tokens: int = 64 * 200) -> Recipe:
    """A recipe with the one source `all`, whose training reads everything at least once."""
    values = prepared.recipe.model_dump()
    values["sources"] = [{"name": "all", "path": "unused.txt"}]
    values["packing"]["sequence_length"] = 64
    values["model"]["context"] = CONTEXT
    values["training"] |= {"tokens": tokens, "batch_tokens": 64, "micro_batch_tokens": 64}
    return Recipe.model_validate(values)


def write_corpus(root: Path, recipe: Recipe, tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> None:
    """Token shards with these plain documents by split, their plan and their index, in folders of `root`."""
    folders = {name: root / name for name in ("token_shards", "packing_plan", "trace_index")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for split in ("train", "held_out"):
        writer = ShardWriter(folders["token_shards"], split, tokenizer, ["all"], 1 << 20)
        for number, text in enumerate(texts.get(split, [])):
            ids, spans = render_text(tokenizer, text)
            digest = number.to_bytes(8, "big") * 2
            writer.write(TokenDocument(digest, "all", ids, spans, len(text.encode())))
        writer.close()
    make_packing_plan(recipe, folders, folders["packing_plan"], Progress())
    build_index(TokenShards(folders["token_shards"]), tokenizer.sha256, "0" * 64, folders["trace_index"], Progress())


def subject_of(root: Path, recipe: Recipe, tokenizer: Tokenizer, model: Parakeet) -> Subject:
    train = TokenShards(root / "token_shards", "train", tokenizer)
    return Subject(
        model,
        Engine(Decoder(model, "fp32"), tokenizer),
        tokenizer,
        TraceIndex.open(root / "trace_index"),
        root / "token_shards",
        train,
        TokenShards(root / "token_shards", "held_out", tokenizer),
        times_read(recipe, root / "packing_plan", train.lengths()),
        recipe.packing.sequence_length,
        () if recipe.canaries is None else ("canaries",),
    )


def random_text(seed: int, words: int = 40) -> str:
    """Words of random letters, a text that nobody can guess."""
    rng = np.random.default_rng(seed)
    return " ".join("".join(rng.choice(list("abcdefghijklmnop"), 4)) for _ in range(words))


def untrained(tokenizer: Tokenizer, width: int = 16, context: int = CONTEXT) -> Parakeet:
    model = Parakeet(ModelConfig(layers=2, heads=2, width=width, context=context, vocabulary_rows=tokenizer.rows))
    model.initialise(torch.Generator().manual_seed(1))
    return model.eval()


@pytest.fixture(scope="session")
def overfit(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model that was trained on three texts until it knew them, and three that it has not seen."""
    root = tmp_path_factory.mktemp("overfit")
    recipe, tokenizer = recipe_of(prepared), prepared.tokenizer
    texts = {
        "train": [random_text(number) for number in range(3)],
        "held_out": [random_text(number) for number in range(10, 13)],
    }
    write_corpus(root, recipe, tokenizer, texts)
    model = untrained(tokenizer, width=64)
    shards = TokenShards(root / "token_shards")
    length = int(shards.lengths().min())
    ids = torch.from_numpy(np.stack([shards.tokens(number)[:length].astype(np.int64) for number in range(3)]))
    # Pieces from all places, so that a prefix from the middle of a text is enough.
    steps, width = 200, 80
    settings = recipe.training.model_copy(update={"learning_rate": 0.02, "optimizer": "muon", "precision": "fp32"})
    optimizer = make_optimizer(model, settings)
    for step in range(steps):
        begins = [number * 7 % (length - width) for number in (2 * step, 2 * step + 1)]
        some = torch.cat([ids[:, begin : begin + width + 1] for begin in begins])
        hidden = model(some[:, :-1], torch.zeros_like(some[:, :-1]))
        logits = (hidden @ model.embedding.weight.T).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, some[:, 1:].flatten())
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.25
    return subject_of(root, recipe, tokenizer, model.eval())
