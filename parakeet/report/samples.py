"""Replies of a run's earlier checkpoints to the recipe's prompts, where the checkpoints still exist."""

from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact
from parakeet.errors import ParakeetError
from parakeet.evaluation.replies import replies_to
from parakeet.generation.decoder import Decoder
from parakeet.generation.engine import Engine
from parakeet.home import runs_folder
from parakeet.model.config import ModelConfig
from parakeet.model.transformer import best_device
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.tokenizer import Tokenizer
from parakeet.training.checkpoint import RunState, checkpoints, load_checkpoint_model, read_state
from parakeet.training.schedule import Schedule

MOST_CHECKPOINTS = 3


def earlier_replies(
    recipe: Recipe, root: Path, checkpoint: Artifact, tokenizer: Tokenizer, progress: Progress
) -> list[dict[str, Any]]:
    """{"step", "tokens", "replies"} of at most MOST_CHECKPOINTS earlier checkpoints of the model's run, oldest first.

    The replies are greedy and in the order of the recipe's prompts. A checkpoint that cannot be read is reported and
    left out.
    """
    prompts = recipe.evaluation.prompts
    if not prompts:
        return []
    chosen = _spread(_before(recipe, runs_folder(root) / str(checkpoint.counts["run"]), checkpoint.counts["steps"]))
    config, device = ModelConfig.load(checkpoint.path), best_device()
    found = []
    with progress.task("replies of earlier checkpoints", len(chosen), "checkpoints") as task:
        for path, state in chosen:
            try:
                model, _ = load_checkpoint_model(path, config)
                # By torch, as in the evaluation.
                engine = Engine(Decoder(model.to(device), "fp32", device, compiled=False), tokenizer)
                replies = replies_to(engine, prompts)
                found.append({"step": state.step, "tokens": state.tokens, "replies": replies})
            except ParakeetError as error:
                progress.say(f"The report has no replies of step {state.step:,}: {error}")
            task.advance(1)
    return found


def _before(recipe: Recipe, run: Path, steps: int) -> list[tuple[Path, RunState]]:
    """The run's checkpoints on the course to the finished model, without its own, oldest first."""
    schedule = Schedule.from_recipe(recipe.training, recipe.packing)
    found = []
    for path in checkpoints(run):
        try:
            state = read_state(path)
        except ParakeetError:
            continue  # training reports and replaces it
        if state.step < steps and schedule.shares_past(state.step, state.schedule):
            found.append((path, state))
    return found


def _spread(found: list[tuple[Path, RunState]]) -> list[tuple[Path, RunState]]:
    """The first, the last, and between them those nearest to equal ratios of steps: models change fastest early."""
    if len(found) <= MOST_CHECKPOINTS:
        return found
    first, last = found[0][1].step, found[-1][1].step
    wanted = [first * (last / first) ** (number / (MOST_CHECKPOINTS - 1)) for number in range(MOST_CHECKPOINTS)]
    nearest = {min(range(len(found)), key=lambda n: abs(found[n][1].step - step)) for step in wanted}
    return [found[number] for number in sorted(nearest)]
