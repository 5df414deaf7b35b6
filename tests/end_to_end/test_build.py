"""Whole builds of a very small model, as processes: found again, changed, killed, damaged, and talked to."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from parakeet.training.job import METRICS_FILE
from parakeet.training.logging import EVENTS_FILE, read_events, read_metrics

from ..conftest import without_root_rights
from ..program_server import Program
from .conftest import STAGES, environment, made, parakeet, start, write_recipe

pytestmark = pytest.mark.slow


def weights(home: Path) -> dict[str, bytes]:
    return {k: v.tobytes() for k, v in load_file(home / "checkpoint" / "latest" / "model.safetensors").items()}


def test_a_build_makes_every_stage_and_ends_in_a_release(built: tuple[Path, Path, bytes]) -> None:
    home, _, output = built
    assert made(output) == list(STAGES)
    release = (home / "releases" / "latest").resolve()
    expected = {"model.safetensors", "config.json", "generation_config.json", "README.md", "evaluation.json",
                "training_manifest.json", "SHA256SUMS", "tokenizer.json", "vocabulary.tiktoken",
                "report.html", "report.md", "report.json"}  # fmt: skip
    assert expected <= {path.name for path in release.iterdir()}
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=release).returncode == 0
    assert parakeet(home, "verify").stdout == parakeet(home, "verify", str(release)).stdout
    assert b"files, all match" in parakeet(home, "verify", "tiny").stdout
    assert output.endswith(b"Talk to it with: parakeet chat\n")
    assert b"*  tiny" in parakeet(home, "models").stdout


def test_every_input_record_is_accounted_for(built: tuple[Path, Path, bytes]) -> None:
    home, _, _ = built
    counts = {
        name: json.loads((home / name / "latest" / "manifest.json").read_text(encoding="utf-8"))["counts"]
        for name in STAGES[:5]
    }
    for name, source in counts["documents"]["sources"].items():
        assert source["records"] == source["documents"] + source["bad"]
        clean = counts["clean_documents"]["sources"][name]
        assert source["documents"] == clean["kept"] + sum(clean["dropped"].values())
        unique = counts["deduplicated_documents"]["sources"][name]
        assert clean["kept"] == unique["kept"] + sum(unique["dropped"].values())
        splits = [counts["token_shards"][split]["sources"][name]["documents"] for split in ("train", "held_out")]
        assert unique["kept"] == sum(splits)
    lineage = json.loads((home / "releases" / "latest" / "training_manifest.json").read_text(encoding="utf-8"))
    assert len(lineage["source_files"]) == 1
    assert lineage["stages"]["documents"]["counts"] == counts["documents"]


def test_the_same_command_again_does_nothing(built: tuple[Path, Path, bytes]) -> None:
    home, recipe, _ = built
    before = sorted(home.glob("*/*-*/manifest.json"))
    times = [path.stat().st_mtime_ns for path in before]
    again = parakeet(home, "build", "--recipe", str(recipe))
    assert again.returncode == 0
    assert made(again.stderr) == []
    assert again.stderr.count(b"up to date") == len(STAGES)
    assert [path.stat().st_mtime_ns for path in sorted(home.glob("*/*-*/manifest.json"))] == times


def test_a_training_setting_changes_only_training_and_what_follows_and_two_processes_train(
    copy: tuple[Path, Path],
) -> None:
    """Dagster's pipes are open in one of them only."""
    home, recipe = copy
    changed = write_recipe(recipe.parent, tokens=4096, learning_rate=7e-4, processes=2)
    finished = parakeet(home, "build", "--recipe", str(changed))
    assert finished.returncode == 0, finished.stderr.decode()
    assert b"Traceback" not in finished.stderr
    assert made(finished.stderr) == ["checkpoint", "evaluation", "memorisation", "report", "release", "comparison"]
    summary = json.loads((home / "checkpoint" / "latest" / "training.json").read_text(encoding="utf-8"))
    assert summary["processes"] == 2


def test_select_and_force(copy: tuple[Path, Path]) -> None:
    home, recipe = copy
    finished = parakeet(home, "build", "--recipe", str(recipe), "--select", "packing_plan", "--force", "token_shards")
    assert finished.returncode == 0, finished.stderr.decode()
    assert made(finished.stderr) == ["token_shards"]
    assert b"checkpoint" not in finished.stderr
    assert len(list((home / "token_shards").glob("*-*"))) == 2


def test_what_this_machine_cannot_train_is_refused_before_any_stage(copy: tuple[Path, Path]) -> None:
    home, recipe = copy
    changed = write_recipe(recipe.parent, attention="flex", device="auto")
    if torch.cuda.is_available():
        pytest.skip("FlexAttention can be computed here")
    finished = parakeet(home, "build", "--recipe", str(changed), "--force", "documents")
    assert finished.returncode == 1
    assert b"training.attention is flex, which needs a CUDA device" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def without_training(home: Path) -> None:
    for name in ("training_runs", "checkpoint", "evaluation", "memorisation", "report", "releases"):
        shutil.rmtree(home / name)


def resumptions(home: Path) -> list[int]:
    """The steps from which the run was resumed."""
    (run,) = home.glob("training_runs/*") or (None,)
    found = read_events(run / EVENTS_FILE) if run else []
    return [event["step"] for event in found if event["kind"] == "resumed"]


def training(home: Path, recipe: Path) -> tuple[Program, int]:
    """A build that trains: it has saved its first checkpoint, or a step since it resumed. And its trainer's process."""
    before = len(resumptions(home)) if list(home.glob("training_runs/*/step-*")) else None
    build = start(home, "build", "--recipe", str(recipe))
    deadline = time.monotonic() + 120
    while True:
        if before is None and list(home.glob("training_runs/*/step-*")):
            break
        if before is not None and len(resumed := resumptions(home)) > before:
            (metrics,) = home.glob(f"training_runs/*/{METRICS_FILE}")
            if read_metrics(metrics)[-1]["step"] > resumed[-1]:
                break
        assert build.poll() is None, build.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (holder,) = home.glob("training_runs/*/run.holder")
    return build, int(holder.read_text(encoding="utf-8").split()[1])


def test_however_a_build_ends_the_same_command_goes_on_and_gives_the_same_bits(copy: tuple[Path, Path]) -> None:
    """One run: killed five times in five ways, and finished while another recipe is made active."""
    home, recipe = copy
    expected = weights(home)
    without_training(home)
    for victims in ({"trainer"}, {"build"}, {"trainer", "build"}):
        build, trainer = training(home, recipe)
        if "build" in victims:
            build.kill()
        if "trainer" in victims:
            os.kill(trainer, signal.SIGKILL)
        _, errors = build.communicate(timeout=60)
        assert build.returncode != 0
        if victims == {"trainer"}:
            assert b"Run the same command again" in errors
            assert b"Traceback" not in errors
    for number in (signal.SIGINT, signal.SIGTERM):
        build, trainer = training(home, recipe)
        # Ctrl-C in a terminal reaches both; a service manager's SIGTERM reaches the build alone.
        for process in (trainer, build.pid) if number is signal.SIGINT else (build.pid,):
            os.kill(process, number)
        _, errors = build.communicate(timeout=60)
        assert build.returncode in (1, 130)
        assert b"Resuming from step" in errors
        assert b"Traceback" not in errors
        listed = parakeet(home, "clean")
        assert listed.returncode == 0, listed.stderr.decode()
        assert b"training_runs" not in listed.stdout

    build, _ = training(home, recipe)
    assert parakeet(home, "use", "demo").returncode == 0
    assert b"Something is being built" in parakeet(home, "clean").stderr
    _, errors = build.communicate(timeout=100)
    assert build.returncode == 0, errors.decode()
    assert b"Resuming from step" in errors
    assert made(errors) == ["checkpoint", "evaluation", "memorisation", "report", "release", "comparison"]
    assert len(resumptions(home)) == 5
    assert weights(home) == expected


def test_a_typing_error_in_data_leaves_the_active_recipe_alone(copy: tuple[Path, Path]) -> None:
    home, _ = copy
    active = (home / "recipe.yaml").read_bytes()
    refused = parakeet(home, "build", "--data", "no-such-file.jsonl")
    assert refused.returncode == 1
    assert b"no-such-file.jsonl does not exist" in refused.stderr
    assert (home / "recipe.yaml").read_bytes() == active
    assert parakeet(home, "clean").returncode == 0
    recipe = home / "broken.yaml"
    recipe.write_text("extends: demo\nsources: [{name: a, path: gone.txt}]\n", encoding="utf-8")
    assert parakeet(home, "use", str(recipe)).returncode == 1
    assert (home / "recipe.yaml").read_bytes() == active


def test_two_builds_at_once_end_in_one_set_of_artefacts(built: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    _, recipe, _ = built
    both = [start(tmp_path, "build", "--recipe", str(recipe), "--select", "packing_plan") for _ in range(2)]
    errors = [process.communicate(timeout=200)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert all(len(list((tmp_path / stage).glob("*-*"))) == 1 for stage in STAGES[:6])


@pytest.mark.parametrize("file", ["token_shards/latest/train-00000-000.arrow", "checkpoint/latest/model.safetensors"])
def test_one_changed_byte_stops_the_build_with_the_mend(copy: tuple[Path, Path], file: str) -> None:
    home, recipe = copy
    path = home / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    latest = os.readlink(home / "releases" / "latest")
    finished = parakeet(home, "build", "--recipe", str(recipe))
    stage = file.split("/")[0]
    assert finished.returncode == 1
    assert f"Run the same build again with: --force {stage}" in finished.stderr.decode()
    assert b"Traceback" not in finished.stderr
    assert os.readlink(home / "releases" / "latest") == latest


def test_a_changed_release_is_not_opened(copy: tuple[Path, Path]) -> None:
    home, _ = copy
    path = home / "releases" / "latest" / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("2", "3"), encoding="utf-8")
    finished = parakeet(home, "chat", "-m", "hi")
    assert finished.returncode == 1
    assert b"was changed after the release was made" in finished.stderr


def test_a_home_that_cannot_be_written_to_is_one_message(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    command = [*without_root_rights(), sys.executable, "-m", "parakeet.cli", "build", "--select", "documents"]
    finished = subprocess.run(command, env=environment(tmp_path), capture_output=True, timeout=120)
    tmp_path.chmod(0o755)
    assert finished.returncode == 1
    assert b"Permission denied" in finished.stderr
    assert str(tmp_path).encode() in finished.stderr
    assert b"Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"data\.txt: there is no such file|data\.txt does not exist|There is no file"),
        (b"", "is empty: it holds no record"),
        (b"\x00\x01\x02\xff" * 4000, "records cannot be used"),
        (b"Same.\n\nSame.\n" * 3, "bytes are held out, too little to measure"),
    ],
)
def test_bad_data_is_one_message(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "data.txt"
    if content is not None:
        file.write_bytes(content)
    finished = parakeet(tmp_path / "home", "build", "--data", str(file), "--select", "token_shards")
    errors = finished.stderr.decode()
    assert finished.returncode == 1
    assert re.search(message, errors, flags=re.IGNORECASE), errors
    assert "Traceback" not in errors


def test_a_file_name_that_is_not_utf_8_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    text = "\n\n".join(" ".join(f"w{(n * 7919 + i * i) % 9973}" for i in range(900)) for n in range(40))
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.txt"))).write_text(text, encoding="utf-8")
    finished = parakeet(tmp_path / "home", "build", "--data", str(folder), "--select", "documents")
    assert finished.returncode == 0, finished.stderr.decode(errors="replace")


def test_records_without_known_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"colour": "red"}\n' * 50, encoding="utf-8")
    finished = parakeet(tmp_path / "home", "build", "--data", str(file))
    assert finished.returncode == 1
    assert "data.jsonl" in finished.stderr.decode()
    assert "colour" in finished.stderr.decode()


def test_training_that_cannot_fit_the_disk_is_refused_before_it_starts(copy: tuple[Path, Path]) -> None:
    home, recipe = copy
    values = json.loads(recipe.read_text(encoding="utf-8"))
    values["model"] |= {"layers": 200, "width": 16_384, "heads": 64}
    huge = recipe.parent / "huge.yaml"
    huge.write_text(json.dumps(values), encoding="utf-8")
    finished = parakeet(home, "build", "--recipe", str(huge))
    assert finished.returncode == 1
    assert "Too little disk space for checkpoint" in finished.stderr.decode()


CONTROL_CODES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


@pytest.mark.parametrize("lines", [b"hello\n", b"hi\nWho are you?\n", b"\n\n\xff\xfe\n", b"a" * 3000 + b"\n"])
def test_piped_chat_prints_plain_replies(built: tuple[Path, Path, bytes], lines: bytes) -> None:
    home, _, _ = built
    finished = parakeet(home, "chat", "--max-tokens", "20", stdin=lines)
    assert b"Traceback" not in finished.stderr
    assert not CONTROL_CODES.search(finished.stdout)
    assert b"Human:" not in finished.stdout


@pytest.mark.parametrize("options", [("--temperature", "0"), ("--seed", "7", "--temperature", "1.5")])
def test_greedy_and_seeded_replies_repeat(built: tuple[Path, Path, bytes], options: Sequence[str]) -> None:
    home, _, _ = built
    replies = {parakeet(home, "chat", "-m", "Who are you?", "--max-tokens", "30", *options).stdout for _ in range(2)}
    assert len(replies) == 1


def test_clean_keeps_what_the_release_needs(copy: tuple[Path, Path]) -> None:
    home, recipe = copy
    parakeet(home, "build", "--recipe", str(recipe), "--force", "packing_plan")
    # An interrupted `tokenizer` begins again, so what it left is rubbish; `documents` would be continued.
    for stage in ("tokenizer", "documents"):
        (home / stage / ".partial-dead").mkdir()
    listed = parakeet(home, "clean").stdout.decode()
    assert "tokenizer/.partial-dead" in listed
    assert "parakeet clean --yes" in listed
    removed = parakeet(home, "clean", "--yes").stdout.decode()
    assert "Removed" in removed
    assert not (home / "tokenizer" / ".partial-dead").exists()
    assert (home / "documents" / ".partial-dead").exists()
    again = parakeet(home, "build", "--recipe", str(recipe))
    assert made(again.stderr) == []
    assert parakeet(home, "chat", "-m", "hi", "--max-tokens", "5").returncode == 0
