"""run.json: what a run was trained from and with."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from parakeet.artifact import sha256_of
from parakeet.provenance import arithmetic_variables, git_patch, git_state, processor
from parakeet.training.job import TrainingJob
from parakeet.training.record import RUN_FILE, RunRecord, read_record

from .conftest import ForkServer, MakeJob, events, until


def record(job: Path) -> dict[str, Any]:
    values = read_record(job.parent)
    assert values is not None
    return values


def test_a_run_records_each_process_that_trained_it(trainers: ForkServer, make_job: MakeJob) -> None:
    job = make_job("run")
    running = trainers.start(job)
    until(lambda: bool(events(job, "validated")), running)
    running.send(signal.SIGINT)
    assert running.wait() in (0, 130)
    stopped = record(job)
    trainers.finish(job)
    finished = record(job)
    assert [one["outcome"] for one in stopped["processes"]] == ["stopped"]
    assert stopped["result"] is None
    assert [one["outcome"] for one in finished["processes"]] == ["stopped", "finished"]
    assert finished["processes"][0] == stopped["processes"][0]
    assert finished["processes"][1]["from_step"] > 0
    weights = TrainingJob.load(job).output / "model.safetensors"
    assert finished["result"] == {"step": 20, "weights_sha256": sha256_of(weights)}
    first = finished["processes"][0]
    assert first["started"] <= first["ended"]
    assert first["hardware"]["threads"] == 1
    assert first["hardware"]["processor"]["name"]
    assert first["software"]["torch"]
    assert first["execution"]["32"]["micro_batch_tokens"] == 128
    assert finished["seeds"] == {"training": 1, "order": 1}
    assert finished["recipe"]["training"]["tokens"] == 32 * 8 * 20
    if git_state() is not None:
        assert len(first["code"]["commit"]) == 40


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 2}', '{"schema": 1, "recipe": {}, "processes": []}']
)
def test_a_damaged_record_is_as_good_as_none_and_costs_no_training(
    trainers: ForkServer, write_job: MakeJob, tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    job = write_job(tmp_path_factory.mktemp("damaged") / "run", tokens=32 * 8 * 2)
    (job.parent / RUN_FILE).write_text(text)
    assert read_record(job.parent) is None
    trainers.finish(job)
    assert [one["outcome"] for one in record(job)["processes"]] == ["finished"]


def test_a_record_that_cannot_be_written_costs_no_training(trainers: ForkServer, make_job: MakeJob) -> None:
    job = make_job("run", tokens=32 * 8 * 2)
    (job.parent / RUN_FILE).mkdir()
    assert "run.json cannot be written" in trainers.finish(job)


def test_weights_that_cannot_be_read_for_the_record_cost_no_training(make_job: MakeJob) -> None:
    job, said = TrainingJob.load(make_job("run")), list[str]()
    with RunRecord(job, 0, "1", {}, {}, said.append).ending() as written:
        written.end(True, 5)  # of the output, nothing is there
    assert said == ["The weights cannot be read for run.json (No such file or directory). They are trained."]
    assert [one["outcome"] for one in record(job.run / "job.json")["processes"]] == ["finished"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for command in (["init", "-q"], ["add", "-A"]):
        (tmp_path / "code.py").write_text("a = 1\n")
        (tmp_path / "picture").write_bytes(bytes(range(256)))
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    commit(tmp_path)
    return tmp_path


def commit(repository: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, "commit", "-qam", "x"], cwd=repository, check=True)


def test_the_patch_makes_the_original_files_from_the_commit(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    assert git_patch(repository) == (b"", [])
    (repository / "code.py").write_bytes("a = 'é'\r\n".encode("latin-1"))
    (repository / "picture").write_bytes(bytes(range(255, -1, -1)))
    (repository / "new file.py").write_text("b = 2\n")
    state = git_state(repository)
    assert state is not None
    assert state["changed"]
    patch, untracked = git_patch(repository)
    assert untracked == ["new file.py"]
    monkeypatch.delenv("GIT_DIR")
    clone = tmp_path_factory.mktemp("clone") / "c"
    subprocess.run(["git", "clone", "-q", str(repository), str(clone)], check=True)
    subprocess.run(["git", "apply"], input=patch, cwd=clone, check=True)
    for name in ("code.py", "picture"):
        assert (clone / name).read_bytes() == (repository / name).read_bytes()


def test_outside_a_checkout_no_commit_is_recorded(tmp_path: Path) -> None:
    assert git_state(tmp_path / "none") is None
    assert git_patch(tmp_path / "none") == (b"", [])


def test_the_processor_of_x86_and_of_arm(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Fast 9\nflags\t\t: sse avx\n\nprocessor\t: 1\nmodel name\t: Slow\n")
    assert processor(file) == {"name": "Fast 9", "flags": ["avx", "sse"]}
    file.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert processor(file)["flags"] == ["asimd", "fp"]
    assert processor(tmp_path / "none")["name"]


def test_only_variables_of_arithmetic_are_recorded() -> None:
    kept = {"OMP_NUM_THREADS": "1", "NVIDIA_TF32_OVERRIDE": "1"}
    assert arithmetic_variables({**kept, "HF_TOKEN": "secret", "HOME": "/root"}) == kept
    assert json.dumps(kept)
