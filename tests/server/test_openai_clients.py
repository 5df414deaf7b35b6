"""What people have already: OpenAI's clients in Python and JavaScript, and lm-evaluation-harness."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import datasets
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from parakeet.evaluation.benchmarks.adapter import Adapter
from parakeet.evaluation.benchmarks.data import TaskData, task_data
from parakeet.evaluation.benchmarks.harness import score_tasks
from parakeet.evaluation.benchmarks.scorer import ModelScorer
from parakeet.evaluation.benchmarks.upstream import prepare_lm_eval, upstream_config
from parakeet.export.formats import export_release
from parakeet.model.transformer import load_model
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer

from .conftest import RunningServer

HELLO: Any = [{"role": "user", "content": "Who are you?"}]
SCRIPT = Path(__file__).with_name("openai_client.js")


@pytest.fixture(scope="module")
def python_client(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60)


def test_the_python_client_chats(python_client: OpenAI) -> None:
    create = python_client.chat.completions.create
    assert [model.id for model in python_client.models.list()] == ["tiny"]
    assert python_client.models.retrieve("tiny").owned_by == "parakeet"
    whole = create(
        model="tiny", messages=HELLO, max_completion_tokens=8, seed=4, n=2, temperature=0.7, top_p=0.9, stop=["\0"],
        frequency_penalty=0.1, presence_penalty=0.1, logprobs=True, top_logprobs=2, logit_bias={"65": -5}, user="me",
        extra_body={"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1},
    )  # fmt: skip
    assert whole._request_id is not None
    assert whole._request_id.startswith("req_")
    assert [choice.finish_reason for choice in whole.choices] == ["length", "length"]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 16
    assert whole.usage.prompt_tokens_details is not None
    first = whole.choices[0]
    assert first.logprobs is not None
    assert "".join(token.token for token in first.logprobs.content or []) == first.message.content
    # The accumulator of the client puts a stream together again. It takes no reply that was cut.
    text = create(model="tiny", messages=HELLO, max_tokens=8, seed=4).choices[0].message.content or ""
    with python_client.chat.completions.stream(
        model="tiny", messages=HELLO, seed=4, stop=text[5:7], stream_options={"include_usage": True}
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == text[: text.index(text[5:7])]
    assert final.usage is not None
    assert final.usage.total_tokens > final.usage.prompt_tokens


def test_the_python_client_completes_and_reads_errors(python_client: OpenAI) -> None:
    create = python_client.completions.create
    whole = create(model="tiny", prompt=["Who", "are"], max_tokens=4, echo=True, logprobs=2, seed=1)
    assert [choice.text[:3] for choice in whole.choices] == ["Who", "are"]
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or []) == len(logprobs.token_logprobs or []) == len(logprobs.text_offset or [])
    pieces = create(model="tiny", prompt="Who", max_tokens=4, echo=True, seed=1, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="gpt-4", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="temperature must be a number from 0 to 10"):
        create(model="tiny", prompt="x", temperature=99)
    with pytest.raises(openai.BadRequestError, match="not supported"):
        python_client.chat.completions.create(
            model="tiny", messages=HELLO, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings"):
        python_client.embeddings.create(model="tiny", input="x")


def test_the_async_client_has_several_streams_at_once(server: RunningServer) -> None:
    async def one(client: AsyncOpenAI, seed: int) -> tuple[str, str]:
        stream = await client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=30, seed=seed, temperature=1, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        alone = await client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=30, seed=seed, temperature=1
        )
        return text, alone.choices[0].message.content or ""

    async def several() -> list[tuple[str, str]]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(6)))

    found = asyncio.run(several())
    assert len({text for text, _ in found}) > 3
    for text, alone in found:
        assert text == alone


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with npm's openai: one of NODE_PATH, or else what npm installs."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    for folder in filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)):
        if (Path(folder) / "openai" / "package.json").is_file():
            return Path(folder)
    if shutil.which("npm") is None:
        pytest.skip("NODE_PATH has no openai, and npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    command = [
        "npm",
        "install",
        "--no-save",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--fetch-retries=0",
        "openai",
    ]
    try:
        finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install openai within 120 s")
    if finished.returncode:
        pytest.skip(f"npm cannot install openai: {finished.stderr[-200:]}")
    return folder / "node_modules"


def test_the_javascript_client(server: RunningServer, node_modules: Path, python_client: OpenAI) -> None:
    environment = {**os.environ, "NODE_PATH": str(node_modules)}
    finished = subprocess.run(
        ["node", str(SCRIPT), f"{server.url}/v1"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    plain = python_client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8, seed=4)
    text = plain.choices[0].message.content
    assert found["models"] == ["tiny"]
    assert found["whole"] == found["streamed"] == found["accumulated"] == text
    assert found["usage"]["completion_tokens"] == 8
    assert found["finish_reason"] == "length"
    assert found["tokens"] == text
    assert found["n"] == 2
    assert found["completion"].startswith("Who")
    assert found["echoed"] == found["completion"]
    assert found["request_id"].startswith("req_")
    assert found["errors"] == [[404, "model_not_found"], [400, "unsupported"], [400, None]]


def rows_of(data: TaskData) -> Any:
    held = {"test": datasets.Dataset.from_list([dict(item.row) for item in data.items])}
    return lambda **_: held


def test_lm_evaluation_harness_gives_the_scores_of_our_adapter(
    server: RunningServer, served_model: Path, tmp_path: Path
) -> None:
    """Its `local-completions`, over answers to choose from, last words of a text, and replies up to a stop."""
    for name in ("aiohttp", "tenacity"):
        pytest.importorskip(name, reason=f"lm_eval's local-completions asks for {name}: install parakeet-lm[dev]")
    prepare_lm_eval()
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    choices = [{"goal": f"What is {n} plus 1?", "sol1": str(n + 1), "sol2": "No.", "label": n % 2} for n in range(8)]
    last_words = [{"text": f"My name is Ann and {n} is my {word}"} for n in range(4) for word in ("name", "a")]
    data = [
        task_data(task, "test", [("a row", record) for record in records], "a test", "a test", None)
        for task, records in (("piqa", choices), ("lambada_openai", last_words))
    ]
    scorer = ModelScorer(load_model(served_model, "cpu"), Tokenizer.load(served_model))
    ours = score_tasks(scorer, data, Progress())
    tasks = {
        one.task: ConfigurableTask(
            config=upstream_config(one.task)
            | {"custom_dataset": rows_of(one), "dataset_name": None, "test_split": "test"}
            | dict.fromkeys(("tag", "training_split", "validation_split"))
        )
        for one in data
    }
    exported = tmp_path / "exported"
    export_release(served_model, exported, "hf", "fp32", Progress())
    client = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions", model="tiny", tokenizer=str(exported),
        tokenizer_backend="huggingface", add_bos_token=True, max_length=640, batch_size=4,
    )  # fmt: skip
    theirs = evaluate(client, {"tasks": tasks, "groups": {}}, bootstrap_iters=0)
    for one in data:
        for metric, value in ours[one.task]["lm_eval"].items():
            found = theirs["results"][one.task][f"{metric},none"]
            assert found == pytest.approx(value, rel=1e-4), (one.task, metric)
    # A server's replies have the release's penalties unless they are told to have none.
    asked = {"until": ["."], "max_gen_toks": 12, "temperature": 0.0}
    replies = [
        model.generate_until([Instance("generate_until", {}, (text, asked | more), 0) for text in ("Who are", "I am")])
        for model, more in (
            (client, {"frequency_penalty": 0, "presence_penalty": 0}),
            (Adapter(scorer, Progress()), {}),
        )
    ]
    assert replies[0] == replies[1]
