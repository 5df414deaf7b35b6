"""A tokenizer as llama.cpp's vocabulary: names, types, merges, and which of its pre-tokenizers splits text as ours.

llama.cpp splits text by a pattern that a file chooses by name, then merges bytes. A file cannot bring a pattern of its
own. So a known one must give the same ids for a vocabulary, and that is tested before a file is written.
"""

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import regex
import tiktoken

from parakeet.errors import ParakeetError
from parakeet.tokenizer import PATTERN_WITHOUT_MARKS, Tokenizer, byte_letters

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""llama.cpp's types of tokens."""

CONCATENATIONS = 2_000
LONGEST_CONCATENATION = 6
SHOWN_CHARACTERS = 40

ODD_TEXTS = (
    "", " ", "  ", "\n", "\n\n\n", " \n ", "\t\t", "\r\n\r\n", " \r\n  x", "a  b", "a\n  b  ", "end   ", "\n  \n  end",
    "I'm, I'LL, they've, WE'RE, 'tis, rock'n'roll, don't's", "''s '' 'd'", "x’s “quoted” – dash… 50 %",
    "0 1 12 123 1234 1234567890 3.14159 1e-9 ½ ² ١٢٣ １２３", "a1b22c333", "price:$1,234.56!!",
    "def f(x):\n\treturn x**2  # comment\n\n\n", "https://example.org/?q=a%20b&c=d#e", "{\"key\": [null, -1.5e3]}\r\n",
    "ALL CAPS camelCase snake_case kebab-case", "ﬁ ſ İ ı ß Ǆ", "naïve café Zoë", "Cafe\u0301 nai\u0308ve, Zoe\u0308.",
    "日本語のテキスト。中文，全形！한국어 텍스트", "Ελληνικά русский עברית العربية", "हिन्दी में नमस्ते", "ภาษาไทย", "مُحَمَّدٌ",
    "❤️ love ❤️\n", "1️⃣ first", "👩‍👩‍👧‍👦 👍🏽 🇩🇪", "\u00a0\u2003\u3000wide", "zero\u200bwidth\u200djoiner\ufeff",
    "\x00\x01\x1b[31mred\x7f", "\u2028\u2029\x85\x0b\x0c", "\ufffd\U0010ffff\U000e0041", "!!!???...", "a" * 100, " " * 50,
    "<|endoftext|> <|endofprompt|> <|padding|>", "\n\nHuman: hello\n\nAssistant: hi\n\nSystem: x", "<unused 5>",
)  # fmt: skip
"""Texts as they occur, and texts that break tokenizers."""


@dataclass(frozen=True)
class PreTokenizer:
    name: str
    """As llama.cpp knows it (`tokenizer.ggml.pre`)."""
    pattern: str
    """What it computes. tests/export/test_gguf.py holds llama.cpp to it."""
    whole_words: bool
    """Whether a piece of text that is a token becomes that token, as in tiktoken, without a way of merges to it."""


PRE_TOKENIZERS = (
    PreTokenizer("llama-bpe", PATTERN_WITHOUT_MARKS.replace(r"\p{N}", r"\p{N}{1,3}", 2).replace("", ""), True),
    PreTokenizer(
        "qwen35",
        PATTERN_WITHOUT_MARKS.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"),
        False,
    ),
)
