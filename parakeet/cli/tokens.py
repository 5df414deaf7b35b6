"""`parakeet tokens`."""

import json
import math
from collections.abc import Iterator

import click

from parakeet.cli.chat import is_from_environment, model_option, run_option
from parakeet.cli.output import examples
from parakeet.errors import ParakeetError


@click.command(
    epilog=examples(
        'parakeet tokens "Who are you?"',
        'parakeet tokens --probs "Two and two is four."',
        "parakeet tokens --json < notes.txt",
    )
)
@click.argument("text", nargs=-1)
@click.option("--probs", is_flag=True, help="Show the probability of each token, given those before it.")
@model_option
@run_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tokens(text: tuple[str, ...], probs: bool, model: str | None, run: str | None, as_json: bool) -> None:
    """Show the tokens of TEXT: the id and the piece of each.

    Without TEXT, or for -, the text is standard input; @FILE is the text of a file. In a piece, whatever does not print
    is an escape.
    """
    from parakeet.chat.message import one_message
    from parakeet.chat.models import ModelOpener
    from parakeet.chat.output import note
    from parakeet.home import home

    if model is not None and run is not None:
        if not is_from_environment("model"):
            raise click.UsageError("--model and --run both name a model: give one of them.")
        model = None
    # Not joined with what is piped in, as a message is: here TEXT is all of it.
    chosen = one_message(" ".join(text) if text else "-", note, join=False)
    if not chosen:
        raise ParakeetError("The text is empty: it has no tokens.")
    opener = ModelOpener(home(), dtype="fp32")  # a measurement of the model, not of a precision
    scores: list[float] | None = None
    if probs:
        from parakeet.chat.prompt_builder import raw_ids

        opened = opener.open(model, run)
        for line in opened.notes:
            note(line)
        tokenizer = opened.engine.tokenizer
        ids = raw_ids(tokenizer, chosen)
        scores, ids = opened.engine.log_probabilities(ids), ids[1:]
    else:
        tokenizer = opener.tokenizer(model, run)
        ids = tokenizer.encode(chosen)
    pieces = [tokenizer.token_bytes(token_id) for token_id in ids]
    for line in _as_json(ids, pieces, scores) if as_json else _as_table(ids, pieces, scores):
        click.echo(line)


def _as_table(ids: list[int], pieces: list[bytes], scores: list[float] | None) -> Iterator[str]:
    """`scores`: ln p of each token."""
    from parakeet.chat.pieces import escaped, format_chance

    shown = [f"{format_chance(math.exp(score)):>11}  " for score in scores] if scores else [""] * len(ids)
    yield ("probability  " if scores else "") + "     id  piece"
    for chance, token_id, content in zip(shown, ids, pieces, strict=True):
        yield f'{chance}{token_id:7}  "{escaped(content)}"'
    n_bytes = sum(map(len, pieces))
    counts = f"{len(ids):,} {'token' if len(ids) == 1 else 'tokens'}, {n_bytes:,} {'byte' if n_bytes == 1 else 'bytes'}"
    yield counts + (f", {_bits(scores) / n_bytes:.3f} bits a byte" if scores else "")


def _as_json(ids: list[int], pieces: list[bytes], scores: list[float] | None) -> Iterator[str]:
    listed = [
        {"id": token_id, "text": _text(content), "hex": content.hex()}
        | ({} if scores is None else {"probability": math.exp(scores[number])})
        for number, (token_id, content) in enumerate(zip(ids, pieces, strict=True))
    ]
    yield json.dumps({"tokens": listed, "bytes": sum(map(len, pieces))} | ({"bits": _bits(scores)} if scores else {}))


def _bits(scores: list[float]) -> float:
    return -math.fsum(scores) / math.log(2)


def _text(content: bytes) -> str | None:
    """The text of a token, None if it is not whole characters."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None
