"""The training loop: packed rows in, a checkpointed run and a finished model out."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from parakeet.data.tokens.loader import Batch
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.tokenizer import Tokenizer
from parakeet.training.checkpoint import RunState, Snapshot, restore_good, restore_newest
from parakeet.training.device import choose_device, is_out_of_memory, peak_memory
from parakeet.training.distributed import Ranks, join, local_rank, world_size
from parakeet.training.feed import Feed
from parakeet.training.healing import ROLL_BACKS_IN_A_ROW, SKIPS_IN_A_ROW, Healing
from parakeet.training.job import TrainingJob
from parakeet.training.metrics import StepRecord
from parakeet.training.optimizer import make_optimizer
from parakeet.training.policy import Policy
from parakeet.training.reporting import Reporter
from parakeet.training.saving import Saver, discard_after
from parakeet.training.schedule import Schedule
from parakeet.training.speed import Speed
from parakeet.training.steps import Stepper
from parakeet.training.summary import write_result
from parakeet.training.validation import Validation
from parakeet.training.watch import Watch

DOCUMENTS_NAMED = 5


@dataclass(frozen=True)
class Outcome:
    """Where a run stands: at its end, or stopped after `step` with a checkpoint."""

    finished: bool
    step: int


def train(job: TrainingJob, progress: Progress, reporter: Reporter, run_id: str, stop: Callable[[], bool]) -> Outcome:
    """Train to the schedule's end, or until `stop()` is true; then the step under way is the last.

    Every way out but an exception leaves a checkpoint behind. Raises ParakeetError for what a user can put right.
    """
    device = choose_device(job.training.device, local_rank(), world_size())
    if job.training.threads:
        torch.set_num_threads(job.training.threads)
    # Before torch's first thread, which inherits it. ALiBi makes far probabilities denormal, and on a CPU the backward
    # pass of 4,096 tokens of one document takes 1.15 s with them and 0.35 s without.
    torch.set_flush_denormal(True)
    with ExitStack() as stack:
        ranks = stack.enter_context(join(device))
        watch = stack.enter_context(Watch(job, ranks.leads, progress, reporter, run_id))
        trainer = Trainer(job, ranks, watch)
        stack.enter_context(trainer.feed)
        stack.enter_context(trainer.saver)
        trainer.resume()
        return trainer.run(stop)


class Trainer:
    """One rank's model, data and counters of a run."""

    def __init__(self, job: TrainingJob, ranks: Ranks, watch: Watch) -> None:
        settings = job.training
        self.job = job
        self.ranks = ranks
        self.watch = watch
        self.schedule = Schedule.from_recipe(settings, job.packing)
        tokenizer = Tokenizer.load(job.tokenizer)
        self.config = ModelConfig.from_recipe(job.model, tokenizer.rows)
        # Before any memory is taken: what is forecast not to fit is refused here.
        self.policy = Policy(job, self.config, self.schedule, ranks)
        for line in self.policy.lines():
            watch.say(line)
        self.shards = TokenShards(job.shards, "train", tokenizer)
        held_out = TokenShards(job.shards, "held_out", tokenizer)
        self.feed = Feed(job, self.shards, tokenizer.padding, self.schedule)
        self.validation = Validation(held_out, settings.validation_tokens, tokenizer.padding)
        self.model = self._new_model().to(ranks.device)
        self.optimizer = make_optimizer(self.model, settings)
        self.stepper = Stepper(self.model, self.optimizer, ranks, settings, tokenizer.padding)
        self.saver = Saver(job, ranks.leads, watch)
        self.speed = Speed(self.config, ranks, settings.precision)
        self.healing = Healing()
        self.left_out = ""
        self.step = 0
        self.tokens = 0

    def resume(self) -> None:
        """Go on from the newest checkpoint that fits, if there is one.

        ParakeetError if it is of another model, or if none of those that would fit is whole.
        """
        state = self._restore(None)
        if state is not None:
            self.feed.restore(state.loaders)
            self.healing.restore(state.monitor, state.good_step, state.skipped, state.rolled_back)
        self.watch.resume(self.step, self.schedule, None if state is None else state.schedule)
        if state is None:
            self.watch.event("started", 0, f"Training began: {self.schedule.total_steps:,} steps.")
            return
        self.watch.tell("resumed", self.step, f"Going on from step {self.step:,} of {self.schedule.total_steps:,}.")
        if state.world_size != self.ranks.world:
            self.watch.say(
                f"It was made by {state.world_size} processes, and {self.ranks.world} go on: the same training, but "
                "not to the last bit."
            )

    def run(self, stop: Callable[[], bool]) -> Outcome:
        """Make the steps that are left."""
        batch_tokens = self.job.training.batch_tokens
        self.model.train()
        with self.watch.task(self.schedule.total_steps * batch_tokens) as task:
            task.skip(self.step * batch_tokens)
            while self.step < self.schedule.total_steps:
                record, stopping = self._make_step(stop())
                task.advance(batch_tokens, f"loss {record.loss:.3f}")
                if self.healing.must_go_back:
                    task.skip(-batch_tokens * self._go_back())
                    continue
                self._close_step(record, stopping)
                if stopping and self.step < self.schedule.total_steps:
                    return self._stop()
        return self._finish()

    def _make_step(self, stopping: bool) -> tuple[StepRecord, bool]:
        """One optimizer step, taken or left out; and whether any rank was asked to stop."""
        began = time.monotonic()
        step = self.step + 1
        if self.schedule.phase(step) != self.schedule.phase(max(1, self.step)):
            self.healing.begin_phase()
        row_tokens = self.schedule.row_tokens(step)
        rate = self.schedule.learning_rate(step)
        batch, data_seconds = self.feed.take(step)
        self.model.execution = self.policy.execution(row_tokens)
        with self._memory_explained(step, row_tokens):
            measured = self.stepper.measure(batch, step, self.policy.micro_batch_rows(row_tokens), stopping)
            reason = self.healing.judge(measured.loss, measured.gradient_norm)
            if reason is None:
                self.stepper.take(rate, measured.gradient_norm)
                self.tokens += measured.targets
            else:
                self.stepper.leave()
                self._tell_skip(step, reason, batch)
        self.step = step
        seconds = time.monotonic() - began
        speed = self.job.training.batch_tokens / seconds
        mfu, mfu_palm = self.speed.utilisation(row_tokens, speed)
        record = StepRecord(
            step, self.tokens, measured.loss, measured.gradient_norm, rate, row_tokens, seconds, speed, data_seconds,
            mfu, mfu_palm, peak_memory(self.ranks.device), reason,
        )  # fmt: skip
        return record, measured.stopping

    @contextmanager
    def _memory_explained(self, step: int, row_tokens: int) -> Iterator[None]:
        """Memory that is refused becomes a ParakeetError with the forecast and the change that would fit."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self.policy.out_of_memory(step, row_tokens) from None
            raise

    def _tell_skip(self, step: int, reason: str, batch: Batch) -> None:
        documents = [self.shards.doc_id(number).hex() for number in dict.fromkeys(batch.members)]
        shown = ", ".join(documents[:DOCUMENTS_NAMED])
        self.left_out = f"{shown} ({len(documents):,} in all, in {self.watch.events_file})"
        text = (
            f"Step {step:,} was left out: {reason} ({self.healing.in_a_row} of {SKIPS_IN_A_ROW} in a row; "
            f"its documents are in {self.watch.events_file.name})."
        )
        self.watch.tell("skipped", step, text, reason=reason, documents=documents)

    def _close_step(self, record: StepRecord, stopping: bool) -> None:
        """Write the step down; where the schedule saves it, measure the held-out loss first."""
        scheduled = self._is_scheduled(self.step)
        validation_loss = self._validate() if scheduled else None
        self.watch.step(replace(record, validation_loss=validation_loss), self.schedule.total_steps)
        if scheduled:
            self.healing.saved(self.step)
        if scheduled or stopping:
            self._save(validation_loss)
        self.saver.poll()

    def _is_scheduled(self, step: int) -> bool:
        """A checkpoint's turn: every so many steps, where a longer run or a decay branch can go on, and at the end.

        Not where the step before it was left out: the weights may be the trouble.
        """
        milestones = (self.schedule.stable_until, self.schedule.total_steps)
        turn = step % self.job.training.checkpoint_steps == 0 or step in milestones
        return turn and not self.healing.in_a_row

    def _validate(self) -> float | None:
        row_tokens = self.schedule.row_tokens(self.step)
        rows = self.policy.micro_batch_rows(row_tokens)
        with self._memory_explained(self.step, row_tokens):
            loss = self.validation.loss(self.model, self.ranks, row_tokens, rows)
        if loss is not None:
            self.watch.event("validated", self.step, f"Held-out loss {loss:.4f} nats a token.", validation_loss=loss)
        return loss

    def _save(self, validation_loss: float | None) -> None:
        self.watch.flush()
        state = RunState(
            step=self.step,
            tokens=self.tokens,
            loaders=self.feed.state,
            schedule=self.schedule,
            monitor=self.healing.state(),
            skipped=self.healing.skipped,
            rolled_back=self.healing.rolled_back,
            validation_loss=validation_loss,
            world_size=self.ranks.world,
            good_step=self.healing.good_step,
        )
        self.saver.save(Snapshot(self.model, self.optimizer, state))

    def _go_back(self) -> int:
        """Return to the last good checkpoint that is there, but not to its data; how many steps that is.

        Raises ParakeetError where that was done too often, or none can be read; nothing is removed then.
        """
        step, target = self.step, self.healing.good_step
        if not self.healing.may_go_back:
            raise ParakeetError(
                f"Step {step:,}: {SKIPS_IN_A_ROW} steps in a row had to be left out, and going back to step {target:,} "
                f"and on past the data has not helped {ROLL_BACKS_IN_A_ROW} times. {self._last_good()} "
                f"Documents of the last of these steps: {self.left_out}. "
                "Lower training.learning_rate and run the same build again."
            )
        self.saver.wait()
        state = self._restore(target) if target else None
        if state is None:
            self._start_over()
        # Not before: until the target is read, the later ones are all that the run has.
        if self.ranks.leads:
            discard_after(self.job.run, self.schedule, self.step)
        self.healing.went_back(None if state is None else state.monitor)
        # An earlier one where that of `target` could not be saved or is torn.
        self.healing.good_step = self.step
        self.watch.cut_back(self.step)
        text = f"Went back from step {step:,} to step {self.step:,}, and on to the data after that of step {step:,}."
        self.watch.tell("rolled_back", step, text, to=self.step)
        return step - self.step

    def _last_good(self) -> str:
        if not self.healing.good_step:
            return "There is no good checkpoint yet."
        return f"The last good checkpoint is that of step {self.healing.good_step:,} in {self.job.run}."

    def _restore(self, good_step: int | None) -> RunState | None:
        """Weights, optimizer and counters of the newest checkpoint that fits; all ranks read the same one.

        With `good_step`, of the newest that the run may go back to: there always is one, or ParakeetError is raised.
        """
        self.ranks.wait()
        run, progress = self.job.run, self.watch.progress
        if good_step is None:
            state = restore_newest(run, self.model, self.optimizer, self.schedule, progress)
        else:
            state = restore_good(run, self.model, self.optimizer, self.schedule, progress, good_step)
        self.step, self.tokens = (state.step, state.tokens) if state else (0, 0)
        (steps,) = self.ranks.add_up([self.step])
        if steps != self.step * self.ranks.world:
            raise ParakeetError(f"The processes do not see the same checkpoints in {self.job.run}; run the same again.")
        return state

    def _start_over(self) -> None:
        """As the run began."""
        self.model.load_state_dict(self._new_model().state_dict())
        self.optimizer.state.clear()
        self.step = self.tokens = 0

    def _new_model(self) -> Parakeet:
        model = Parakeet(self.config)
        model.initialise(torch.Generator().manual_seed(self.job.training.seed))
        return model

    def _stop(self) -> Outcome:
        self.saver.close()
        self.watch.event("stopped", self.step, f"Stopped at step {self.step:,} with a checkpoint.")
        self.ranks.wait()
        return Outcome(finished=False, step=self.step)

    def _finish(self) -> Outcome:
        self.saver.close()
        if self.ranks.leads:
            write_result(self.model, self.job, self.policy, self.ranks, self.healing)
        self.watch.event("finished", self.step, f"Trained on {self.tokens:,} tokens. {self.policy.peak_line()}")
        self.watch.say(self.policy.peak_line())
        # torchrun ends all processes when one has ended before its time.
        self.ranks.wait()
        return Outcome(finished=True, step=self.step)
