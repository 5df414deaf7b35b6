"""Generation health: whether replies repeat themselves, run in a loop, say nothing, or do not end."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Any

from parakeet.conversation import Turn
from parakeet.evaluation.base import Metric, Subject
from parakeet.evaluation.replies import GREEDY
from parakeet.evaluation.shares import plot_shares, share_cells, share_text
from parakeet.intervals import FEWEST_TEXTS, jackknife_interval, pooled_share, share_of
from parakeet.template import render_prompt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages import Table
    from parakeet.pages.charts import Palette

TEMPERATURES = (0.0, 0.8)
HELD_OUT_PROMPTS = 27
"""With the five prompts of a recipe, one batch of 64 replies."""
TEXT_PROMPT_TOKENS = 32
MOST_TOKENS = 128
REPEATED_TOKENS = 4
LONGEST_PERIOD, LEAST_REPEATS = 20, 3
DISTINCT = (1, 2, 3)


class GenerationHealth(Metric):
    """`prompts` (how many), `most_tokens`, and `temperatures`: {"temperature", …} each, of {"n", "share", "interval"}s.

    repetition: the share of 4-grams of tokens that stand before in the same reply. loops: replies that end in three or
    more repeats of at most 20 tokens. empty: replies without a visible character. unfinished: replies that ran to
    `most_tokens` or to the end of the context. distinct_1 to distinct_3: different n-grams by all n-grams of all
    replies (Li et al. 2016, arXiv 1510.03055). `n` counts replies: all, or for repetition and distinct those that are
    long enough. A figure of none is None, and so is the interval of too few.
    """

    name = "generation_health"
    version = 1
    since = 4
    title = "Generation health"
    introduction = (
        f"Replies of at most {MOST_TOKENS} tokens to the recipe's prompts and to beginnings of held-out documents, "
        "greedy (temperature 0) and at temperature 0.8 with fixed seeds."
    )
    plot_file = "generation_health.png"
    plot_title = "Generation health"

    def measure(self, subject: Subject) -> dict[str, Any]:
        from parakeet.generation.engine import batch_replies

        prompts = _prompts(subject)
        settings = [
            replace(GREEDY, temperature=temperature, max_tokens=MOST_TOKENS, seed=seed)
            for temperature in TEMPERATURES
            for seed in range(len(prompts))
        ]
        with subject.progress.task("generation health", len(settings), "replies") as task:
            replies = batch_replies(subject.engine, prompts * len(TEMPERATURES), settings)
            task.advance(len(settings))
        found = []
        for number, temperature in enumerate(TEMPERATURES):
            some = replies[number * len(prompts) : (number + 1) * len(prompts)]
            found.append({"temperature": temperature, **_health(subject, prompts, some)})
        return {"prompts": len(prompts), "most_tokens": MOST_TOKENS, "temperatures": found}

    def render(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        from parakeet.pages import Table

        rows = [
            (title, f"{found['temperature']:g}", *share_cells(found[key]))
            for key, title in TITLES.items()
            for found in figures["temperatures"]
            if found[key] is not None
        ]
        if not rows:
            return ["Not measured: the recipe has no prompts, and too little text is held out."]
        return [Table(("figure", "temperature", "n", "share", "95% interval"), rows, right=(1, 3))]

    def render_summary(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        if not figures["prompts"]:
            return self.render(figures)
        texts: list[str | Table] = []
        for found in figures["temperatures"]:
            shares = [f"{TITLES[key]} {share_text(found[key])}" for key in SHORT if found[key] is not None]
            texts.append(f"Temperature {found['temperature']:g}, {figures['prompts']} replies: {', '.join(shares)}.")
        return texts

    def plot(self, figures: Mapping[str, Any], palette: "Palette") -> "Figure":
        everywhere = [key for key in TITLES if all(found[key] is not None for found in figures["temperatures"])]
        series = {
            f"temperature {found['temperature']:g}": {TITLES[key]: found[key] for key in everywhere}
            for found in figures["temperatures"]
        }
        return plot_shares(palette, series, "share of 4-grams, replies or n-grams, %")


TITLES = {
    "repetition": "repeated 4-grams",
    "loops": "replies that end in a loop",
    "empty": "empty replies",
    "unfinished": "replies without an end",
    **{f"distinct_{n}": f"distinct {n}-grams" for n in DISTINCT},
}
SHORT = ("repetition", "loops", "empty", "unfinished")


def _prompts(subject: Subject) -> list[list[int]]:
    """Ids of the recipe's prompts, and of beginnings of held-out documents: of a chat, up to the first reply.

    Evenly from all sources, without repeats. A prompt leaves at least half of the context to the reply, or, of the
    recipe's, some of it.
    """
    tokenizer, context = subject.tokenizer, subject.engine.context
    asked = [render_prompt(tokenizer, [Turn("Human", prompt)]) for prompt in subject.recipe.evaluation.prompts]
    spread = [numbers[:: max(1, len(numbers) // HELD_OUT_PROMPTS)] for numbers in subject.documents.values()]
    begun: dict[tuple[int, ...], None] = {}
    for number in chain.from_iterable(zip_longest(*spread)):
        if number is not None and len(begun) < HELD_OUT_PROMPTS:
            ids: list[int] = subject.held_out.tokens(number).tolist()
            prompt = _beginning(ids, tokenizer.role_id("Assistant"), context // 2)
            if 0 < len(prompt) <= context // 2:
                begun[tuple(prompt)] = None
    return [prompt for prompt in asked if len(prompt) < context] + [list(prompt) for prompt in begun]


def _beginning(ids: Sequence[int], assistant: int, most: int) -> Sequence[int]:
    if assistant in ids:
        return ids[: ids.index(assistant) + 1]
    return ids[: min(TEXT_PROMPT_TOKENS, len(ids) // 2, most)]


def _health(subject: Subject, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> dict[str, Any]:
    context = subject.engine.context
    texts = [subject.tokenizer.decode(reply) for reply in replies]
    full = [
        len(reply) >= min(MOST_TOKENS, context - len(prompt)) for prompt, reply in zip(prompts, replies, strict=True)
    ]
    return {
        "repetition": _repetition(replies),
        "loops": share_of(map(ends_in_a_loop, replies)) if replies else None,
        "empty": share_of(not text.strip() for text in texts) if replies else None,
        "unfinished": share_of(full) if replies else None,
        **{f"distinct_{n}": _distinct(replies, n) for n in DISTINCT},
    }


def n_grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(islice(ids, begin, None) for begin in range(n)), strict=False))


def ends_in_a_loop(ids: Sequence[int]) -> bool:
    """Whether the last tokens are a run of up to LONGEST_PERIOD tokens, LEAST_REPEATS times or more."""
    for period in range(1, LONGEST_PERIOD + 1):
        end = list(ids[-LEAST_REPEATS * period :])
        if len(end) == LEAST_REPEATS * period and end[period:] == end[:-period]:
            return True
    return False


def _repetition(replies: Iterable[Sequence[int]]) -> dict[str, Any] | None:
    """4-grams of a reply that stand before in it, by all its 4-grams; over replies of at least one."""
    grams = [n_grams(reply, REPEATED_TOKENS) for reply in replies]
    return pooled_share([len(found) - len(set(found)) for found in grams], [len(found) for found in grams])


def _distinct(replies: Iterable[Sequence[int]], n: int) -> dict[str, Any] | None:
    """Different n-grams by all n-grams of the replies that have one."""
    grams = [found for found in (n_grams(reply, n) for reply in replies) if found]
    if not grams:
        return None
    holders = Counter(gram for found in grams for gram in set(found))
    all_of = sum(map(len, grams))
    share = len(holders) / all_of
    # What is left without each reply: the n-grams that another one has too.
    left = [(len(holders) - sum(holders[gram] == 1 for gram in set(found)), all_of - len(found)) for found in grams]
    interval = (
        list(jackknife_interval(share, [some / total for some, total in left])) if len(grams) >= FEWEST_TEXTS else None
    )
    return {"n": len(grams), "share": share, "interval": interval}
