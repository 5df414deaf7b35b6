"""`parakeet bench evaluate`: tokens a second of the benchmarks' adapter, beside those of the model's own prefill."""

import random
import time
from collections.abc import Callable
from typing import Any

import click
import torch

from parakeet.benchmarks.decoding import filled_cache, prefill_of
from parakeet.benchmarks.process import print_result
from parakeet.benchmarks.timing import Sample, in_rounds
from parakeet.evaluation.benchmarks.adapter import Request
from parakeet.evaluation.benchmarks.scorer import ModelScorer
from parakeet.formatting import format_percent, render_table
from parakeet.generation.decoder import Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.plan import vocabulary_rows
from parakeet.recipe import Recipe
from parakeet.sanitise import sanitise

QUESTIONS, ANSWERS = 64, 4
QUESTION_TOKENS, ANSWER_TOKENS = (20, 100), (4, 30)
"""As of HellaSwag and ARC with a vocabulary of 4,096."""
NEEDED = 0.7
"""Share of the prefill's speed that the adapter should have."""


def run(recipe: Recipe, threads: int, rounds: int) -> None:
    """Score random requests with random weights of the recipe's shape; a table, then one JSON line."""
    if threads:
        torch.set_num_threads(threads)
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    scorer = _RandomScorer(model.eval())
    requests = _requests(config)
    decoder = Decoder(model, "fp32")
    prompt = [number % 256 for number in range(prefill_of(config))]
    cache = filled_cache(decoder, len(prompt))

    def prefill() -> None:
        cache.lengths = [0]
        decoder.prefill(prompt, cache)

    works: dict[str, Callable[[], Any]] = {
        "adapter": lambda: scorer.score(requests, lambda _: None),
        "prefill": prefill,
    }
    for work in works.values():
        work()
    scorer.tokens = 0
    began = time.perf_counter()
    seconds = in_rounds(works, "cpu", rounds)
    computed = scorer.tokens / rounds
    asked = sum(len(request.given) + len(request.scored) - 1 for request in requests)
    rates = {
        "adapter": Sample.of([computed / taken for taken in seconds["adapter"]]),
        "adapter, shared questions counted for each answer": Sample.of([asked / taken for taken in seconds["adapter"]]),
        "prefill": Sample.of([len(prompt) / taken for taken in seconds["prefill"]]),
    }
    # Round by round, since other load slows both alike.
    share = Sample.of(
        [
            computed / scoring / (len(prompt) / reading)
            for scoring, reading in zip(seconds["adapter"], seconds["prefill"], strict=True)
        ]
    )
    click.echo(f"{sanitise(recipe.name)}: {config.parameter_count:,} parameters, random weights, fp32\n")
    rows = [(name, f"{rate.median:,.0f}", f"{rate.low:,.0f} to {rate.high:,.0f}") for name, rate in rates.items()]
    click.echo(render_table(("", "tokens/s", "range"), rows, right=(1, 2)))
    click.echo(f"The adapter has {format_percent(share.median, 0)} of the prefill's speed; {NEEDED:.0%} are needed.\n")
    print_result(
        {
            "benchmark": "evaluate",
            "recipe": recipe.name,
            "parameters": config.parameter_count,
            "tokens_per_second": {name: rate.as_json() for name, rate in rates.items()},
            "of_prefill": share.as_json(),
            "seconds": time.perf_counter() - began,
        }
    )


class _RandomScorer(ModelScorer):
    """Scores ids, so it needs no tokenizer."""

    def __init__(self, model: Parakeet) -> None:
        self.model = model
        self.tokens = 0


def _requests(config: ModelConfig) -> list[Request]:
    rng = random.Random(1)
    longest = config.context // 2
    requests = []
    for _ in range(QUESTIONS):
        given = tuple(rng.randrange(256) for _ in range(min(longest, rng.randint(*QUESTION_TOKENS))))
        for _ in range(ANSWERS):
            scored = tuple(rng.randrange(256) for _ in range(min(longest, rng.randint(*ANSWER_TOKENS))))
            requests.append(Request(given, scored))
    return requests
