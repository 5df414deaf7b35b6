"""Tokens as a person can read them. Imports no torch."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from parakeet.tokenizer import Tokenizer

if TYPE_CHECKING:
    from parakeet.generation.engine import NextToken


def piece(tokenizer: Tokenizer, token_id: int) -> str:
    """A token's text in quotes: `" the"`, `"\\n"`, `"\\xf0\\x9f"`; a control token as its name without quotes.

    Whatever does not print is an escape as in Python, also bytes that are not whole characters.
    """
    content = tokenizer.token_bytes(token_id)
    if not content:
        names = [name for name, control in tokenizer.controls.items() if control == token_id]
        return names[0].strip() if names else "(undefined)"
    return f'"{escaped(content)}"'


def render_chances(tokenizer: Tokenizer, chances: Iterable["NextToken"]) -> str:
    """A table of tokens that may come next, each with its probability by the model and that of being drawn."""

    def drawn(chance: "NextToken") -> str:
        return "unknown" if chance.drawn is None else format_chance(chance.drawn)

    lines = ["    model     drawn      id  piece"]
    lines += [
        f"{format_chance(chance.probability):>9} {drawn(chance):>9} {chance.token_id:7}  "
        + piece(tokenizer, chance.token_id)
        for chance in chances
    ]
    return "\n".join(lines)


def format_chance(probability: float) -> str:
    """`31.2500%`, `0.0031%`, `2e-07%`: never 0 for what may happen."""
    return f"{probability:.4%}" if probability >= 1e-6 or not probability else f"{100 * probability:.0e}%"


def escaped(content: bytes) -> str:
    """Bytes as text in which everything that does not print, quotes and backslashes are escapes."""
    try:
        return "".join(map(_shown, content.decode("utf-8")))
    except UnicodeDecodeError:
        return "".join(
            chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}" for byte in content
        )


def _shown(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
