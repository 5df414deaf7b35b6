"""Sensible replies: 200 prompts as careless people type them, and the share that a person would accept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from parakeet.conversation import Turn
from parakeet.evaluation.base import Metric, Score, Subject
from parakeet.evaluation.chat_rules import Item, fault
from parakeet.evaluation.replies import GREEDY
from parakeet.formatting import format_percent
from parakeet.intervals import wilson_interval
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.template import render_prompt

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine
    from parakeet.pages import Table

PROMPTS_FILE = "chat_prompts.yaml"
MOST_REPLY_TOKENS = 160
"""A reply that has not ended by then is not sensible: the demo's longest stories have about 100 tokens."""


class Chat(Metric):
    """`prompts`, `sensible` (the share), its 95 % Wilson interval, the same by category, and what failed.

    A failed item is {"category", "turns", "replies", "fault"}: what was typed, and why the last reply was not accepted.
    """

    name = "chat"
    version = 1
    title = "Sensible replies in a chat"
    introduction = (
        "What careless people type, in conversations of 1 to 4 turns; the replies are greedy. A reply is sensible if "
        "it ends by itself, does not repeat itself, answers no other question, and has what the prompt asks for. "
        'Where a fact is asked for, an honest "I don\'t know" is sensible too. Rules decide, not another model.'
    )

    def wanted(self, recipe: Recipe) -> bool:
        """Only text like the demo's teaches what the prompts ask for."""
        return recipe.evaluation.chat_prompts and any(source.kind == "synthetic" for source in recipe.sources)

    def measure(self, subject: Subject) -> dict[str, Any]:
        return measure_chat(subject.engine, read_items(), subject.progress)

    def render(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        return [*self.render_summary(figures), *_failures(figures["failed"])]

    def render_summary(self, figures: Mapping[str, Any]) -> "list[str | Table]":
        from parakeet.pages import Table

        rows = [(name, found["prompts"], *_shares(found)) for name, found in figures["categories"].items()]
        total = ("all", figures["prompts"], *_shares(figures))
        columns = ("category", "prompts", "sensible", "95% interval")
        return [Table(columns, [*rows, total], right=(2,), total=True)]

    def scores(self, figures: Mapping[str, Any]) -> list[Score]:
        return [
            Score("sensible replies", figures["sensible"], figures["prompts"], "prompts", tuple(figures["interval"]))
        ]


@cache
def read_items() -> tuple[Item, ...]:
    """The items of the package's file, in its order."""
    import yaml

    text = files(__package__).joinpath(PROMPTS_FILE).read_text(encoding="utf-8")
    return tuple(
        _item(category, entry if isinstance(entry, dict) else {"say": entry})
        for category, entries in yaml.safe_load(text).items()
        for entry in entries
    )


def _item(category: str, entry: Mapping[str, Any]) -> Item:
    return Item(
        category,
        turns=_texts(entry["say"]),
        expect=entry.get("expect", _EXPECTED_IN.get(category, category)),
        answers=_texts(entry.get("answer", ())),
        about=frozenset(_texts(entry.get("about", ()))),
        common=entry.get("common", False),
    )


_EXPECTED_IN = {
    "small talk": "small_talk",
    "capitals": "capital",
    "colours": "colour",
    "opposites": "opposite",
    "arithmetic": "number",
    "insults": "insult",
}
"""What the items of a category expect that say nothing else, where the category has another name."""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)


def measure_chat(engine: "Engine", items: Sequence[Item], progress: Progress) -> dict[str, Any]:
    """The figures of `Chat` for a model."""
    replies, ended = _converse(engine, items, progress)
    faults = [fault(item, said, whole) for item, said, whole in zip(items, replies, ended, strict=True)]
    categories = {
        category: _share(found == "" for item, found in zip(items, faults, strict=True) if item.category == category)
        for category in dict.fromkeys(item.category for item in items)
    }
    failed = [
        {"category": item.category, "turns": list(item.turns), "replies": said, "fault": found}
        for item, said, found in zip(items, replies, faults, strict=True)
        if found
    ]
    return {**_share(not found for found in faults), "categories": categories, "failed": failed}


def _share(accepted: Iterable[bool]) -> dict[str, Any]:
    verdicts = list(accepted)
    low, high = wilson_interval(sum(verdicts), len(verdicts))
    return {"prompts": len(verdicts), "sensible": sum(verdicts) / len(verdicts), "interval": [low, high]}


def _converse(engine: "Engine", items: Sequence[Item], progress: Progress) -> tuple[list[list[str]], list[list[bool]]]:
    """The replies of each item's turns, and whether the model ended them. All items have their turns side by side."""
    from parakeet.generation.engine import batch_replies

    replies: list[list[str]] = [[] for _ in items]
    ended: list[list[bool]] = [[] for _ in items]
    settings = replace(GREEDY, max_tokens=MOST_REPLY_TOKENS)
    with progress.task("replies in a chat", sum(len(item.turns) for item in items), "replies") as task:
        for turn in range(max(len(item.turns) for item in items)):
            talking = [number for number, item in enumerate(items) if len(item.turns) > turn]
            prompts = [_prompt(engine, items[number].turns, replies[number]) for number in talking]
            found = batch_replies(engine, prompts, [settings] * len(prompts))
            for number, prompt, ids in zip(talking, prompts, found, strict=True):
                replies[number].append(engine.tokenizer.decode(ids).strip())
                ended[number].append(len(ids) < MOST_REPLY_TOKENS and len(prompt) + len(ids) < engine.context)
            task.advance(len(talking))
    return replies, ended


def _prompt(engine: "Engine", turns: Sequence[str], replies: Sequence[str]) -> list[int]:
    """The conversation up to the next reply, without its oldest exchanges where the context has no room for all.

    A turn that is longer than the context alone loses its end, so that any model can be measured.
    """
    human, assistant = turns[: len(replies) + 1], replies
    while True:
        pairs = zip(human, assistant, strict=False)
        talk = [turn for pair in pairs for turn in (Turn("Human", pair[0]), Turn("Assistant", pair[1]))]
        ids = render_prompt(engine.tokenizer, [*talk, Turn("Human", human[-1])])
        if len(ids) + MOST_REPLY_TOKENS <= engine.context or len(human) == 1:
            return ids if len(ids) <= engine.context else [*ids[: engine.context - 2], *ids[-2:]]
        human, assistant = human[1:], assistant[1:]


def _shares(figures: Mapping[str, Any]) -> tuple[str, str]:
    low, high = map(format_percent, figures["interval"])
    return format_percent(figures["sensible"]), f"{low} to {high}"


def _failures(failed: Sequence[Mapping[str, Any]]) -> "list[str | Table]":
    from parakeet.pages import Table

    if not failed:
        return ["Every reply was sensible."]
    rows = [(item["category"], " / ".join(item["turns"]), item["replies"][-1], item["fault"]) for item in failed]
    return ["Not sensible:", Table(("category", "typed", "last reply", "why not"), rows)]
