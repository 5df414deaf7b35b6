"""What the measured process of `parakeet bench generate` does. It imports no more than chat does to load a model."""

import time
from pathlib import Path
from typing import Any

from parakeet.benchmarks.process import Answer
from parakeet.generation.decoder import Decoder
from parakeet.model.transformer import load_model


def load(request: dict[str, Any]) -> Answer:
    """Load the model as chat does: seconds, and its number of parameters."""
    began = time.perf_counter()
    decoder = Decoder(load_model(Path(request["directory"]), "cpu"), request["dtype"])
    return {"seconds": time.perf_counter() - began, "parameters": decoder.config.parameter_count}
