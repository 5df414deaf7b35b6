"""Draws dialogues from the families by weight, and questions from the held-out ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from parakeet.conversation import Turn
from parakeet.data.questions import Question
from parakeet.data.synthetic.careless import CARELESS_SHARE, careless
from parakeet.data.synthetic.chitchat import (
    SYSTEM_PROMPTS,
    any_name,
    ask,
    conversation,
    extra_fact,
    greeting,
    identity,
    introduction,
    joke,
    name_alone,
    name_question,
    poem,
    small_talk,
    story,
    thanks,
)
from parakeet.data.synthetic.drills import drills
from parakeet.data.synthetic.phrasing import FRAMES, exchange, framed, pick, pick_frame, pick_weighted
from parakeet.data.synthetic.reserved import holds_reserved
from parakeet.data.synthetic.scored_tasks import Split, rank, scored_tasks, split_task
from parakeet.data.synthetic.unknowns import unknown
from parakeet.errors import ParakeetError

TASKS: tuple[str, ...] = tuple(task.name for task in scored_tasks())

# Far beyond this, the small families (greetings, thanks) run out of distinct dialogues and the mix would drift.
MAXIMUM_DIALOGUES = 100_000
HELD_OUT_SHARE = 0.03
SYSTEM_SHARE = 0.03
# Without mixed conversations, a model of 3 M parameters repeats its first answer for the rest of a chat
# (docs/experiments.md).
MIXED_SHARE = 0.55
LONGEST_MIX = 5
# A name is asked for this often after each part of a mixed conversation.
NAME_QUESTION_SHARE = 0.06

# Shares of the draws; the first six follow the order of the scored tasks.
_SCORED_WEIGHTS = (0.12, 0.07, 0.11, 0.12, 0.12, 0.075)
_TALK_WEIGHTS = (
    ("identity", identity, 0.10),
    ("greeting", greeting, 0.075),
    ("small_talk", small_talk, 0.20),
    ("thanks", thanks, 0.07),
    ("joke", joke, 0.02),
    ("poem", poem, 0.008),
    ("story", story, 0.012),
    ("facts", extra_fact, 0.025),
    ("unknown", unknown, 0.10),
)
_INTRODUCTION_WEIGHT = 0.05
_CONVERSATION_WEIGHT = 0.06
_DRILL_WEIGHT = 0.045

_Draw = Callable[[Random], tuple[Turn, ...]]
_Family = tuple[str, _Draw]


@dataclass(frozen=True)
class Dialogue:
    """A whole conversation of one family (`task`). `split` is "train" or "held_out"."""

    task: str
    turns: tuple[Turn, ...]
    split: str


def _asks(split: Split) -> _Draw:
    return lambda rng: ask(rng, pick(rng, split.training))


def _asks_short(split: Split) -> _Draw:
    """Half of the questions have the shortest of four answers, since small sums are what people ask."""

    def draw(rng: Random) -> tuple[Turn, ...]:
        drawn = [pick(rng, split.training) for _ in range(1 if rng.random() < 0.5 else 4)]
        return ask(rng, min(drawn, key=lambda fact: len(fact.answer)))

    return draw


def _families(splits: tuple[Split, ...]) -> list[tuple[_Family, float]]:
    """Every kind of training dialogue with its weight."""
    scored = [
        ((name, _asks_short(split) if name == "arithmetic" else _asks(split)), weight)
        for name, split, weight in zip(TASKS, splits, _SCORED_WEIGHTS, strict=True)
    ]
    talk = [((name, draw), weight) for name, draw, weight in _TALK_WEIGHTS]
    follow_ups = ("conversation", lambda rng: conversation(rng, splits))
    introduced = ("introduction", lambda rng: introduction(rng, any_name(rng)))
    return [
        *scored,
        *talk,
        (follow_ups, _CONVERSATION_WEIGHT),
        (introduced, _INTRODUCTION_WEIGHT),
        (("drill", drills(splits[TASKS.index("arithmetic")])), _DRILL_WEIGHT),
    ]


def _splits(seed: int) -> tuple[Split, ...]:
    return tuple(split_task(task, seed) for task in scored_tasks())


def dialogues(count: int, seed: int) -> Iterator[Dialogue]:
    """`count` distinct dialogues in a seeded order, about 3 % of them held out. A larger count only adds to the end.

    Raises ParakeetError immediately if `count` is negative or above `MAXIMUM_DIALOGUES`.
    """
    if not 0 <= count <= MAXIMUM_DIALOGUES:
        raise ParakeetError(
            f"The synthetic source makes 0 to {MAXIMUM_DIALOGUES:,} distinct dialogues, not {count:,}. "
            "Choose a count in that range."
        )
    return _draw_distinct(count, seed)


def _draw_distinct(count: int, seed: int) -> Iterator[Dialogue]:
    rng = Random(seed)
    splits = _splits(seed)
    families = _families(splits)
    seen: set[tuple[Turn, ...]] = set()
    while len(seen) < count:
        held_out = rng.random() < HELD_OUT_SHARE
        # Repeats are redrawn within the same split, so that they do not change the share of held-out dialogues.
        dialogue = None
        while dialogue is None or dialogue.turns in seen or _is_reserved(dialogue):
            dialogue = _draw_held_out(rng, splits) if held_out else _draw_training(rng, families)
        seen.add(dialogue.turns)
        yield dialogue


def _is_reserved(dialogue: Dialogue) -> bool:
    return holds_reserved([turn.content for turn in dialogue.turns if turn.role == "Human"])


def _draw_training(rng: Random, families: list[tuple[_Family, float]]) -> Dialogue:
    """One draw from one family, or a mixed conversation of two to five unrelated draws; half of them typed carelessly.

    A question for the user's name is answered by the last name that was given before it.
    """
    mixed = rng.random() < MIXED_SHARE
    turns: tuple[Turn, ...] = ()
    name = said = ""
    for _ in range(2 + int(rng.random() * (LONGEST_MIX - 1)) if mixed else 1):
        name, draw = pick_weighted(rng, families)
        turns += draw(rng)
        if name == "introduction":
            said = turns[-1].content.removeprefix("Hello, ").partition("!")[0]
        if rng.random() < NAME_QUESTION_SHARE * (6 if name == "introduction" else 1):
            turns += name_question(rng, said)
            if not said and rng.random() < 0.4:
                said = any_name(rng)
                turns += name_alone(rng, said)
    if rng.random() < CARELESS_SHARE:
        turns = tuple(Turn(t.role, careless(t.content, rng)) if t.role == "Human" else t for t in turns)
    if rng.random() < SYSTEM_SHARE:
        turns = (Turn("System", pick(rng, SYSTEM_PROMPTS)), *turns)
    return Dialogue("conversation" if len(turns) > 3 else name, turns, "train")


def _draw_held_out(rng: Random, splits: tuple[Split, ...]) -> Dialogue:
    task, split = pick(rng, tuple(zip(TASKS, splits, strict=True)))
    fact, question = pick(rng, split.held_out)
    return Dialogue(task, exchange(framed(question, pick_frame(rng)), fact.answer), "held_out")


def held_out_questions(per_task: int, seed: int, source: str = "synthetic") -> list[Question]:
    """Up to `per_task` distinct questions of each scored task, none of which occurs in a training turn of this seed.

    A smaller `per_task` gives the first questions of a larger one. Every pair of fact and phrasing comes once before
    any comes again in another frame. Raises ParakeetError if `per_task` is negative.
    """
    if per_task < 0:
        raise ParakeetError(f"The number of held-out questions per task is {per_task}: choose 0 or more.")
    return [
        question
        for task, split in zip(TASKS, _splits(seed), strict=True)
        for question in _questions(source, task, split, per_task, seed)
    ]


def _questions(source: str, task: str, split: Split, per_task: int, seed: int) -> list[Question]:
    ranked = sorted((rank(seed, "order", task, question), question, fact) for fact, question in split.held_out)
    every_frame = (
        Question(source, task, framed(question, FRAMES[(order[0] + turn) % len(FRAMES)]), fact.answer)
        for turn in range(len(FRAMES))
        for order, question, fact in ranked
    )
    return list(islice(every_frame, per_task))
