import runpy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.generation.batch import PREFILL_TOKENS
from parakeet.generation.engine import Engine, Step, batch_replies
from parakeet.sampling_settings import SamplingSettings

scripted = runpy.run_path(str(Path(__file__).parents[1] / "scripted.py"))
scripted_engine, random_engine, greedy = (scripted[n] for n in ("scripted_engine", "random_engine", "greedy"))
UNDEFINED = scripted["UNDEFINED"]


def prompt(engine: Engine, text: str = "hi") -> list[int]:
    return [*engine.tokenizer.encode(text), engine.tokenizer.role_id("Assistant")]


def sampled(seed: int, max_tokens: int = 40) -> SamplingSettings:
    return SamplingSettings(
        temperature=1.5, top_p=1, min_p=0, frequency_penalty=0, presence_penalty=0, max_tokens=max_tokens, seed=seed
    )


def test_a_reply_ends_with_the_turn() -> None:
    engine = scripted_engine(b"hello")
    steps = list(engine.generate(prompt(engine), greedy()))
    assert "".join(step.text for step in steps) == "hello"
    assert [step.token_id for step in steps] == [*b"hello", engine.tokenizer.end_of_prompt]
    assert [step.finish_reason for step in steps] == [None] * 5 + ["stop"]


def test_characters_come_whole() -> None:
    text = "é漢👩\u200d🚀!"
    engine = scripted_engine(text.encode())
    steps = list(engine.generate(prompt(engine), greedy()))
    assert [step.text for step in steps if step.text] == list(text)
    assert len(steps) == len(text.encode()) + 1


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_character_cut_off_at_the_end_is_replaced(finish: str) -> None:
    engine = scripted_engine("é漢".encode()[:-1])
    limit = 100 if finish == "stop" else 4
    steps = list(engine.generate(prompt(engine), greedy(limit)))
    assert "".join(step.text for step in steps) == "é\ufffd"
    assert steps[-1].finish_reason == finish


@given(st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_text_is_the_bytes_decoded(reply: bytes) -> None:
    engine = scripted_engine(reply)
    text = "".join(step.text for step in engine.generate(prompt(engine), greedy()))
    assert text == reply.decode("utf-8", "replace")


def test_length_is_reported() -> None:
    engine = scripted_engine(b"abc", ends=False)
    steps = list(engine.generate(prompt(engine), greedy(max_tokens=5)))
    assert [step.token_id for step in steps] == [*b"abcab", None]
    assert steps[-1].finish_reason == "length"


def test_a_full_context_is_reported() -> None:
    engine = scripted_engine(b"abc", context=8, ends=False)
    steps = list(engine.generate(prompt(engine, "12345"), greedy()))
    assert [step.token_id for step in steps] == [*b"ab", None]
    assert steps[-1].finish_reason == "context"


def test_a_prompt_that_fills_the_context_gets_no_reply() -> None:
    engine = scripted_engine(b"abc", context=8)
    (step,) = engine.generate(prompt(engine, "1234567"), greedy())
    assert (step.token_id, step.text, step.finish_reason) == (None, "", "context")


@pytest.mark.parametrize(("text", "message"), [("12345678", "9 tokens.*context is 8"), (None, "empty")])
def test_a_prompt_that_cannot_be_continued_is_refused(text: str | None, message: str) -> None:
    engine = scripted_engine(b"abc", context=8)
    with pytest.raises(ParakeetError, match=message):
        next(engine.generate([] if text is None else prompt(engine, text), greedy()))


def test_only_ordinary_ids_and_ends_are_drawn() -> None:
    engine = random_engine()
    drawn = set()
    for seed in range(15):
        drawn |= {step.token_id for step in engine.generate(prompt(engine), sampled(seed)) if step.token_id is not None}
    tokenizer = engine.tokenizer
    assert len(drawn) > 150
    assert drawn <= {*range(256), tokenizer.end_of_prompt, tokenizer.end_of_text}


def test_a_seeded_run_repeats_exactly() -> None:
    engine = random_engine()
    first = list(engine.generate(prompt(engine), sampled(seed=5)))
    assert list(engine.generate(prompt(engine), sampled(seed=5))) == first
    assert list(engine.generate(prompt(engine), sampled(seed=6))) != first


@pytest.mark.parametrize("length", [3, PREFILL_TOKENS, PREFILL_TOKENS + 1, 2 * PREFILL_TOKENS + 7])
def test_a_reply_does_not_depend_on_what_was_generated_before(length: int) -> None:
    ids = torch.randint(256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    fresh = random_engine(context=2048)
    steps = list(fresh.generate(ids, sampled(seed=4)))
    # A pause after each third of two layers, but the very last.
    pauses = 6 * -(-length // PREFILL_TOKENS) - 1
    assert sum(step.token_id is None and step.finish_reason is None for step in steps) == pauses
    used = random_engine(context=2048)
    for before in ([1, 2, 3], ids, ids[: length // 2] + [7] * 700, ids + steps_ids(steps) + [9] * 30):
        list(used.generate(before, sampled(seed=1, max_tokens=5)))
        assert as_tuples(used.generate(ids, sampled(seed=4))) == as_tuples(steps)


def as_tuples(steps: Iterable[Step]) -> list[tuple[int | None, str, str | None]]:
    """The steps without those in which a piece of the prompt was read: how many there are depends on the cache."""
    seen = [(step.token_id, step.text, step.finish_reason) for step in steps]
    return [step for step in seen if step != (None, "", None)]


def steps_ids(steps: list[Step]) -> list[int]:
    return [step.token_id for step in steps if step.token_id is not None]


def test_what_is_shared_with_an_earlier_prompt_is_not_read_again() -> None:
    engine = random_engine(context=2048)
    ids = [5] * (2 * PREFILL_TOKENS + 9)
    list(engine.generate(ids, greedy(max_tokens=3)))
    assert engine.timing.kept_tokens == 0
    list(engine.generate([*ids, 1, 2], greedy(max_tokens=3)))
    assert engine.timing.kept_tokens == 2 * PREFILL_TOKENS
    list(engine.generate([*ids[: PREFILL_TOKENS + 3], 1, 2], greedy(max_tokens=3)))
    assert engine.timing.kept_tokens == PREFILL_TOKENS


def test_the_timing_counts_what_was_done() -> None:
    engine = random_engine()
    steps = list(engine.generate(prompt(engine), greedy(max_tokens=9)))
    timing = engine.timing
    reply = [i for i in steps_ids(steps) if i not in engine.stop_ids]
    assert (timing.prompt_tokens, timing.reply_tokens) == (3, len(reply))
    assert timing.prefill_rate is not None
    assert timing.prefill_rate > 0
    passes = timing.decoded_tokens - timing.accepted_tokens
    assert timing.bytes_read > engine.model.bytes_per_token * passes
    assert timing.first_token_seconds > timing.prefill_seconds
    assert timing.bandwidth is not None


def test_stop_strings_span_tokens_and_are_not_shown() -> None:
    engine = scripted_engine(b"one two three", ends=False)
    steps = list(engine.generate(prompt(engine), replace(greedy(), stop=("o thr", "never"))))
    assert "".join(step.text for step in steps) == "one tw"
    assert steps[-1].finish_reason == "stop"
    assert [step.finish_reason for step in steps[:-1]] == [None] * (len(steps) - 1)


def test_a_rolling_reply_continues_past_the_context() -> None:
    engine = scripted_engine(b"abc", context=8, ends=False)
    steps = list(engine.generate(prompt(engine, "12345"), replace(greedy(max_tokens=30), rolling=True)))
    assert "".join(step.text for step in steps) == "abc" * 10
    assert steps[-1].finish_reason == "length"


def test_nothing_runs_after_closing() -> None:
    engine = scripted_engine(b"abc")
    steps = engine.generate(prompt(engine), greedy())
    next(steps)
    steps.close()
    assert torch.is_grad_enabled()
    assert list(steps) == []


def test_the_consumer_is_not_left_in_inference_mode() -> None:
    engine = random_engine()
    steps = engine.generate(prompt(engine), greedy())
    next(steps)
    assert not torch.is_inference_mode_enabled()


def test_damaged_weights_are_reported() -> None:
    engine = random_engine(weight=torch.nan)
    with pytest.raises(ParakeetError, match="NaN or infinite"):
        list(engine.generate(prompt(engine), greedy()))


def alone(engine: Engine, prompt: list[int], settings: SamplingSettings) -> list[int]:
    ids = [step.token_id for step in engine.generate(prompt, settings)]
    return [token for token in ids if token is not None and token not in engine.stop_ids]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_batch_is_its_replies_one_by_one(dtype: str) -> None:
    """Also once most of them have ended, and have left the cache."""
    engine = random_engine(context=64, dtype=dtype)
    prompts = [[*range(n), engine.tokenizer.role_id("Assistant")] for n in (3, 60, 17, 63, 40, 1)]
    sampled = replace(greedy(), temperature=1.3, frequency_penalty=0.3)
    settings = [replace(sampled, seed=n, max_tokens=limit) for n, limit in enumerate((30, 9, 1, 9, 200, 25))]
    together = batch_replies(engine, prompts, settings)
    assert together == [alone(engine, *pair) for pair in zip(prompts, settings, strict=True)]
    assert len(together[3]) <= 1


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([1] * 65, "65 tokens")])
def test_a_batch_with_a_prompt_that_cannot_be_continued_is_refused(prompt: list[int], message: str) -> None:
    engine = random_engine(context=64)
    with pytest.raises(ParakeetError, match=message):
        batch_replies(engine, [[1, 2], prompt], [greedy(4)] * 2)
