"""The training loop: packed rows in, a checkpointed run and a finished model out."""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parakeet.artifact import replace_file
from parakeet.data.loader import Batch, Loader, LoaderState
from parakeet.data.packing import Plan
from parakeet.data.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.model.loss import cross_entropy_sum
from parakeet.model.transformer import Parakeet, best_device, save_model
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer
from parakeet.training.checkpoint import RunState, prune_checkpoints, restore_newest, save_checkpoint
from parakeet.training.curve import draw_loss_curve
from parakeet.training.job import CURVE_FILE, METRICS_FILE, SUMMARY_FILE, TrainingJob
from parakeet.training.optimizer import make_optimizer
from parakeet.training.schedule import Schedule

DOCUMENTS_NAMED = 5


@dataclass(frozen=True)
class Step:
    """What one optimizer step measured; `loss` in nats a token, `gradient_norm` before clipping."""

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float


class Trainer:
    """One run: made from a job, it restores the newest checkpoint that fits, if there is one."""

    def __init__(self, job: TrainingJob, progress: Progress) -> None:
        settings = job.training
        self.job = job
        self.progress = progress
        self.device = _device(settings.device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.tokenizer = Tokenizer.load(job.tokenizer)
        self.schedule = Schedule.from_recipe(settings)
        self.shards = TokenShards(job.shards, "train", self.tokenizer)
        self.loader = Loader(
            self.shards,
            Plan(job.plan),
            job.row_tokens,
            self.tokenizer.padding,
            LoaderState(job.shards_content, job.plan_content, job.order_seed),
        )
        torch.manual_seed(settings.seed)
        self.model = Parakeet(ModelConfig.from_recipe(job.model, self.tokenizer.rows))
        self.model.initialise(torch.Generator().manual_seed(settings.seed))
        self.model.to(self.device)
        self.optimizer = make_optimizer(self.model, settings)
        self.step = 0
        self.tokens = 0
        self._restore()

    def run(self, stop: Callable[[], bool], saved: Callable[[int], None]) -> bool:
        """Train to the schedule's end, or until `stop()` is true between two steps; False if it was stopped.

        Every way out but an exception leaves a checkpoint behind. `saved(step)` is called after each.
        """
        settings = self.job.training
        self.model.train()
        with (
            (self.job.run / METRICS_FILE).open("a", encoding="utf-8") as metrics,
            self.progress.task("training", self.schedule.total_steps * settings.batch_tokens, "tokens") as task,
        ):
            task.skip(self.step * settings.batch_tokens)
            began = time.monotonic()
            while self.step < self.schedule.total_steps:
                step = self._one_step()
                seconds, began = time.monotonic() - began, time.monotonic()
                metrics.write(json.dumps(_record(step, seconds)) + "\n")
                task.advance(settings.batch_tokens, f"loss {step.loss:.3f}")
                stopping = stop()
                if stopping or step.step % settings.checkpoint_steps == 0 or step.step in self._milestones():
                    metrics.flush()
                    self._save()
                    saved(self.step)
                if stopping and self.step < self.schedule.total_steps:
                    return False
        self._finish()
        return True

    def _one_step(self) -> Step:
        settings = self.job.training
        step = self.step + 1
        rate = self.schedule.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.loader.next_batch(settings.batch_tokens // self.job.row_tokens)
        targets = int((batch.targets != self.tokenizer.padding).sum())
        loss = self._accumulate(batch, targets)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            shown = ", ".join(self.shards.doc_id(number).hex() for number in batch.members[:DOCUMENTS_NAMED])
            raise ParakeetError(
                f"Step {step:,}: the loss is {loss}, the gradient's norm {norm}. Nothing was trained on it; the last "
                f"good checkpoint is in {self.job.run}. Its documents: {shown} ({len(batch.members):,} in all). "
                "Lower training.learning_rate and run the same build again."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step = step
        self.tokens += targets
        return Step(step, self.tokens, loss, rate, norm)

    def _accumulate(self, batch: Batch, targets: int) -> float:
        """Gradients of the mean loss over the whole step's targets, one micro-batch after the other."""
        total = 0.0
        rows = self.job.training.micro_batch_rows
        for begin in range(0, len(batch.inputs), rows):
            part = slice(begin, begin + rows)
            ids, wanted, documents = (
                torch.from_numpy(array[part]).to(self.device)
                for array in (batch.inputs, batch.targets, batch.documents)
            )
            with self._precision():
                hidden = self.model(ids, documents)
                loss = cross_entropy_sum(hidden, self.model.embedding.weight, wanted, self.tokenizer.padding)
            loss = loss / max(targets, 1)
            loss.backward()
            total += float(loss.detach())
        return total

    def _precision(self) -> AbstractContextManager[Any]:
        if self.job.training.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _milestones(self) -> tuple[int, int]:
        """The last step before the decay, which a longer run can go on from, and the last of all."""
        return self.schedule.decay_start, self.schedule.total_steps

    def _restore(self) -> None:
        state = restore_newest(self.job.run, self.model, self.optimizer, self.schedule, self.progress)
        if state is not None:
            self.loader.restore(state.loader)
            self.step, self.tokens = state.step, state.tokens
            self.progress.say(f"Going on from step {self.step:,} of {self.schedule.total_steps:,}.")
        _forget_metrics_after(self.job.run / METRICS_FILE, self.step)

    def _save(self) -> None:
        state = RunState(self.step, self.tokens, self.loader.state, self.schedule)
        save_checkpoint(self.job.run, self.model, self.optimizer, state)
        prune_checkpoints(self.job.run, self.job.training.keep_checkpoints, self.schedule)

    def _finish(self) -> None:
        metrics = read_metrics(self.job.run / METRICS_FILE)
        last = metrics[-max(1, len(metrics) // 20) :]
        summary = {
            "parameters": self.model.config.parameter_count,
            "steps": self.step,
            "tokens": self.tokens,
            "final_loss": sum(m["loss"] for m in last) / len(last),
            "first_loss": metrics[0]["loss"],
            "seconds": round(sum(m["seconds"] for m in metrics), 1),
            "tokens_per_second": round(self.step * self.job.training.batch_tokens / sum(m["seconds"] for m in metrics)),
            "device": _device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        save_model(self.model, self.job.output)
        text = json.dumps(summary, indent=2) + "\n"
        (self.job.output / SUMMARY_FILE).write_text(text, encoding="utf-8")
        draw_loss_curve(metrics, self.job.output / CURVE_FILE)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """One dictionary a step: step, tokens, loss, learning_rate, gradient_norm, seconds."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _record(step: Step, seconds: float) -> dict[str, Any]:
    return {
        "step": step.step,
        "tokens": step.tokens,
        "loss": step.loss,
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm,
        "seconds": round(seconds, 4),
    }


def _forget_metrics_after(path: Path, step: int) -> None:
    """Drop the lines of steps that will be made again; a killed process may have left half a line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break
    replace_file(path, "".join(kept))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device(best_device())
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ParakeetError("training.device is cuda, but torch finds no CUDA device; use auto or cpu.")
    return torch.device(name)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
