"""How a run is computed on its device: every `auto` of the recipe decided once, and refused where it cannot fit."""

from dataclasses import asdict
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.model.execution import Execution
from parakeet.training.device import memory_budget, peak_memory
from parakeet.training.distributed import Ranks
from parakeet.training.forecast import Choice, choose, fitting_change
from parakeet.training.job import TrainingJob
from parakeet.training.memory import size
from parakeet.training.schedule import Schedule

RECOMPUTED = {"none": "nothing computed twice", "mlp": "MLPs computed twice", "block": "blocks computed twice"}


class Policy:
    """One choice for each row length that is trained at. Takes no memory of the device yet.

    Raises ParakeetError, naming a change that fits, where the forecast is beyond the device, unless the job says
    to try it anyway. The same job on the same machine gives the same choices, as a resumed run needs it.
    """

    def __init__(self, job: TrainingJob, config: ModelConfig, schedule: Schedule, ranks: Ranks) -> None:
        self._job = job
        self._config = config
        self._device = ranks.device
        self._processes = ranks.world
        # On a CPU the whole process is measured, of which Python and torch are some 0.4 GiB.
        self._before = 0 if ranks.device.type == "cuda" else peak_memory(ranks.device)
        self._budget = memory_budget(ranks.device, ranks.world)
        lengths = sorted({phase.row_tokens for phase in schedule.phases})
        self._choices = {row_tokens: self._choose(row_tokens) for row_tokens in lengths}
        for row_tokens, choice in self._choices.items():
            if not choice.fits and not job.try_anyway:
                raise ParakeetError(
                    f"Training on rows of {row_tokens:,} tokens would take {size(choice.forecast.total)}, and "
                    f"{self._where()} has {size(self._budget)} for it. {self._change(row_tokens, self._budget)} "
                    "To start all the same: parakeet build --try-anyway"
                )

    def lines(self) -> list[str]:
        """What was chosen, for people: a line for each row length."""
        return [self._line(row_tokens, choice) for row_tokens, choice in self._choices.items()]

    def execution(self, row_tokens: int) -> Execution:
        return self._choices[row_tokens].execution

    def micro_batch_rows(self, row_tokens: int) -> int:
        """Rows that one process computes at once."""
        return max(1, self._choices[row_tokens].micro_batch_tokens // row_tokens)

    @property
    def forecast_bytes(self) -> int:
        """Forecast of the peak of the whole run, for one process."""
        return max(choice.forecast.total for choice in self._choices.values())

    def summary(self) -> dict[str, Any]:
        """The choices as JSON values, by the row length in digits."""
        return {
            str(row_tokens): {**asdict(choice.execution), "micro_batch_tokens": choice.micro_batch_tokens}
            for row_tokens, choice in self._choices.items()
        }

    def peak_line(self) -> str:
        """The peak of memory seen so far beside the forecast, for people."""
        before = f", {size(self._before)} of it before training began" if self._before else ""
        return f"Peak memory {size(peak_memory(self._device))}{before}; forecast {size(self.forecast_bytes)}."

    def out_of_memory(self, step: int, row_tokens: int) -> ParakeetError:
        """What to say where memory was refused after all."""
        forecast = self._choices[row_tokens].forecast.total
        less = int(0.9 * min(self._budget, forecast))
        return ParakeetError(
            f"Step {step:,}: the memory of {self._where()} is not enough for rows of {row_tokens:,} tokens. Forecast "
            f"{size(forecast)} of {size(self._budget)}; at most {size(peak_memory(self._device))} were taken until "
            f"it was refused. {self._change(row_tokens, less)} Then run the same build again."
        )

    def _choose(self, row_tokens: int) -> Choice:
        cuda = self._device.type == "cuda"
        training = self._job.training
        return choose(self._config, training, row_tokens, self._budget, cuda, processes=self._processes)

    def _change(self, row_tokens: int, budget: int) -> str:
        cuda = self._device.type == "cuda"
        training = self._job.training
        return fitting_change(self._config, training, row_tokens, budget, cuda, processes=self._processes)

    def _where(self) -> str:
        if self._device.type == "cuda":
            return "the card"
        return "this machine" if self._processes == 1 else f"each of {self._processes} processes on this machine"

    def _line(self, row_tokens: int, choice: Choice) -> str:
        execution = choice.execution
        how = [
            f"{execution.attention} attention",
            execution.precision,
            *(["residual stream in bf16"] if execution.residual == "bf16" else []),
            RECOMPUTED[execution.recompute],
            *(["compiled"] if execution.compile else []),
            f"{choice.micro_batch_tokens:,} tokens in a pass",
        ]
        fits = "" if choice.fits else ", which is more than there is: trying it anyway"
        return (
            f"Rows of {row_tokens:,} tokens: {', '.join(how)}. "
            f"Forecast {size(choice.forecast.total)} of {size(self._budget)}{fits}."
        )
