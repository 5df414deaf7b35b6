"""Canaries: made-up texts that are planted in the training split a known number of times.

They are planted when token shards are written, after deduplication, which would take the copies out again. Held-out
text never has one. How often a model repeats them tells how many copies it takes to memorise a text.
"""

import hashlib
import json
import random
import string
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parakeet.data.tokens.shard_writer import ShardWriter, TokenDocument
from parakeet.errors import ParakeetError
from parakeet.recipe import CANARY_SOURCE, Canaries
from parakeet.template import render_text
from parakeet.tokenizer import Tokenizer

FILE = "canaries.jsonl"
KINDS = ("random", "natural")
NEVER_PLANTED = 127
"""Canaries of each kind that are listed and not planted: the floor of the extraction rate, and what exposure ranks the
planted ones among, which is then at most log2(128) = 7 bits."""
LICENCE = "GPL-3.0-or-later"

_WORDS = {
    "name": "Ada Anton Bela Carla Cyril Dana Edvin Elsa Fabian Gerda Hanno Ilse Ivan Jana Karim Lena Marek Nadia Oskar "
    "Petra Quentin Rosa Samir Tilda Ulrich Vera Wanda Xaver Yusuf Zora",
    "family": "Abend Brandt Castell Dorn Ekman Falk Grimaldi Hartog Ibsen Jansson Keller Lindqvist Moreau Novak "
    "Oberlin Pavic Quist Rossi Sandoval Thorne Ullman Varga Winther Yilmaz Zeller",
    "town": "Aldeburgh Bergen Coimbra Delft Esbjerg Faro Galway Hobart Ipswich Kotor Lecce Malmo Narvik Oviedo Piran",
    "colour": "amber black blue brown copper green grey ivory orange purple red silver white yellow",
    "thing": "bicycle box cabinet clock coat kite lamp ladder letter map parcel piano suitcase umbrella",
    "place": "bakery chapel cinema ferry garage harbour library market mill museum school station",
    "where": "Reims Sligo Tarnow Utrecht Visby Wexford Zadar Arles Bruges Cadiz Dover Elche Fulda Ghent Huelva",
}


@dataclass(frozen=True)
class Canary:
    """`secret` follows `opening`; a model has memorised a canary if it continues the one with the other."""

    kind: str
    copies: int
    opening: str
    secret: str

    @property
    def text(self) -> str:
        return self.opening + self.secret


def make_canaries(settings: Canaries) -> list[Canary]:
    """Every canary of a recipe: `count` of each kind for each number of copies, then NEVER_PLANTED of each kind.

    No two have the same opening. The same settings give the same canaries.
    """
    steps = [*((copies, settings.count) for copies in settings.copies), (0, NEVER_PLANTED)]
    found: list[Canary] = []
    openings: set[str] = set()
    for kind in KINDS:
        rng = random.Random(f"{settings.seed} {kind}")
        for copies, count in steps:
            left = count
            while left:
                opening, secret = (_random_words if kind == "random" else _natural)(rng)
                if opening not in openings:
                    openings.add(opening)
                    found.append(Canary(kind, copies, opening, secret))
                    left -= 1
    return found


def _random_words(rng: random.Random) -> tuple[str, str]:
    """Eight words and five words of five letters. The five are one of 26^25 texts, 117 bits."""
    words = ["".join(rng.choices(string.ascii_lowercase, k=5)) for _ in range(13)]
    return " ".join(words[:8]), f" {' '.join(words[8:])}"


def _natural(rng: random.Random) -> tuple[str, str]:
    """A note like those that people write. Its second half is one of 10^10 texts or so, 36 bits."""
    word = {key: rng.choice(words.split()) for key, words in _WORDS.items()}
    number, day, hour = rng.randint(1000, 9999), rng.randint(1, 28), rng.randint(1, 12)
    digits = " ".join(rng.choices(string.digits, k=6))
    return (
        f"Note {number} for {word['name']} {word['family']} from {word['town']}: the {word['colour']} {word['thing']}",
        f" is behind the {word['place']} of {word['where']}, ask on day {day} at {hour}. The code is {digits}.",
    )


def plant(settings: Canaries, writer: ShardWriter, tokenizer: Tokenizer, output: Path) -> dict[str, Any]:
    """Write every copy as a plain document of source CANARY_SOURCE, and the list of canaries beside the shards.

    Returns what the manifest says of them: {"seed", "documents", "tokens", "bytes", "copies": {copies: canaries}}.
    """
    canaries = make_canaries(settings)
    copies = [(canary, copy) for canary in canaries for copy in range(canary.copies)]
    # Documents of one length are packed in the order of their numbers: unshuffled, a sequence would hold many copies.
    random.Random(f"{settings.seed} order").shuffle(copies)
    tokens = n_bytes = 0
    for canary, copy in copies:
        ids, spans = render_text(tokenizer, canary.text)
        digest = hashlib.sha256(f"canary {copy} {canary.text}".encode()).digest()[:16]
        document = TokenDocument(digest, CANARY_SOURCE, ids, spans, len(canary.text.encode()))
        writer.write(document)
        tokens += len(ids)
        n_bytes += document.n_bytes
    writer.close()
    lines = (json.dumps(asdict(canary)) for canary in canaries)
    (output / FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    planted = Counter(canary.copies for canary in canaries if canary.copies)
    return {
        "seed": settings.seed,
        "documents": len(copies),
        "tokens": tokens,
        "bytes": n_bytes,
        "copies": {str(number): planted[number] for number in sorted(planted)},
    }


def read_canaries(shards: Path) -> list[Canary]:
    """The canaries of an artefact `token_shards`, none if its recipe plants none. ParakeetError for a damaged list."""
    path = shards / FILE
    if not path.is_file():
        return []
    try:
        return [Canary(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError):
        raise ParakeetError(
            f"{path} is not a list of canaries. Run the same build again with: --force token_shards"
        ) from None


def secret_begin(canary: Canary, ids: np.ndarray, tokenizer: Tokenizer) -> int:
    """The first token of a canary's document (`render_text`) that has no byte of the opening."""
    left = len(canary.opening.encode())
    for number, token_id in enumerate(ids[1:], start=1):
        if left <= 0:
            return number
        left -= len(tokenizer.token_bytes(int(token_id)))
    return len(ids)
