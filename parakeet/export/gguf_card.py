"""The card of a repository with a GGUF file."""

from markupsafe import Markup

from parakeet.export.hugging_face import CARD_FILE, licence_of
from parakeet.export.source import ExportSource
from parakeet.pages import render
from parakeet.release.card import card_body, card_header


def gguf_card(source: ExportSource, repo: str, dtype: str) -> str:
    """`README.md`: how to run the file from the hub, then the release's own card."""
    path = source.release.directory / CARD_FILE
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
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
