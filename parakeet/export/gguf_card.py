"""The card of a repository with a GGUF file."""

from markupsafe import Markup

from parakeet.export.source import ExportSource
from parakeet.pages import render
from parakeet.release.card import card_body, card_header, licence_of, read_card


def gguf_card(source: ExportSource, repo: str, dtype: str) -> str:
    """`README.md`: how to run the file from the hub, then the release's own card."""
    card = read_card(source.release.directory)
    return render(
        "gguf_card.md",
        header=card_header(
            license=licence_of(card), library_name="gguf", tags=["parakeet-lm", "gguf", "alibi", "tiny"]
        ),
        name=source.release.name,
        dtype=dtype,
        repo=repo,
        context=source.config.context,
        body=Markup(card_body(card)),
    )
