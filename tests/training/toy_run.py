"""A run without data: gradients are a pure function of the step. Run as a process, its arguments say what it saves."""

import resource
import sys
from pathlib import Path

import torch

from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.recipe import Training
from parakeet.training.checkpoint import CheckpointWriter, HostCopy, RunState, write_checkpoint
from parakeet.training.optimizer import Optimizer, make_optimizer
from parakeet.training.schedule import Phase, Schedule

SCHEDULE = Schedule(1e-3, 2, 800, 1000, (Phase(16, 1000),))
SMALLEST_FILE = 1 << 10
LARGEST_FILE = resource.RLIM_INFINITY

Saved = tuple[Parakeet, Optimizer, RunState]


class ToyRun:
    """A model of `width`; bitsandbytes keeps 8-bit state for tensors of 4,096 values and more."""

    def __init__(
        self, optimizer: str = "adamw", width: int = 16, seed: int = 1, device: str = "cpu", **settings: object
    ) -> None:
        self.model = Parakeet(ModelConfig(layers=2, heads=2, width=width, context=16, vocabulary_rows=64))
        self.model.initialise(torch.Generator().manual_seed(seed))
        self.model.to(device)
        values = {"tokens": 1, "batch_tokens": 16, "learning_rate": 1e-3, "optimizer": optimizer, **settings}
        self.optimizer = make_optimizer(self.model, Training.model_validate(values))

    def make_step(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        self.optimizer.step()

    def snapshot(self, step: int, schedule: Schedule = SCHEDULE, validation_loss: float | None = None) -> Saved:
        return self.model, self.optimizer, run_state(step, schedule, validation_loss)

    def save(self, run: Path, step: int, schedule: Schedule = SCHEDULE, validation_loss: float | None = None) -> Path:
        return write(run, self.snapshot(step, schedule, validation_loss))

    def bits(self) -> list[bytes]:
        """Everything that was learned, as bytes: the weights, then the optimizer's tensors and numbers."""
        state = self.optimizer.state_dict()["state"]
        learnt = [*self.model.state_dict().values()]
        learnt += [torch.as_tensor(value) for index in sorted(state) for _, value in sorted(state[index].items())]
        return [tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in learnt]


def write(run: Path, snapshot: Saved) -> Path:
    return write_checkpoint(run, HostCopy.of(*snapshot))


def run_state(step: int, schedule: Schedule = SCHEDULE, validation_loss: float | None = None) -> RunState:
    return RunState(
        step=step,
        tokens=100 * step,
        loaders={"0": {"epoch": 0, "next_row": 3 * step}},
        schedule=schedule,
        monitor={"losses": [0.1, 1 / 3], "gradient_norms": []},
        skipped=1,
        rolled_back=0,
        validation_loss=validation_loss,
        world_size=1,
    )


def open_writer(run: Path, progress: Progress | None = None) -> CheckpointWriter:
    return CheckpointWriter(
        run,
        progress or Progress(),
        keep_checkpoints=2,
        keep_every=0,
        report=lambda kind, step, text: print(kind.removeprefix("save_"), step, text, flush=True),
    )


def let_files_grow_to(n_bytes: int) -> None:
    """Like `ulimit -S -f`: writing past it fails as on a full disk, since Python ignores SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


def main(folder: str, mode: str, *arguments: str) -> None:
    run = Path(folder)
    toy = ToyRun(width=256 if mode in ("forever", "left", "failing") else 16)
    if mode == "left":
        writer = open_writer(run)
        writer.save(*toy.snapshot(1))
        raise RuntimeError("the training failed and nobody closed the writer")
    with open_writer(run) as writer:
        if mode == "failing":
            writer.save(*toy.snapshot(1))
            raise RuntimeError("the training failed")
        if mode == "forever":
            for step in range(1, 1000):
                toy.make_step(step)
                writer.save(*toy.snapshot(step))
        for step, disk in enumerate(arguments, start=1):
            if disk != "as it is":
                let_files_grow_to(SMALLEST_FILE if disk == "full" else LARGEST_FILE)
            writer.save(*toy.snapshot(step))
            writer.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
