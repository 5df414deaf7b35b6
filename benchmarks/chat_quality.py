"""The share of sensible replies of a release, as stage `evaluation` measures it, without building anything.

.venv/bin/python -m benchmarks.chat_quality RELEASE [--threads N] [--failures FILE]

It prints the share by category. What was typed and answered goes to FILE only, as JSON lines: whoever works on the
synthetic text must not see the prompts.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from parakeet.errors import ParakeetError
from parakeet.evaluation.chat import Chat, measure_chat, read_items
from parakeet.formatting import format_percent, render_table
from parakeet.generation.engine import load_engine
from parakeet.pages import Table
from parakeet.progress import Progress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--failures", type=Path, help="write the failed items here, as JSON lines")
    options = parser.parse_args()
    began = time.process_time()
    try:
        engine = load_engine(options.release.resolve(), dtype="fp32", threads=options.threads)
        figures = measure_chat(engine, read_items(), Progress())
    except ParakeetError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    table = Chat().render_summary(figures)[0]
    assert isinstance(table, Table)
    print(render_table(table.columns, table.rows, right=(1, 2)))
    low, high = map(format_percent, figures["interval"])
    seconds = time.process_time() - began
    print(f"{format_percent(figures['sensible'])} sensible ({low} to {high}), {seconds:.0f} CPU seconds")
    if options.failures:
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in figures["failed"])
        options.failures.write_text("".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
