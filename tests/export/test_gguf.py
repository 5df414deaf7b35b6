"""GGUF files: llama.cpp computes what Parakeet computes, reads text as it does, and answers as it does."""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.export.formats import export_release
from parakeet.export.gguf_card import gguf_card
from parakeet.export.gguf_vocabulary import PRE_TOKENIZERS, make_vocabulary
from parakeet.export.llama_cpp import ask, llama_cpp_server, token_ids
from parakeet.export.source import ExportSource
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.model.transformer import Parakeet, load_model, save_model
from parakeet.progress import Progress
from parakeet.recipe import Generation
from parakeet.release.card import CARD_FILE
from parakeet.release.verify import write_generation_config, write_sums
from parakeet.sampling_settings import SamplingSettings
from parakeet.template import render_document, render_prompt
from parakeet.tokenizer import Tokenizer, cl100k_base, count_words, train_tokenizer

pytest.importorskip("gguf", reason="gguf, of the extra `export`, is not installed")
needs_llama_cpp = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp (llama.cpp) is not installed")

CONTEXT, POSITIONS = 640, 200
GREEDY = SamplingSettings(temperature=0, frequency_penalty=0, presence_penalty=0, max_tokens=48)
CHARACTERS = [
    *"azAZsStTdDmMlLvVrReE'’éßñ中日１２٣²½0123456789    \t\n\r\x00\x7f\x0b\x1c\x85\u00a0\u2003\u200b\u200d\ufffd",
    *'€!?.,-"🙂',
    *["'s", "'ll", "'RE", "\n\n", "  ", "\r\n", " the", " and", "👍🏽", "<|endoftext|>", "\n\nHuman: ", "<unused 5>"],
]
MARKS = ["\u0301", "\ufe0f", "\u20e3", "क्", "षि", "ी", "ั", "ً"]


@pytest.fixture(scope="module")
def exported(trained_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    export_release(trained_release, file, "gguf", "fp32", Progress())
    return file


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[str]:
    with llama_cpp_server(exported, CONTEXT) as address:
        yield address


@needs_llama_cpp
def test_log_probabilities_are_those_of_the_model(
    server: str, trained_release: Path, conversations: list[tuple[Turn, ...]]
) -> None:
    tokenizer, model = Tokenizer.load(trained_release), load_model(trained_release, "cpu")
    ids = [int(one) for turns in conversations[:20] for one in render_document(tokenizer, turns)[0]][: POSITIONS + 1]
    with torch.no_grad():
        rows = torch.tensor([ids])
        ours = model.logits(model(rows, torch.zeros_like(rows)))[0].double().log_softmax(-1)
    for position in range(POSITIONS):
        # The server keeps what it has read: each question is one more token.
        request = {"prompt": ids[: position + 1], "n_predict": 1, "n_probs": tokenizer.rows, "temperature": 0.0}
        (answer,) = ask(server, "/completion", {**request, "cache_prompt": True})["completion_probabilities"]
        theirs = torch.full((tokenizer.rows,), torch.nan, dtype=torch.float64)
        for token in answer["top_logprobs"]:
            theirs[token["id"]] = token["logprob"]
        assert (theirs - ours[position]).abs().max() <= 2e-2, position
        assert theirs.argmax() == ours[position].argmax(), position


@needs_llama_cpp
def test_the_chat_endpoint_answers_as_parakeet_does(server: str, trained_release: Path) -> None:
    tokenizer = Tokenizer.load(trained_release)
    engine = Engine(Decoder(load_model(trained_release, "cpu"), "fp32"), tokenizer)
    names = {"System": "system", "Human": "user", "Assistant": "assistant"}
    chats = [
        [Turn("Human", "Hello! What is 3 plus 4?")],
        [Turn("Human", "  What is your name?\n")],
        [Turn("System", "Be brief."), Turn("Human", "Tell me about birds.")],
        [Turn("Human", "Hi"), Turn("Assistant", "Hello! How can I help?"), Turn("Human", "Spell cat.")],
    ]
    for turns in chats:
        messages = [{"role": names[turn.role], "content": turn.content} for turn in turns]
        # Its defaults for the rest are off, so the likeliest token is chosen.
        request = {"messages": messages, "temperature": 0, "max_tokens": GREEDY.max_tokens}
        answer = ask(server, "/v1/chat/completions", request)
        ours = "".join(step.text for step in engine.generate(render_prompt(tokenizer, turns), GREEDY))
        assert answer["choices"][0]["message"]["content"] == ours
        assert answer["usage"]["prompt_tokens"] == len(render_prompt(tokenizer, turns))


def nasty_texts(count: int, marks: bool) -> list[str]:
    drawn = random.Random(0)
    characters = CHARACTERS + (3 * MARKS if marks else [])
    return ["".join(drawn.choices(characters, k=drawn.randint(1, 30))) for _ in range(count)]


def write_untrained(folder: Path, tokenizer: Tokenizer, heads: int = 1, width: int = 32) -> Path:
    """A release as far as an export reads it."""
    model = Parakeet(ModelConfig(layers=1, heads=heads, width=width, context=64, vocabulary_rows=tokenizer.rows))
    model.initialise(torch.Generator().manual_seed(0))
    folder.mkdir()
    save_model(model, folder)
    tokenizer.save(folder)
    write_generation_config(folder, folder.name, Generation(), tokenizer)
    write_sums(folder)
    return folder


@needs_llama_cpp
def test_a_trained_vocabulary_has_the_same_ids(
    server: str, trained_release: Path, conversations: list[tuple[Turn, ...]]
) -> None:
    tokenizer = Tokenizer.load(trained_release)
    lines = [turn.content for turns in conversations[:100] for turn in turns]
    for text in lines + nasty_texts(500, marks=False):
        assert token_ids(server, text) == tokenizer.encode(text), text
    different = sum(token_ids(server, text) != tokenizer.encode(text) for text in nasty_texts(500, marks=True))
    assert different <= 25  # docs/export.md says where


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["cl100k_base", "words", "hindi"])
def test_every_kind_of_vocabulary_has_the_same_ids(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    english = ["The cat and the dog, don't they play? 12 of 345 cats do: the cat's.\n\n"] * 20
    hindi = ["नमस्ते दुनिया, आप कैसे हैं? मैं ठीक हूँ। हिन्दी में लिखना अच्छा है।\n"] * 20
    marks = False
    if kind == "cl100k_base":
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(request.getfixturevalue("cl100k_cache")))
        tokenizer, marks = cl100k_base(), True
    else:
        tokenizer = count_words(english, 400) if kind == "words" else train_tokenizer(hindi, 400)
    file = tmp_path / "made.gguf"
    export_release(write_untrained(tmp_path / "release", tokenizer), file, "gguf", "fp16", Progress())
    with llama_cpp_server(file, 64) as address:
        for text in [*english[:1], *hindi[:1], *nasty_texts(300, marks)]:
            assert token_ids(address, text) == tokenizer.encode(text), text


def test_a_vocabulary_that_llama_cpp_cannot_split_is_refused_by_name() -> None:
    tokenizer = count_words(["आप कैसे हैं मैं ठीक हूँ हिन्दी "] * 20, 400)
    with pytest.raises(ParakeetError, match=r"no pre-tokenizer for the vocabulary 'words': llama-bpe gives other"):
        make_vocabulary(tokenizer)


def test_files_say_what_they_are(
    trained_release: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf import GGUFReader, LlamaFileType
    from gguf.quants import dequantize

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # is not asked for the server on this machine

    tokenizer = Tokenizer.load(trained_release)
    weights = load_model(trained_release, "cpu").state_dict()
    for dtype, name, error in (("fp32", "ALL_F32", 0), ("fp16", "MOSTLY_F16", 2e-3), ("bf16", "MOSTLY_BF16", 8e-3),
                               ("q8_0", "MOSTLY_Q8_0", 2e-2)):  # fmt: skip
        file = exported
        if dtype != "fp32":
            file = tmp_path / f"{dtype}.gguf"
            export_release(trained_release, file, "gguf", dtype, Progress())
        reader = GGUFReader(file)
        values = {name: field.contents() for name, field in reader.fields.items()}
        assert values["general.file_type"] == LlamaFileType[name]
        assert values["general.name"] == "tiny"
        assert values["general.license"] == "gpl-3.0"
        assert values["bloom.context_length"] == CONTEXT
        assert values["tokenizer.ggml.eot_token_id"] == tokenizer.end_of_prompt
        assert values["tokenizer.ggml.pre"] in {candidate.name for candidate in PRE_TOKENIZERS}
        tensors = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
        for ours, theirs in (
            ("embedding.weight", "token_embd.weight"),
            ("blocks.2.mlp_output.weight", "blk.2.ffn_down.weight"),
        ):
            reference = weights[ours].numpy()
            assert abs(tensors[theirs] - reference).max() <= error * abs(reference).max()
        assert (tensors["blk.1.attn_norm.weight"] == weights["blocks.1.attention_norm.weight"].numpy()).all()
        assert not tensors["blk.1.attn_qkv.bias"].any()
    page = file.with_suffix(".Modelfile").read_text()
    assert page.startswith("FROM ./q8_0.gguf\n")
    assert "PARAMETER temperature 0.4\n" in page
    assert f"PARAMETER num_ctx {CONTEXT}\n" in page
    card = gguf_card(ExportSource.open(trained_release), "me/my_model", "q8_0")
    assert card.startswith("---\nlanguage: en\nlibrary_name: gguf\n")
    assert "license: gpl-3.0\n" in card
    assert "llama-cli -hf me/my_model\n" in card


def test_each_layer_gets_its_own_projection(unshared_release: Path, tmp_path: Path) -> None:
    import gguf

    export_release(unshared_release, file := tmp_path / "own.gguf", "gguf", "fp32", Progress())
    weights = load_model(unshared_release, "cpu").state_dict()
    stored = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in gguf.GGUFReader(file).tensors}
    for layer in range(3):
        expected = torch.cat([weights[f"blocks.{layer}.query.weight"], weights[f"key_values.{layer}.weight"]])
        assert torch.equal(stored[f"blk.{layer}.attn_qkv.weight"], expected)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    trained_release: Path, original_shape_release: Path, exported: Path, tmp_path: Path
) -> None:
    def refusal(release: Path, file: Path, dtype: str = "fp16") -> str:
        with pytest.raises(ParakeetError) as caught:
            export_release(release, file, "gguf", dtype, Progress())
        return str(caught.value)

    file = tmp_path / "new.gguf"
    assert "18 heads" in (message := refusal(original_shape_release, file))
    assert "parakeet-378m-16h" in message
    narrow = write_untrained(tmp_path / "narrow", Tokenizer.load(trained_release), width=24)
    assert "multiple of 32" in refusal(narrow, file, "q8_0")
    assert "already exists" in refusal(trained_release, exported)
    assert "must end in .gguf" in refusal(trained_release, tmp_path / "new.Modelfile")
    file.with_suffix(".Modelfile").write_text("mine")
    assert "already exists" in refusal(trained_release, file)
    file.with_suffix(".Modelfile").unlink()
    torn = tmp_path / "torn"
    shutil.copytree(trained_release, torn)
    card = torn / CARD_FILE
    card.write_text("x", encoding="utf-8")
    write_sums(torn)
    card.write_text("changed", encoding="utf-8")
    assert f"{card} has sha256" in refusal(torn, file)
    card.unlink()
    write_sums(torn)
    weights = torn / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "was changed after the release was made" in refusal(torn, file)
    write_sums(torn)
    assert "cannot be read as safetensors" in refusal(torn, file)
    model = load_model(trained_release, "cpu")
    with torch.no_grad():
        model.blocks[1].query.weight[3, 4] = 1e6  # type: ignore[union-attr, operator]
    save_model(model, torn)
    write_sums(torn)
    assert "use --dtype bf16 or fp32" in refusal(torn, file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["narrow", "torn"]


def test_a_full_disk_and_a_missing_package_are_one_message(trained_release: Path, tmp_path: Path) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    expected = {limit: "while writing new.gguf", "sys.modules['gguf'] = None": "pip install 'parakeet-lm[export]'"}
    for statement, message in expected.items():
        code = f"import sys\n{statement}\nfrom parakeet.cli import main\nmain()"
        arguments = ["export", str(trained_release), str(tmp_path / "new.gguf"), "--format", "gguf"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())
