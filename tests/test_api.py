"""`import parakeet`: what it gives, what it refuses, and that it gives what the commands give."""

import gc
import json
import math
import re
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import parakeet
from parakeet.chat.message_list import read_messages
from parakeet.cli import main
from parakeet.data.tokens.shards import TokenShards
from parakeet.evaluation.scoring import bits_of
from parakeet.model.transformer import load_model, save_model
from parakeet.progress import Progress
from parakeet.release.verify import GENERATION_FILE, write_json, write_sums
from parakeet.sampling_settings import OPTIONS, SamplingOptions

from .chat.tiny_models import tiny_model, tiny_tokenizer, write_release, write_run
from .foreign_text import TEXTS
from .trace.small_texts import write_split, write_store

ROOT = Path(__file__).parents[1]
TRAIN = [f"Once upon a time there were {number} small grey parrots, who lived in a garden." for number in range(9)]
SETTINGS = {"temperature": 2.0, "max_tokens": 40, "top_p": 1.0, "min_p": 0.0}
TALK = [("system", "Be brief."), ("user", "Who are you?"), ("assistant", "A parrot."), ("user", "Two and two?")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a release of random weights and its trace index, a model that was imported, and a run."""
    root = tmp_path_factory.mktemp("api") / "home"
    folder = write_store(root, tiny_tokenizer(), TRAIN, ["The fox looked at the grapes, and went away hungry."])
    save_model(tiny_model(5), folder)
    write_json(folder / GENERATION_FILE, {"name": "aesop", **SETTINGS})
    write_sums(folder)
    write_release(root / "imported" / "other-folder", "other", 2)
    write_run(root, "abcd1234abcd1234", (10,))
    return root


@pytest.fixture(autouse=True)
def home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(root))


@pytest.fixture(scope="module")
def model(root: Path) -> Iterator[parakeet.Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARAKEET_HOME", str(root))
        yield parakeet.load()


def chat(*arguments: str) -> list[dict[str, Any]]:
    """The events that `parakeet chat --json` prints."""
    finished = CliRunner().invoke(main, ["chat", "--json", *arguments])
    assert finished.exit_code == 0, finished.output
    return [json.loads(line) for line in finished.stdout.splitlines()]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["event"] == "text")


def test_importing_it_is_cheap_and_its_help_reads_like_documentation() -> None:
    code = "import parakeet, sys; parakeet.load; parakeet.Model; dir(parakeet); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"torch", "numpy", "dagster", "tiktoken", "pydantic", "rich", "click", "pyarrow", "parakeet.chat.models"}
    assert not heavy & set(loaded.stdout.split())
    page = subprocess.run(
        [sys.executable, "-c", "import parakeet; help(parakeet)"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    for name in parakeet.__all__:
        assert re.search(rf"\b{name}\(|class {name}", page), name
        assert getattr(parakeet, name).__doc__
    assert "OpenedModel" not in page.replace("opened: 'OpenedModel'", "")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        parakeet.lode  # type: ignore[attr-defined]  # noqa: B018


def test_the_typed_settings_are_the_settings() -> None:
    assert list(SamplingOptions.__annotations__) == list(OPTIONS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [(None, "aesop"), ("other", "other"), ("abcd", "run abcd1234@10"), ("abcd1234@10", "run abcd1234@10")],
)
def test_a_model_opens_by_name_and_says_what_it_is(root: Path, name: str | None, expected: str) -> None:
    model = parakeet.load(name, dtype="bf16", device="cpu", threads=1)
    assert (model.name, model.dtype, model.device) == (expected, "bf16", "cpu")
    assert model.config.layers == 3
    assert model.path.is_relative_to(root)
    assert re.fullmatch(rf"<Model {expected}: [\d,]+ parameters, context 1,024, bf16 on cpu>", repr(model))


def test_a_folder_opens_whatever_its_name(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run me@home"
    folder.symlink_to(root / "imported" / "other-folder")
    assert parakeet.load(folder).name == parakeet.load(str(folder)).name == "other"
    with pytest.raises(parakeet.ParakeetError, match="is not a release: it has no SHA256SUMS"):
        parakeet.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "aesopus"}, "No model is called 'aesopus'"),
        ({"model": b"aesop"}, "a str or a Path, not b'aesop'"),
        ({"dtype": "fp31"}, "dtype must be one of"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"threads": -1}, "threads must be a whole number from 0"),
        ({"cache_dtype": "int4"}, "dtype of the cache"),
    ],
)
def test_what_cannot_be_opened_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(parakeet.ParakeetError, match=message):
        parakeet.load(**arguments)


def test_the_notes_of_opening_are_warnings(root: Path) -> None:
    with pytest.warns(UserWarning, match="threads on"):
        parakeet.load(threads=1024)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parakeet.load()


def test_the_same_seed_gives_the_text_of_the_chat(model: parakeet.Model) -> None:
    said = model.generate(TALK[:2], seed=7).read()
    assert said == text_of(chat("-m", "Who are you?", "--system", "Be brief.", "--seed", "7"))
    assert model.reply("Who are you?", seed=3, temperature=1) == text_of(
        chat("-m", "Who are you?", "--seed", "3", "--temperature", "1")
    )
    assert model.generate("Once upon a time", seed=4, stop=["e"]).read() == text_of(
        chat("--raw", "-m", "Once upon a time", "--seed", "4", "--stop", "e")
    )
    # A seed that was drawn gives the same again, and so does a prompt whose beginning is still in the cache.
    first = model.generate(TALK)
    again = model.generate([{"role": role, "content": content} for role, content in TALK], seed=first.seed or 1)
    assert first.read() == model.generate(TALK, seed=first.seed).read() == again.read()
    # The beginning of a reply is continued.
    opened = model.generate([*TALK, ("assistant", "Four")], seed=1)
    assert list(opened.prompt_ids) == [*model.prompt_ids(TALK), *b"Four"]


def test_pieces_say_what_is_known_of_their_tokens(model: parakeet.Model) -> None:
    generation = model.generate(TALK, seed=11, temperature=1.5)
    assert "0 tokens so far, seed 11" in repr(generation)
    pieces = list(generation)
    assert "".join(piece.text for piece in pieces) == generation.text
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == generation.finish_reason == "length"
    assert [token for piece in pieces for token in piece.ids] == generation.ids
    assert len(generation.ids) == len(generation.log_probabilities) == 40
    # By the model alone: neither temperature nor penalties change them.
    ids = [*generation.prompt_ids, *generation.ids]
    logits = model.logits(ids[:-1])[len(generation.prompt_ids) - 1 :]
    expected = logits.log_softmax(1).gather(1, torch.tensor(generation.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(generation.log_probabilities), expected, atol=1e-4, rtol=1e-4)
    assert next(generation, None) is None
    # The end of a turn is an id of its own, without text.
    ended = next(
        g
        for seed in range(99)
        if (g := model.generate("A", seed=seed, max_tokens=400)).read() and g.finish_reason == "stop"
    )
    assert ended.ids[-1] in model.tokenizer.control_ids
    assert model.tokenizer.decode(ended.ids) == ended.text


def test_logits_are_those_of_the_model_trained(model: parakeet.Model) -> None:
    ids = (model.prompt_ids(TALK) * 20)[:1000]  # more than one piece
    reference = load_model(model.path, "cpu")
    with torch.no_grad():
        expected = reference.logits(reference(torch.tensor([ids]), torch.zeros(1, len(ids), dtype=torch.int64)))[0]
    found = model.logits(torch.tensor(ids))
    assert found.shape == (1000, model.config.vocabulary_rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    (found * 2).requires_grad_()  # an ordinary tensor


@pytest.mark.parametrize("length", [None, 64])
def test_a_score_is_the_bits_per_byte_of_the_evaluation(
    model: parakeet.Model, tmp_path: Path, length: int | None
) -> None:
    texts = ["The fox looked at the grapes. " * 50, "é" * 700, "x"]
    write_split(tmp_path, "held_out", model.tokenizer, texts)
    shards = TokenShards(tmp_path, "held_out", model.tokenizer)
    evaluated = load_model(model.path, "cpu")
    for number, text in enumerate(texts):
        found = bits_of(evaluated, model.tokenizer, shards, [number], length or 1024, Progress())
        score = model.score(text, length)
        assert score.n_bytes == found.n_bytes[0] == len(text.encode())
        assert score.bits_per_byte == pytest.approx(found.total / score.n_bytes, rel=1e-5)
        assert score.tokens == len(score.ids) == len(score.log_probabilities)
        assert model.tokenizer.decode(score.ids) == text
        assert score.bits == pytest.approx(-sum(score.log_probabilities) / math.log(2))
    assert re.fullmatch(r"<Score \d\.\d{3} bits per byte \(1 tokens?, 1 bytes?\)>", repr(score))


def test_a_trace_is_that_of_the_command(model: parakeet.Model) -> None:
    text = f"Someone said: {TRAIN[3]} And no more."
    found = model.trace(text, documents=1)
    printed = json.loads(CliRunner().invoke(main, ["trace", text, "--documents", "1", "--json"]).stdout)
    assert [span.text for span in found.spans] == [span["text"] for span in printed["spans"]]
    assert TRAIN[3] in "".join(span.text for span in found.spans)
    assert 0 < found.coverage < 1
    with pytest.raises(parakeet.ParakeetError, match="does not tell what it was trained on"):
        parakeet.load("other").trace(text)
    with pytest.raises(parakeet.ParakeetError, match="min_tokens must be"):
        model.trace(text, min_tokens=0)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("", {}, "The prompt is empty"),
        (" \n", {}, "The prompt is empty"),
        (b"Hello", {}, "a text or a list of messages, not b'Hello'"),
        (7, {}, "a text or a list of messages, not 7"),
        ({"role": "user", "content": "Hi"}, {}, "a text or a list of messages, not {'role'"),
        ([], {}, "no message of the user"),
        ([("system", "Be kind.")], {}, "no message of the user"),
        (["Hello"], {}, r"messages\[0\] must be .*, not 'Hello'"),
        ([{"role": "user"}], {}, r"messages\[0\] must be"),
        ([("usr", "Hi")], {}, r"messages\[0\] has the role 'usr'; did you mean user\? The roles are system, user"),
        ([("user", "Hi"), ("user", "Hi")], {}, r"messages\[1\] is a message of the user, but one of the assistant"),
        ([("assistant", "Hi")], {}, r"messages\[0\] is one of the assistant, but a message of the user"),
        ([("user", "Hi"), ("system", "Hi")], {}, r"messages\[1\] is a system message, which can only be the first"),
        ([("user", " ")], {}, r"messages\[0\] is empty"),
        ([("user", ["Hi"])], {}, r"The content of messages\[0\] must be text, not \['Hi'\]"),
        ("x" * 5000, {}, "only 984 fit"),
        ([("system", "x" * 5000), ("user", "Hi")], {}, "The system message"),
        ([("user", "Hi"), ("assistant", "x" * 5000)], {}, "no room to continue"),
        ("Hi", {"temprature": 1}, "no setting 'temprature'; did you mean temperature"),
        ("Hi", {"temperature": 11}, "temperature must be a number from 0 to 10, not 11"),
        ("Hi", {"seed": -1}, "seed must be"),
        ("Hi", {"stop": ""}, "stop must be"),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(
    model: parakeet.Model, prompt: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(parakeet.ParakeetError, match=message):
        model.generate(prompt, **settings)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "empty"),
        ([0] * 1025, "1,025 tokens"),
        ([3, 320], r"ids\[1\] is 320, but the vocabulary has the ids 0 to 319"),
        ([-1], r"ids\[0\] is -1"),
        ("ab", "whole numbers in one row, not 'ab'"),
        ([[1, 2]], "whole numbers in one row"),
        (5, "whole numbers in one row, not 5"),
        (torch.zeros(2, 2, dtype=torch.int64), "whole numbers in one row"),
    ],
)
def test_ids_that_are_none_are_refused(model: parakeet.Model, ids: Any, message: str) -> None:
    with pytest.raises(parakeet.ParakeetError, match=message):
        model.logits(ids)


def test_an_empty_message_is_refused(model: parakeet.Model) -> None:
    with pytest.raises(parakeet.ParakeetError, match="The message is empty"):
        model.reply(" ")


def test_texts_that_cannot_be_scored_are_refused(model: parakeet.Model) -> None:
    for text, length, message in (("", None, "empty"), (b"x", None, "must be a str"), ("x", 1025, "sequence_length")):
        with pytest.raises(parakeet.ParakeetError, match=message):
            model.score(text, length)  # type: ignore[arg-type]


def test_lone_surrogates_become_replacement_characters_as_in_the_chat(model: parakeet.Model) -> None:
    assert model.prompt_ids("a\udc80b") == model.prompt_ids("a\ufffdb")
    assert model.prompt_ids([("user", "a\ud83d\ude00b")]) == model.prompt_ids([("user", "a\U0001f600b")])
    assert model.score("a\udc80b").ids == model.score("a\ufffdb").ids
    assert model.trace("\udc80" + TRAIN[0]).text == "\ufffd" + TRAIN[0]


def test_a_conversation_that_is_too_long_loses_its_oldest_exchanges_with_a_warning(model: parakeet.Model) -> None:
    talk = [(role, f"{number} " + "x" * 100) for number in range(9) for role in ("user", "assistant")]
    with pytest.warns(UserWarning, match="oldest messages were left out"):
        generation = model.generate([("system", "Be brief."), *talk, ("user", "Well?")])
    assert generation.dropped > 0
    left = [("system", "Be brief."), *talk[2 * generation.dropped :], ("user", "Well?")]
    assert list(generation.prompt_ids) == model.prompt_ids(left)
    assert model.generate(left).dropped == 0


def test_texts_are_generated_in_turns_and_in_threads(model: parakeet.Model) -> None:
    prompts = [("Once upon", 1), ("A fox", 2), ("Once upon a", 3)]
    expected = [model.generate(prompt, seed=seed).read() for prompt, seed in prompts]
    running = [model.generate(prompt, seed=seed) for prompt, seed in prompts]
    for turn in zip_longest(*running):
        assert any(turn)
        model.score("In between.")
    assert [generation.text for generation in running] == expected
    found: dict[int, str] = {}

    def work(seed: int, prompt: str) -> None:
        found[seed] = model.generate(prompt, seed=seed).read()

    threads = [threading.Thread(target=work, args=(seed, prompt)) for prompt, seed in prompts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for _, seed in prompts] == expected


def test_a_text_that_is_left_early_ends_and_the_next_is_the_same(model: parakeet.Model) -> None:
    whole = model.generate("Once upon", seed=1).read()
    left = model.generate("Once upon", seed=1)
    assert whole.startswith(next(left).text)
    left.close()
    assert list(left) == []
    assert left.finish_reason is None
    for _ in model.generate("A fox", seed=2):
        break
    assert model.generate("Once upon", seed=1).read() == whole


def test_a_model_is_freed_with_its_last_name(root: Path) -> None:
    model = parakeet.load("other")
    model.reply("Hi", max_tokens=2)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


CONTENTS = TEXTS.filter(lambda text: bool(text.strip()))


@given(st.one_of(st.none(), TEXTS), st.lists(CONTENTS, min_size=1, max_size=5), st.data())
def test_messages_in_any_form_are_one_conversation(
    system: str | None, contents: list[str], data: st.DataObject
) -> None:
    roles = [("user", "assistant")[number % 2] for number in range(len(contents))]
    talk = ([] if system is None else [("system", system)]) + list(zip(roles, contents, strict=True))
    written = {
        "system": ["system", "System"],
        "user": ["user", "human", "Human"],
        "assistant": ["assistant", "ASSISTANT"],
    }
    forms = []
    for role, content in talk:
        called = data.draw(st.sampled_from(written[role]))
        as_dict = {"role": called, "content": content, "name": "ignored"}
        forms.append(data.draw(st.sampled_from([as_dict, (called, content), [called, content]])))
    found = read_messages(iter(forms))
    assert found == read_messages(talk)
    exchanges = [*found.exchanges, found.last]
    flat = [text for exchange in exchanges for text in (exchange.message, exchange.reply)]
    assert flat[: len(contents)] == [
        content.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for content in contents
    ]
    assert len(exchanges) == (len(contents) + 1) // 2
    assert not any(flat[len(contents) :])


def test_the_code_of_its_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(blocks) > 3
    assert "<Model aesop: " in capsys.readouterr().out


def test_the_notebook_runs() -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs" / "parakeet.ipynb", as_version=4)
    stored = [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells]
    # A cell that fails raises.
    NotebookClient(notebook, timeout=600, coalesce_streams=True, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells] == stored
    assert len((ROOT / "docs" / "parakeet.ipynb").read_bytes()) < 100_000
