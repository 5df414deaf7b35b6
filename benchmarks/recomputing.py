"""`python -m benchmarks.recomputing`: decoding with the cache, beside reading the whole prefix for every token.

The original project read the whole prefix.
"""

from functools import partial

import click
import torch

from benchmarks.demands import run_command
from parakeet.benchmarks.decoding import STEPS, contexts_of
from parakeet.benchmarks.process import print_result
from parakeet.benchmarks.timing import Sample, in_rounds
from parakeet.generation.decoder import Cache, Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, best_device
from parakeet.plan import vocabulary_rows
from parakeet.recipe_file import load_recipe


def read_prefix(decoder: Decoder, cache: Cache, context: int) -> None:
    cache.lengths = [0]
    decoder.prefill([1] * context, cache)


def step(decoder: Decoder, cache: Cache) -> None:
    for _ in range(STEPS):
        decoder.step([1], cache)


@click.command("recomputing")
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Samples of each number.")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads.  [default: what torch chooses]")
def main(recipe_name: str, rounds: int, threads: int) -> None:
    """Time a decoded token in fp32 with the cache, and by reading the whole prefix again."""
    if threads:
        torch.set_num_threads(threads)
    recipe, device = load_recipe(recipe_name), best_device()
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    decoder = Decoder(model, "fp32", device)
    ratios = {}
    click.echo(f"{f'{recipe.name}, on {device}':<24}{'prefix ms':>11}{'cache ms':>10}{'times':>8}")
    for context in contexts_of(config):
        cache = decoder.new_cache(context + STEPS)
        works = {"prefix": partial(read_prefix, decoder, cache, context), "cache": partial(step, decoder, cache)}
        found = in_rounds(works, device, rounds)
        prefix, cached = Sample.of(found["prefix"]).median, Sample.of(found["cache"]).median / STEPS
        ratios[context] = prefix / cached
        click.echo(f"{f'{context:,} tokens':<24}{1e3 * prefix:>11.1f}{1e3 * cached:>10.1f}{ratios[context]:>8.1f}")
    print_result({"benchmark": "recomputing", "recipe": recipe.name, "times": ratios, "rounds": rounds})


if __name__ == "__main__":
    run_command(main)
