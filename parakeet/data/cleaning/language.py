"""Rule: the language of a document, by py3langid, which only recipes with `clean.languages` need."""

import difflib
from collections.abc import Callable, Sequence

from parakeet.data.cleaning.text_faults import Fault
from parakeet.data.documents import Document
from parakeet.errors import ParakeetError

CHARACTERS_READ = 1000
MIN_CONFIDENCE = 0.5
"""Of chatterbot's 1,500 short exchanges 11 are guessed wrongly, all with a confidence below 0.4. A sentence of French
or German has more than 0.9."""

Guess = Callable[[str], tuple[str, float]]


def language_guesser(languages: Sequence[str]) -> Guess:
    """A function from a text to its language code and the confidence, 0 to 1.

    Raises ParakeetError if py3langid is missing or does not know one of `languages`.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]
    except ImportError:
        raise ParakeetError("clean.languages needs py3langid: pip install 'parakeet-lm[language]'") from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = sorted(set(identifier.labels) - {"zxx"})
    for code in languages:
        if code not in known:
            close = difflib.get_close_matches(code.lower(), known, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ParakeetError(f"clean.languages: there is no language {code!r}: {hint}Known: {', '.join(known)}.")
    return identifier.classify


def foreign_language(document: Document, languages: Sequence[str], guess: Guess) -> Fault | None:
    """Rule: drops a document that is almost certainly in none of `languages`.

    Text in no language (code zxx: numbers, formulas) is not foreign.
    """
    code, confidence = guess(document.content[:CHARACTERS_READ])
    foreign = code not in (*languages, "zxx") and confidence >= MIN_CONFIDENCE
    return Fault(f"language: {code}") if foreign else None
