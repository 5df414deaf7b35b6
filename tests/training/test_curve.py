"""The pictures of short runs and of long ones, as matplotlib lays them out."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from parakeet.pages.charts import PRINTED
from parakeet.training.curve import draw_comparison, draw_loss_curve


def metrics(steps: int, batch_tokens: int, longer_from: float = 2.0) -> list[dict[str, Any]]:
    """A loss that falls from 9 to 2, measured on held-out text too, with longer sequences from a share of the run."""
    return [
        {
            "tokens": step * batch_tokens,
            "loss": 2 + 7 * (1 - step / steps) ** 3,
            "validation_loss": 3.0 if step % (steps // 4) == 0 else None,
            "learning_rate": 1e-3,
            "row_tokens": 64 if step > longer_from * steps else 32,
        }
        for step in range(1, steps + 1)
    ]


def curve(run: list[dict[str, Any]]) -> Figure:
    return laid_out(draw_loss_curve(run, PRINTED))


def comparison(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Figure:
    return laid_out(draw_comparison({"a": first, "b": second}, PRINTED))


def laid_out(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


def labels(figure: Figure) -> list[Text]:
    return [text for text in figure.axes[0].texts if "sequences of" in text.get_text()]


@pytest.mark.parametrize(
    ("steps", "batch_tokens", "unit", "last"),
    [
        (40, 10, "thousands", 0.4),
        (40, 512, "thousands", 20.48),
        (400, 4096, "millions", 1.6384),
        (2000, 1 << 20, "billions", 2.097152),
    ],
)
def test_the_unit_of_the_tokens_suits_the_run(steps: int, batch_tokens: int, unit: str, last: float) -> None:
    run = metrics(steps, batch_tokens)
    for figure in (curve(run), comparison(run, run[: len(run) // 2])):
        axes = figure.axes[0]
        assert axes.get_xlabel() == f"tokens trained on, {unit}"
        assert max(float(line.get_xdata()[-1]) for line in axes.lines if len(line.get_xdata())) == pytest.approx(last)


def test_the_legend_is_above_the_axes() -> None:
    run = metrics(40, 512, 0.6)
    for figure in (curve(run), comparison(run, run)):
        (legend,) = figure.legends
        assert legend.get_window_extent().y0 >= figure.axes[0].get_window_extent().y1


@pytest.mark.parametrize(("every", "label"), [(5, "skipped"), (2, "100 steps skipped")])
def test_many_skipped_steps_are_a_band_with_their_number(every: int, label: str) -> None:
    run = metrics(200, 512)
    for step in run[::every]:
        step |= {"skipped": "its loss is not finite"}
    figure = curve(run)
    (marks,) = (line for line in figure.axes[0].lines if "skipped" in str(line.get_label()))
    assert marks.get_label() == label
    assert len(marks.get_xdata()) == len(run[::every])
    assert (marks.get_marker() == "x") == (label == "skipped")


@pytest.mark.parametrize("longer_from", [0.05, 0.6, 0.95])
def test_the_label_of_a_sequence_length_is_below_the_loss_and_inside_the_picture(longer_from: float) -> None:
    figure = curve(metrics(40, 512, longer_from))
    axes = figure.axes[0]
    (label,) = labels(figure)
    assert label.get_text().strip() == "sequences of 64 tokens"
    box, inside = label.get_window_extent(), axes.get_window_extent()
    lowest_loss = axes.transData.transform((0, 2.0))[1]
    assert inside.x0 <= box.x0 < box.x1 <= inside.x1
    assert inside.y0 <= box.y0 < box.y1 <= lowest_loss


def test_labels_of_changes_close_together_do_not_touch() -> None:
    run = metrics(100, 512, 0.9)
    for step in run[95:]:
        step["row_tokens"] = 128
    first, second = (label.get_window_extent() for label in labels(curve(run)))
    assert not first.overlaps(second)
