"""Releases and training runs of random weights, as a build leaves them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, save_model
from parakeet.recipe import Generation
from parakeet.recipe_file import load_recipe
from parakeet.release.verify import GENERATION_FILE, write_sums
from parakeet.tokenizer import TRAINED_PATTERN, Tokenizer
from parakeet.training.checkpoint import HostCopy, RunState, write_checkpoint
from parakeet.training.job import TrainingJob
from parakeet.training.optimizer import make_optimizer
from parakeet.training.schedule import Schedule

from ..scripted import byte_tokenizer

STEPS = 100


def tiny_tokenizer() -> Tokenizer:
    return replace(byte_tokenizer(), pattern=TRAINED_PATTERN)


def tiny_model(seed: int = 1, context: int = 1024) -> Parakeet:
    rows = tiny_tokenizer().rows
    model = Parakeet(ModelConfig(layers=3, heads=2, width=16, context=context, vocabulary_rows=rows))
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def write_release(folder: Path, name: str, seed: int = 1, **settings: object) -> Path:
    """A release of a model that `seed` determines; its settings let no reply grow long."""
    folder.mkdir(parents=True)
    save_model(tiny_model(seed), folder)
    tiny_tokenizer().save(folder)
    chosen = {"name": name, "temperature": 2.0, "max_tokens": 40, "top_p": 1.0, "min_p": 0.0, **settings}
    (folder / GENERATION_FILE).write_text(json.dumps(chosen), encoding="utf-8")
    (folder / "README.md").write_text(f"# {name}\n", encoding="utf-8")
    write_sums(folder)
    return folder


def write_run(root: Path, key: str, steps: Sequence[int]) -> Path:
    """A training run with checkpoints at `steps`: the weights of each are those of `tiny_model(step)`."""
    run = root / "training_runs" / key
    run.mkdir(parents=True)
    tokenizer = root / "tokenizer" / "bytes-0"
    if not tokenizer.exists():
        tokenizer.mkdir(parents=True)
        tiny_tokenizer().save(tokenizer)
    recipe = load_recipe("demo")
    shape = recipe.model.model_copy(update={"layers": 3, "heads": 2, "width": 16, "context": 1024})
    settings = recipe.training.model_copy(
        update={"tokens": STEPS * 512, "batch_tokens": 512, "micro_batch_tokens": 512}
    )
    generation = Generation(max_tokens=40, temperature=2.0, top_p=1.0, min_p=0.0)
    recipe = recipe.model_copy(update={"model": shape, "training": settings, "generation": generation})
    where = dict.fromkeys(("shards", "plan", "output"), root / "elsewhere")
    TrainingJob(
        recipe=recipe, run=run, tokenizer=tokenizer, shards_content="d" * 64, plan_digests={"256": "e" * 64}, **where
    ).save()
    for step in steps:
        write_step(run, step)
    return run


def write_step(run: Path, step: int, seed: int | None = None) -> Path:
    recipe = TrainingJob.load(run / "job.json").recipe
    model = tiny_model(step if seed is None else seed)
    optimizer = make_optimizer(model, recipe.training)
    schedule = Schedule.from_recipe(recipe.training, recipe.packing)
    state = RunState(
        step=step, tokens=512 * step, loaders={}, schedule=schedule, monitor={}, skipped=0, rolled_back=0,
        validation_loss=None, world_size=1, good_step=step,
    )  # fmt: skip
    return write_checkpoint(run, HostCopy.of(model, optimizer, state))
