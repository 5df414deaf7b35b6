"""The files of a comparison, and its gates."""

COMPARISON_FILE = "comparison.json"
CHART_FILE = "comparison.png"
GATES = {
    "weights_are_finite": "The release loads from its own files, and every weight is a finite number.",
    "no_worse_than_before": "On the same held-out documents it needs no more bits per byte than the promoted release "
    "of the same recipe, beyond its noise.",
    "no_figure_fell": "No share of the evaluation fell since the promoted release by more than chance explains.",
    "beats_the_yardsticks": "A first release needs clearly fewer bits per byte than the unigram model and `xz -9`.",
    "generation_is_healthy": "Replies neither repeat themselves nor are empty.",
    "memorisation_is_bounded": "It repeats passages that it has read no more often than the recipe allows.",
}
"""Every gate, in the order of comparison.json, and what it asks."""
