"""The tokenizer for the library `tokenizers`: the same ids for every text, checked on the spot."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from parakeet.errors import ParakeetError
from parakeet.export.byte_level import letters, merges
from parakeet.tokenizer import (
    CL100K_PATTERN,
    END_OF_PROMPT,
    END_OF_TEXT,
    PADDING,
    PATTERN_WITHOUT_MARKS,
    TRAINED_PATTERN,
    Tokenizer,
)

# Oniguruma, which the library uses, reads `{1,3}+` as a repetition, and `$` as the end of a line. A contraction is
# spelt out, because engines fold case differently: ſ is an s.
_CONTRACTION = r"'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
PATTERNS = {
    CL100K_PATTERN: (
        _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?![\s\S])"
        r"|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    **{
        pattern: pattern.replace("'(?i:[sdmt]|ll|ve|re)", _CONTRACTION)
        for pattern in (TRAINED_PATTERN, PATTERN_WITHOUT_MARKS)
    },
}
"""Parakeet's patterns, and what finds the same words without possessive quantifiers, in other engines too."""

PROBES = 10_000


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """`tokenizer.json`. Adds `<|endoftext|>` before a text, as in training, unless add_special_tokens is False.

    Raises ParakeetError if the library would give other ids for ordinary text.
    """
    if tokenizer.pattern not in PATTERNS:
        raise ParakeetError("This tokenizer's pattern is none of Parakeet's, so it cannot be exported.")
    text = json.dumps(_document(tokenizer), ensure_ascii=False, separators=(",", ":"))
    _check_ids(tokenizer, text)
    return text


def _document(tokenizer: Tokenizer) -> dict[str, Any]:
    controls = sorted(tokenizer.controls.items(), key=lambda item: item[1])
    ranks = {tokenizer.token_bytes(token_id): token_id for token_id in tokenizer.defined_ids()}
    vocabulary = {letters(token): token_id for token, token_id in ranks.items()}
    start = END_OF_TEXT

    def sequence(name: str, type_id: int) -> list[dict[str, Any]]:
        begin = {"SpecialToken": {"id": start, "type_id": type_id}}
        return [begin, {"Sequence": {"id": name, "type_id": type_id}}]

    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, token_id in controls
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": PATTERNS[tokenizer.pattern]},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": [*sequence("A", 0), *sequence("B", 1)],
            "special_tokens": {start: {"id": start, "ids": [tokenizer.end_of_text], "tokens": [start]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            # The library numbers an added token that is not in here itself: after the last id, in the first hole.
            "vocab": vocabulary | dict(controls),
            "merges": [[letters(left), letters(right)] for left, right in merges(ranks).values()],
        },
    }


def _check_ids(tokenizer: Tokenizer, text: str) -> None:
    """ParakeetError if texts made of the vocabulary's own tokens, or of runs of one character, get other ids."""
    from tokenizers import Tokenizer as TheirTokenizer

    made = TheirTokenizer.from_str(text)
    made.encode_special_tokens = True
    probes = list(_probes(tokenizer))
    for probe, found in zip(probes, made.encode_batch(probes, add_special_tokens=False), strict=True):
        if found.ids != tokenizer.encode(probe):
            raise ParakeetError(
                f"In the format of Hugging Face, {probe[:60]!r} would get other ids than in this model's training: its "
                "vocabulary cannot be exported."
            )
    wrong = [name for name, token_id in tokenizer.controls.items() if made.token_to_id(name) != token_id]
    if wrong:
        raise ParakeetError(f"In the format of Hugging Face, the control token {wrong[0]!r} would get another id.")


def _probes(tokenizer: Tokenizer) -> Iterator[str]:
    tokens = [tokenizer.token_bytes(token_id).decode("utf-8", "replace") for token_id in tokenizer.defined_ids()]
    for character in " \n\t=-a0é":
        yield from (character * length for length in (2, 3, 5, 7, 11, 33, 63, 64, 65, 81, 127, 257))
    drawn = Random(1)
    for _ in range(PROBES):
        yield "".join(drawn.choices(tokens, k=3))
    yield from tokenizer.controls


def tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """`tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_PROMPT,
        "pad_token": PADDING,
        "extra_special_tokens": [
            name for name in tokenizer.controls if name not in (END_OF_TEXT, END_OF_PROMPT, PADDING)
        ],
        "padding_side": "left",
        "model_max_length": context,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
