"""Exported folders, opened by transformers, beside Parakeet's own model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from parakeet.conversation import Turn
from parakeet.errors import ParakeetError
from parakeet.evaluation.benchmarks.data import TaskData, task_data
from parakeet.evaluation.benchmarks.harness import score_tasks
from parakeet.evaluation.benchmarks.scorer import ModelScorer
from parakeet.evaluation.benchmarks.upstream import upstream_config
from parakeet.export.formats import export_release
from parakeet.generation.engine import load_engine
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.model.transformer import load_model
from parakeet.progress import Progress
from parakeet.release.verify import open_release, write_json, write_sums
from parakeet.sampling_settings import SamplingSettings
from parakeet.template import render_prompt
from parakeet.tokenizer import Tokenizer

TOKENS = 500
RELEASES = ("trained_release", "original_shape_release")


@dataclass(frozen=True)
class Exported:
    release: Path
    folder: Path
    tokenizer: Tokenizer
    theirs: Any
    """transformers' model, in fp32."""

    @property
    def ids(self) -> Tensor:
        """(1, TOKENS): ids of all kinds, control tokens too."""
        known = torch.tensor([*self.tokenizer.defined_ids(), *self.tokenizer.controls.values()])
        return known[torch.randint(len(known), (1, TOKENS), generator=torch.Generator().manual_seed(4))]

    def our_logits(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            model = load_model(self.release, "cpu")
            return model.logits(model(ids, torch.zeros_like(ids)))


@pytest.fixture(scope="module", autouse=True)
def code_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies the code of folders that it trusts. Not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        yield


@pytest.fixture(scope="module", params=RELEASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    release: Path = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("exported") / "my_model"
    export_release(release, folder, "hf", "fp32", Progress())
    theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=request.param == RELEASES[1]).eval()
    return Exported(release, folder, Tokenizer.load(release), theirs)


def test_logits_are_the_same_with_and_without_a_cache(exported: Exported) -> None:
    ids, theirs = exported.ids, exported.theirs
    expected = exported.our_logits(ids)
    assert theirs.dtype == torch.float32
    assert expected.std() > 1
    with torch.no_grad():
        whole = theirs(ids, use_cache=False).logits
        rows, cache = [], None
        for begin, end in ((0, 200), (200, 201), (201, 202), (202, 300), (300, TOKENS)):
            output = theirs(ids[:, begin:end], cache=cache, use_cache=True)
            cache = output.past_key_values
            rows.append(output.logits)
    assert (whole - expected).abs().max() <= 1e-4
    assert (torch.cat(rows, dim=1) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_padded_batch_are_the_same(exported: Exported, side: str) -> None:
    ids = exported.ids
    # Of cl100k's 100,288 rows, three sequences of 500 tokens have 600 MB of logits.
    longest = TOKENS if exported.tokenizer.rows < 10_000 else 160
    lengths = (longest, 99, 7)
    batch = torch.full((3, longest), exported.tokenizer.padding)
    mask = torch.zeros_like(batch)
    places = [slice(longest - length, longest) if side == "left" else slice(length) for length in lengths]
    for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
        batch[row, place], mask[row, place] = ids[0, :length], 1
    with torch.no_grad():
        found = exported.theirs(batch, attention_mask=mask).logits
    expected = exported.our_logits(ids[:, :longest])[0]
    for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
        assert (found[row, place] - expected[:length]).abs().max() <= 1e-4


def test_64_greedy_tokens_are_the_same(exported: Exported) -> None:
    engine = load_engine(exported.release, dtype="fp32", threads=1, recorded={"kernels": False})
    tokenizer = AutoTokenizer.from_pretrained(exported.folder, trust_remote_code=True)
    settings = SamplingSettings(
        temperature=0, max_tokens=64, frequency_penalty=0, presence_penalty=0, repetition_penalty=1
    )
    questions = ("What is your name?", "What is 3 plus 4?", "Spell parrot.")
    replies = []
    for question in questions:
        prompt = render_prompt(engine.tokenizer, [Turn("Human", question)])
        replies.append([step.token_id for step in engine.generate(prompt, settings) if step.token_id is not None])
    messages = [[{"role": "user", "content": question}] for question in questions]
    batch = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    found = exported.theirs.generate(**batch, do_sample=False, max_new_tokens=64)[:, batch["input_ids"].shape[1] :]
    ends = exported.theirs.generation_config.eos_token_id
    for reply, ids in zip(replies, found.tolist(), strict=True):
        length = next((place for place, token_id in enumerate(ids) if token_id in ends), len(ids))
        assert ids[:length] == [token_id for token_id in reply if token_id not in ends]
    assert max(map(len, replies)) == 64


def test_a_folder_is_complete(exported: Exported) -> None:
    folder, config = exported.folder, ModelConfig.load(exported.release)
    names = {path.name for path in folder.iterdir()}
    expected = {
        *("config.json", "generation_config.json", "model.safetensors", "README.md", "SHA256SUMS"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("training_manifest.json", "evaluation.json"),
    }
    stock = config.heads == 4
    assert names == expected | (set() if stock else {"modeling_parakeet.py"})
    assert json.loads((folder / "config.json").read_text())["model_type"] == ("mpt" if stock else "parakeet")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    card = (folder / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert (header["license"], header["library_name"]) == ("gpl-3.0", "transformers")
    assert "parakeet-lm" in header["tags"]
    assert ("trust_remote_code" in card, "revision=" in card) == (not stock, not stock)
    assert 'folder = "my_model"\n' in card
    # Without what is only in the release's folder.
    assert card.endswith("It was trained by a test.\n\n## Limits\n")
    assert "split_special_tokens=True" in card


def test_generation_defaults_are_the_release_s(exported: Exported) -> None:
    release, tokenizer = open_release(exported.release), exported.tokenizer
    settings = GenerationConfig.from_pretrained(exported.folder)
    ours = release.generation
    assert (settings.do_sample, settings.temperature, settings.top_k) == (True, ours.temperature, ours.top_k)
    assert (settings.top_p, settings.min_p) == (ours.top_p, ours.min_p)
    assert settings.eos_token_id == [tokenizer.end_of_prompt, tokenizer.end_of_text]
    assert settings.pad_token_id == tokenizer.padding
    spoken = {*tokenizer.defined_ids(), *settings.eos_token_id}
    assert set(settings.suppress_tokens) == set(range(tokenizer.rows)) - spoken
    if ours.max_tokens == 64:
        assert settings.max_new_tokens == 64
    else:
        # 4,000 tokens are more than this model's context, beyond which MPT fails.
        assert (settings.max_new_tokens, settings.max_length) == (None, 640)
        card = (exported.folder / "README.md").read_text(encoding="utf-8").replace("\\", "")
        assert "frequency_penalty 0.07, presence_penalty 0.02" in card


@pytest.mark.parametrize("exported", RELEASES[:1], indirect=True)
def test_bf16_is_the_default_and_rounds_each_weight_once(exported: Exported, tmp_path: Path) -> None:
    export_release(exported.release, tmp_path / "half", "hf", None, Progress())
    whole, half = (load_file(folder / WEIGHTS_FILE) for folder in (exported.folder, tmp_path / "half"))
    assert {name: tensor.dtype for name, tensor in half.items()} == dict.fromkeys(whole, torch.bfloat16)
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in whole.items())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "half", trust_remote_code=True)
    assert theirs.dtype == torch.bfloat16
    with torch.no_grad():
        found = theirs(exported.ids).logits.float()
    expected = exported.our_logits(exported.ids)
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_a_projection_for_each_layer_is_exported_but_not_to_the_original_layout(
    unshared_release: Path, tmp_path: Path
) -> None:
    export_release(unshared_release, tmp_path / "hf", "hf", "fp32", Progress())
    theirs, ours = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval(), load_model(unshared_release, "cpu")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected = ours.logits(ours(ids, torch.zeros_like(ids)))
        assert (theirs(ids).logits - expected).abs().max() <= 1e-4
    with pytest.raises(ParakeetError, match="share_keys_values false, which --format original cannot express"):
        export_release(unshared_release, tmp_path / "x.pth", "original", None, Progress())
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_the_original_s_shape_needs_its_code_and_survives_saving(
    original_shape_release: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "model"
    export_release(original_shape_release, folder, "hf", "bf16", Progress())
    for opener in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="trust_remote_code"):
            opener.from_pretrained(folder, trust_remote_code=False)
    theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    theirs.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected = theirs(ids).logits
        assert torch.equal(again(ids).logits, expected)
        assert torch.equal(theirs(inputs_embeds=theirs.get_input_embeddings()(ids)).logits, expected)
        hidden = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(ids).last_hidden_state
    assert torch.equal(theirs.lm_head(hidden), expected)
    with pytest.raises(ValueError, match="input_ids"):
        theirs(ids, inputs_embeds=theirs.get_input_embeddings()(ids))


@pytest.mark.parametrize(
    ("spoil", "dtype", "words"),
    [
        (lambda release, target: shutil.rmtree(release), None, "is not a release"),
        (lambda release, target: (release / "SHA256SUMS").unlink(), None, "is not a release"),
        (lambda release, target: os.truncate(release / WEIGHTS_FILE, 5_000), None, "it was changed after"),
        (lambda release, target: narrowed(release), None, "does not match its config.json"),
        (lambda release, target: target.mkdir(), None, "already exists"),
        (lambda release, target: target.symlink_to(release), None, "already exists"),
        (lambda release, target: None, "q8_0", "--dtype q8_0 does not fit --format hf: choose bf16, fp32"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    trained_release: Path, tmp_path: Path, spoil: Any, dtype: str | None, words: str
) -> None:
    release, target = tmp_path / "release", tmp_path / "target"
    shutil.copytree(trained_release, release)
    spoil(release, target)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ParakeetError, match=words):
        export_release(release, target, "hf", dtype, Progress())
    assert sorted(tmp_path.iterdir()) == before


def narrowed(release: Path) -> None:
    """Another model's configuration, with sums that fit."""
    values = json.loads((release / "config.json").read_text())
    write_json(release / "config.json", values | {"width": 32})
    write_sums(release)


def test_a_full_disk_leaves_nothing(trained_release: Path, tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from parakeet.errors import ParakeetError\n"
        "from parakeet.export.formats import export_release\n"
        "from parakeet.progress import Progress\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))\n"
        "try:\n"
        "    export_release(Path(sys.argv[1]), Path(sys.argv[2]), 'hf', None, Progress())\n"
        "except ParakeetError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(trained_release), str(tmp_path / "target")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert "while writing target. Nothing that was there before was lost" in finished.stdout, finished
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exported", RELEASES[:1], indirect=True)
def test_lm_evaluation_harness_gives_the_scores_of_our_own_adapter(exported: Exported) -> None:
    """Its model type `hf`, over the same items of two tasks: lists of answers, and the last word of a text."""
    pytest.importorskip("accelerate", reason="lm_eval's model type hf asks for accelerate: install parakeet-lm[dev]")
    from lm_eval.models.huggingface import HFLM

    choices = [{"goal": f"What is {n} plus 1?", "sol1": str(n + 1), "sol2": "No.", "label": n % 2} for n in range(20)]
    last_words = [{"text": f"My name is Ann and {n} is my {word}"} for n in range(10) for word in ("name", "a")]
    data = [
        task_data(task, "test", [("a row", record) for record in records], "a test", "a test", None)
        for task, records in (("piqa", choices), ("lambada_openai", last_words))
    ]
    ours = score_tasks(ModelScorer(load_model(exported.release, "cpu"), exported.tokenizer), data, Progress())
    tasks = {
        one.task: ConfigurableTask(
            config=upstream_config(one.task)
            | {"custom_dataset": rows_of(one), "dataset_name": None, "test_split": "test"}
            | dict.fromkeys(("tag", "training_split", "validation_split"))
        )
        for one in data
    }
    read = AutoTokenizer.from_pretrained(exported.folder)
    theirs = evaluate(
        HFLM(exported.theirs, tokenizer=read, batch_size=4),
        {"tasks": tasks, "groups": {}},
        bootstrap_iters=0,
    )
    for one in data:
        found = theirs["results"][one.task]
        for metric, value in ours[one.task]["lm_eval"].items():
            assert found[f"{metric},none"] == pytest.approx(value, rel=1e-4), (one.task, metric)


def rows_of(data: TaskData) -> Callable[..., Any]:
    held = {"test": datasets.Dataset.from_list([dict(item.row) for item in data.items])}
    return lambda **_: held
