"""`python -m benchmarks.lookup`: generation with and without prompt lookup decoding.

A decoder of the recipe's shape with random weights computes each pass in full, and then says a given text: one that
repeats its prompt, and one in which nothing is ever followed by what followed it before. With `--model`, a released
model chats too.
"""

import base64
import time
from collections.abc import Callable, Generator, Sequence
from random import Random
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.demands import at_most, print_demands, run_command
from parakeet.chat.models import ModelOpener
from parakeet.chat.session import Session
from parakeet.cli.bench import THREADS
from parakeet.cli.common import Whole
from parakeet.formatting import render_table
from parakeet.generation.cache import Cache
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.generation.engine import Engine, Timing
from parakeet.generation.lookup import LONGEST_DRAFT, DraftPolicy, Drafts
from parakeet.home import home
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.plan import vocabulary_rows
from parakeet.recipe_file import load_recipe
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import END_OF_PROMPT, END_OF_TEXT, PADDING, ROLE_TOKENS, Tokenizer

CHANGED = 20
"""In the text that repeats its prompt, one token in so many is another one."""
MOST_COST = 0.02
"""Share of the time of a text that never repeats which looking it up may cost."""

MESSAGES = (
    "Who are you?",
    "What is the capital of France?",
    "What is the capital of Italy?",
    "Count from one to ten.",
    "Count from one to twelve.",
    "What can you do?",
    "Tell me about the sun.",
    "Tell me about the moon.",
)

Generate = Callable[[Engine], list[Timing]]


class SayingDecoder(Decoder):
    """Computes like any decoder, and then says `text`: the ids at each position, from the prompt's first on."""

    text: Sequence[int] = ()

    def prefill_in_parts(self, ids: Sequence[int], cache: Cache, row: int = 0) -> Generator[None, None, Tensor]:
        logits = yield from super().prefill_in_parts(ids, cache, row)
        return self._say(logits[None], cache)[0]

    def append(self, ids: Sequence[int], rows: Sequence[int], cache: Cache) -> Tensor:
        return self._say(super().append(ids, rows, cache), cache)

    @torch.inference_mode()
    def _say(self, logits: Tensor, cache: Cache) -> Tensor:
        """logits (n, vocabulary rows) after the latest n positions."""
        first = cache.lengths[0] - len(logits) + 1
        for row, token_id in zip(logits, self.text[first:], strict=False):
            row[token_id] = 1e6
        return logits


@click.command("lookup")
@click.option("--recipe", "recipe_name", default="demo", show_default=True, help="Shipped recipe or recipe file.")
@click.option("--dtype", "dtypes", type=click.Choice(DTYPES), multiple=True, help="Repeatable.  [default: all]")
@click.option(
    "--tokens", type=Whole(CHANGED), default=200, show_default=True, help="Tokens of a prompt and of a reply."
)
@click.option("--rounds", type=Whole(1, 1000), default=5, show_default=True, help="Samples of each number.")
@click.option("--model", metavar="MODEL", help="A released model that chats too.")
@THREADS
def main(recipe_name: str, dtypes: tuple[str, ...], tokens: int, rounds: int, model: str | None, threads: int) -> None:
    """Time replies with and without prompt lookup decoding."""
    if threads:
        torch.set_num_threads(threads)
    recipe = load_recipe(recipe_name)
    config = ModelConfig.from_recipe(recipe.model, vocabulary_rows(recipe))
    weights = Parakeet(config)
    weights.initialise(torch.Generator().manual_seed(1))
    tokens = min(tokens, config.context // 2)
    found: list[dict[str, Any]] = []
    for dtype in dtypes or DTYPES:
        engine = Engine(SayingDecoder(weights, dtype), stand_in_tokenizer(config.vocabulary_rows))
        for name, text in (("repeats its prompt", repeating(tokens)), ("never repeats", unrelated(2 * tokens))):
            found.append({"text": name, "dtype": dtype, **compare(engine, saying(text, tokens), rounds)})
        if model is not None:
            chatting = ModelOpener(home(), "cpu", dtype, threads).open(model).engine
            found.append({"text": f"chat of {model}", "dtype": dtype, **compare(chatting, chat, rounds)})
    print_table(found)
    result = {"benchmark": "lookup", "recipe": recipe.name, "tokens": tokens, "rounds": rounds, "rows": found}
    seconds = seconds_of_lookups(unrelated(2 * tokens), tokens)
    click.echo(f"\nLooking up takes {1e6 * seconds / tokens:.1f} µs a token.")
    cost = seconds / min(row["cpu"][0] for row in found if row["text"] == "never repeats")
    result["seconds_of_lookups"] = seconds
    print_demands(result, [at_most("Look-ups where nothing repeats, share of CPU seconds", cost, MOST_COST)], threads)


def stand_in_tokenizer(rows: int) -> Tokenizer:
    """Bytes and control tokens, with as many rows as the recipe's tokenizer would have."""
    names = (END_OF_TEXT, END_OF_PROMPT, PADDING, *ROLE_TOKENS.values())
    vocabulary = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
    return Tokenizer("bytes", vocabulary, r"[\s\S]", {name: rows - 1 - i for i, name in enumerate(names)})


def repeating(tokens: int) -> list[int]:
    """A prompt of random ids, and the same ids with one in CHANGED replaced."""
    random = Random(1)
    prompt = [random.randrange(256) for _ in range(tokens)]
    return prompt + [random.randrange(256) if i % CHANGED == CHANGED // 2 else prompt[i] for i in range(tokens)]


def unrelated(tokens: int) -> list[int]:
    """Ids that are never followed by the same id as at their latest occurrence."""
    random, text = Random(2), [0]
    following: dict[int, int] = {}
    while len(text) < tokens:
        token_id = random.randrange(256)
        if following.get(text[-1]) != token_id:
            following[text[-1]] = token_id
            text.append(token_id)
    return text


def saying(text: list[int], prompt_tokens: int) -> Generate:
    settings = SamplingSettings(temperature=0, max_tokens=len(text) - prompt_tokens)

    def generate(engine: Engine) -> list[Timing]:
        assert isinstance(engine.model, SayingDecoder)
        engine.model.text = text
        said = [step.token_id for step in engine.generate(text[:prompt_tokens], settings) if step.token_id is not None]
        assert said == text[prompt_tokens:]
        return [engine.timing]

    return generate


def chat(engine: Engine) -> list[Timing]:
    session, timings = Session(engine, SamplingSettings(seed=1, max_tokens=200)), []
    for message in MESSAGES:
        list(session.reply(message))
        timings.append(engine.timing)
    return timings


def compare(engine: Engine, generate: Generate, rounds: int) -> dict[str, Any]:
    """Without and with drafts: the median of tokens a second, and the least CPU seconds, with those of the prompts."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    timings: list[Timing] = []
    for number in range(rounds + 1):
        for drafting in (False, True):
            engine.prompt_lookup = drafting
            began, before = time.perf_counter(), time.process_time()
            timings = generate(engine)
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - before
            if number:  # the first warms up
                read = sum(timing.prefill_seconds for timing in timings)
                rates[drafting].append(sum(timing.reply_tokens for timing in timings) / (seconds - read))
                cpu[drafting].append(cpu_seconds)
    drafted, accepted, decoded = (
        sum(getattr(timing, name) for timing in timings)
        for name in ("drafted_tokens", "accepted_tokens", "decoded_tokens")
    )
    return {
        "tokens_per_second": [median(rates[drafting]) for drafting in (False, True)],
        "cpu": [min(cpu[drafting]) for drafting in (False, True)],
        "passes_per_token": (decoded - accepted) / decoded,
        "drafted": drafted,
        "accepted": accepted,
        "row_cost": engine.draft_policy.row_cost,
    }


def seconds_of_lookups(text: list[int], prompt_tokens: int) -> float:
    """CPU seconds of all that a reply without drafts does for them: less than the noise of its own time."""
    samples = []
    for _ in range(9):
        before = time.process_time()
        drafts = Drafts(text[:prompt_tokens], (), DraftPolicy())
        for token_id in text[prompt_tokens:]:
            drafts.append(token_id)
            drafts.propose(LONGEST_DRAFT)
        samples.append(time.process_time() - before)
    return median(samples)


def print_table(found: Sequence[dict[str, Any]]) -> None:
    columns = ("text", "dtype", "tokens/s", "with drafts", "times", "CPU", "passes a token", "accepted", "row cost")
    rows = []
    for row in found:
        (before, after), (cpu_before, cpu_after) = row["tokens_per_second"], row["cpu"]
        rates = f"{before:.1f}", f"{after:.1f}", f"{after / before:.2f}", f"{cpu_after / cpu_before:.2f}"
        accepted = f"{row['accepted']} of {row['drafted']}"
        rows.append(
            (row["text"], row["dtype"], *rates, f"{row['passes_per_token']:.2f}", accepted, f"{row['row_cost']:.2f}")
        )
    click.echo(render_table(columns, rows, right=range(2, 9)))


if __name__ == "__main__":
    run_command(main)
