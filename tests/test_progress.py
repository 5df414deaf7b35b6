import io

from parakeet.progress import Progress, brief, clock


def test_off_a_terminal_there_are_plain_lines_with_rate_and_eta() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.task("shards", 100, "tokens") as task:
        task.skip(50)
        task.advance(25, "loss 1.5")
        words = task.describe()
    assert words.startswith("75 of 100 tokens, ")
    assert "tokens/s, ETA 0:" in words
    assert words.endswith(", loss 1.5")
    progress.say("done \x1b[31mred\x1b[0m")
    assert stream.getvalue() == "done red\n"


def test_brief() -> None:
    assert [brief(number) for number in (0, 7, 850, 12_345, 1_250_304, 3.2e9)] == [
        "0",
        "7",
        "850",
        "12.3k",
        "1.25M",
        "3.2G",
    ]


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 9, 61, 3723)] == ["0:00", "0:09", "1:01", "1:02:03"]
