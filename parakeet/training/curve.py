"""The picture of a run's loss."""

from pathlib import Path
from typing import Any

import numpy as np


def draw_loss_curve(metrics: list[dict[str, Any]], path: Path) -> None:
    """Loss in nats a token over the tokens trained on: every step faint, a running mean bold."""
    from matplotlib.figure import Figure

    tokens = np.array([m["tokens"] for m in metrics], float) / 1e6
    loss = np.array([m["loss"] for m in metrics], float)
    window = max(1, len(loss) // 40)
    smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
    figure = Figure(figsize=(6.4, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(tokens, loss, color="#8fbf8f", linewidth=0.6, alpha=0.7)
    middle = (window - 1) // 2
    axes.plot(tokens[middle : middle + len(smooth)], smooth, color="#1b7837", linewidth=1.8)
    axes.set_xlabel("tokens trained on, millions")
    axes.set_ylabel("loss, nats a token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
