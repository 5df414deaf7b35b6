"""Text to ids and back: a `tiktoken.Encoding` and the control tokens that only code may insert.

A saved tokenizer is two files: `vocabulary.tiktoken` in tiktoken's format (a base64 token and its rank per line) and
`tokenizer.json` (pattern and control ids).
"""

import base64
import binascii
import hashlib
import json
import os
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import numpy as np
import regex
import tiktoken

from parakeet.errors import ParakeetError

END_OF_TEXT = "<|endoftext|>"
END_OF_PROMPT = "<|endofprompt|>"
PADDING = "<|padding|>"
ROLE_TOKENS = {"System": "\n\nSystem: ", "Human": "\n\nHuman: ", "Assistant": "\n\nAssistant: "}

CL100K_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
CL100K_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s"
)
CL100K_CONTROLS = {
    END_OF_TEXT: 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    END_OF_PROMPT: 100276,
    PADDING: 100277,
    ROLE_TOKENS["System"]: 100278,
    ROLE_TOKENS["Human"]: 100279,
    ROLE_TOKENS["Assistant"]: 100280,
}

# One token per digit, so that a tiny model sees every number as the same few tokens. Marks belong to the word of the
# letter before them.
TRAINED_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}[\p{L}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Of tokenizers that were trained before November 2026: a word ended at every mark.
PATTERN_WITHOUT_MARKS = TRAINED_PATTERN.replace(r"\p{L}[\p{L}\p{M}]*", r"\p{L}+")

PATTERNS = (CL100K_PATTERN, TRAINED_PATTERN, PATTERN_WITHOUT_MARKS)
NEEDED_CONTROLS = (END_OF_TEXT, END_OF_PROMPT, PADDING, *ROLE_TOKENS.values())
LARGEST_ID = (1 << 20) - 1
"""The embedding has a row for every id up to the highest, so one huge id would take gigabytes."""

CHARACTERS_AT_ONCE = 100_000
"""A longer text is encoded in pieces. tiktoken panics at a million spaces, and Ctrl-C has to wait for each piece."""
LONGEST_TRAINED_WORD = 1000
"""Longer runs are cut for training, which takes quadratic time in the length of a word."""
CHARACTERS_TRAINED_AT_ONCE = 10_000
"""The trainer takes 256 texts at once."""
SECONDS_TO_END = 1.0
FEWEST_OF_A_WORD = 5
"""Rarer words are never a token."""

VOCABULARY_FILE = "vocabulary.tiktoken"
SETTINGS_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Tokenizer:
    """Encodes ordinary text only: no string in a document or a chat can become a control id."""

    name: str
    vocabulary: bytes
    pattern: str
    controls: dict[str, int]

    def __post_init__(self) -> None:
        ranks = _parse_vocabulary(self.vocabulary)
        _check_ids(ranks, self.controls)
        encoding = tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=ranks, special_tokens=self.controls
        )
        object.__setattr__(self, "_encoding", encoding)
        object.__setattr__(self, "_control_ids", frozenset(self.controls.values()))

    @property
    def encoding(self) -> tiktoken.Encoding:
        return self._encoding  # type: ignore[attr-defined]

    @property
    def control_ids(self) -> frozenset[int]:
        return self._control_ids  # type: ignore[attr-defined]

    @property
    def sha256(self) -> str:
        """Hash over everything that decides an id. Shards and checkpoints record it."""
        digest = hashlib.sha256(self.vocabulary)
        digest.update(json.dumps([self.pattern, self.controls], sort_keys=True).encode())
        return digest.hexdigest()

    @property
    def rows(self) -> int:
        """Rows of the embedding: the highest id + 1, rounded up to a multiple of 64."""
        return -(-(max(self.controls.values()) + 1) // 64) * 64

    @property
    def end_of_text(self) -> int:
        return self.controls[END_OF_TEXT]

    @property
    def end_of_prompt(self) -> int:
        return self.controls[END_OF_PROMPT]

    @property
    def padding(self) -> int:
        return self.controls[PADDING]

    def role_id(self, role: str) -> int:
        """Id of a role's opening token; `role` is System, Human or Assistant."""
        return self.controls[ROLE_TOKENS[role]]

    def defined_ids(self) -> list[int]:
        """Ordinary ids in ascending order, without control ids and undefined ids."""
        return sorted(self.encoding._mergeable_ranks.values())

    def lengths(self) -> dict[int, int]:
        """The number of bytes of each ordinary id."""
        return {token_id: len(token) for token, token_id in self.encoding._mergeable_ranks.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. Lone surrogates become U+FFFD."""
        return [token_id for piece in pieces(text) for token_id in self.encoding.encode_ordinary(piece)]

    def encode_array(self, text: str) -> np.ndarray:
        """The same as `encode`, but as a uint32 array. About twice as fast for long text."""
        encode = self.encoding.encode_to_numpy
        encoded = [encode(piece, disallowed_special=()).astype(np.uint32, copy=False) for piece in pieces(text)]
        return encoded[0] if len(encoded) == 1 else np.concatenate(encoded)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of an ordinary id; no bytes for a control id or an undefined id."""
        if token_id in self.control_ids:
            return b""
        try:
            return self.encoding.decode_single_token_bytes(token_id)
        except (KeyError, OverflowError):
            return b""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ordinary ids. Broken UTF-8 becomes U+FFFD, and control ids are left out."""
        return b"".join(self.token_bytes(int(token_id)) for token_id in ids).decode("utf-8", "replace")

    def save(self, directory: Path) -> None:
        (directory / VOCABULARY_FILE).write_bytes(self.vocabulary)
        settings = {
            "name": self.name,
            "pattern": self.pattern,
            "controls": self.controls,
            "vocabulary_sha256": hashlib.sha256(self.vocabulary).hexdigest(),
        }
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (directory / SETTINGS_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read a saved tokenizer; ParakeetError if a file is missing or was changed."""
        try:
            settings = json.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8"))
            vocabulary = (directory / VOCABULARY_FILE).read_bytes()
            found, expected = hashlib.sha256(vocabulary).hexdigest(), settings["vocabulary_sha256"]
            if found != expected:
                raise ParakeetError(
                    f"{directory / VOCABULARY_FILE} has sha256 {found}, expected {expected}: the file was changed. "
                    "Run the same build again with: --force tokenizer"
                )
            # Other patterns could hang, because tiktoken's regular expressions backtrack.
            if settings["pattern"] not in PATTERNS:
                raise ValueError("its pattern is not one of Parakeet's")
            return cls(str(settings["name"]), vocabulary, settings["pattern"], dict(settings["controls"]))
        except FileNotFoundError as error:
            raise ParakeetError(f"{error.filename} is missing, so {directory} is not a complete tokenizer.") from None
        except KeyError as error:
            raise ParakeetError(f"{directory / SETTINGS_FILE} is not a Parakeet tokenizer: it lacks {error}.") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ParakeetError(f"{directory / SETTINGS_FILE} is not a Parakeet tokenizer: {error}") from None


def pieces(text: str, longest: int = CHARACTERS_AT_ONCE) -> Iterator[str]:
    """The text in pieces of at most `longest` characters, whose ids joined are those of the text.

    A piece ends after a letter or digit that no other one follows, which ends a token by every pattern. Only a run
    without such a place is cut anywhere.
    """
    begin = 0
    while len(text) - begin > longest:
        last = begin + longest
        ends = (end for end in range(last, begin, -1) if _is_end_of_token(text[end - 1], text[end]))
        end = next(ends, last)
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _is_end_of_token(one: str, next_one: str) -> bool:
    return one.isalnum() and not next_one.isalnum() and not unicodedata.category(next_one).startswith("M")


def _parse_vocabulary(vocabulary: bytes) -> dict[bytes, int]:
    pairs = (line.split() for line in vocabulary.splitlines() if line)
    # Without base64.b64decode around it: 100,000 tokens take half the time.
    return {binascii.a2b_base64(token, strict_mode=True): int(rank) for token, rank in pairs}


def _check_ids(ranks: Mapping[bytes, int], controls: Mapping[str, int]) -> None:
    """ValueError unless every id has one meaning and any text can be encoded; tiktoken panics on text that cannot."""
    if set(ranks.values()) != set(range(len(ranks))):
        raise ValueError(f"the {len(ranks):,} ranks of its vocabulary are not 0, 1, 2, … without gaps")
    lacking = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if lacking is not None:
        raise ValueError(f"its vocabulary lacks the single byte {lacking}")
    for name in NEEDED_CONTROLS:
        if name not in controls:
            raise ValueError(f"it lacks the control token {name!r}")
    for name, token_id in controls.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not len(ranks) <= token_id <= LARGEST_ID:
            raise ValueError(f"{name!r} has the id {token_id!r}, not one from {len(ranks):,} to {LARGEST_ID:,}")
    if len(set(controls.values())) < len(controls):
        raise ValueError("two of its control tokens have one id")


def cl100k_base(known: Iterable[Path] = ()) -> Tokenizer:
    """OpenAI's cl100k_base with Parakeet's four tokens, 100,288 rows.

    The vocabulary comes from the first of the files `known` with the right hash, from TIKTOKEN_CACHE_DIR, or from
    tiktoken's download. A file in the cache with the wrong hash is refused and left in place; tiktoken would delete it.
    """
    for path in known:
        if (vocabulary := path.read_bytes()) and hashlib.sha256(vocabulary).hexdigest() == CL100K_SHA256:
            return Tokenizer("cl100k_base+parakeet", vocabulary, CL100K_PATTERN, CL100K_CONTROLS)
    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    name = hashlib.sha1(CL100K_URL.encode()).hexdigest()
    cached = Path(cache) / name if cache else None
    if cached is not None and cached.is_file():
        vocabulary = cached.read_bytes()
        found = hashlib.sha256(vocabulary).hexdigest()
        if found != CL100K_SHA256:
            raise ParakeetError(
                f"{cached} is not the cl100k_base vocabulary: sha256 {found}, expected {CL100K_SHA256}."
            )
    else:
        vocabulary = _download_cl100k(name)
    return Tokenizer("cl100k_base+parakeet", vocabulary, CL100K_PATTERN, CL100K_CONTROLS)


def _download_cl100k(name: str) -> bytes:
    import requests
    from tiktoken.load import read_file_cached

    try:
        return read_file_cached(CL100K_URL, expected_hash=CL100K_SHA256)
    except (requests.RequestException, OSError, ValueError) as error:
        raise ParakeetError(
            f"The cl100k_base vocabulary could not be downloaded from {CL100K_URL} ({type(error).__name__}). "
            f"Download that file on another machine, save it in a folder under the name {name}, check that its "
            f"sha256 is {CL100K_SHA256}, and set TIKTOKEN_CACHE_DIR to the folder."
        ) from None


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE of at most `vocabulary` tokens, including the 256 bytes; control tokens come on top.

    Hugging Face `tokenizers` trains it, and the ids of its merges become tiktoken's ranks.
    """
    from tokenizers import Regex, pre_tokenizers, trainers
    from tokenizers import Tokenizer as TrainedTokenizer
    from tokenizers.models import BPE

    # The same pattern with limits.
    most = LONGEST_TRAINED_WORD
    limited = TRAINED_PATTERN.replace("+", f"{{1,{most}}}").replace("*", f"{{0,{most}}}")
    trained = TrainedTokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(limited), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    # In a thread, because the trainer would keep Ctrl-C waiting until it is done, which takes minutes.
    short = (piece for text in texts for piece in pieces(text, CHARACTERS_TRAINED_AT_ONCE))
    _in_thread(lambda given: trained.train_from_iterator(given, trainer), short)
    ranked = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    byte_of = byte_alphabet()
    return _trained("bpe", (bytes(byte_of[letter] for letter in token) for token, _ in ranked))


def count_words(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """The most frequent words as tokens, and letters for all others; at most `vocabulary` tokens, with the 256 bytes.

    A BPE cuts an unknown word into pieces whose letters a model cannot see: of words that it had not been taught to
    spell, a model of 3 M parameters spelt 12 % with a BPE of 1,000 tokens and 94 % with these. A word is what the
    pattern finds, with the space before it. A space and a letter are one token, so a rare word begins with one.
    """
    found = regex.compile(TRAINED_PATTERN)
    counts = Counter(word for text in texts for piece in pieces(text) for word in found.findall(piece))
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b" " + letter.encode() for letter in string.ascii_lowercase + string.ascii_uppercase]
    known = set(tokens)
    # The order of equally frequent words must not depend on that of the texts.
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        token = word.encode()
        # Two letters without a space would be merged inside longer words ("no" in "piano").
        inside = len(token) == 2 and not word.startswith(" ")
        if count < FEWEST_OF_A_WORD or len(tokens) >= vocabulary:
            break
        if token not in known and not inside:
            tokens.append(token)
            known.add(token)
    return _trained("words", tokens[:vocabulary])


def _trained(name: str, tokens: Iterable[bytes]) -> Tokenizer:
    """A tokenizer with these tokens in the order of their ids."""
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for rank, token in enumerate(tokens)]
    controls = {control: len(lines) + index for index, control in enumerate(NEEDED_CONTROLS)}
    return Tokenizer(name, b"\n".join(lines) + b"\n", TRAINED_PATTERN, controls)


def _in_thread(work: Callable[[Iterator[str]], object], texts: Iterator[str]) -> None:
    """Work on the texts in a thread, and raise what it raises. Ctrl-C ends the texts, and then the work with them.

    Work that does not end in `SECONDS_TO_END` is left to end with the process.
    """
    failed: list[BaseException] = []
    stopped, ended = Event(), Event()

    def texts_until_stopped() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                raise InterruptedError
            yield text

    def run() -> None:
        try:
            work(texts_until_stopped())
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    Thread(target=run, daemon=True).start()
    try:
        # Not Thread.join: once interrupted, Python 3.11 takes the thread for ended.
        ended.wait()
    except BaseException:  # Dagster raises its own for Ctrl-C
        stopped.set()
        ended.wait(SECONDS_TO_END)
        raise
    if failed:
        raise failed[0]


def byte_alphabet() -> dict[str, int]:
    """Letter to byte in the byte-level alphabet: printable Latin-1 stands for itself, other bytes count from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
