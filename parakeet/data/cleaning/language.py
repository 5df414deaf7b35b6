"""Which language a document is in, by py3langid; only recipes with `clean.languages` need it."""

import difflib
from collections.abc import Callable, Sequence

from parakeet.data.documents import Document
from parakeet.errors import ParakeetError

CHARACTERS_READ = 1000
MIN_CONFIDENCE = 0.5
"""Of chatterbot's short exchanges 11 of 1,500 are guessed wrongly, all with less than 0.4; a sentence of French or
German has more than 0.9."""

Guess = Callable[[str], tuple[str, float]]


def language_guesser(languages: Sequence[str]) -> Guess:
    """A function that gives a text's language code and how sure that is, 0 to 1.

    Raises ParakeetError where py3langid is missing, or does not know one of `languages`.
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


def foreign_language(document: Document, languages: Sequence[str], guess: Guess) -> str:
    """The code of the language that a document is in, if that is surely none of `languages`, else nothing.

    What is in no language (code zxx: numbers, formulas) is not foreign.
    """
    code, confidence = guess(document.content[:CHARACTERS_READ])
    return code if code not in (*languages, "zxx") and confidence >= MIN_CONFIDENCE else ""
