"""The training loop: packed sequences in, a checkpointed run and a finished model out."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from parakeet.data.tokens.loader import Batch
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.machine import give_back_freed_memory
from parakeet.model.config import WEIGHTS_FILE, ModelConfig
from parakeet.model.execution import Precision
from parakeet.model.reload import probe_logits
from parakeet.model.transformer import Parakeet, save_model
from parakeet.pages.charts import save_png
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer
from parakeet.training.checkpoint import (
    CheckpointWriter,
    RunState,
    begun_precision,
    discard_after,
    load_verified,
    restore_good,
    restore_newest,
)
from parakeet.training.curve import draw_loss_curve
from parakeet.training.device import (
    ExecutionPlan,
    choose_device,
    describe_device,
    device_name,
    is_out_of_memory,
    peak_flops,
    peak_memory,
)
from parakeet.training.distributed import Ranks, join, local_rank, world_size
from parakeet.training.job import CURVE_FILE, METRICS_FILE, SUMMARY_FILE, TrainingJob
from parakeet.training.logging import DagsterReporter, Records, StepRecord, TrainingLogger, read_metrics
from parakeet.training.optimizer import make_optimizer
from parakeet.training.precision import compare_precisions, decide, share
from parakeet.training.record import RunRecord
from parakeet.training.schedule import Schedule
from parakeet.training.stability import MAX_ROLLBACKS_IN_A_ROW, MAX_SKIPS_IN_A_ROW, StabilityMonitor
from parakeet.training.start import KEY
from parakeet.training.steps import Prefetcher, Stepper, Validation

DOCUMENTS_NAMED = 5
STEPS_BETWEEN_TRIMS = 50
"""On a CPU freed memory is given back so often."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, or stopped after `step` with a checkpoint."""

    finished: bool
    step: int


def train(
    job: TrainingJob, progress: Progress, reporter: DagsterReporter, run_id: str, stop: Callable[[], bool]
) -> Outcome:
    """Train to the end of the schedule, or until `stop()` is true; then the step in progress is the last.

    A checkpoint is saved in both cases, but not after an exception. Raises ParakeetError for what a user can fix.
    """
    device = choose_device(job.recipe.training.device, local_rank(), world_size())
    if job.recipe.training.threads:
        torch.set_num_threads(job.recipe.training.threads)
    # Set before torch's first thread, which inherits it. ALiBi makes far probabilities denormal: on a CPU the backward
    # pass over 4,096 tokens of one document takes 1.15 s with denormals and 0.35 s without.
    torch.set_flush_denormal(True)
    with ExitStack() as stack:
        ranks = stack.enter_context(join(device))
        logger = stack.enter_context(TrainingLogger(job, ranks.leads, progress, reporter, run_id))
        trainer = Trainer(job, ranks, logger)
        stack.enter_context(trainer.prefetcher)
        stack.enter_context(trainer.writer)
        trainer.resume()
        if not ranks.leads:
            return trainer.run(stop)
        with trainer.record(run_id).ending() as record:
            outcome = trainer.run(stop)
            record.end(outcome.finished, outcome.step)
            return outcome


class Trainer:
    """One rank's model, data and counters of a run."""

    def __init__(self, job: TrainingJob, ranks: Ranks, logger: TrainingLogger) -> None:
        self.ranks = ranks
        self.logger = logger
        self.asked = job
        self.schedule = Schedule.from_recipe(job.recipe.training, job.recipe.packing)
        tokenizer = Tokenizer.load(job.tokenizer)
        self.config = ModelConfig.from_recipe(job.recipe.model, tokenizer.rows)
        self.precision = self._choose_precision(job)
        settings = job.recipe.training.model_copy(update={"precision": self.precision})
        self.job = job = replace(job, recipe=job.recipe.model_copy(update={"training": settings}))
        # Before any memory is taken: a run whose forecast does not fit is refused here.
        self.execution_plan = ExecutionPlan(job, self.config, self.schedule, ranks)
        for line in self.execution_plan.lines():
            logger.progress.say(line)
        self.shards = TokenShards(job.shards, "train", tokenizer)
        held_out = TokenShards(job.shards, "held_out", tokenizer)
        self.prefetcher = Prefetcher(job, self.shards, tokenizer.padding, self.schedule)
        self.validation = Validation(held_out, settings.validation_tokens, tokenizer.padding)
        self.model = self._new_model().to(ranks.device)
        self.optimizer = make_optimizer(self.model, settings)
        self.stepper = Stepper(self.model, self.optimizer, ranks, settings, tokenizer.padding)
        self.writer = CheckpointWriter(
            job.run,
            logger.progress,
            keep_checkpoints=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            report=logger.report,
            enabled=ranks.leads,
        )
        self.execution_plan.begin()
        self.peak_flops = peak_flops(ranks.device, self.precision)
        self.monitor = StabilityMonitor()
        self.last_skipped = ""
        self.step = 0
        self.tokens = 0

    def _choose_precision(self, job: TrainingJob) -> Precision:
        """The recipe's precision; for `auto` what the run began with, or what is faster here."""
        here = share(compare_precisions(self.config, self.ranks.device), self.ranks)
        begun = begun_precision(job.run, self.schedule)
        precision, text = decide(job.recipe.training.precision, begun, here)
        if text:
            self.logger.progress.say(text)
        return precision

    def resume(self) -> None:
        """Continue from the newest checkpoint that fits, if there is one.

        ParakeetError if it belongs to another model, or if all that would fit are damaged.
        """
        state = self._restore(None)
        if state is None and self.job.start is not None:
            self._initialise()
        if state is not None:
            self.prefetcher.restore(state.loaders)
            self.monitor.restore(state.monitor, state.good_step, state.skipped, state.rolled_back)
        self.logger.resume(self.step, self.schedule, None if state is None else state.schedule)
        if state is None:
            start = self.job.start
            begun = "" if start is None else f" from the weights of {start['model']} ({start['kind']})"
            self.logger.event("started", 0, f"Training started{begun}: {self.schedule.total_steps:,} steps.")
            if start is not None:
                self.logger.progress.say(f"Training starts{begun}, {start['folder']}.")
            return
        text = f"Resuming from step {self.step:,} of {self.schedule.total_steps:,}."
        self.logger.announce("resumed", self.step, text)
        if state.world_size != self.ranks.world:
            self.logger.progress.say(
                f"The checkpoint was made by {state.world_size} processes and {self.ranks.world} continue: the "
                "training is the same, but not to the last bit."
            )

    def record(self, run_id: str) -> RunRecord:
        """Note in the run's folder what this process trains with, from the present step on."""
        hardware = {**describe_device(self.ranks.device), "processes": self.ranks.world}
        execution = self.execution_plan.summary()
        return RunRecord(self.asked, self.step, run_id, hardware, execution, self.logger.progress.say)

    def run(self, stop: Callable[[], bool]) -> Outcome:
        """Make the remaining steps."""
        schedule = self.schedule
        self.model.train()
        with self.logger.task(schedule.tokens_until(schedule.total_steps)) as task:
            task.skip(schedule.tokens_until(self.step))
            while self.step < schedule.total_steps:
                record, stopping = self._make_step(stop())
                task.advance(schedule.tokens_in(self.step), f"loss {record.loss:.3f}")
                if self.monitor.must_roll_back:
                    before = schedule.tokens_until(self.step)
                    self._roll_back()
                    task.skip(schedule.tokens_until(self.step) - before)
                    continue
                self._close_step(record, stopping)
                if stopping and self.step < schedule.total_steps:
                    return self._stop()
        return self._finish()

    def _make_step(self, stopping: bool) -> tuple[StepRecord, bool]:
        """Make one optimizer step, or skip it. Returns its record, and whether any rank was asked to stop."""
        began = time.monotonic()
        step = self.step + 1
        if self.schedule.phase(step) != self.schedule.phase(max(1, self.step)):
            self.monitor.begin_phase()
        sequence_length = self.schedule.sequence_length(step)
        rate = self.schedule.learning_rate(step)
        batch, data_seconds = self.prefetcher.take(step)
        self.model.execution = self.execution_plan.execution(sequence_length)
        with self._memory_explained(step, sequence_length):
            at_once = self.execution_plan.micro_batch_sequences(sequence_length)
            measured = self.stepper.measure(batch, step, at_once, stopping)
            reason = self.monitor.check(measured.loss, measured.gradient_norm)
            if reason is None:
                self.stepper.apply(rate, measured.gradient_norm)
                self.tokens += measured.targets
            else:
                self.stepper.discard()
                self._announce_skip(step, reason, batch)
        self.step = step
        seconds = time.monotonic() - began
        speed = self.schedule.tokens_in(step) / seconds
        record = StepRecord(
            step=step,
            tokens=self.tokens,
            loss=measured.loss,
            gradient_norm=measured.gradient_norm,
            learning_rate=rate,
            sequence_length=sequence_length,
            seconds=seconds,
            tokens_per_second=speed,
            data_seconds=data_seconds,
            mfu=self._utilisation(self.config.flops_per_token(sequence_length), speed),
            mfu_palm=self._utilisation(self.config.palm_flops_per_token(sequence_length), speed),
            memory_bytes=peak_memory(self.ranks.device),
            skipped=reason,
        )
        return record, measured.stopping

    def _utilisation(self, flops_per_token: float, tokens_per_second: float) -> float | None:
        """Model FLOPs utilisation: the share of all devices' peak that the model's arithmetic makes up.

        Activation checkpointing does not count as the model's arithmetic.
        """
        if self.peak_flops is None:
            return None
        return flops_per_token * tokens_per_second / (self.peak_flops * self.ranks.world)

    @contextmanager
    def _memory_explained(self, step: int, sequence_length: int) -> Iterator[None]:
        """Turn an out-of-memory error into a ParakeetError with the forecast and a change that would fit."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self.execution_plan.out_of_memory(step, sequence_length) from None
            raise

    def _announce_skip(self, step: int, reason: str, batch: Batch) -> None:
        documents = [self.shards.doc_id(number).hex() for number in dict.fromkeys(batch.members)]
        shown = ", ".join(documents[:DOCUMENTS_NAMED])
        self.last_skipped = f"{shown} ({len(documents):,} in total, in {self.logger.events_file})"
        text = (
            f"Skipped step {step:,}: {reason} ({self.monitor.skipped_in_a_row} of {MAX_SKIPS_IN_A_ROW} in a row; "
            f"its documents are in {self.logger.events_file.name})."
        )
        self.logger.announce("skipped", step, text, reason=reason, documents=documents)

    def _close_step(self, record: StepRecord, stopping: bool) -> None:
        """Log the step and save what is due. A checkpoint of the schedule has its held-out loss measured first."""
        scheduled = self._is_scheduled(self.step)
        validation_loss = self._validate() if scheduled else None
        self.logger.step(replace(record, validation_loss=validation_loss), self.schedule.total_steps)
        # A skipped step has its checkpoint too, but no run rolls back to it: its weights may be the problem.
        if scheduled and record.skipped is None:
            self.monitor.saved(self.step)
        if scheduled or stopping:
            self._save(validation_loss)
        self.writer.poll()
        if self.ranks.device.type == "cpu" and self.step % STEPS_BETWEEN_TRIMS == 0:
            give_back_freed_memory()

    def _is_scheduled(self, step: int) -> bool:
        """Whether the schedule asks for a checkpoint: every `checkpoint_steps`, at the last step that a longer run or
        a decay branch can continue from, and at the end."""
        milestones = (self.schedule.stable_until, self.schedule.total_steps)
        return step % self.job.recipe.training.checkpoint_steps == 0 or step in milestones

    def _validate(self) -> float | None:
        sequence_length = self.schedule.sequence_length(self.step)
        at_once = self.execution_plan.micro_batch_sequences(sequence_length)
        with self._memory_explained(self.step, sequence_length):
            loss = self.validation.loss(self.model, self.ranks, sequence_length, at_once)
        if loss is not None:
            self.logger.event("validated", self.step, f"Held-out loss {loss:.4f} nats a token.", validation_loss=loss)
        return loss

    def _save(self, validation_loss: float | None) -> None:
        self.logger.flush()
        state = RunState(
            step=self.step,
            tokens=self.tokens,
            loaders=self.prefetcher.state,
            schedule=self.schedule,
            monitor=self.monitor.state(),
            skipped=self.monitor.skipped,
            rolled_back=self.monitor.rolled_back,
            validation_loss=validation_loss,
            world_size=self.ranks.world,
            good_step=self.monitor.good_step,
            precision=self.precision,
        )
        self.writer.save(self.model, self.optimizer, state)

    def _roll_back(self) -> None:
        """Return to the last good checkpoint, but not to its data.

        Raises ParakeetError if this was done too often or no checkpoint is usable; nothing is removed then.
        """
        step, target = self.step, self.monitor.good_step
        if not self.monitor.may_roll_back:
            last_good = (
                f"The last good checkpoint is that of step {target:,} in {self.job.run}."
                if target
                else "There is no good checkpoint yet."
            )
            raise ParakeetError(
                f"Step {step:,}: {MAX_SKIPS_IN_A_ROW} steps in a row were skipped, and {MAX_ROLLBACKS_IN_A_ROW} "
                f"rollbacks to step {target:,}, each continuing with newer data, have not helped. {last_good} "
                f"Documents of the last skipped step: {self.last_skipped}. "
                "Lower training.learning_rate and run the same build again."
            )
        self.writer.wait()
        state = self._restore(target) if target else None
        if state is None:
            self._initialise()
            self.optimizer.state.clear()
            self.step = self.tokens = 0
        # Only now: until the target has been read, the later checkpoints are all that the run has.
        if self.ranks.leads:
            discard_after(self.job.run, self.schedule, self.step)
        self.monitor.after_rollback(self.step, None if state is None else state.monitor)
        self.logger.truncate(self.step)
        text = f"Rolled back from step {step:,} to step {self.step:,}; the data continues after that of step {step:,}."
        self.logger.announce("rolled_back", step, text, to=self.step)

    def _restore(self, good_step: int | None) -> RunState | None:
        """Load weights, optimizer and counters of the newest checkpoint that fits; all ranks read the same one.

        With `good_step`, of the newest that the run may roll back to, or ParakeetError.
        """
        self.ranks.wait()
        run, progress = self.job.run, self.logger.progress
        if good_step is None:
            state = restore_newest(run, self.model, self.optimizer, self.schedule, progress)
        else:
            state = restore_good(run, self.model, self.optimizer, self.schedule, progress, good_step)
        self.step, self.tokens = (state.step, state.tokens) if state else (0, 0)
        (steps,) = self.ranks.sum([self.step])
        if steps != self.step * self.ranks.world:
            raise ParakeetError(f"The processes see different checkpoints in {run}; run the same command again.")
        return state

    def _new_model(self) -> Parakeet:
        model = Parakeet(self.config)
        settings = self.job.recipe.training
        model.initialise(torch.Generator().manual_seed(settings.seed), settings.embedding_deviation)
        return model

    def _initialise(self) -> None:
        """Give the model the weights of step 0: those of `training.start`, or the seed's."""
        if self.job.start is None:
            weights = self._new_model().state_dict()
        else:
            file, expected = Path(self.job.start["folder"]) / WEIGHTS_FILE, self.job.start["weights_sha256"]
            try:
                weights = load_verified(file, expected, self.config).state_dict()
            except ParakeetError as error:
                raise ParakeetError(
                    f"{error} Training has to start from these weights ({KEY}, sha256 {expected[:12]}). Put them back, "
                    "or choose others, and run the same build again."
                ) from None
        self.model.load_state_dict(weights)

    def _stop(self) -> Outcome:
        self.writer.close()
        self.logger.event("stopped", self.step, f"Stopped at step {self.step:,} with a checkpoint.")
        self.ranks.wait()
        return Outcome(finished=False, step=self.step)

    def _finish(self) -> Outcome:
        self.writer.close()
        if self.ranks.leads:
            self._write_result()
        peak = self.execution_plan.peak_line()
        self.logger.event("finished", self.step, f"Trained on {self.tokens:,} tokens. {peak}")
        self.logger.progress.say(peak)
        # torchrun ends all processes when one ends early.
        self.ranks.wait()
        return Outcome(finished=True, step=self.step)

    def _write_result(self) -> None:
        """Fill the job's output folder: the model, the run's figures, the picture of its loss."""
        metrics = read_metrics(self.job.run / METRICS_FILE)
        trained = [record for record in metrics if "skipped" not in record and record["loss"] is not None]
        if not trained:
            raise ParakeetError(
                f"{self.job.run / METRICS_FILE} has no step of this run: it was changed or removed during training. "
                "To train from the beginning, run the same build again with: --force checkpoint"
            )
        summary = {
            "parameters": self.config.parameter_count,
            **_history(metrics, trained, self.schedule, self.job.start is not None),
            "skipped": self.monitor.skipped,
            "rolled_back": self.monitor.rolled_back,
            "device": device_name(self.ranks.device),
            "processes": self.ranks.world,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "memory_bytes": peak_memory(self.ranks.device),
            "forecast_bytes": self.execution_plan.forecast_bytes,
            "execution": self.execution_plan.summary(),
            "logits": probe_logits(self.model),
        }
        output = self.job.output
        save_model(self.model, output)
        (output / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        save_png(partial(draw_loss_curve, metrics), output / CURVE_FILE)


def _history(metrics: Records, trained: Records, schedule: Schedule, is_started: bool) -> dict[str, Any]:
    """Figures of the whole run. The final loss and MFU are means over the last twentieth of the steps.

    So is the first loss over the first twentieth, if the run began with trained weights: then it falls by less than
    one batch differs from another. From random weights it falls from the first step on.
    """
    some = max(1, len(trained) // 20)
    last, first = trained[-some:], trained[: some if is_started else 1]
    seconds = sum(record["seconds"] for record in metrics)
    known = [record["mfu"] for record in last if record.get("mfu") is not None]
    return {
        "steps": metrics[-1]["step"],
        "tokens": metrics[-1]["tokens"],
        "final_loss": sum(record["loss"] for record in last) / len(last),
        "first_loss": sum(record["loss"] for record in first) / len(first),
        "validation_loss": metrics[-1].get("validation_loss"),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(sum(schedule.tokens_in(record["step"]) for record in metrics) / seconds),
        "mfu": sum(known) / len(known) if known else None,
    }
