"""The sampling options: refused by name, read from text, shown, and the same everywhere."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from parakeet.cli import main
from parakeet.errors import ParakeetError
from parakeet.recipe import Generation
from parakeet.sampling_settings import OPTIONS, SamplingSettings, describe, with_setting

PLAIN = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "max_tokens": 10,
    "stop": (),
    "rolling": False,
    "seed": 1,
}
NUMBERS = [name for name, value in PLAIN.items() if isinstance(value, float)]


def make(**changes: object) -> SamplingSettings:
    return SamplingSettings(**{**PLAIN, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in {"seed", "rolling"}])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -2.5, 1e9 + 0.5, "0.3", None, True])
def test_a_bad_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ParakeetError, match=rf"^{name} must be .*, not .*\.$"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", 1e9),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", 1e9),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 10.1),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "abc"),
        ("seed", 1.0),
        ("seed", True),
        ("stop", ("",)),
        ("stop", ("x" * 1_001,)),
        ("stop", tuple("abcdefghijklmnopq")),
        ("stop", (1,)),
        ("stop", "abc"),
        ("stop", ("\ud800",)),
        ("rolling", 1),
        ("rolling", "on"),
        ("rolling", None),
    ],
)
def test_more_bad_settings(name: str, value: object) -> None:
    with pytest.raises(ParakeetError, match=f"^{name} must be "):
        make(**{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 10**12},
        {"top_k": 10**9},
        {"min_p": 1},
        {"repetition_penalty": 10},
        {"stop": tuple("abcdefghijklmnop")},
        {"stop": ("x" * 1_000, "\x00", "\n\nHuman:")},
        {"seed": 2**64 - 1},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(changes: dict[str, object]) -> None:
    assert make(**changes) != make()


def test_a_list_of_stop_strings_becomes_a_tuple() -> None:
    assert make(stop=["a", "b"]) == make(stop=("a", "b"))


def _accepts(maker: type, **values: object) -> bool:
    try:
        maker(**values)
    except (ParakeetError, ValidationError):
        return False
    return True


@given(
    st.sampled_from([name for name in Generation.model_fields if name in NUMBERS]),
    st.floats(-12, 12) | st.sampled_from([0.0, 1.0, 2.0, -2.0, 10.0]),
)
def test_the_ranges_are_those_of_the_recipe(name: str, value: float) -> None:
    assert _accepts(SamplingSettings, **{**PLAIN, name: value}) == _accepts(Generation, **{name: value})


@given(
    st.sampled_from([name for name in Generation.model_fields if name in {"max_tokens", "top_k"}]),
    # A recipe's numbers end at 2^63.
    st.integers(-3, 3) | st.integers(1 - (1 << 63), (1 << 63) - 1),
)
def test_the_whole_ranges_are_those_of_the_recipe(name: str, value: int) -> None:
    assert _accepts(SamplingSettings, **{**PLAIN, name: value}) == _accepts(Generation, **{name: value})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("temperature", "0.7", 0.7),
        ("Temperature", " 1 ", 1.0),
        ("top-k", "40", 40),
        ("top_k", "1e9", 10**9),
        ("max_tokens", "1e12", 10**12),
        ("seed", "18446744073709551615", 2**64 - 1),
        ("seed", "random", None),
        ("seed", " RANDOM", None),
        ("rolling", "on", True),
        ("rolling", "Off", False),
        ("stop", "END", ("END",)),
        ("stop", " a b ", (" a b ",)),
        ("stop", "[INST]", ("[INST]",)),
        ("stop", "7", ("7",)),
        ("stop", r"\n", (r"\n",)),
        ("stop", r'"\n"', ("\n",)),
        ("stop", r'["\n\n", "ü"]', ("\n\n", "ü")),
        ("stop", "[]", ()),
    ],
)
def test_a_setting_is_read_from_text(name: str, text: str, expected: object) -> None:
    found = with_setting(make(seed=5, rolling=True, stop=("x",)), name, text)
    assert getattr(found, name.lower().replace("-", "_")) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temperature", "warm", "temperature must be a number from 0 to 10, not 'warm'."),
        ("temperature", "11", "temperature must be a number from 0 to 10, not 11."),
        ("top-p", "0", "top_p must be a number above 0 and at most 1, not 0."),
        ("top_k", "1.5", "top_k must be a whole number of at least 0, not '1.5'."),
        ("top_k", "1e300", "top_k must be a whole number of at least 0, not '1e300'."),
        ("max_tokens", "inf", "max_tokens must be a whole number of at least 1, not 'inf'."),
        ("seed", "abc", "seed must be a whole number from 0 to 2^64 - 1 or \"random\", not 'abc'."),
        ("rolling", "yes", "rolling must be on or off, not 'yes'."),
        ("stop", "", "stop must be a text of 1 to 1,000 characters, or a JSON list of up to 16 such texts, not ''."),
        ("stop", "[1]", "such texts, not 1."),
        ("stop", "[" * 100_000, "such texts, not '[[["),
        ("temperatur", "1", "There is no setting 'temperatur'; did you mean temperature? The settings are temp"),
        ("topk", "1", "did you mean top_k?"),
        ("zzz", "1", "There is no setting 'zzz'; the settings are temperature, top_k, top_p, min_p,"),
        ("", "1", "There is no setting ''"),
        ("__class__", "1", "There is no setting"),
        ("t" * 1_000_000, "1", "There is no setting"),
    ],
)
def test_what_cannot_be_set_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ParakeetError) as caught:
        with_setting(make(), name, text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


@settings(max_examples=200)
@given(st.sampled_from(list(PLAIN)), st.text(max_size=12) | st.from_regex(r"[-+0-9.eE_\[\]\",]{0,8}", fullmatch=True))
def test_any_text_gives_settings_or_a_refusal_by_name(name: str, text: str) -> None:
    try:
        found = with_setting(make(), name, text)
    except ParakeetError as error:
        assert str(error).startswith(f"{name} must be ")  # noqa: PT017
    else:
        assert replace(found, **{name: PLAIN[name]}) == make()


VALID = {
    "temperature": st.floats(0, 10),
    "top_k": st.integers(0, 10**18),
    "top_p": st.floats(0, 1, exclude_min=True),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0, 10, exclude_min=True),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "max_tokens": st.integers(1, 10**18),
    "stop": st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3).map(tuple),
    "rolling": st.booleans(),
    "seed": st.none() | st.integers(0, 2**64 - 1),
}


@given(st.fixed_dictionaries(VALID))
def test_what_is_shown_can_be_set(values: dict[str, object]) -> None:
    wanted = make(**values)
    found = make()
    for name, text, _ in describe(wanted):
        found = with_setting(found, name, text)
    assert found == wanted


def test_every_setting_is_described_in_one_short_line() -> None:
    rows = describe(make(seed=None, temperature=0.30, stop=("\n", "é")))
    assert [name for name, _, _ in rows] == list(PLAIN)
    shown = {name: value for name, value, _ in rows}
    assert (shown["temperature"], shown["top_p"], shown["seed"], shown["rolling"]) == ("0.3", "1", "random", "off")
    assert shown["stop"] == r'["\n", "é"]'
    assert all(0 < len(meaning) <= 50 and "\n" not in meaning for _, _, meaning in rows)


def test_the_recipe_and_the_command_line_have_the_same_options() -> None:
    released = Generation().model_dump()
    assert released == {
        "temperature": 0.3,
        "top_k": 0,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.07,
        "presence_penalty": 0.02,
        "max_tokens": 4000,
    }
    assert SamplingSettings(**released) == SamplingSettings()
    assert set(OPTIONS) - set(released) == {"stop", "rolling", "seed"}
    options = {option.name: option for option in main.commands["chat"].params}  # type: ignore[attr-defined]
    for name, option in OPTIONS.items():
        assert options[name].opts == ["--" + name.replace("_", "-")]
        assert option.help[1:] in options[name].help
    given = main.commands["chat"].make_context("chat", ["--top-k", "1e3", "--stop", "a", "--stop", "b", "--rolling"])  # type: ignore[attr-defined]
    changed = {name: given.params[name] for name in OPTIONS if given.params[name] is not None}
    assert changed == {"top_k": 1000, "stop": ("a", "b"), "rolling": True}
