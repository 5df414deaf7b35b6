"""What fifty gigabytes would take on this machine, stage by stage, by what was measured."""

from dataclasses import asdict, dataclass
from typing import Any

from parakeet.benchmarks.data_stages import STAGES, Chain

CORPUS_BYTES = 50_000_000_000


@dataclass(frozen=True)
class Forecast:
    """One stage: hours, and bytes on disk of its artefact and of what it works with."""

    stage: str
    megabytes_per_second: float
    hours: float
    artefact: int
    scratch: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast(chain: Chain, corpus_bytes: int = CORPUS_BYTES) -> list[Forecast]:
    """Every stage as many times as long and as large as there is text; the start of processes is counted with it."""
    times = corpus_bytes / chain.n_bytes
    return [
        Forecast(
            run.stage,
            chain.rate(run.stage) / 1e6,
            times * run.ran.seconds / 3600,
            round(times * run.artefact),
            round(times * run.scratch),
        )
        for run in map(chain.of, STAGES)
    ]
