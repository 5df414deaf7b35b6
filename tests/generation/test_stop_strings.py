import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parakeet.generation.stop_strings import StopStrings


def streamed(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """All text that was shown, and whether a stop string ended it."""
    stopping = StopStrings(stops)
    shown = []
    for piece in pieces:
        text, stopped = stopping.feed(piece)
        shown.append(text)
        assert stopped == stopping.stopped
        if stopped:
            return "".join(shown), True
    return "".join(shown) + stopping.finish(), stopping.stopped


def cut(stops: list[str], text: str) -> tuple[str, bool]:
    """The definition: up to the stop string that begins earliest."""
    found = [begin for stop in stops if (begin := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


# Two letters make overlaps, stop strings within stop strings and false starts common.
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)
PIECES = st.lists(st.text("ab", max_size=7), max_size=8)


@settings(max_examples=500)
@given(STOPS, PIECES)
@example(["abbb", "b"], ["ab", "a"])
@example(["abbb", "bb"], ["abb"])
def test_any_split_equals_the_whole_cut_at_the_earliest_stop(stops: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    assert streamed(stops, pieces) == cut(stops, whole)
    assert streamed(stops, list(whole)) == cut(stops, whole)
    assert streamed(stops, [whole]) == cut(stops, whole)


@given(st.lists(st.text()), st.lists(st.text(min_size=1)))
def test_without_a_stop_string_in_it_everything_comes_out(pieces: list[str], stops: list[str]) -> None:
    stops = [stop for stop in stops if stop not in "".join(pieces)]
    assert streamed(stops, pieces) == ("".join(pieces), False)


@given(PIECES)
def test_without_stop_strings_nothing_is_held_back(pieces: list[str]) -> None:
    stopping = StopStrings([])
    assert [stopping.feed(piece) for piece in pieces] == [(piece, False) for piece in pieces]
    assert stopping.finish() == ""


@settings(max_examples=200)
@given(STOPS.filter(bool), PIECES)
def test_only_what_could_begin_a_stop_string_is_held_back(stops: list[str], pieces: list[str]) -> None:
    stopping = StopStrings(stops)
    fed = shown = ""
    for piece in pieces:
        fed += piece
        text, stopped = stopping.feed(piece)
        shown += text
        assert fed.startswith(shown)
        if stopped:
            return
        held = fed[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_that_spans_pieces_is_never_shown() -> None:
    stopping = StopStrings(["\n\nHuman:"])
    assert stopping.feed("Yes.\n") == ("Yes.", False)
    assert stopping.feed("\nHu") == ("", False)
    assert stopping.feed("man: what?") == ("", True)
    assert stopping.feed("more") == ("", True)
    assert stopping.finish() == ""


@pytest.mark.parametrize("stops", [["END"], ["END", "ENDING"], ["END", "ND?"]])
def test_a_whole_stop_string_stops_at_once(stops: list[str]) -> None:
    stopping = StopStrings(stops)
    assert stopping.feed("The EN") == ("The ", False)
    assert stopping.feed("D") == ("", True)


def test_a_false_start_is_shown_as_soon_as_it_is_decided() -> None:
    stopping = StopStrings(["\n\nHuman:"])
    assert stopping.feed("Yes.\n\n") == ("Yes.", False)
    assert stopping.feed("Humans") == ("\n\nHumans", False)


def test_a_false_start_can_hold_a_true_one() -> None:
    assert streamed(["aab"], ["aa", "ab", "c"]) == ("a", True)


def test_a_stop_string_within_an_unfinished_longer_one_stops_at_the_end() -> None:
    stopping = StopStrings(["<end of reply>", "of"])
    assert stopping.feed("So <end of re") == ("So ", False)
    assert stopping.finish() == "<end "
    assert stopping.stopped


@pytest.mark.parametrize("piece", ["a", "ab", "ba" * 500])
def test_a_long_reply_with_many_long_stop_strings(piece: str) -> None:
    stops = [letter + "ab" * 499 + "c" for letter in "abcdefghijklmnop"]
    pieces = [piece] * (100_000 // len(piece))
    assert streamed(stops, pieces) == ("".join(pieces), False)
