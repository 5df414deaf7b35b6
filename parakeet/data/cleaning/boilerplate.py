"""What chat models say about themselves: training on it would teach our model that it is somebody else."""

import re

from parakeet.data.documents import Document

EXCERPT_BEFORE = 60

_AI = r"(?:AI|artificial intelligence)"
_MODEL = rf"(?:an? )?(?:(?:{_AI} )?(?:large )?language model|{_AI}(?: assistant| model| chatbot| system)?)"
_MAKERS = r"(?:OpenAI|Anthropic|Google|Microsoft|Meta|DeepSeek|Mistral|Alibaba)"
_I_AM = r"I(?: am|['’]m)"
_CANNOT = rf"(?:I can(?: )?not|I can['’]t|{_I_AM} (?:unable|not able) to|I (?:won['’]t|will not) be able to)"

# Each pattern comes with words. Text without any of them, in lower case, cannot match; that test is 50 times as fast.
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


def boilerplate_in(document: Document) -> str:
    """The place in a plain document or an Assistant turn where a chat model speaks of itself, or an empty string."""
    for turn in document.turns:
        if turn.role not in ("Assistant", "text"):
            continue
        lowered = turn.content.lower()
        for words, pattern in PATTERNS:
            for word in words:
                if word in lowered:
                    if match := pattern.search(turn.content):
                        return turn.content[max(0, match.start() - EXCERPT_BEFORE) :]
                    break
    return ""
