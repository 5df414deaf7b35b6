"""`python -m parakeet.demo`, the end of `make demo`: a short chat with the model just built, and its scores."""

import json
import sys
from typing import Any

from parakeet.chat.session import Session
from parakeet.errors import ParakeetError
from parakeet.evaluation.base import measured
from parakeet.evaluation.exact_match import NOT_APPLICABLE
from parakeet.evaluation.metrics import EVALUATION_FILE
from parakeet.evaluation.replies import GREEDY
from parakeet.formatting import format_percent, render_table
from parakeet.generation.engine import load_engine
from parakeet.home import home
from parakeet.model.transformer import best_device
from parakeet.release.listing import latest_model_folder
from parakeet.release.verify import open_release
from parakeet.sanitise import sanitise


def main() -> int:
    """Ask the model who it is and one held-out question of each task; then print the evaluation's figures."""
    try:
        release = open_release(latest_model_folder(home()))
    except ParakeetError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    evaluation = json.loads((release.directory / EVALUATION_FILE).read_text(encoding="utf-8"))
    tasks = {} if evaluation["exact_match"] == NOT_APPLICABLE else evaluation["exact_match"]
    engine = load_engine(release.directory, best_device())
    print(f"\n{release.name}, {engine.parameter_count:,} parameters, in {release.directory}\n")
    for message in ["Who are you?", *(figures["example"]["prompt"] for figures in tasks.values())]:
        reply = "".join(step.text for step in Session(engine, GREEDY).reply(message))
        print(f"Human: {sanitise(message)}\nParakeet: {sanitise(reply)}\n")
    _print_scores(evaluation, tasks)
    print("\nChat with it:  .venv/bin/parakeet chat")
    return 0


def _print_scores(evaluation: dict[str, Any], tasks: dict[str, dict[str, Any]]) -> None:
    if tasks:
        rows = [(task, format_percent(found["accuracy"]), f"of {found['questions']}") for task, found in tasks.items()]
        print("Held-out questions answered exactly (their text is in no training document):")
        print(render_table(("", "", ""), rows, right=(1,)))
    if "chat" in evaluation:
        print(f"\nSensible replies to {evaluation['chat']['prompts']} prompts as careless people type them: ", end="")
        print(format_percent(evaluation["chat"]["sensible"]))
    bits_per_byte = [
        (source, *(f"{bits[key]:.3f}" for key in ("model", "unigram", "xz")))
        for source, bits in measured(evaluation["bits_per_byte"]).items()
    ]
    print("\nHeld-out bits per byte (lower is better), for sources with enough held-out text:")
    print(render_table(("source", "model", "unigram", "xz -9"), bits_per_byte, right=(1, 2, 3)))


if __name__ == "__main__":
    sys.exit(main())
