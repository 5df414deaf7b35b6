"""Replies beside others are the replies alone."""

import asyncio
import runpy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.generation.batch import PREFILL_TOKENS, Batch, Job, Request
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.generation.kernels import library
from parakeet.generation.steps import Step
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.sampling_settings import SamplingSettings
from parakeet.server.worker import Busy, Stream, Worker

scripted = runpy.run_path(str(Path(__file__).parents[1] / "scripted.py"))
byte_tokenizer, random_engine, greedy = (scripted[name] for name in ("byte_tokenizer", "random_engine", "greedy"))


@cache
def engine(dtype: str, compiled: bool = True, context: int = 96) -> Engine:
    """Of weights that are large enough for every reply to be another."""
    tokenizer = byte_tokenizer()
    model = Parakeet(ModelConfig(layers=3, heads=2, width=64, context=context, vocabulary_rows=tokenizer.rows))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.3, generator=generator)
    return Engine(Decoder(model.eval(), dtype, compiled=compiled), tokenizer)


def alone(engine: Engine, request: Request) -> list[list[Step]]:
    return [
        [step for step in engine.generate(request.prompt_ids, each, request.log_probabilities) if step != PAUSE]
        for each in request.settings
    ]


PAUSE = Step(None, "", None)


def together(batch: Batch, requests: list[Request], every: int = 1) -> dict[int, list[list[Step]]]:
    """The steps of each reply to each request, which come one after the other, one in `every` turns."""
    found = {number: [list[Step]() for _ in request.settings] for number, request in enumerate(requests)}
    jobs: dict[int, Job] = {}
    turns = 0
    while len(jobs) < len(requests) or batch.busy:
        coming = len(jobs)
        if turns % every == 0 and coming < len(requests) and batch.free >= len(requests[coming].settings):
            jobs[coming] = batch.start(requests[coming])
        turns += 1
        for job, index, step in batch.advance():
            number = next(number for number, each in jobs.items() if each is job)
            found[number][index].append(step)
    assert all(job.done and job.error is None for job in jobs.values())
    return found


SAMPLED = SamplingSettings(temperature=1.2, top_p=0.95, min_p=0.01, frequency_penalty=0.2, max_tokens=20)
a_prompt = st.lists(st.integers(0, 255), min_size=1, max_size=80)
a_setting = st.builds(
    replace,
    st.sampled_from(
        [SAMPLED, greedy(25), replace(SAMPLED, rolling=True, max_tokens=60), replace(SAMPLED, stop=("a",))]
    ),
    seed=st.integers(0, 99),
)
a_request = st.builds(
    Request,
    a_prompt,
    st.lists(a_setting, min_size=1, max_size=3),
    log_probabilities=st.booleans(),
)


@pytest.mark.skipif(library() is None, reason="needs a C compiler: torch's own products depend on their neighbours")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "int4"])
@given(requests=st.lists(a_request, min_size=1, max_size=5), every=st.integers(1, 7))
@settings(max_examples=6, deadline=None)
def test_replies_beside_others_are_the_replies_alone(dtype: str, requests: list[Request], every: int) -> None:
    found = together(Batch(engine(dtype), 4), requests, every)
    assert found == {number: alone(engine(dtype), request) for number, request in enumerate(requests)}


@pytest.mark.skipif(library() is None, reason="needs a C compiler")
def test_more_replies_than_the_kernels_take_at_once() -> None:
    requests = [Request([n, n + 1], [replace(SAMPLED, seed=n)]) for n in range(18)]
    found = together(Batch(engine("int8"), 20), requests)
    assert found == {number: alone(engine("int8"), request) for number, request in enumerate(requests)}


def test_without_kernels_likeliest_replies_are_those_alone() -> None:
    """One step is one of all rows there: those of others and free ones compute what nobody reads."""
    plain = engine("fp32", compiled=False)
    sizes = [(3, 30), (70, 40), (96, 5), (20, 9), (95, 4), (1, 60)]
    requests = [Request([*range(n, n + length)], [greedy(limit)]) for n, (length, limit) in enumerate(sizes)]
    # Its prompt fills the row: what a pass of others wrote there before its first token would be seen.
    requests.insert(2, Request([*range(67, 163)], [replace(greedy(12), rolling=True)]))
    found = together(Batch(plain, 3), requests, every=3)
    assert found == {number: alone(plain, request) for number, request in enumerate(requests)}


def test_what_a_row_holds_of_a_prompt_is_not_read_again() -> None:
    """Also with another request between the turns of a conversation."""
    wide = random_engine(context=2048)
    batch = Batch(wide, 2)
    talk = [5] * (PREFILL_TOKENS + 40)
    turns = [talk, [7] * 600, [*talk, 1, 2, 3], [*talk, *[4] * 700]]
    kept = []
    for ids in turns:
        job = batch.start(Request(ids, [greedy(3)]))
        steps = []
        while not job.done:
            steps += [step for _, _, step in batch.advance()]
        assert steps == alone(random_engine(context=2048), job.request)[0]
        kept.append(job.timings[0].kept_tokens)
    assert kept == [0, 0, PREFILL_TOKENS, PREFILL_TOKENS]


def test_replies_to_one_prompt_read_it_once() -> None:
    request = Request([1, 2, 3, 4], [replace(SAMPLED, seed=seed) for seed in range(4)], log_probabilities=True, top=3)
    found = together(Batch(engine("fp32"), 4), [request])[0]
    assert [[step.token_id for step in reply] for reply in found] == [
        [step.token_id for step in reply] for reply in alone(engine("fp32"), request)
    ]
    for step in found[0]:
        if step.token_id is not None:
            assert len(step.top) == 3
            assert step.log_probability is not None
            assert step.top[0][1] >= step.top[1][1] >= step.log_probability or step.token_id in dict(step.top)


def test_a_prompt_is_scored_as_the_engine_does() -> None:
    batch, ids = Batch(engine("fp32", context=1024), 1), torch.randint(256, (700,)).tolist()
    job = batch.start(Request(ids, [], score_prompt=True, top=2))
    while not job.done:
        assert batch.advance() == []
    assert [each.token_id for each in job.prompt_scores] == ids
    assert job.prompt_scores[0].log_probability is None
    found = [each.log_probability for each in job.prompt_scores[1:]]
    assert found == pytest.approx(engine("fp32", context=1024).log_probabilities(ids), abs=1e-4)
    assert all(each.top[0][1] >= (each.log_probability or 0) - 1e-6 for each in job.prompt_scores[1:])
    assert batch.free == 1


def test_a_bias_forbids_and_forces_tokens() -> None:
    (plain,) = together(Batch(engine("fp32"), 1), [Request([1, 2], [greedy(5)])])[0]
    first = plain[0].token_id
    assert first is not None
    (other,) = together(Batch(engine("fp32"), 1), [Request([1, 2], [greedy(5)], logit_bias={first: -100.0})])[0]
    assert first not in [step.token_id for step in other]
    forced = Request([1, 2], [replace(SAMPLED, seed=1)], logit_bias={65: 100.0})
    assert {step.token_id for step in together(Batch(engine("fp32"), 1), [forced])[0][0]} == {65, None}


def test_a_cancelled_request_gives_its_places_up() -> None:
    batch = Batch(engine("fp32"), 2)
    keeps = Request([9, 8], [replace(greedy(40), stop=())])
    kept, dropped = batch.start(keeps), batch.start(Request([1, 2, 3], [greedy(60)]))
    steps = [step for _ in range(12) for job, _, step in batch.advance() if job is kept]
    assert batch.free == 0
    dropped.cancelled = True
    assert (batch.free, dropped.done) == (1, True)
    late = batch.start(Request([5], [greedy(3)]))
    late.cancelled = True  # while its prompt is read
    while not kept.done:
        steps += [step for job, _, step in batch.advance() if job is kept]
    assert steps == alone(engine("fp32"), keeps)[0]
    assert (batch.free, batch.busy) == (2, False)


def test_damaged_weights_end_the_replies_and_free_their_places() -> None:
    batch = Batch(random_engine(weight=torch.nan), 2)
    job = batch.start(Request([1], [greedy(3)]))
    while not job.done:
        assert batch.advance() == []
    assert isinstance(job.error, ParakeetError)
    assert batch.free == 2


def run(stream: Stream) -> "asyncio.Task[list[str]]":
    async def read() -> list[str]:
        texts = ["" for _ in stream.request.settings]
        async for index, step in stream:
            texts[index] += step.text
        return texts

    return asyncio.ensure_future(read())


def test_a_worker_serves_many_at_once_and_refuses_what_it_cannot_keep() -> None:
    async def main() -> None:
        worker = Worker(engine("fp32"), batch=2, most_waiting=3)
        requests = [Request([n], [replace(SAMPLED, seed=n, max_tokens=60)]) for n in range(40)]
        streams = [worker.submit(request) for request in requests[:3]]
        # Two of them may have been started meanwhile.
        with pytest.raises(Busy, match="try again in"):
            streams += [worker.submit(request) for request in requests[3:]]
        tasks = [run(stream) for stream in streams[1:]]
        streams[0].cancel()
        replies = await asyncio.gather(*tasks)
        with pytest.raises(ParakeetError, match="3 replies were asked for, but 2"):
            worker.submit(Request([1], [SAMPLED] * 3))
        with pytest.raises(ParakeetError, match="97 tokens"):
            worker.submit(Request([1] * 97, [SAMPLED]))
        expected = [["".join(step.text for step in alone(engine("fp32"), r)[0])] for r in requests[1 : len(streams)]]
        assert replies == expected
        assert all(stream.timings[0].first_token_seconds > 0 for stream in streams[1:])
        await worker.close()
        with pytest.raises(ParakeetError, match="stopping"):
            worker.submit(requests[0])

    asyncio.run(main())


def test_an_unexpected_error_ends_the_replies_and_the_worker_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        worker = Worker(engine("fp32"), batch=2)
        # An id that is not in the vocabulary: the routes refuse it.
        with pytest.raises(ParakeetError, match="terminal says why"):
            await run(worker.submit(Request([1], [SAMPLED], logit_bias={1 << 20: 1.0})))
        assert worker.running == 0
        request = Request([7], [replace(SAMPLED, seed=1)])
        expected = "".join(step.text for step in alone(engine("fp32"), request)[0])
        assert await run(worker.submit(request)) == [expected]
        await worker.close()

    asyncio.run(main())
    assert "IndexError" in capsys.readouterr().err
