"""Whether a model that is read back from its file computes what the trained one computed."""

import math

import torch

from parakeet.model.attention import alibi_slopes
from parakeet.model.transformer import Parakeet

PROBE_TOKENS = 16
LOGITS = 8
TOLERANCE = 1e-3
"""Between devices fp32 differs by about 1e-5."""


@torch.no_grad()
def probe_logits(model: Parakeet) -> list[float]:
    """(LOGITS,) logits after a fixed sequence of ids, in fp32 and without dropout, whatever the model trains with."""
    device, rows = model.embedding.weight.device, model.config.vocabulary_rows
    # Built without memory; its parameters are those of the model.
    with torch.device("meta"):
        plain = Parakeet(model.config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.slopes = alibi_slopes(model.config.heads).to(device)
    ids = (torch.arange(min(PROBE_TOKENS, model.config.context)) * 97 % rows)[None].to(device)
    hidden = plain.eval()(ids, torch.zeros_like(ids))
    logits = plain.logits(hidden[0, -1])[:: max(1, rows // LOGITS)][:LOGITS]
    return [float(logit) for logit in logits.double().cpu()]


def differ(found: list[float], recorded: list[float]) -> float | None:
    """The largest difference, if it is more than rounding explains or no number; None otherwise.

    Infinity if one list is longer: the models have other shapes.
    """
    if len(found) != len(recorded):
        return math.inf
    differences = [abs(one - other) for one, other in zip(found, recorded, strict=True)]
    if not all(map(math.isfinite, differences)):
        return math.nan
    largest = max(differences, default=0.0)
    return None if largest <= TOLERANCE * max(1.0, *map(abs, recorded)) else largest
