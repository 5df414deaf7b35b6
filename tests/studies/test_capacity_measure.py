"""The measure of capacity, and the runs of study `memorisation` that it is for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parakeet.data.random_text import random_texts
from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.base import Subject
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.recipe_changes import changed
from parakeet.recipe_file import load_recipe
from parakeet.stages import Build
from parakeet.studies.capacity import Capacity
from parakeet.studies.measure import Trained
from parakeet.studies.study import make_study
from parakeet.template import render_text
from parakeet.tokenizer import count_words


def test_random_text_is_measured_and_other_text_is_not(tmp_path: Path) -> None:
    tokenizer = count_words(random_texts(8, 32, 16, seed=1), 308)
    for split, held_out in (("train", False), ("held_out", True)):
        writer = ShardWriter(tmp_path, split, tokenizer, ["strings"], 1 << 20)
        for number, text in enumerate(random_texts(8, 32, 16, seed=1, held_out=held_out)):
            ids, spans = render_text(tokenizer, text)
            writer.write(TokenDocument(number.to_bytes(16, "big"), "strings", ids, spans, len(text)))
        writer.close()
    train, held_out_shards = (TokenShards(tmp_path, split, tokenizer) for split in ("train", "held_out"))
    model = Parakeet(ModelConfig(2, 2, 16, 64, tokenizer.rows))
    model.initialise(torch.Generator().manual_seed(1))
    recipe = changed(load_recipe("random-strings"), ["sources.strings.symbols=32", "sources.strings.alphabet=16"])
    engine = Engine(Decoder(model.eval(), "fp32", compiled=False), tokenizer)
    subject = Subject(recipe, model, engine, tokenizer, train, held_out_shards, {}, [], Progress())

    found = Capacity().measure(Trained(subject, {}))
    assert found is not None
    assert (found["documents"], found["data_bits"]) == (8, 8 * 32 * 4)
    assert found["parameters"] == model.config.parameter_count
    assert found["memorised_bits"] == found["held_out_share"]["value"] == 0.0

    demo = replace(subject, recipe=load_recipe("demo"))
    assert Capacity().measure(Trained(demo, {})) is None


def test_the_study_finds_its_own_run_with_every_token_and_plants_nothing_in_random_strings(tmp_path: Path) -> None:
    study = make_study("memorisation", "cpu")
    runs = {run.name: run for run in study.runs()}
    assert study.key(runs["goldfish.every-token.s2"]) == study.key(runs["planted.128x4.4.s2"])
    assert study.key(runs["goldfish.three-of-four.s2"]) != study.key(runs["planted.128x4.4.s2"])
    of_strings = [run for run in runs.values() if run.arm.startswith("capacity")]
    assert {run.recipe.model.width for run in of_strings} == {8, 12, 16}
    for run in of_strings:
        assert run.recipe.canaries is None
        assert "memorisation" not in Build(tmp_path, run.recipe).stages  # which make_run then does not ask for


@pytest.mark.parametrize(
    "name", ["capacity.1.s1", "capacity.4.s1", "capacity_by_size.8x2.2.s1", "capacity_by_size.16x2.2.s1"]
)
def test_the_strings_are_so_many_times_what_is_published(name: str) -> None:
    (run,) = (run for run in make_study("memorisation", "cpu").runs() if run.name == name)
    (source,) = run.recipe.sources
    assert source.kind == "random"
    config = ModelConfig.from_recipe(run.recipe.model, 320)
    used = config.parameter_count - (320 - 65) * config.width
    times = source.documents * run.recipe.limit * source.bits / (3.6 * used)
    assert times == pytest.approx(int(name.split(".")[-2]), rel=0.03)
