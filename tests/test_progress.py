import io
import re

from parakeet.progress import BYTES, Progress


def test_off_a_terminal_there_are_plain_lines_with_rate_and_eta() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.task("shards", 100, "tokens") as task:
        task.skip(50)
        task.advance(25, "loss 1.5")
        words = task.describe()
    assert words.startswith("75 of 100 tokens, ")
    assert re.search(r" tokens/s, ETA [\d.]+ m?s, ", words)
    assert words.endswith(", loss 1.5")
    progress.say("done \x1b[31mred\x1b[0m")
    assert stream.getvalue() == "done red\n"


def test_amounts_of_bytes_are_sizes() -> None:
    with Progress(io.StringIO()).task("fetching", 3 << 30, BYTES) as task:
        task.skip(1 << 30)
        task.advance(1 << 29)
        assert task.describe().startswith("1.5 GiB of 3.0 GiB, ")
        assert re.match(r"1\.5 GiB, [\d.]+ [KMGTP]iB/s, ETA ", task.describe(brief=True))
