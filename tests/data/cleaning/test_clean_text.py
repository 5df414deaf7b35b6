"""Repair of text, personal data and boilerplate: what is changed, and what must be left alone."""

import ipaddress
import re
import unicodedata

import pytest
from ftfy import fix_encoding
from hypothesis import given
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.cleaning.boilerplate import boilerplate_in
from parakeet.data.cleaning.personal_data import masked
from parakeet.data.cleaning.text_faults import normalise, repair_mojibake, repaired
from parakeet.data.documents import Document
from parakeet.data.words import CachedWordTokenizer, RegexWordTokenizer, words_of

MESSY = st.text(
    st.characters()
    | st.sampled_from("\r\n \t\x0b\x85\u2028\ufeff\x00e\u0301\ud800Ãâ€™©\x80\x99\x9d\xad\u200b\u200d\u2069")
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\rc\x0cd\u2028e", "a\nb\nc\nd\ne"),
        ("\ufeffa\x00b\x1b[31mc\x9bd\x7f\ud800", "ab[31mcd"),
        ("tab\tkept  \nline \t\n", "tab\tkept\nline"),
        ("a\n\n\nb\n\n\n\n\n\nc", "a\n\n\nb\n\n\nc"),
        ("e\u0301", "é"),
        ("  \n\n ", ""),
        ("naïve 数 👩‍🚀", "naïve 数 👩‍🚀"),
        ("می\u200cخواهم, क्\u200dष", "می\u200cخواهم, क्\u200dष"),
        ("co\xadop\u200ber\u2060at\u2063ive", "cooperative"),
        ("\u202eabc\u202c \u2067\u200fd\u200e\u2069\u061c\u180e \ufff9e\ufffaf\ufffb", "abc d ef"),
        ("e\u200b\u0301", "é"),
    ],
)
def test_normalise(before: str, after: str) -> None:
    assert normalise(before) == after
    assert repaired(before, mojibake=False) == (after, False)


@given(MESSY)
def test_normalised_text_is_clean_and_normalising_again_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once == once.strip()
    assert unicodedata.is_normalized("NFC", once)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff]| \n|\n{4}", once)


@given(MESSY)
def test_text_made_whole_stays_as_it_is(text: str) -> None:
    once, _ = repaired(text, mojibake=True)
    assert repaired(once, mojibake=True) == (once, False)
    assert normalise(once) == once


@given(st.text(st.characters(max_codepoint=127) | st.sampled_from("\xa0‘’“”–—…•")))
def test_text_that_ftfy_is_not_shown_is_text_that_it_would_leave(text: str) -> None:
    assert repair_mojibake(text) == text == "\n".join(map(fix_encoding, text.split("\n")))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Itâ€™s", "It’s"),
        ("It\xe2\x80\x99s", "It’s"),
        ("schÃ¶n", "schön"),
        ("\x93quoted\x94 in Windows' way", "“quoted” in Windows' way"),
        ("“right” here\nand wrong: cafÃ©", "“right” here\nand wrong: café"),
    ],
)
def test_mojibake(wrong: str, right: str) -> None:
    assert repaired(wrong, mojibake=True) == (right, True)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Mail jane.doe+x@mail.example.co.uk.", "Mail <email>."),
        ("<bob@example.com>, al_b-c@x.org", "<<email>>, <email>"),
        ("call +44 20 7946 0958 now", "call <phone> now"),
        ("+1 (555) 123-4567, +15551234567, +49 (0)30 123456", "<phone>, <phone>, <phone>"),
        ("(555) 123-4567 or 1 (800) 555-0199", "<phone> or <phone>"),
        ("555-123-4567 and 1-800-555-0199.", "<phone> and <phone>."),
        ("Phone: 020 7946 0958; Tel. (030) 123456", "Phone: <phone>; Tel. <phone>"),
        ("at 192.168.1.10, from 93.184.216.34:80", "at <ip>, from <ip>:80"),
        ("IP: 8.8.8.8", "IP: <ip>"),
        ("http://93.184.216.34/x", "http://<ip>/x"),
        ("2001:db8::1 and 2001:0db8:85a3:0000:0000:8a2e:0370:7334", "<ip> and <ip>"),
    ],
)
def test_personal_data_is_masked(text: str, after: str) -> None:
    assert masked(text)[0] == after


@pytest.mark.parametrize(
    "text",
    [
        "@app.route and a@b and user@host",
        "version 10.2.33.4, v1.2.3.44, python-3.11.10.12",
        "1.2.3.4 Scope",
        "10.0.0.300 and 1.2.3.4.55",
        "127.0.0.1, 0.0.0.0, 255.255.255.0",
        "std::vec, a::b, dead::beef, 12:30:45, 2001:30:00",
        "800-200-1000 = -400",
        "5 + 300-200-1000 and 300-200-1000 + 7",
        "$300-200-1000",
        "12 +34 567 890 12",
        "x = +4420794609",
        "ISBN 978-3-16-148410-0",
        "3.14159265358 and 1,000,000,000 and 1000000000",
        "2024-11-26 12:30:45, 20/11/2024",
        "He gained +1000000 points.",
        "24 + 12 = <<24+12=36>>36, so 36 - 6 = 30",
        "the phone costs 0.99 or 1000",
    ],
)
def test_text_without_personal_data_is_left_alone(text: str) -> None:
    assert masked(text) == (text, {})


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("0123456789.-+()@: a")))
def test_masking_again_changes_nothing(text: str) -> None:
    once, _ = masked(text)
    assert masked(once) == (once, {})


@given(st.ip_addresses(v=4), st.sampled_from(["at {}.", "{}, too", "({})"]))
def test_every_ipv4_address_is_masked_but_those_of_nobody(address: ipaddress.IPv4Address, around: str) -> None:
    text, found = masked(around.format(address))
    nobody = address.is_loopback or str(address).startswith(("0.", "255.")) or len(str(address)) == 7
    assert text == around.format(address if nobody else "<ip>")
    assert found == ({} if nobody else {"IP address": 1})


@given(st.emails(domains=st.sampled_from(["example.com", "mail.example.co.uk"])))
def test_no_e_mail_address_keeps_its_domain(address: str) -> None:
    text, found = masked(f"Write to {address} today.")
    # Names with characters that only the standard allows keep what stands before them.
    assert found["e-mail"] == 1 or not re.fullmatch(r"[A-Za-z0-9][\w.%+-]*", address.split("@")[0])
    assert found["e-mail"] == 0 or "example" not in text


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from("+-*/")), min_size=2, max_size=8))
def test_sums_are_no_phone_numbers(terms: list[tuple[int, str]]) -> None:
    for space in ("", " "):
        text = "".join(f"{number}{space}{sign}{space}" for number, sign in terms) + "1 = 12"
        assert masked(f"So {text}.")[1]["phone"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I have no body.",
        "Well, as a large language model trained by OpenAI, I cannot.",
        "I'm just an AI, so I don't eat.",
        "I am an AI assistant.",
        "I’m sorry, but as an AI I can't.",
        "I'm sorry, but I cannot assist with that.",
        "I apologize, but I’m unable to provide this.",
        "I cannot fulfill your request.",
        "I can't help with that request.",
        "Hello! I am ChatGPT.",
        "My name is Claude, an AI assistant.",
        "I'm Claude, made by Anthropic.",
        "I was created by OpenAI.",
        "My knowledge cutoff is\nSeptember 2021.",
    ],
)
def test_boilerplate_is_recognised_in_turns_of_the_assistant(text: str) -> None:
    turns = (Turn("Human", "Who are you?"), Turn("Assistant", f"Hm. {text}"))
    place = boilerplate_in(Document("a", "MIT", turns))
    assert text.split()[1] in place
    swapped = (Turn("Human", text), Turn("Assistant", "I see."))
    assert boilerplate_in(Document("a", "MIT", swapped)) == ""
    assert boilerplate_in(Document("a", "MIT", (Turn("text", f"Hm. {text}"),))) == place


@pytest.mark.parametrize(
    "text",
    [
        "A language model predicts the next word.",
        "AI was first spoken of in 1956.",
        "I'm sorry, but I have to go.",
        "I cannot swim.",
        "I am a Gemini, and my name is Claude.",
        "ChatGPT was made by OpenAI.",
        "I am an aid worker. Please complete the request form.",
        "He said that he was sorry.",
    ],
)
def test_other_talk_is_not_boilerplate(text: str) -> None:
    assert boilerplate_in(Document("a", "MIT", (Turn("Human", "Hm?"), Turn("Assistant", text)))) == ""


@given(st.text(st.characters(max_codepoint=127)), st.text())
def test_words_of_ascii_are_those_of_other_text(ascii_text: str, text: str) -> None:
    for one in (ascii_text, text):
        # One accented word makes the text take the slower way.
        assert [*words_of(one), "é"] == words_of(one + " é")


def test_the_last_words_are_kept_until_they_are_forgotten() -> None:
    words = CachedWordTokenizer()
    first = words.word_tokenize("one two")
    assert words.word_tokenize("one two") is first == RegexWordTokenizer().word_tokenize("one two")
    assert words.word_tokenize("three") == ["three"]
    words.forget()
    assert words.word_tokenize("") == []
