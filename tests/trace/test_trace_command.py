"""`parakeet trace` and `/trace`: what they print, write and refuse."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings

from parakeet.artifact import Artifact
from parakeet.chat.commands import Chat, run_command
from parakeet.chat.output import ReplyPrinter, TextOutput
from parakeet.chat.storage import SessionLog, session_path
from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.release.verify import Release
from parakeet.sampling_settings import SamplingSettings
from parakeet.sanitise import sanitise
from parakeet.tokenizer import TRAINED_PATTERN
from parakeet.trace.page import trace_page
from parakeet.trace.spans import CAVEAT, trace_text
from parakeet.trace.terminal import render_trace

from ..chat.scripted_sessions import say, session
from ..foreign_text import TEXTS
from ..scripted import byte_tokenizer
from .small_texts import Corpus, record_training, write_corpus, write_store
from .test_spans import EVIL, HELD_OUT, ONCE, PROVERB, RARE, TRAIN

Run = Callable[..., Result]
SENTENCE = "Someone wrote: A line that stands once. Zephyr quartz glyphs"
TOKENIZER = replace(byte_tokenizer(), pattern=TRAINED_PATTERN)
"""As one that may be saved."""
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "p", "h1", "h2", "h3", "dl", "div", "dt"),
    *("dd", "b", "section", "ul", "li", "ol", "mark", "sup", "a", "span", "svg", "rect", "article", "footer"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_store(root, TOKENIZER, TRAIN, HELD_OUT)
    return root


@pytest.fixture
def home(store: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(store, tmp_path / "home", symlinks=True))


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PARAKEET_HOME", str(home))

    def run(*arguments: str, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(main, ["trace", *arguments], input=stdin)

    return run


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.traced = ""
        self._paragraph = self._number = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._paragraph = self._paragraph or ("class", "text traced") in attrs
        self._number = self._number or tag == "sup"

    def handle_endtag(self, tag: str) -> None:
        self._paragraph = self._paragraph and tag != "p"
        self._number = self._number and tag != "sup"

    def handle_data(self, data: str) -> None:
        self.traced += data if self._paragraph and not self._number else ""


def record(home: Path, name: str, *events: dict[str, Any], sha256: str = "00") -> Path:
    path = session_path(home, name)
    header = {"model": "aesop", "model_sha256": sha256, "tokenizer_sha256": "1", "dtype": "fp32"}
    log = SessionLog.create(path, header | {"device": "cpu", "threads": 1})
    log.append(*events)
    log.close()
    return path


def reply(text: str, event: str = "reply") -> dict[str, Any]:
    more = {"seed": 7, "tokens": 3, "finish_reason": "stop", "dropped": 0, "settings": {}}
    return {"event": event, "message": "Say something.", "reply": text, **more}


def refused(result: Result, *words: str) -> None:
    """One message with these words, and nothing else."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.stderr


def test_a_text_is_marked_and_its_places_are_shown(run: Run) -> None:
    shown = run(SENTENCE).stdout
    assert re.search(r"^\d+% of 60 tokens stand verbatim", shown, re.MULTILINE)
    assert re.search(r"^Held-out text: \d+% \(\d+% to \d+%, \d+ pieces of \d+ tokens\)", shown, re.MULTILINE)
    assert re.search(
        r"^Someone wrote.*\[\d:[^][]*A line that stands once\. Zephyr quartz glyphs\]$", shown, re.MULTILINE
    )
    assert re.search("copied, 4[4-6] tokens, once in 1 document", shown)
    assert re.search(
        rf"^    fables [0-9a-f]{{12}} \(file fables.txt, row {TRAIN.index(ONCE)}\): \[\[", shown, re.MULTILINE
    )
    assert "[[A line that stands once. Zephyr quartz glyphs]]" in shown
    assert shown.count(CAVEAT) == 1
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "text", [EVIL, "\x9b31m" + EVIL, EVIL * 3, PROVERB + "\u202eevil\u2066", "[bold]x[/bold] " + RARE, "\ud800 " + RARE]
)
def test_nothing_steers_the_terminal(run: Run, text: str) -> None:
    result = run(text)
    assert result.exit_code == 0
    assert sanitise(result.stdout) == result.stdout
    assert json.loads(run(text, "--json").stdout)["text"] == text.replace("\ud800", "\ufffd")


def test_json_has_everything(run: Run, home: Path) -> None:
    result = run(f"{RARE} And {EVIL}", "--json", "--documents", "1")
    assert result.stdout.isascii()
    document = json.loads(result.stdout)
    assert list(document) == [
        "schema", "kind", "what", "session", "turn", "model", "index", "text", "min_tokens", "tokens",
        "covered_tokens", "coverage", "absent_tokens", "longest_match_tokens", "held_out", "spans", "caveat",
    ]  # fmt: skip
    assert (document["schema"], document["kind"], document["model"]) == (1, "parakeet trace", "aesop")
    assert document["index"]["tokenizer_sha256"] == TOKENIZER.sha256
    assert set(document["held_out"]["coverage"]) == {"n", "share", "interval"}
    assert document["coverage"] == document["covered_tokens"] / document["tokens"]
    for number, span in enumerate(document["spans"], start=1):
        assert set(span) == {
            "number", "start", "end", "tokens", "text", "tier", "count", "documents", "expected_log10", "places",
        }  # fmt: skip
        assert span["number"] == number
        assert span["text"] == document["text"][span["start"] : span["end"]]
        (place,) = span["places"]
        assert set(place) == {
            "document", "source", "doc_id", "start", "tokens", "before", "match", "after", "begins", "ends", "origin",
        }  # fmt: skip
        assert place["origin"]["file"] == "fables.txt"
        text = TRAIN[place["origin"]["row"]]
        assert place["match"] in text
        assert re.fullmatch("[0-9a-f]{32}", place["doc_id"])
    assert any(EVIL in span["text"] for span in document["spans"])


def test_the_page_is_written_whole_and_never_over_a_file(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "trace.html"
    result = run(EVIL + PROVERB, "--html", str(page))
    assert result.stdout.startswith(f"{page}: a text, looked up in the")
    found = Page(page.read_text(encoding="utf-8"))
    assert found.elements <= ELEMENTS
    assert not [name for name in found.attributes if name.startswith("on")]
    assert found.traced == sanitise(EVIL + PROVERB)
    assert CAVEAT in page.read_text(encoding="utf-8")
    refused(run(PROVERB, "--html", str(page)), "already exists: choose another name")
    refused(run(PROVERB, "--html", str(tmp_path / "none" / "x.html")), "there is no folder")
    refused(run("", "--html", str(tmp_path / "empty.html")), "empty")
    assert [path.name for path in tmp_path.glob("*.html")] == ["trace.html"]
    both = run(PROVERB, "--json", "--html", str(tmp_path / "both.html"))
    assert json.loads(both.stdout)["text"] == PROVERB


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_standard_input_is_traced(run: Run, arguments: tuple[str, ...]) -> None:
    assert json.loads(run(*arguments, "--json", stdin=f"{PROVERB}\n").stdout)["text"] == PROVERB


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        ((), b"", ["empty"]),
        (("-",), b" \n\n", ["empty"]),
        ((" ",), b"", ["empty"]),
        (("-",), b"\xff\xfe broken", ["not UTF-8"]),
        (("-",), b"nul \0 and more", ["NUL"]),
        (("seven b",), b"", ["has 7 tokens, and a span has at least 8", "--min-tokens"]),
        (("@missing.txt",), b"", ["no file missing.txt"]),
        (("--model", "nobody", PROVERB), b"", ["No model is called 'nobody'"]),
        (("--session", "nobody"), b"", ["No conversation is recorded"]),
        (("--session", "none.jsonl"), b"", ["none.jsonl does not exist"]),
    ],
)
def test_what_cannot_be_traced_is_refused(run: Run, arguments: tuple[str, ...], stdin: bytes, words: list[str]) -> None:
    refused(run(*arguments, stdin=stdin), *words)


@pytest.mark.parametrize("arguments", [("text", "--session", "x"), ("text", "--turn", "1"), ("x", "--min-tokens", "0")])
def test_options_that_contradict_each_other(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_replies_of_a_session(run: Run, home: Path) -> None:
    other = {"event": "model", "model": "other", "model_sha256": "ff", "tokenizer_sha256": "1"}
    path = record(home, "trip", reply(PROVERB), reply("Undone."), {"event": "undo"}, other, reply(RARE, "complete"))
    last = run("--session", "tri", "--json")
    document = json.loads(last.stdout)
    assert (document["session"], document["turn"], document["text"]) == ("trip", 2, RARE)
    assert "came from other" in last.stderr
    assert document["what"] == "reply 2 of the session trip"
    assert json.loads(run("--session", str(path), "--turn", "1", "--json").stdout)["text"] == PROVERB
    refused(run("--session", "trip", "--turn", "3"), "holds 2 replies: there is no --turn 3")
    record(home, "silent", {"event": "system", "content": "Be silent."})
    refused(run("--session", "silent"), "holds no reply")


def test_a_reply_is_looked_up_in_what_its_model_was_trained_on(run: Run, home: Path) -> None:
    """Not in what the latest release was trained on, which here has no index."""
    writer = (home / "releases" / "latest").resolve()
    sha256 = next(line for line in (writer / "SHA256SUMS").read_text().splitlines() if "model.safetensors" in line)
    record(home, "trip", reply(PROVERB), sha256=sha256.split()[0])
    newer = Path(shutil.copytree(writer, writer.with_name("0000000000000000-0")))
    (newer / "model.safetensors").write_text("other weights")
    record_training(newer, "d" * 64)
    (newer / "SHA256SUMS").unlink()
    from parakeet.release.verify import write_sums

    write_sums(newer)
    (home / "releases" / "latest").unlink()
    (home / "releases" / "latest").symlink_to(newer.name)
    found = run("--session", "trip")
    assert (found.exit_code, found.stderr) == (0, "")
    refused(run(PROVERB), "no trace index here was made from them", "parakeet index build")


def test_an_index_that_does_not_fit_is_refused(run: Run, home: Path) -> None:
    release = (home / "releases" / "latest").resolve()
    index = (home / "trace_index" / "latest").resolve()
    content = Artifact.open((home / "token_shards" / "latest").resolve()).content
    before = run(PROVERB).stdout

    record_training(release, "d" * 64)
    refused(run(PROVERB), "d" * 64, content, "(it is called fables): parakeet index build --recipe FILE")
    record_training(release, content)
    assert run(PROVERB).stdout == before

    positions = next(index.glob("positions-*.npy"))
    positions.write_bytes(positions.read_bytes()[:-1])
    refused(run(PROVERB), positions.name, "--force trace_index")
    shutil.rmtree(index)
    (home / "trace_index" / "latest").unlink()
    refused(run(PROVERB), "no trace index here", "parakeet index build")


def test_without_the_held_out_text_nothing_is_compared(run: Run, home: Path) -> None:
    shutil.rmtree((home / "token_shards" / "latest").resolve())
    (home / "token_shards" / "latest").unlink()
    result = run(PROVERB)
    assert result.exit_code == 0
    assert "There is no held-out text" in result.stdout
    assert "fables.txt" not in result.stdout


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("foreign"), TOKENIZER, [EVIL, PROVERB, RARE], [])


@settings(max_examples=12)
@given(TEXTS)
def test_pages_and_terminals_show_foreign_text_only_as_text(corpus: Corpus, text: str) -> None:
    text = (text + EVIL[4:40] + text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    trace = trace_text(corpus.index, corpus.tokenizer, text, min_tokens=3)
    index = {"tokens": 1, "documents": 1, "token_shards": "a" * 64, "tokenizer_sha256": "b" * 64}
    page = Page(trace_page(trace, {"what": text, "model": text, "index": index}))
    assert page.elements <= ELEMENTS
    assert page.traced == "".join(segment.text for segment in trace.segments)
    plain = render_trace(trace, text)
    assert sanitise(plain) == plain
    coloured = render_trace(trace, text, colour=True, width=60)
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert sanitise(without) == without


def test_colour_shows_the_tier(corpus: Corpus) -> None:
    trace = trace_text(corpus.index, corpus.tokenizer, f"<< {RARE[:30]} >>")
    shown = render_trace(trace, "the tokens", colour=True, width=80)
    assert f"\x1b[1;31m{RARE[:30]}\x1b[0m" in shown
    assert "[1:" not in shown
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()) <= 80


def test_the_chat_traces_a_reply(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = Release((home / "releases" / "latest").resolve(), "aesop", SamplingSettings(), "ab" * 32)
    talk = session(lambda ids, seed: RARE if len(ids) < 40 else "A new thing.", max_tokens=90)
    talk.engine.tokenizer = TOKENIZER
    chat = Chat(release, ReplyPrinter(talk, TextOutput()), home, "Parakeet: ", lambda name: pytest.fail(name))
    with pytest.raises(ParakeetError, match="no reply to trace"):
        run_command(chat, "trace", "")
    say(talk, "Hello.")
    say(talk, "A longer message, to which the reply is another one.")
    run_command(chat, "trace", "1")
    shown = capsys.readouterr().out
    assert f"[1:{RARE}]" in shown
    assert "copied" in shown
    assert shown.count(CAVEAT) == 1
    run_command(chat, "tr", "")
    assert "[1:" not in capsys.readouterr().out
    for wrong in ("0", "3", "-1", "x", "²", "9" * 30):
        with pytest.raises(ParakeetError, match="from 1 to 2"):
            run_command(chat, "trace", wrong)
    shutil.rmtree(home / "trace_index")
    with pytest.raises(ParakeetError, match="parakeet index build"):
        run_command(chat, "trace", "")


def test_a_run_is_traced_in_what_it_trains_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = Artifact.open((home / "token_shards" / "latest").resolve())
    checkpoint = home / "training_runs" / "3fa9" / "step-5"
    checkpoint.mkdir(parents=True)
    job = {"shards_content": shards.content, "recipe": {"name": "fables"}}
    (checkpoint.parent / "job.json").write_text(json.dumps(job), encoding="utf-8")
    release = Release(checkpoint, "run 3fa9@5", SamplingSettings(), "ab" * 32)
    talk = session(RARE, max_tokens=90)
    chat = Chat(release, ReplyPrinter(talk, TextOutput()), home, "Parakeet: ", lambda name: pytest.fail(name))
    say(talk, "Hello.")
    with pytest.raises(ParakeetError, match=f"made with tokenizer {TOKENIZER.sha256}, and .* has"):
        run_command(chat, "trace", "")
    talk.engine.tokenizer = TOKENIZER
    run_command(chat, "trace", "")
    assert "that run 3fa9@5 was trained on" in capsys.readouterr().out
