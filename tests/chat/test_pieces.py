from hypothesis import given
from hypothesis import strategies as st

from parakeet.chat.pieces import escaped, format_chance, piece

from .scripted_sessions import TOKENIZER


@given(st.text(max_size=30))
def test_a_piece_is_printable_and_says_exactly_which_bytes_it_is(text: str) -> None:
    shown = escaped(text.encode("utf-8", "replace"))
    assert shown.isprintable()
    assert eval(f'"{shown}"') == text.encode("utf-8", "replace").decode()


@given(st.binary(max_size=6))
def test_bytes_that_are_no_characters_are_escapes(content: bytes) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        assert eval(f'b"{escaped(content)}"') == content


def test_control_tokens_have_their_name_and_no_quotes() -> None:
    names = [piece(TOKENIZER, token_id) for token_id in (*TOKENIZER.controls.values(), 300, 65, 0x20)]
    ends = ["<|endoftext|>", "<|endofprompt|>", "<|padding|>"]
    assert names == [*ends, "System:", "Human:", "Assistant:", "(undefined)", '"A"', '" "']


def test_chances_never_look_impossible() -> None:
    shown = [format_chance(chance) for chance in (1.0, 0.3125, 3.1e-5, 1e-6, 2e-9, 1e-45, 0.0)]
    assert shown == ["100.0000%", "31.2500%", "0.0031%", "0.0001%", "2e-07%", "1e-43%", "0.0000%"]
