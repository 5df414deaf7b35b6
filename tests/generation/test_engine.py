import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.generation.engine import PREFILL_TOKENS, Engine
from parakeet.generation.sampling import SamplingSettings

scripted = runpy.run_path(str(Path(__file__).parents[1] / "scripted.py"))
scripted_engine, random_engine, greedy = (scripted[n] for n in ("scripted_engine", "random_engine", "greedy"))
UNDEFINED = scripted["UNDEFINED"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products on two threads of a busy machine take ten times as long: the threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def test_stop_ids_can_be_chosen() -> None:
    engine = scripted_engine(b"abcd")
    steps = list(engine.generate(prompt(engine), greedy(), stop_ids=[ord("c")]))
    assert "".join(step.text for step in steps) == "ab"
    assert (steps[-1].token_id, steps[-1].finish_reason) == (ord("c"), "stop")


def test_only_ordinary_ids_and_ends_are_said() -> None:
    engine = random_engine()
    said = set()
    for seed in range(15):
        said |= {step.token_id for step in engine.generate(prompt(engine), sampled(seed)) if step.token_id is not None}
    tokenizer = engine.tokenizer
    assert len(said) > 150
    assert said <= {*range(256), tokenizer.end_of_prompt, tokenizer.end_of_text}


def test_ends_that_are_no_stops_are_not_said() -> None:
    engine = random_engine()
    steps = [step for seed in range(6) for step in engine.generate(prompt(engine), sampled(seed), stop_ids=[])]
    assert {step.token_id for step in steps} <= {*range(256), None}


def test_a_seeded_run_repeats_exactly() -> None:
    engine = random_engine()
    first = list(engine.generate(prompt(engine), sampled(seed=5)))
    assert list(engine.generate(prompt(engine), sampled(seed=5))) == first
    assert list(engine.generate(prompt(engine), sampled(seed=6))) != first


@pytest.mark.parametrize("length", [3, PREFILL_TOKENS, PREFILL_TOKENS + 1, 2 * PREFILL_TOKENS + 7])
def test_the_cache_gives_what_a_whole_pass_gives(length: int) -> None:
    engine = random_engine(context=1024)
    ids = torch.randint(256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    steps = list(engine.generate(ids, greedy(max_tokens=6), stop_ids=[]))
    said = [step.token_id for step in steps if step.token_id is not None]
    assert len(said) == 6
    assert len(steps) == 6 + 1 + (length - 1) // PREFILL_TOKENS
    for n, token_id in enumerate(said):
        whole = torch.tensor([ids + said[:n]])
        with torch.no_grad():
            logits = engine.model.decode(whole, engine.model.new_cache(1, whole.shape[1]))[0]
        logits[256:] = -torch.inf
        assert int(logits.argmax()) == token_id


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
    engine = random_engine()
    with torch.no_grad():
        next(iter(engine.model.parameters())).fill_(torch.nan)
    with pytest.raises(ParakeetError, match="NaN or infinite"):
        next(engine.generate(prompt(engine), greedy()))
