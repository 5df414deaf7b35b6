"""`parakeet reproduce`: what is different, the same training again, and runs that cannot be reproduced."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.reproduction.comparison import compare
from parakeet.reproduction.differences import differences, pinned_recipe, render_differences
from parakeet.reproduction.trained import TrainedRun, find_trained
from parakeet.training.record import PATCH_FILE, RUN_FILE

from .conftest import parakeet

Built = tuple[Path, Path, bytes]


def key_of(home: Path) -> str:
    (run,) = (home / "training_runs").iterdir()
    return run.name


@pytest.fixture
def home(built: Built, tmp_path: Path) -> Path:
    """The built home's run and its inputs, to change."""
    copy = tmp_path / "home"
    for name in ("training_runs", "checkpoint", "tokenizer", "token_shards", "packing_plan", "releases"):
        shutil.copytree(built[0] / name, copy / name, symlinks=True)
    return copy


def edit(home: Path, change: Callable[[dict[str, Any]], object]) -> TrainedRun:
    """Change run.json, and its copy in the checkpoint."""
    for folder in (home / "training_runs" / key_of(home), home / "checkpoint" / "latest"):
        if (folder / RUN_FILE).exists():
            values = json.loads((folder / RUN_FILE).read_text())
            change(values)
            (folder / RUN_FILE).write_text(json.dumps(values))
    return find_trained(home, key_of(home))


def shown(home: Path, trained: TrainedRun) -> str:
    recipe, pinned = pinned_recipe(trained)
    return render_differences(trained, pinned, differences(trained, recipe, home), None)


@pytest.mark.slow
def test_two_trainings_of_the_same_run_agree_to_the_last_bit(built: Built) -> None:
    home = built[0]
    before = sorted(home.iterdir())
    done = parakeet(home, "reproduce", "tiny")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Nothing that is known is different now." in done.stdout
    assert b"Identical weights: both have the sha256" in done.stdout
    assert not list((home / "reproductions").iterdir())
    assert {*home.iterdir()} - {*before} == {home / "reproductions"}
    assert parakeet(home, "verify").returncode == 0


def test_the_record_is_in_the_checkpoint_and_not_in_its_content(built: Built) -> None:
    import hashlib

    checkpoint = Artifact.open((built[0] / "checkpoint" / "latest").resolve())
    record = json.loads((checkpoint.path / RUN_FILE).read_text())
    assert record["result"]["weights_sha256"] == checkpoint.manifest["files"]["model.safetensors"]["sha256"]
    assert {"documents", "tokenizer", "token_shards"} <= record["inputs"].keys()
    assert record["inputs"]["token_shards"]["content"] == checkpoint.manifest["inputs"]["token_shards"]["content"]
    assert list(record["source_files"]) == ["story/story.txt"]
    assert "build" in record["processes"][0]["command"]
    records = {"metrics.jsonl", "training.json", "loss_curve.png", RUN_FILE, PATCH_FILE}
    files = checkpoint.manifest["files"].items()
    content = [(name, entry["sha256"]) for name, entry in files if name not in records]
    assert checkpoint.content == hashlib.sha256(json.dumps(content).encode()).hexdigest()


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (lambda one: one["software"].update(torch="2.0.1"), "torch 2.0.1 {} yes"),
        (lambda one: one["software"].update(tiktoken="0.1"), "tiktoken 0.1 {} no"),
        (lambda one: one["software"].update(unheard="3"), "unheard 3 none no"),
        (lambda one: one["hardware"]["processor"].update(name="Old 1"), "processor Old 1 {} yes"),
        (lambda one: one["hardware"]["processor"]["flags"].append("amx"), "processor flags amx yes"),
        (lambda one: one["hardware"].update(cpu_capability="SSE"), "torch's CPU kernels SSE {} yes"),
        (lambda one: one["environment"].update(NVIDIA_TF32_OVERRIDE="1"), "NVIDIA_TF32_OVERRIDE 1 none yes"),
        (lambda one: one.update(code={"commit": "f" * 40, "untracked": [], "patch": None}), "git commit ffffffffffff {} yes"),  # noqa: E501
        (lambda one: one.update(code=None), "git commit unknown {} yes"),
    ],
)  # fmt: skip
def test_what_is_different_now(home: Path, change: Callable[[dict[str, Any]], object], row: str) -> None:
    text = shown(home, edit(home, lambda values: change(values["processes"][0])))
    words = [" ".join(line.split()) for line in text.splitlines()]
    begin, _, end = row.partition(" {} ")
    assert any(line.startswith(begin) and line.endswith(end or row) for line in words), text
    if begin.startswith("git commit f"):
        assert f"checkout {'f' * 40}" in text


def test_what_the_machine_chose_is_set_as_it_was_then(home: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["processes"][0]["hardware"] |= {"threads": 3, "processes": 1}
        values["processes"][0]["execution"]["256"] |= {"micro_batch_tokens": 256, "precision": "bf16"}
        values["recipe"]["training"] |= {"precision": "auto", "device": "auto", "micro_batch_tokens": 0}

    trained = edit(home, change)
    training = pinned_recipe(trained)[0].training
    assert (training.device, training.threads, training.precision) == ("cpu", 3, "bf16")
    assert (training.micro_batch_tokens, training.activation_checkpointing) == (256, "none")
    assert "training.threads=3" in shown(home, trained)


def test_a_run_whose_processes_differed_says_so(home: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        second = json.loads(json.dumps(values["processes"][0]))
        second |= {"from_step": 20, "changed_settings": {"training.tokens": [10_240, 20_480]}}
        second["software"]["torch"] = "9.9"
        values["processes"].append(second)

    text = shown(home, edit(home, change))
    assert "Its processes began at step 0, 20." in text
    assert "From step 20 on, training.tokens was 20480 in place of 10240." in text
    assert ", then 9.9" in text


def test_changed_text_is_named_and_does_not_matter(home: Path) -> None:
    trained = edit(home, lambda values: values["source_files"].update({"story/story.txt": "0" * 64}))
    assert "text story/story.txt 000000000000" in " ".join(shown(home, trained).split())
    gone = edit(home, lambda values: values["recipe"]["sources"][1].update(path=str(home / "gone.txt")))
    assert "gone.txt" in shown(home, gone)


def test_runs_that_cannot_be_reproduced(home: Path) -> None:
    key, run = key_of(home), home / "training_runs" / key_of(home)
    refused: Callable[..., str] = lambda *more: _refused(home, key, *more)  # noqa: E731
    assert "is the home that the run is in" in refused("--output", str(home))
    (home / "full").mkdir()
    (home / "full" / "letter.txt").touch()
    assert "is not empty" in refused("--output", str(home / "full"))
    nobody = parakeet(home, "reproduce", "nobody")
    assert b"No model is called 'nobody'" in nobody.stderr
    shard = next((home / "token_shards").glob("*-0/*.arrow"), None) or next((home / "token_shards").glob("*-0/*[!n]"))
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert "changed after it was made" in refused()
    shard.write_bytes(whole)
    shutil.rmtree(home / "packing_plan")
    message = refused()
    assert "the packing_plan that it was trained on was removed" in message
    assert "--select packing_plan" in message
    shutil.rmtree(home / "checkpoint")
    edit(home, lambda values: values.update(result=None))
    (run / "metrics.jsonl").write_bytes(b"\n".join((run / "metrics.jsonl").read_bytes().splitlines()[:20]) + b"\n")
    assert (
        f"is unfinished (step 20 of 40), so there are no weights to compare with: "
        f"finish it with: parakeet build --run {key}" in refused()
    )
    (run / RUN_FILE).unlink()
    (run / "job.json").write_text("{}")
    assert "it cannot be reproduced" in refused()


def _refused(home: Path, *arguments: str) -> str:
    done = parakeet(home, "reproduce", *arguments)
    assert done.returncode == 1
    error = done.stderr.decode()
    assert error.count("Error:") == 1, error
    assert "Traceback" not in error
    return error


def test_what_an_earlier_version_left_is_enough(home: Path) -> None:
    run = home / "training_runs" / key_of(home)
    (run / RUN_FILE).unlink()
    (home / "checkpoint" / "latest").resolve().joinpath(RUN_FILE).unlink()
    trained = find_trained(home, "tiny")
    assert not trained.recorded
    assert {"tokenizer", "token_shards", "packing_plan"} <= trained.record["inputs"].keys()
    text = shown(home, trained)
    assert "An early version of Parakeet trained it" in text
    assert "torch" not in text.replace("torch's", "")
    assert pinned_recipe(trained)[0].training.threads == 1


def test_a_removed_run_folder_is_found_by_its_checkpoint(home: Path) -> None:
    key = key_of(home)
    shutil.rmtree(home / "training_runs" / key)
    trained = find_trained(home, key[:5])
    assert trained.recorded
    assert trained.weights_sha256 == find_trained(home, "tiny").weights_sha256


def test_a_run_that_was_trained_on_since_is_reproduced_as_its_model_was_made(home: Path) -> None:
    before = find_trained(home, "tiny")
    file = before.folder / RUN_FILE
    values = json.loads(file.read_text())
    values["recipe"]["training"]["tokens"] *= 2
    values["result"] = None
    file.write_text(json.dumps(values))
    assert find_trained(home, "tiny").recipe == find_trained(home, before.key).recipe == before.recipe
    for folder in (home / "checkpoint").glob("*-0"):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"content": "0" * 64}))
    with pytest.raises(ParakeetError, match="was trained to another one since"):
        find_trained(home, "tiny")


def test_how_far_apart_weights_are(home: Path) -> None:
    trained = find_trained(home, "tiny")
    assert trained.checkpoint is not None
    assert compare(trained, trained.checkpoint)[0] is True
    other = home / "other"
    shutil.copytree(trained.checkpoint.path, other)
    tensors = load_file(other / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + torch.tensor(0.25, dtype=tensors[name].dtype)
    save_file(tensors, other / "model.safetensors")
    lines = (other / "metrics.jsonl").read_text().splitlines()
    lines[7:] = [json.dumps(json.loads(line) | {"loss": 9.5}) for line in lines[7:]]
    (other / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    shutil.rmtree(trained.folder)
    identical, text = compare(find_trained(home, "tiny"), Artifact(other, manifest))
    assert identical is False
    assert f"1 of {len(tensors)} tensors differ, a value by 0.25 at most" in text
    assert "The first 7 steps have equal losses; step 8:" in text
    assert "9.500000 now" in text
