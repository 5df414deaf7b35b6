"""The picture of a comparison: the difference of each document, and of all of them with its interval."""

from typing import TYPE_CHECKING

import numpy as np

from parakeet.gates.judge import Difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from parakeet.pages.charts import Palette

BINS = 41
OUTLIERS = 0.01
"""Share of the documents at either end that the outermost bars hold."""


def draw_differences(each: np.ndarray, found: Difference, palette: "Palette") -> "Figure":
    """`each` (documents,): bits per byte of the new release minus those of the promoted one."""
    from parakeet.pages.charts import axes, legend_outside

    figure, chart = axes(palette)
    low, high = np.quantile(each, (OUTLIERS, 1 - OUTLIERS))
    reach = max(abs(float(low)), abs(float(high)), 1e-3)
    chart.hist(np.clip(each, -reach, reach), bins=BINS, range=(-reach, reach), color=palette.series[2], alpha=0.55)
    chart.axvline(0.0, color=palette.soft, linewidth=1, linestyle="--")
    if found.interval:
        chart.axvspan(*found.interval, color=palette.series[0], alpha=0.3, label="95% interval of all documents")
    chart.axvline(found.value, color=palette.series[0], label=f"all documents: {found.value:+.3f}")
    chart.set_xlabel("bits per byte, new − promoted (left: the new release is better)")
    chart.set_ylabel("documents")
    legend_outside(figure)
    return figure
