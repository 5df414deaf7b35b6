"""A tokenizer as llama.cpp's vocabulary: names, types, merges, and the pre-tokenizer that splits text as ours does.

llama.cpp splits text by one of the patterns built into it, which a file chooses by name, and then merges bytes. So
whether one of them gives our ids for a vocabulary is tested before a file is written.
"""

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import tiktoken

from parakeet.errors import ParakeetError
from parakeet.export.byte_level import letters, merges
from parakeet.tokenizer import PATTERN_WITHOUT_MARKS, Tokenizer

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""llama.cpp's types of tokens."""

CONCATENATIONS = 2_000
LONGEST_CONCATENATION = 6
SHOWN_CHARACTERS = 40

ODD_TEXTS = (
    " ", "  ", "\n", "\n\n\n", " \n ", "\t\t", "\r\n\r\n", " \r\n  x", "a  b", "a\n  b  ", "end   ", "\n  \n  end",
    "I'm, I'LL, they've, WE'RE, 'tis, rock'n'roll, don't's", "''s '' 'd'", "x’s “quoted” – dash… 50 %",
    "0 1 12 123 1234 1234567890 3.14159 1e-9 ½ ² ١٢٣ １２３", "a1b22c333", "price:$1,234.56!!",
    "def f(x):\n\treturn x**2  # comment\n\n\n", "https://example.org/?q=a%20b&c=d#e", '{"key": [null, -1.5e3]}\r\n',
    "ALL CAPS camelCase snake_case kebab-case", "ﬁ İ ı ß Ǆ", "naïve café Zoë", "日本語。中文，全形！한국어 텍스트",
    "Ελληνικά русский עברית العربية", "🙂👍🏽 🇩🇪", "\u00a0\u2003\u3000wide", "zero\u200bwidth\u200djoiner\ufeff",
    "\x00\x01\x1b[31mred\x7f", "\u2028\u2029\x85\x0b\x0c", "\ufffd\U0010ffff\U000e0041", "!!!???...",
    "a" * 100, " " * 50,
    "<|endoftext|> <|endofprompt|> <|padding|>", "\n\nHuman: hello\n\nAssistant: hi\n\nSystem: x", "<unused 5>",
)  # fmt: skip
"""Texts that break tokenizers, without combining marks."""


@dataclass(frozen=True)
class PreTokenizer:
    name: str
    """As llama.cpp calls it."""
    pattern: str
    """How it splits text. tests/export/test_gguf.py compares llama.cpp with it."""
    whole_words: bool
    """Whether a piece of text that is a token becomes that token even where no merges lead to it, as in tiktoken."""


PRE_TOKENIZERS = (
    # The pattern of cl100k, but white space at the end of a text is split as anywhere else.
    PreTokenizer("llama-bpe", PATTERN_WITHOUT_MARKS.replace(r"|\p{N}|", r"|\p{N}{1,3}|"), whole_words=True),
    # Marks count as letters everywhere. In ours only after a letter.
    PreTokenizer(
        "qwen35",
        PATTERN_WITHOUT_MARKS.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}", r"\s\p{L}\p{M}"),
        whole_words=False,
    ),
)


@dataclass(frozen=True)
class Vocabulary:
    names: list[str]
    """(vocabulary rows,) of every id. An ordinary token is in the byte-level alphabet, which has no space."""
    types: list[int]
    merges: list[str]
    pre_tokenizer: str
    texts: list[str]
    """On which the pre-tokenizer gives our ids, for a test of the file."""


def make_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Raises ParakeetError if no pre-tokenizer of llama.cpp gives our ids."""
    ranks = tokenizer.encoding._mergeable_ranks
    pairs = merges(ranks)
    texts = list(_texts(tokenizer))
    pre_tokenizer = _choose(tokenizer, len(pairs) == len(ranks) - 256, texts)
    names, types = [f"<unused {token_id}>" for token_id in range(tokenizer.rows)], [UNUSED] * tokenizer.rows
    for token, token_id in ranks.items():
        names[token_id], types[token_id] = letters(token), NORMAL
    for control, token_id in tokenizer.controls.items():
        names[token_id], types[token_id] = control, CONTROL
    joined = [f"{letters(left)} {letters(right)}" for left, right in pairs.values()]
    return Vocabulary(names, types, joined, pre_tokenizer.name, texts)


def _choose(tokenizer: Tokenizer, all_merge: bool, texts: list[str]) -> PreTokenizer:
    ours = [tokenizer.encode(text) for text in texts]
    reasons = []
    for candidate in PRE_TOKENIZERS:
        if not (all_merge or candidate.whole_words):
            reasons.append(f"{candidate.name} cannot form whole words without merges")
            continue
        ranks = tokenizer.encoding._mergeable_ranks
        encoding = tiktoken.Encoding(
            candidate.name, pat_str=candidate.pattern, mergeable_ranks=ranks, special_tokens={}
        )
        pairs = zip(texts, ours, strict=True)
        wrong = next((text for text, ids in pairs if encoding.encode_ordinary(text) != ids), None)
        if wrong is None:
            return candidate
        reasons.append(f"{candidate.name} gives other tokens for {wrong[:SHOWN_CHARACTERS]!r}")
    raise ParakeetError(
        f"llama.cpp has no pre-tokenizer for the vocabulary {tokenizer.name!r}: {'; '.join(reasons)}. "
        "Use --format hf, which can express every vocabulary."
    )


def _texts(tokenizer: Tokenizer) -> Iterator[str]:
    """The odd ones, every token of whole characters, and tokens at random one after another.

    Those at random have no combining marks: with marks after no letter, no pre-tokenizer of llama.cpp is always right.
    """
    yield from ODD_TEXTS
    tokens = [text for token in tokenizer.encoding._mergeable_ranks if (text := _decoded(token)) is not None]
    # A mark is only part of a word after a letter.
    yield from (f"a{token}" if _is_mark(token[0]) else token for token in tokens)
    unmarked = [token for token in tokens if not any(map(_is_mark, token))]
    drawn = random.Random(0)
    for _ in range(CONCATENATIONS):
        yield "".join(drawn.choices(unmarked, k=drawn.randint(2, LONGEST_CONCATENATION)))


def _decoded(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
