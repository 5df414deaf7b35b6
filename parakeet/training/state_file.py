"""`state.json` of a training checkpoint, with the hashes of its tensors and its own. Imports no torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.training.job import STATE_FILE


def with_own_hash(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "sha256": _sha256_of(values)}


def read_values(checkpoint: Path) -> dict[str, Any]:
    """The values of `state.json`. ParakeetError if it is missing, cannot be read, or was changed."""
    path = checkpoint / STATE_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        expected = values.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ParakeetError(f"{path} cannot be read ({error}).") from None
    if expected != _sha256_of(values):
        raise ParakeetError(f"{path} was changed after it was written.")
    return values


def _sha256_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
