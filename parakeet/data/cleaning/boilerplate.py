"""What chat models say about themselves: training on it would teach our model that it is somebody else."""

import re
from collections.abc import Sequence

from parakeet.conversation import Turn
from parakeet.data.cleaning.first_look import matching
from parakeet.data.documents import Document

EXCERPT_BEFORE = 60
SEARCHED_ROLES = ("Assistant", "text")

_AI = r"(?:AI|artificial intelligence)"
_MODEL = rf"(?:an? )?(?:(?:{_AI} )?(?:large )?language model|{_AI}(?: assistant| model| chatbot| system)?)"
_MAKERS = r"(?:OpenAI|Anthropic|Google|Microsoft|Meta|DeepSeek|Mistral|Alibaba)"
_I_AM = r"I(?: am|['’]m)"
_CANNOT = rf"(?:I can(?: )?not|I can['’]t|{_I_AM} (?:unable|not able) to|I (?:won['’]t|will not) be able to)"

# Each pattern comes with words. Text without any of them, in lower case, cannot match.
PATTERNS: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (words, re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE))
    for words, pattern in (
        # "As an AI language model, I have no ...", "as a large language model trained by ..."
        (("as an ai", "as an artificial", "language model"), rf"\bas {_MODEL}(?:,| I\b| trained| developed)"),
        # "I'm just an AI, so ...", "I am a large language model."
        (
            ("an ai", "artificial intelligence", "language model"),
            rf"\b{_I_AM}(?: just| only| merely)? {_MODEL}(?:[,.;:!]|$| and\b| so\b| that\b)",
        ),
        # "I'm sorry, but as an AI ...", "I apologize, but I cannot assist with ..."
        (
            ("sorry", "apologi"),
            rf"(?:\bsorry|\bapologi[sz]e),?(?: but)? (?:as {_MODEL}|"
            rf"{_CANNOT} (?:fulfil|comply|assist|provide|generate|create|engage))",
        ),
        # "I cannot fulfil that request."
        (
            ("request",),
            rf"\b{_CANNOT} (?:fulfill?|comply with|assist(?: you)? with|help(?: you)? with|complete|process)"
            r" (?:this|that|your|the|such) request",
        ),
        # "I am ChatGPT", "My name is GPT-4"; Claude and Gemini can be people's names, so with what they are
        (
            ("chatgpt", "gpt-", "gpt4", "claude", "gemini", "bard", "copilot"),
            rf"\b(?:{_I_AM}|my name is) (?:ChatGPT|GPT-?[345]|"
            rf"(?:Claude|Gemini|Bard|Copilot),? (?:{_MODEL}|(?:made|created|trained|developed|built) by {_MAKERS}))",
        ),
        # "I was trained by OpenAI", "a language model developed by Google"
        (
            tuple(_MAKERS[3:-1].lower().split("|")),
            rf"(?:\bI was|\b{_I_AM}|\bmodel|\bassistant|\bchatbot)(?: \w+)?"
            rf" (?:made|created|trained|developed|built) by {_MAKERS}\b",
        ),
        # "my knowledge cutoff is September 2021"
        (
            ("cutoff", "cut-off", "my training", "my last"),
            r"\bmy (?:knowledge cut-?off|training data|last (?:knowledge )?update)\b",
        ),
    )
)


def _for_first_look(pattern: str) -> str:
    """For RE2, whose `\\s`, `\\w` and `\\b` know ASCII alone: an expression that matches wherever the pattern does."""
    for one, other in ((r"\b", ""), (r"\w+", r"\S+"), (r"\s+", r"[\s\v\x1c-\x1f\x{85}\pZ]+"), ("$", "")):
        pattern = pattern.replace(one, other)
    return pattern


_ANY_PATTERN = "(?i)" + "|".join(_for_first_look(pattern.pattern) for _, pattern in PATTERNS)


def may_be_boilerplate(documents: Sequence[Document]) -> list[bool]:
    """False for documents in which `boilerplate_in` finds nothing."""
    return matching(documents, _ANY_PATTERN, _searched_text)


def _searched_text(turn: Turn) -> str | None:
    """With plain letters for those that `re` takes for them when it ignores case, and RE2 does not."""
    if turn.role not in SEARCHED_ROLES:
        return None
    if turn.content.isascii():
        return turn.content
    return turn.content.replace("ı", "i").replace("İ", "i").replace("ſ", "s")


def boilerplate_in(document: Document) -> str:
    """The place in a plain document or an Assistant turn where a chat model speaks of itself, or an empty string."""
    for turn in document.turns:
        if turn.role not in SEARCHED_ROLES:
            continue
        lowered = turn.content.lower()
        for words, pattern in PATTERNS:
            if any(word in lowered for word in words) and (match := pattern.search(turn.content)):
                return turn.content[max(0, match.start() - EXCERPT_BEFORE) :]
    return ""
