"""Text of every script: marks are part of words, and a run of any length takes time in proportion."""

import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.cleaning.boilerplate import boilerplate_in, may_be_boilerplate
from parakeet.data.cleaning.decontaminate import folded_words
from parakeet.data.cleaning.personal_data import masked, may_identify
from parakeet.data.cleaning.quality import QualityFilter
from parakeet.data.cleaning.repetition import RepetitionFilter
from parakeet.data.cleaning.text_faults import fault_of, repaired
from parakeet.data.deduplication.minhash import Signatures
from parakeet.data.documents import Document, normalised
from parakeet.data.marks import stream_safe
from parakeet.data.words import CachedWordTokenizer, words_of
from parakeet.recipe import Clean, Deduplication, Quality, Repetition
from parakeet.tokenizer import CHARACTERS_AT_ONCE, TRAINED_PATTERN, Tokenizer, train_tokenizer

UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

WORDS = {
    "Devanagari": ("हिन्दी में शब्द", 3),
    "Devanagari with a joiner": ("क्‍ष श्री", 2),
    "Bengali": ("বাংলা ভাষা", 2),
    "Tamil": ("தமிழ் மொழி", 2),
    "Telugu": ("తెలుగు భాష", 2),
    "Malayalam": ("മലയാളം ഭാഷ", 2),
    "Sinhala": ("සිංහල භාෂාව", 2),
    "Hebrew with points": ("שָׁלוֹם עוֹלָם", 2),
    "Arabic with marks": ("السَّلامُ عَلَيْكُم", 2),
    "Persian with a non-joiner": ("می‌خواهم خوب‌ است", 3),
    "Vietnamese, decomposed": (unicodedata.normalize("NFD", "tiếng Việt đẹp"), 3),
    "Russian with stress": ("бы́ло всё", 2),
    "Yoruba": ("Kọ́ ẹ̀kọ́", 2),
    "Tibetan": ("བོད་སྐད", 2),
    "Amharic": ("አማርኛ ቋንቋ", 2),
    "Thai, by letter": ("ดี", 1),
    "Lao, by letter": ("ດີ", 1),
    "Khmer, by letter": ("ភាសា", 2),
    "Burmese, by letter": ("မာစာ", 2),
    "Chinese": ("漢字。漢字", 4),
    "emoji": ("❤️ 1️⃣ a️b", 3),
    "a mark alone": ("\u0301 a", 1),
    "Hanifi Rohingya": ("𐴌𐴟𐴇𐴥𐴝𐴚𐴒𐴙𐴝 𐴇𐴥𐴝", 2),
}


@pytest.mark.parametrize(("text", "number"), WORDS.values(), ids=WORDS)
def test_marks_are_part_of_words(text: str, number: int) -> None:
    words = words_of(text)
    assert len(words) == number
    kept = [c for c in "".join(words) if unicodedata.category(c)[0] in "LMN"]
    assert len(kept) == sum(c in "".join(words) for c in text if unicodedata.category(c)[0] in "LMN")


@given(
    st.text(
        st.characters(
            blacklist_categories=("Mn", "Mc", "Cs"), blacklist_characters="\u200c\u200d", max_codepoint=0x0FFF
        )
    )
)
def test_without_marks_words_are_what_they_were(text: str) -> None:
    assert words_of(text) == re.findall(rf"[{UNSPACED}]|[^\W{UNSPACED}]+", text)


def test_words_with_marks_are_compared_whole() -> None:
    signatures = Signatures(Path("unused"), Deduplication(min_words=5))
    text = "हिन्दी में लिखा हुआ एक लंबा वाक्य यहाँ है"
    assert len(signatures.get_shingles(text)) == len(text.split()) - 4
    assert folded_words(text) == text.split()


@pytest.mark.parametrize("word", ["हिन्दी", "שָׁלוֹם", "السَّلامُ", "தமிழ்", unicodedata.normalize("NFD", "tiếng")])
def test_a_word_with_marks_becomes_one_token(word: str) -> None:
    tokenizer = train_tokenizer([f"{word} {word}"] * 50, 400)
    assert tokenizer.pattern == TRAINED_PATTERN
    assert [tokenizer.token_bytes(n).decode() for n in tokenizer.encode(f"{word} {word}")] == [word, f" {word}"]


@given(st.text(st.sampled_from("a\u0301\u0316\u05b0"), max_size=200))
def test_text_with_too_many_marks_can_be_normalised_in_proportion(text: str) -> None:
    safe = stream_safe(text)
    assert stream_safe(safe) == safe
    assert safe.replace("\u034f", "") == text
    assert not re.search("[\u0301\u0316\u05b0]{31}", safe)


# A first look must not miss what the rules find.
SPOKEN = (
    "As an AI",
    " language model",
    ", I ",
    "I'm",
    " sorry",
    " but ",
    "\n",
    "ı",
    "OpenAI",
    " cannot",
    " assist",
    " ſ",
)
PERSONAL = (
    "a@b.com",
    "192.168.1.7",
    "fe80::1",
    "+49 30 1234567",
    "(212) 555-0123",
    "tel: 030 12345678",
    " ",
    "x",
    "1",
    ".",
)


@given(st.lists(st.sampled_from(SPOKEN + PERSONAL), max_size=12).map("".join))
def test_a_first_look_misses_nothing(text: str) -> None:
    document = Document("a", "MIT", (Turn("text", text),))
    assert may_be_boilerplate([document])[0] or not boilerplate_in(document)
    assert may_identify([document])[0] or not masked(text)[1]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the quick brown fox, 12 of them; हिन्दी में शब्द 漢字"] * 20, 320)


@pytest.mark.parametrize(
    "unit",
    [
        "the quick brown fox, 12 of them. ",
        "हिन्दी में शब्द। ",
        "漢字仮名、漢字。",
        "It's they're\n\n  we'll 3.14, ",
        "1 2 3\n",
        "é à\u0301 ",
    ],
)
def test_a_long_text_has_the_same_ids_in_pieces(tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (CHARACTERS_AT_ONCE // len(unit) + 300)
    assert tokenizer.encode(text) == tokenizer.encoding.encode_ordinary(text) == tokenizer.encode_array(text).tolist()


def test_a_million_spaces_are_encoded(tokenizer: Tokenizer) -> None:
    text = "x" + " " * 1_000_000 + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


RUNS = {
    "letters": "abcdefghij",
    "one letter": "a",
    "dashes": "-",
    "spaces": " ",
    "no-break spaces": "\xa0",
    "blank lines": "\n",
    "digits": "0123456789",
    "Han": "漢字仮名",
    "Thai": "ภาษาไทย",
    "Devanagari": "हिन्दी",
    "accents": "é",
    "marks": "\u0316\u0301",
    "joiners": "\u200d",
    "emoji": "😀",
    "mojibake": "â€™",
    "at signs": "a@",
    "dots": "1.",
    "colons": "f:",
    "brackets": "(1",
    "I am": "I am ",
    "control tokens": "<|",
}


def stages(tokenizer: Tokenizer) -> dict[str, Callable[[str], object]]:
    """What each stage does with raw text."""
    words, signatures = CachedWordTokenizer(), Signatures(Path("unused"), Deduplication())
    repetition, quality = RepetitionFilter(Repetition(), words), QualityFilter(Quality(), words)

    def plain(text: str) -> Document:
        return Document("a", "MIT", (Turn("text", text),))

    def sign(text: str) -> None:
        if len(shingles := signatures.get_shingles(text)):
            signatures.get_signature(shingles)

    return {
        "doc_id": normalised,
        "repair": lambda text: repaired(text, mojibake=True),
        "faults": lambda text: fault_of(plain(text), Clean()),
        "boilerplate": lambda text: boilerplate_in(plain(text)),
        "personal data": masked,
        "first look": lambda text: (may_be_boilerplate([plain(text)]), may_identify([plain(text)])),
        "repetition": lambda text: repetition(plain(text)),
        "quality": lambda text: quality(plain(text)),
        "decontamination": folded_words,
        "near duplicates": sign,
        "tokens": tokenizer.encode_array,
        "prompt": tokenizer.encode,
        "vocabulary": lambda text: train_tokenizer([text], 300),
    }


@pytest.mark.parametrize("run", RUNS)
def test_a_run_takes_time_in_proportion(tokenizer: Tokenizer, run: str) -> None:
    def seconds(work: Callable[[str], object], characters: int) -> float:
        text = (RUNS[run] * characters)[:characters]
        began = time.process_time()
        work(text)
        return time.process_time() - began

    for name, work in stages(tokenizer).items():
        # The quadratic ones took 0.4 to 9 s of 40,000 characters.
        for _ in range(3):
            short, long = seconds(work, 10_000), seconds(work, 40_000)
            if long < max(0.05, 8 * short):
                break
        else:
            pytest.fail(f"{name}: {short:.3f} s for 10,000 characters, {long:.3f} s for 40,000")


SCRIPT = """
import contextlib, io, sys
from pathlib import Path
with contextlib.suppress(ImportError):
    import pandas  # where it is installed, pyarrow imports it in a function of C, in which Ctrl-C is lost
sys.path.insert(0, sys.argv[3])
from parakeet.data.cleaning.clean import clean_documents
from parakeet.data.deduplication.deduplicate import deduplicate_documents
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe

folder = Path(sys.argv[1])
recipe = load_recipe(str(folder / "recipe.yaml"))
stages = {
    "clean": (clean_documents, "documents"),
    "deduplicate": (deduplicate_documents, "clean_documents"),
    "vocabulary": (make_tokenizer, "deduplicated_documents"),
    "tokens": (make_token_shards, "deduplicated_documents"),
}
make, given = stages[sys.argv[2]]
output = folder / sys.argv[2]
output.mkdir()
print("ready", flush=True)
try:
    make(recipe, {given: folder / "in", "tokenizer": folder / "tokenizer"}, output, Progress(io.StringIO()))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("stage", "unit"), [("clean", "a"), ("deduplicate", "a-"), ("vocabulary", "-"), ("tokens", "漢字")]
)
def test_ctrl_c_ends_work_on_a_long_run_soon(tmp_path: Path, tokenizer: Tokenizer, stage: str, unit: str) -> None:
    from .deduplication.test_deduplicate import recipe
    from .document_parts import write_parts

    values = recipe().model_dump(mode="json") | {"tokenizer": {"kind": "bpe", "vocabulary": 8000}}
    values["clean"]["max_characters"] = 10**8
    (tmp_path / "recipe.yaml").write_text(type(recipe()).model_validate(values).to_yaml())
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    document = Document("a", "CC0-1.0", (Turn("text", (unit * 20_000_000)[:20_000_000]),), split="train")
    write_parts(tmp_path / "in", [document])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), stage, str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        status = process.wait(60)
        seconds = time.monotonic() - began
        assert (status, process.stderr.read()) == (130, "")
    # Two seconds, and as much again for a busy machine; measured 0.3 to 1.2 s.
    assert seconds < 4


def test_training_of_a_vocabulary_ends_with_any_exception_that_stops_the_build() -> None:
    class Stopped(BaseException):
        """As Dagster's, for Ctrl-C."""

    def stop(signal_number: int, frame: object) -> None:
        raise Stopped

    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "many words "
            time.sleep(0.001)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Stopped):
            train_tokenizer(texts(), 300)
    finally:
        signal.signal(signal.SIGALRM, before)
    before_waiting = taken
    time.sleep(0.1)
    assert taken == before_waiting > 0
