import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.sanitise import LONGEST_SEQUENCE, Sanitiser, sanitise

STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f\ud800-\udfff]"
)

FRAGMENTS = [
    "\x1b", "\x1b[", "\x1b[31m", "\x1b[38;5;", "\x1b]0;title", "\x1b]52;c;aGk=\x07", "\x1b]8;;http://a\x1b\\",
    "\x1bP1$r", "\x1b\\", "\x1b(B", "\x1bc", "\x1b#8", "\x1bX", "\x1b^", "\x1b_G", "\x9b", "\x9b2J", "\x9d0;t",
    "\x90q", "\x98", "\x9e", "\x9f", "\x9c", "\x85", "\x07", "\b", "\r", "\r\n", "\n", "\t", "\x7f", "\x18",
    "\u202e", "\u2066", "\u200f", "\u061c", "\U000e0041", "\ud83d", "\udc80", "\u200d", "\u200b", "👩\u200d🚀",
    "é", "漢字", "plain", " ", "m", "?25l", "\\", "]", "[", "0" * 130, "x" * LONGEST_SEQUENCE,
]  # fmt: skip

adversarial = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=24).map("".join)
harmless = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs")), max_size=40)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain text, é 漢字\n\tindented", "plain text, é 漢字\n\tindented"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[?25lhidden cursor", "hidden cursor"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]0;title\x1b\\after", "after"),
        ("\x1b]0;title\x9cafter", "after"),
        ("\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1bPsixel\x1b\\after", "after"),
        ("\x1b_application\x1b\\\x1b^privacy\x1b\\\x1bXstart\x1b\\after", "after"),
        ("\x1bPa\x07b\x1b\\after", "after"),
        ("\x1b(Bcharset \x1bcreset \x1b#8align", "charset reset align"),
        ("\x9b31mred \x9d0;title\x07after\x90q\x9c.", "red after."),
        ("bell\x07 back\b\b space\x7f nul\x00 next\x85 line", "bell back space nul next line"),
        ("over\rwritten\r\nline", "overwritten\nline"),
        ("\u202egnp.exe\u202c \u2066x\u2069 \u200fy\u061c", "gnp.exe x y"),
        ("tag\U000e0041\U000e007f", "tag"),
        ("lone \ud83d and \udc80", "lone \ufffd and \ufffd"),
        ("👩\u200d👩\u200d👧 family", "👩\u200d👩\u200d👧 family"),
        ("end \x1b", "end "),
        ("\x1b\x1b[31mtwice", "twice"),
        ("\x1b[31\x1b[0mrestarted", "31restarted"),
        ("\x1b]0;a\x1b[1mnot a terminator", "0;anot a terminator"),
    ],
)
def test_known_sequences(text: str, printed: str) -> None:
    assert sanitise(text) == printed


@pytest.mark.parametrize("introducer", ["\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\x9d", "\x90", "\x1b[", "\x9b"])
def test_an_unterminated_sequence_loses_only_its_introducer(introducer: str) -> None:
    assert sanitise(f"before {introducer}0;7\nnext line") == "before 0;7\nnext line"
    assert sanitise(f"before {introducer}0;7") == "before 0;7"
    digits = "0" * (LONGEST_SEQUENCE + 50)
    assert sanitise(introducer + digits + " end") == digits + " end"


def test_an_endless_string_holds_back_a_bounded_number_of_characters() -> None:
    sanitiser = Sanitiser()
    printed = sanitiser.feed("\x1b]" + "x" * 10_000)
    assert 10_000 - len(printed) <= LONGEST_SEQUENCE


def test_a_sanitiser_can_be_used_again() -> None:
    sanitiser = Sanitiser()
    assert sanitiser.feed("a\x1b[3") + sanitiser.finish() == "a3"
    assert sanitiser.feed("b") + sanitiser.finish() == "b"


@given(adversarial)
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    printed = sanitise(text)
    assert not STEERING.search(printed)
    assert len(printed) <= len(text)
    printed.encode()


@given(adversarial)
def test_idempotent(text: str) -> None:
    assert sanitise(sanitise(text)) == sanitise(text)


@given(adversarial, st.data())
def test_the_split_of_a_stream_makes_no_difference(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    bounds = [0, *cuts, len(text)]
    sanitiser = Sanitiser()
    pieces = [sanitiser.feed(text[start:end]) for start, end in itertools.pairwise(bounds)]
    assert "".join(pieces) + sanitiser.finish() == sanitise(text)


@given(adversarial)
def test_character_by_character(text: str) -> None:
    sanitiser = Sanitiser()
    assert "".join(map(sanitiser.feed, text)) + sanitiser.finish() == sanitise(text)


@given(adversarial, harmless)
def test_a_newline_ends_whatever_was_open(text: str, rest: str) -> None:
    assert sanitise(f"{text}\n{rest}") == f"{sanitise(text)}\n{rest}"


@given(harmless)
def test_harmless_text_is_untouched(text: str) -> None:
    assert sanitise(text) == text
