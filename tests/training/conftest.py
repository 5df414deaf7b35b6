"""Training jobs on a few dialogues, run as real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from parakeet.artifact import sha256_of
from parakeet.data.tokens.packing import plan_file
from parakeet.recipe import Packing
from parakeet.training.checkpoint import checkpoints
from parakeet.training.job import FAILURE_FILE, METRICS_FILE, TrainingJob
from parakeet.training.logging import EVENTS_FILE, read_events, read_metrics

from ..conftest import Prepared

MakeJob = Callable[..., Path]
SECONDS = 600
"""Tests wait for events; after this long they give up."""

# On a busy machine any example may be slow.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


class Running:
    """A trainer that was started, and may be signalled at any moment."""

    def __init__(self, server: "ForkServer", process: int, errors: Path) -> None:
        self._server = server
        self._errors = errors
        self._status: int | None = None
        self.process = process

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process, number)

    def poll(self) -> int | None:
        """The exit status, or the negative signal that ended it; None while it runs."""
        if self._status is None:
            self._status = self._server.ask({"poll": self.process})
        return self._status

    def wait(self) -> int:
        until(lambda: self.poll() is not None, self)
        assert self._status is not None
        return self._status

    def printed(self) -> str:
        """What it has written to standard error so far."""
        return self._errors.read_text(encoding="utf-8") if self._errors.exists() else ""


class ForkServer:
    """Forks trainers from a process that has imported all they need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        script = Path(__file__).with_name("fork_server.py")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_PIPES")}
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(
            [sys.executable, str(script)], env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1
        )

    def start(
        self,
        job: Path,
        *,
        parent: int | None = None,
        file_size: int | None = None,
        memory: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> Running:
        """`python -m parakeet.training JOB [PARENT]`, with limits on file sizes and additional memory."""
        self._started += 1
        errors = self._folder / f"errors-{self._started}"
        request = {
            "start": [str(job), *([str(parent)] if parent else [])],
            "errors": str(errors),
            "file_size": file_size,
            "memory": memory,
            "environment": environment or {},
        }
        return Running(self, self.ask(request), errors)

    def finish(self, job: Path) -> str:
        """Train to the end. Returns the messages."""
        running = self.start(job)
        status = running.wait()
        failure = job.parent / FAILURE_FILE
        assert status == 0, running.printed() + (failure.read_text() if failure.exists() else "")
        return running.printed()

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        self._server.communicate(timeout=SECONDS)


@dataclass(frozen=True)
class Result:
    """The parts of a finished run that interruptions must not change."""

    weights: dict[str, bytes]
    optimizer: dict[str, bytes]
    history: list[tuple[Any, ...]]


@pytest.fixture(scope="session")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    server = ForkServer(tmp_path_factory.mktemp("errors"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def write_job(prepared: Prepared) -> MakeJob:
    """Makes job.json in a run's folder; keyword arguments change its training, `packing` and `model` their sections."""

    def write(
        run: Path,
        *,
        packing: Packing = prepared.recipe.packing,
        model: dict[str, object] | None = None,
        shards: Path = prepared.shards,
        plan: Path = prepared.plan,
        try_anyway: bool = False,
        start: dict[str, Any] | None = None,
        **training: object,
    ) -> Path:
        output = run.with_name(f"{run.name}-output")
        for folder in (run, output):
            folder.mkdir(exist_ok=True)
        recipe = prepared.recipe
        shape = recipe.model.model_copy(update=model or {})
        settings = recipe.training.model_copy(update=training)
        job = TrainingJob(
            recipe=recipe.model_copy(update={"model": shape, "training": settings, "packing": packing}),
            tokenizer=prepared.tokenizer_folder,
            shards=shards,
            shards_content="shards",
            plan=plan,
            plan_digests={str(length): sha256_of(plan / plan_file(length)) for length in packing.lengths},
            run=run,
            output=output,
            try_anyway=try_anyway,
            start=start,
        )
        return job.save()

    return write


@pytest.fixture
def make_job(write_job: MakeJob, tmp_path: Path) -> MakeJob:
    """`write_job` by name, in the test's own folder."""

    def make(name: str, **settings: object) -> Path:
        return write_job(tmp_path / name, **settings)

    return make


def result(job: Path) -> Result:
    read = TrainingJob.load(job)
    last = checkpoints(read.run)[-1]
    weights = {name: tensor.tobytes() for name, tensor in load_file(read.output / "model.safetensors").items()}
    # By torch, since numpy knows no bf16.
    tensors = load_tensors(last / "optimizer.safetensors")
    optimizer = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    optimizer["state.json"] = json.dumps(json.loads((last / "state.json").read_text())["optimizer"]).encode()
    return Result(weights, optimizer, history(job))


def history(job: Path) -> list[tuple[Any, ...]]:
    kept = ("step", "loss", "tokens", "gradient_norm", "learning_rate", "row_tokens", "skipped", "validation_loss")
    return [tuple(record.get(name) for name in kept) for record in read_metrics(job.parent / METRICS_FILE)]


def events(job: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(job.parent / EVENTS_FILE) if event["kind"] == kind]


def failure(job: Path) -> str:
    return (job.parent / FAILURE_FILE).read_text(encoding="utf-8")


def until(condition: Callable[[], bool], running: Running | None = None) -> None:
    """Wait until the condition holds, which it must before the trainer ends."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert running is None or running.poll() is None or condition(), running.printed()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
