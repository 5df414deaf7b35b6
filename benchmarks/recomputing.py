"""`python -m benchmarks.recomputing`: decoding with the cache, beside reading the whole prefix for every token.

The original project read the whole prefix.
"""

from statistics import median

import click
import torch

from benchmarks.demands import run_command
from parakeet.benchmarks.decoding import STEPS, contexts_of
from parakeet.benchmarks.process import print_result
from parakeet.benchmarks.timing import in_rounds
from parakeet.cli.bench import THREADS
from parakeet.formatting import render_table
from parakeet.generation.cache import Cache
from parakeet.generation.decoder import Decoder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet, best_device
from parakeet.plan import vocabulary_rows
from parakeet.recipe_file import load_recipe


@click.command("recomputing")
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Samples of each number.")
@THREADS
def main(recipe_name: str, rounds: int, threads: int) -> None:
    """Time a decoded token in fp32 with the cache, and by reading the whole prefix again."""
    if threads:
        torch.set_num_threads(threads)
    recipe, device = load_recipe(recipe_name), best_device()
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    decoder = Decoder(model, "fp32", device)
    ratios, rows = {}, []
    for context in contexts_of(config):
        cache = decoder.new_cache(context + STEPS)

        def read_prefix(context: int = context, cache: Cache = cache) -> None:
            cache.lengths = [0]
            decoder.prefill([1] * context, cache)

        def steps(cache: Cache = cache) -> None:
            for _ in range(STEPS):
                decoder.step([1], cache)

        found = in_rounds({"prefix": read_prefix, "cache": steps}, device, rounds)
        prefix, cached = median(found["prefix"]), median(found["cache"]) / STEPS
        ratios[context] = prefix / cached
        rows.append((f"{context:,} tokens", f"{1e3 * prefix:.1f}", f"{1e3 * cached:.1f}", f"{ratios[context]:.1f}"))
    columns = (f"{recipe.name}, on {device}", "prefix ms", "cache ms", "times")
    click.echo(render_table(columns, rows, right=(1, 2, 3)))
    print_result({"benchmark": "recomputing", "recipe": recipe.name, "times": ratios, "rounds": rounds})


if __name__ == "__main__":
    run_command(main)
