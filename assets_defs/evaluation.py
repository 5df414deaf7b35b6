from typing import Any

import dagster as dg

from assets_defs.home import ParakeetHome
from assets_defs.stage_asset import artifact_of, image, stage_asset
from parakeet.artifact import Artifact
from parakeet.evaluation.bits_per_byte import not_below_yardsticks
from parakeet.evaluation.metrics import METRICS, REPORT_FILE


@stage_asset("evaluation", kinds={"pytorch"})
def evaluation(artifact: Artifact) -> dict[str, Any]:
    """All held-out content counts, whatever was trained on; roles and ends do not."""
    counts = artifact.counts
    measured = {name: bits["model"] for name, bits in counts["bits_per_byte"].items() if bits}
    exact = counts["exact_match"] if isinstance(counts["exact_match"], dict) else {}
    return {
        **{f"bits_per_byte_{name}": value for name, value in measured.items()},
        **{f"exact_{task}": figures["accuracy"] for task, figures in exact.items()},
        "report": dg.MetadataValue.md((artifact.path / REPORT_FILE).read_text(encoding="utf-8")),
        **{f"{metric.name}_plot": image(artifact.path / metric.plot_file) for metric in METRICS if metric.plot_file},
    }


@dg.asset_check(asset="evaluation")
def beats_the_yardsticks(parakeet_home: ParakeetHome) -> dg.AssetCheckResult:
    """On every source that could be measured the model needs fewer bits than the unigram model and `xz -9`."""
    by_source = artifact_of(parakeet_home, "evaluation").counts["bits_per_byte"]
    worse = not_below_yardsticks(by_source)
    return dg.AssetCheckResult(
        passed=not worse,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Not below both yardsticks: {', '.join(worse)}." if worse else None,
        metadata={"sources_measured": sum(bits is not None for bits in by_source.values())},
    )
