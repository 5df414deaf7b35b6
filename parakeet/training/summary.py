"""What a finished run leaves for the stage: the model, the figures of the whole run, the picture of its loss."""

import json
from typing import Any

import torch

from parakeet.errors import ParakeetError
from parakeet.model.transformer import Parakeet, save_model
from parakeet.training.curve import draw_loss_curve
from parakeet.training.device import device_name, peak_memory
from parakeet.training.distributed import Ranks
from parakeet.training.healing import Healing
from parakeet.training.job import CURVE_FILE, METRICS_FILE, SUMMARY_FILE, TrainingJob
from parakeet.training.metrics import Records, read_metrics
from parakeet.training.policy import Policy


def write_result(model: Parakeet, job: TrainingJob, policy: Policy, ranks: Ranks, healing: Healing) -> None:
    """Fill the job's output folder; ParakeetError if the run's history is lost."""
    metrics = read_metrics(job.run / METRICS_FILE)
    trained = [record for record in metrics if "skipped" not in record and record["loss"] is not None]
    if not trained:
        raise ParakeetError(
            f"{job.run / METRICS_FILE} holds no step of this run: it was changed or removed while the run went on. "
            "To train from nothing, run the same build again with: --force checkpoint"
        )
    summary = {
        "parameters": model.config.parameter_count,
        **_history(metrics, trained, job.training.batch_tokens),
        "skipped": healing.skipped,
        "rolled_back": healing.rolled_back,
        "device": device_name(ranks.device),
        "processes": ranks.world,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "memory_bytes": peak_memory(ranks.device),
        "forecast_bytes": policy.forecast_bytes,
        "execution": policy.summary(),
    }
    save_model(model, job.output)
    (job.output / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draw_loss_curve(metrics, job.output / CURVE_FILE)


def _history(metrics: Records, trained: Records, batch_tokens: int) -> dict[str, Any]:
    last = trained[-max(1, len(trained) // 20) :]
    seconds = sum(record["seconds"] for record in metrics)
    known = [record["mfu"] for record in last if record.get("mfu") is not None]
    return {
        "steps": metrics[-1]["step"],
        "tokens": metrics[-1]["tokens"],
        "final_loss": sum(record["loss"] for record in last) / len(last),
        "first_loss": trained[0]["loss"],
        "validation_loss": metrics[-1].get("validation_loss"),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(len(metrics) * batch_tokens / seconds),
        "mfu": sum(known) / len(known) if known else None,
    }
