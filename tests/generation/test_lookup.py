"""Prompt lookup decoding: replies are those without it, whatever is drafted; and when drafts are made."""

import runpy
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from parakeet.generation.cache import Cache
from parakeet.generation.decoder import DTYPES, Decoder
from parakeet.generation.engine import Engine, Step
from parakeet.generation.lookup import LENGTHS, LONGEST_DRAFT, DraftPolicy, Drafts, Ngrams
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.sampling_settings import SamplingSettings

scripted = runpy.run_path(str(Path(__file__).parents[1] / "scripted.py"))
scripted_engine, byte_tokenizer, greedy = (scripted[n] for n in ("scripted_engine", "byte_tokenizer", "greedy"))


class AnyLength(DraftPolicy):
    """Drafts of random lengths, whether they pay or not."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)

    def length(self, matched: int, most: int) -> int:
        return max(0, self._random.randint(0, most)) if most > 0 else 0


class AppendingDecoder(Decoder):
    """Takes several ids where the kernels are not there either: one by one."""

    can_append = True

    def append(self, ids: Sequence[int], rows: Sequence[int], cache: Cache) -> Tensor:
        if super().can_append:
            return super().append(ids, rows, cache)
        one_by_one = zip(ids, rows, strict=True)
        return torch.cat([super(AppendingDecoder, self).append([i], [row], cache) for i, row in one_by_one])


@cache
def engine(dtype: str, prompt_lookup: bool, context: int = 48) -> Engine:
    tokenizer = byte_tokenizer()
    model = Parakeet(ModelConfig(layers=2, heads=2, width=64, context=context, vocabulary_rows=tokenizer.rows))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.3, generator=generator)
    made = Engine(AppendingDecoder(model.eval(), dtype), tokenizer)
    made.prompt_lookup = prompt_lookup
    return made


def words() -> st.SearchStrategy[list[int]]:
    """Prompts in which a few pieces repeat."""
    pieces = st.lists(st.sampled_from([b"ab", b"abc", b"cab", b"\n", b"x"]), min_size=1, max_size=10)
    return pieces.map(lambda parts: list(b"".join(parts)))


SETTINGS = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0, 0.2, 1, 3]),
    top_k=st.sampled_from([0, 1, 2, 5]),
    top_p=st.sampled_from([0.5, 0.9, 1]),
    min_p=st.sampled_from([0, 0.05]),
    repetition_penalty=st.sampled_from([0.7, 1, 1.3]),
    frequency_penalty=st.sampled_from([-0.5, 0, 0.3]),
    presence_penalty=st.sampled_from([0, 0.5]),
    max_tokens=st.integers(1, 40),
    stop=st.sampled_from([(), ("a", "\n"), ("\x00",)]),
    rolling=st.booleans(),
    seed=st.integers(0, 99),
)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    turns=st.lists(st.tuples(words(), SETTINGS, st.sampled_from([1, 7, 999])), min_size=1, max_size=2),
    seed=st.integers(0, 99),
)
def test_replies_are_the_same_with_and_without(
    dtype: str, turns: list[tuple[list[int], SamplingSettings, int]], seed: int
) -> None:
    """Also after a reply that was interrupted in the middle of a draft, and beyond the context."""
    plain, drafting = engine(dtype, False), engine(dtype, True)
    drafting.draft_policy = AnyLength(seed)
    said: list[int] = []
    for words, sampling, steps in turns:
        prompt = (said + words)[-44:]
        expected, found = (take(each.generate(prompt, sampling), steps) for each in (plain, drafting))
        assert found == expected
        assert plain.timing.reply_tokens == drafting.timing.reply_tokens
        assert plain.timing.decoded_tokens == drafting.timing.decoded_tokens
        said = prompt + [step.token_id for step in found if step.token_id is not None and step.token_id < 256]


def take(steps: Iterator[Step], count: int) -> list[Step]:
    taken = [step for step, _ in zip(steps, range(count), strict=False)]
    steps.close()  # type: ignore[attr-defined]
    return taken


@pytest.mark.parametrize("rolling", [False, True])
def test_a_prompt_of_several_pieces_is_kept_as_without(rolling: bool) -> None:
    """Over the end of the ring, too, where the oldest tokens are overwritten."""
    plain, drafting = (engine("fp32", prompt_lookup, 600) for prompt_lookup in (False, True))
    drafting.draft_policy = AnyLength(1)
    ids, drafted = [97, 98, 99] * 190, 0
    for length, tokens in ((570, 20), (570, 60), (520, 30), (570, 5)):
        sampling = SamplingSettings(temperature=0.5, max_tokens=tokens, rolling=rolling, seed=length)
        expected, found = (list(each.generate(ids[:length], sampling)) for each in (plain, drafting))
        assert found == expected
        assert drafting.timing.kept_tokens == plain.timing.kept_tokens
        drafted += drafting.timing.drafted_tokens
    assert drafted > 0


def test_text_that_repeats_takes_fewer_passes() -> None:
    """Each token is still a step of its own, and the rate counts tokens that were drawn."""
    reply = b"the cat sat on the mat; " * 8
    engine = scripted_engine(reply, delay=0.002)
    prompt = [*b"Say it: the cat sat on the mat; the cat", engine.tokenizer.role_id("Assistant")]
    steps = list(engine.generate(prompt, greedy()))
    assert [step.token_id for step in steps] == [*reply, engine.tokenizer.end_of_prompt]
    assert [step.text for step in steps[:-1]] == [chr(byte) for byte in reply]
    timing, passes = engine.timing, engine.model.passes
    assert timing.decoded_tokens == len(reply)
    assert len(passes) < len(reply) / 2
    assert timing.drafted_tokens == sum(passes) - len(passes)
    assert timing.accepted_tokens == len(reply) - len(passes)
    assert timing.decode_rate == pytest.approx(len(reply) / timing.decode_seconds)
    assert timing.bytes_read == pytest.approx(len(passes) * 28, rel=10)
    engine.prompt_lookup = False
    assert list(engine.generate(prompt, greedy())) == steps
    assert (engine.timing.drafted_tokens, engine.timing.accepted_tokens) == (0, 0)


def test_text_that_never_repeats_is_not_drafted() -> None:
    engine = scripted_engine(bytes(range(256)), delay=0.0)
    list(engine.generate([engine.tokenizer.role_id("Assistant")], greedy()))
    assert engine.timing.drafted_tokens == 0


def test_a_draft_ends_with_the_turn() -> None:
    """A reply never goes on behind an end, so a pass need not look there."""
    drafts = Drafts([1, 2, 3, 4, 9, 5, 1, 2], {9}, eager())
    assert drafts.propose(10) == [3, 4]
    drafts.append(3)
    drafts.append(4)
    assert drafts.propose(10) == []


def eager() -> DraftPolicy:
    policy = DraftPolicy()
    policy.right = dict.fromkeys(policy.right, 1.0)
    return policy


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=20), st.integers(1, 12))
@example([], [0, 0, 0], 5)
def test_the_index_finds_the_latest_of_the_longest_matches(begin: list[int], more: list[int], count: int) -> None:
    ngrams = Ngrams(begin)
    for token_id in more:
        ngrams.append(token_id)
    ids = [*begin, *more]
    position, matched = ngrams.match()
    assert (position, matched) == latest_match(ids)
    if matched:
        # As if each copied token were appended before the next one is copied.
        expected = list(ids)
        for place in range(count):
            expected.append(expected[position + place])
        assert ngrams.copy(position, count) == expected[len(ids) :]


def latest_match(ids: Sequence[int]) -> tuple[int, int]:
    for n in LENGTHS:
        for end in range(len(ids) - 1, n - 1, -1):
            if ids[end - n : end] == ids[-n:]:
                return end, n
    return len(ids), 0


def trained(policy: DraftPolicy, **told: Any) -> DraftPolicy:
    """The policy after many passes of `row` more time a token, and matches of which `right` of 10 are right."""
    for _ in range(30):
        policy.record_pass(1, 1.0)
        policy.record_pass(9, 1 + 8 * told["row"])
        for number in range(10):
            policy.record_match(told["matched"], number < told["right"])
    return policy


@pytest.mark.parametrize(
    ("row", "matched", "right", "least", "most"),
    [
        (0.02, 20, 10, LONGEST_DRAFT, LONGEST_DRAFT),
        (0.02, 1, 0, 0, 0),
        (0.02, 1, 3, 1, 4),
        (0.1, 4, 5, 1, 4),
        (0.3, 20, 10, LONGEST_DRAFT, LONGEST_DRAFT),
        (0.3, 2, 2, 0, 0),
        (1.0, 20, 9, 0, 0),  # a pass that costs as much as its tokens one by one
        (3.0, 4, 10, 0, 0),
    ],
)
def test_a_draft_is_as_long_as_it_pays(row: float, matched: int, right: int, least: int, most: int) -> None:
    policy = trained(DraftPolicy(), row=row, matched=matched, right=right)
    assert least <= policy.length(matched, LONGEST_DRAFT) <= most
    assert policy.length(matched, 0) == 0


def test_drafts_stop_when_they_are_wrong_and_begin_again() -> None:
    policy = DraftPolicy()
    assert policy.length(8, LONGEST_DRAFT) > 0
    trained(policy, row=0.2, matched=8, right=0)
    assert policy.length(8, LONGEST_DRAFT) == 0
    trained(policy, row=0.2, matched=8, right=9)
    assert policy.length(8, LONGEST_DRAFT) > 0


def test_one_slow_pass_does_not_end_drafts() -> None:
    policy = DraftPolicy()
    policy.record_pass(1, 1.0)
    policy.record_pass(9, 500.0)
    policy.record_pass(9, 400.0)
    for _ in range(300):
        policy.record_pass(1, 1.0)
    assert policy.length(20, LONGEST_DRAFT) > 0
