"""What is taken from lm-evaluation-harness, and how it is made to keep quiet."""

import logging
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.evaluation.benchmarks.tasks import TASKS

MISSING = "Benchmarks need lm-evaluation-harness: pip install 'parakeet-lm[eval]'"


def check_installed() -> None:
    """ParakeetError if lm-evaluation-harness is not here."""
    if find_spec("lm_eval") is None:
        raise ParakeetError(MISSING)


@cache
def prepare_lm_eval() -> None:
    """Import lm_eval without its progress bars and its log, since Parakeet shows the progress itself.

    It compiles the template of a prompt again for every item, which takes most of the time of a small model (5 ms an
    item), so its environment keeps them.
    """
    import datasets
    import lm_eval.api.task
    import lm_eval.utils

    datasets.disable_progress_bars()
    for name in ("lm_eval", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(lm_eval.api.task.tqdm, disable=True)
    lm_eval.utils.env.from_string = lru_cache(lm_eval.utils.env.from_string)


def upstream_config(task: str) -> dict[str, Any]:
    """The definition of a task as lm-evaluation-harness ships it, with its functions."""
    check_installed()
    prepare_lm_eval()
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    path = Path(lm_eval.tasks.__file__).parent / TASKS[task].upstream
    try:
        config: dict[str, Any] = load_yaml(path)
    except OSError as error:
        raise ParakeetError(f"lm-evaluation-harness has no {path}. Install it again: {MISSING}") from error
    return config
