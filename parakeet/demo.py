"""`python -m parakeet.demo`, the end of `make demo`: a short chat with the model just built, and its scores."""

import json
import sys

from parakeet.chat.session import Session
from parakeet.errors import ParakeetError
from parakeet.evaluation.exact_match import NOT_APPLICABLE
from parakeet.evaluation.metrics import EVALUATION_FILE
from parakeet.evaluation.replies import GREEDY
from parakeet.generation.engine import load_engine
from parakeet.home import home, latest_release
from parakeet.release.verify import open_release
from parakeet.sanitise import sanitise


def main() -> int:
    """Ask the model who it is and one held-out question of each task; then print the evaluation's figures."""
    try:
        release = open_release(latest_release(home()).resolve())
    except ParakeetError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    evaluation = json.loads((release.directory / EVALUATION_FILE).read_text(encoding="utf-8"))
    tasks = {} if evaluation["exact_match"] == NOT_APPLICABLE else evaluation["exact_match"]
    engine = load_engine(release.directory)
    print(f"\n{release.name}, {engine.parameter_count:,} parameters, in {release.directory}\n")
    for message in ["Who are you?", *(figures["example"]["prompt"] for figures in tasks.values())]:
        reply = "".join(step.text for step in Session(engine, GREEDY).reply(message))
        print(f"Human: {sanitise(message)}\nParakeet: {sanitise(reply)}\n")
    _print_scores(evaluation, tasks)
    print("Chat with it:  .venv/bin/parakeet chat")
    return 0


def _print_scores(evaluation: dict[str, object], tasks: dict[str, dict[str, object]]) -> None:
    if tasks:
        print("Held-out questions answered exactly (their text is in no training document):")
        for task, figures in tasks.items():
            print(f"  {task:<12}{figures['accuracy']:>7.1%}  of {figures['questions']}")
    print("\nHeld-out bits per byte (lower is better):")
    print(f"  {'source':<20}{'model':>8}{'unigram':>9}{'xz -9':>8}")
    by_source = evaluation["bits_per_byte"]
    assert isinstance(by_source, dict)
    for name, bits in by_source.items():
        if bits is None:
            print(f"  {name:<20}too little held-out text to measure")
        else:
            print(f"  {name:<20}{bits['model']:>8.3f}{bits['unigram']:>9.3f}{bits['xz']:>8.3f}")
    print()


if __name__ == "__main__":
    sys.exit(main())
