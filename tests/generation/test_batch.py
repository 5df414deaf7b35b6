"""Many replies at once are the replies that come one by one."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from parakeet.errors import ParakeetError
from parakeet.generation.batch import batch_replies
from parakeet.generation.engine import Engine
from parakeet.generation.settings import SamplingSettings

scripted = runpy.run_path(str(Path(__file__).parents[1] / "scripted.py"))
random_engine, greedy = scripted["random_engine"], scripted["greedy"]


def alone(engine: Engine, prompt: list[int], settings: SamplingSettings) -> list[int]:
    ids = [step.token_id for step in engine.generate(prompt, settings)]
    return [token for token in ids if token is not None and token not in engine.stop_ids]


def test_a_batch_is_its_replies_one_by_one() -> None:
    engine = random_engine(context=64)
    prompts = [[*range(n), engine.tokenizer.role_id("Assistant")] for n in (3, 60, 17, 63, 40, 1)]
    sampled = replace(greedy(), temperature=1.3, frequency_penalty=0.3)
    settings = [replace(sampled, seed=n, max_tokens=limit) for n, limit in enumerate((30, 9, 1, 9, 200, 25))]
    together = batch_replies(engine, prompts, settings)
    assert together == [alone(engine, *pair) for pair in zip(prompts, settings, strict=True)]
    assert len(together[3]) <= 1


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([1] * 65, "65 tokens")])
def test_a_prompt_that_cannot_be_continued_is_refused(prompt: list[int], message: str) -> None:
    engine = random_engine(context=64)
    with pytest.raises(ParakeetError, match=message):
        batch_replies(engine, [[1, 2], prompt], [greedy(4)] * 2)
