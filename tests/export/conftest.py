"""Releases to export: a tiny trained one, and one in the original's shape. Read them, never change them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parakeet.conversation import Turn
from parakeet.data.synthetic.generator import dialogues
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, save_model
from parakeet.recipe import Generation
from parakeet.release.verify import (
    TRAINING_MANIFEST_FILE,
    write_generation_config,
    write_json,
    write_sums,
)
from parakeet.template import render_document
from parakeet.tokenizer import Tokenizer, cl100k_base, train_tokenizer

CONTEXT = 640
STEPS, SEQUENCES, LENGTH = 60, 8, 128
CARD = """---
license: gpl-3.0
library_name: parakeet
---
# A tiny model

It was trained by a test.

    parakeet chat --model .

![Training loss](loss_curve.png)

[report.html](report.html) shows all of this on one page.

## Limits
"""


@pytest.fixture(scope="session")
def conversations() -> list[tuple[Turn, ...]]:
    """What the demo learns from."""
    return [dialogue.turns for dialogue in dialogues(400, seed=1)]


@pytest.fixture(scope="session")
def trained_release(conversations: list[tuple[Turn, ...]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 layers, 4 heads, width 64, a BPE of 500 tokens; trained for some seconds, so that its replies are words."""
    tokenizer = train_tokenizer((turn.content for turns in conversations for turn in turns), 500)
    config = ModelConfig(layers=3, heads=4, width=64, context=CONTEXT, vocabulary_rows=tokenizer.rows)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    train(
        model,
        torch.cat([torch.from_numpy(render_document(tokenizer, turns)[0].astype("int64")) for turns in conversations]),
    )
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    settings = Generation(temperature=0.4, top_p=0.9, min_p=0.02, max_tokens=64)
    return write_release(folder, model, tokenizer, settings)


def train(model: Parakeet, ids: Tensor) -> None:
    """ids (n,) of all documents, one after another."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.0)
    drawn = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        begins = torch.randint(len(ids) - LENGTH, (SEQUENCES,), generator=drawn)
        rows = torch.stack([ids[begin : begin + LENGTH + 1] for begin in begins.tolist()])
        hidden = model(rows[:, :-1], torch.zeros_like(rows[:, :-1]))
        optimizer.zero_grad()
        F.cross_entropy(model.logits(hidden).flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()


@pytest.fixture(scope="session")
def original_shape_release(cl100k_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers, 18 heads, width 72, cl100k_base with Parakeet's four tokens, random weights (29 MB)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cl100k_cache))
        tokenizer = cl100k_base()
    model = Parakeet(ModelConfig(layers=2, heads=18, width=72, context=CONTEXT, vocabulary_rows=tokenizer.rows))
    randomise(model)
    folder = tmp_path_factory.mktemp("original_shape") / "original-shape"
    settings = Generation(temperature=0.3, top_p=0.95, min_p=0.01, frequency_penalty=0.07, presence_penalty=0.02)
    return write_release(folder, model, tokenizer, settings)


@pytest.fixture(scope="session")
def unshared_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 layers, each with its own key/value projection, 4 heads, width 64, random weights."""
    tokenizer = train_tokenizer(["hello world"] * 9, 300)
    model = Parakeet(ModelConfig(3, 4, 64, CONTEXT, tokenizer.rows, share_keys_values=False))
    randomise(model)
    return write_release(tmp_path_factory.mktemp("unshared") / "unshared", model, tokenizer, Generation())


@torch.no_grad()
def randomise(model: Parakeet) -> None:
    """Weights at which every tensor has an effect on the logits, whose deviation is about 6.

    With twice as large ones, any two ways to compute fp32 logits differ by 1e-4, as much as each from float64."""
    drawn = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            parameter.normal_(0.0, 0.7 if name == "embedding.weight" else 0.08, generator=drawn)
        else:
            parameter.normal_(0.0 if name.endswith("bias") else 1.0, 0.1, generator=drawn)


def write_release(folder: Path, model: Parakeet, tokenizer: Tokenizer, settings: Generation) -> Path:
    """A release as a build leaves it, without the report and the pictures."""
    folder.mkdir()
    save_model(model, folder)
    tokenizer.save(folder)
    write_generation_config(folder, folder.name, settings, tokenizer)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    write_json(folder / TRAINING_MANIFEST_FILE, {"source_files": {}, "packages": {}})
    write_json(folder / "evaluation.json", {"bits_per_byte": {}})
    write_sums(folder)
    return folder
