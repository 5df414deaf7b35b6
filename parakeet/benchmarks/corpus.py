"""Any amount of text for `parakeet bench data`: blocks of about 4 KiB, repeated with other words in them.

To write a gigabyte of it as JSONL:

    from parakeet.benchmarks.corpus import read_blocks, varied, write_jsonl
    write_jsonl(Path("corpus.jsonl"), varied(read_blocks(["books.jsonl.gz"]), 1_000_000_000, seed=1))
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from parakeet.conversation import Turn
from parakeet.data.documents import Document, DocumentWriter, collect_parts
from parakeet.data.reading.readers import read_records
from parakeet.data.reading.records import BadRecord
from parakeet.data.reading.shapes import shape
from parakeet.data.reading.sources import source_files
from parakeet.data.reading.text_blocks import BLOCK_BYTES, TextBlocks
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.recipe_sources import FileSource
from parakeet.sanitise import sanitise
from parakeet.tokenizer import CL100K_SHA256, CL100K_URL, VOCABULARY_FILE, Tokenizer, cl100k_base, train_tokenizer

SOURCE = "text"
LICENCE = "unknown"

MOST_TEXT_BYTES = 64 << 20
"""The most that is read of the files, since it is held in memory."""
FILE_BYTES = 50_000_000
INVENTED_BYTES = 8 << 20
INVENTED_DIALOGUES = 5000

COPIES, NEAR_COPIES = 0.05, 0.10
"""Shares of the documents that are exact copies of another one, and copies with a few words changed."""
CHANGED_OF_NEAR_COPY = 0.02
"""At 4 KiB about 9 of 10 runs of five words stay: a Jaccard of 0.8."""
CHANGED_OF_REPEAT = 0.4
"""At most 8 of 100 runs of five words stay: documents that have nothing to do with one another for the search."""
REMEMBERED = 1024
"""Documents that may be copied later, so that copies are in other parts than their originals."""
TRAINED_VOCABULARY = 16_384
TRAINING_BLOCKS = 500


def read_blocks(paths: Sequence[str]) -> list[str]:
    """The text of files or folders, in any format that a recipe's source may have, in blocks of about 4 KiB."""
    blocks = list(_in_blocks(read_texts(paths)))
    if not blocks:
        raise ParakeetError("The files of --text contain no text. Give files with text.")
    return blocks


def invented_texts(seed: int = 1) -> list[str]:
    """Parakeet's own dialogues, as a document each."""
    from parakeet.data.synthetic import dialogues

    made = dialogues(count=INVENTED_DIALOGUES, seed=seed)
    return ["\n".join(turn.content for turn in dialogue.turns) for dialogue in made]


def invented_blocks(seed: int = 1, n_bytes: int = INVENTED_BYTES) -> list[str]:
    """Sentences of words from Parakeet's own dialogues, drawn by their frequency.

    The dialogues themselves are templates, and the filters would rightly drop a block of them.
    """
    counts = Counter(word.lower() for text in invented_texts(seed) for word in text.split() if word.isalpha())
    words = np.array(list(counts))
    shares = np.array(list(counts.values())) / counts.total()
    draw = np.random.default_rng(seed)
    return [
        _invented_block(draw.choice(words, BLOCK_BYTES // 3, p=shares), draw) for _ in range(n_bytes // BLOCK_BYTES)
    ]


def varied(blocks: Sequence[str], n_bytes: int, seed: int) -> Iterator[str]:
    """About `n_bytes` of documents: the blocks, copies of some, then the blocks again with other words. Seeded."""
    draw = np.random.default_rng(seed)
    words = words_to_draw(blocks)
    remembered: list[str] = []
    for text in distinct(blocks, seed):
        kind = draw.random()
        given = [text]
        if remembered and kind < COPIES + NEAR_COPIES:
            copy = remembered[int(draw.integers(len(remembered)))]
            given.append(copy if kind < COPIES else changed(copy, CHANGED_OF_NEAR_COPY, words, draw))
        for document in given:
            yield document
            n_bytes -= len(document.encode())
            if n_bytes <= 0:
                return
        if len(remembered) < REMEMBERED:
            remembered.append(text)
        else:
            remembered[int(draw.integers(REMEMBERED))] = text


def distinct(blocks: Sequence[str], seed: int) -> Iterator[str]:
    """The blocks, then endlessly the blocks again with new changes to `CHANGED_OF_REPEAT` of their words."""
    yield from blocks
    draw = np.random.default_rng([seed, 1])
    words = words_to_draw(blocks)
    while True:
        for block in blocks:
            yield changed(block, CHANGED_OF_REPEAT, words, draw)


def changed(text: str, share: float, words: Sequence[str], draw: np.random.Generator) -> str:
    """The text with about `share` of its words replaced by others of `words`. Line ends stay."""
    pieces = text.split(" ")
    places = np.flatnonzero(draw.random(len(pieces)) < share).tolist()
    for place, word in zip(places, draw.integers(len(words), size=len(places)).tolist(), strict=True):
        if "\n" not in pieces[place]:
            pieces[place] = words[word]
    return " ".join(pieces)


def words_to_draw(blocks: Sequence[str]) -> list[str]:
    """About 50,000 words from all parts of the blocks, with their repetitions, for `changed` to draw from."""
    step = max(1, len(blocks) // 80)
    words = [word for block in blocks[::step] for word in block.split() if word.isalpha()]
    if not words:
        raise ParakeetError("The files of --text contain no words. Give files with text.")
    return words


def save_tokenizer(folder: Path, blocks: Sequence[str]) -> Tokenizer:
    """Save cl100k_base if this machine has it, in TIKTOKEN_CACHE_DIR or in a build; else a BPE trained on the text."""
    known = [
        path
        for path in (home() / "tokenizer").glob(f"*-*/{VOCABULARY_FILE}")
        if hashlib.sha256(path.read_bytes()).hexdigest() == CL100K_SHA256
    ]
    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cached = cache and (Path(cache) / hashlib.sha1(CL100K_URL.encode()).hexdigest()).is_file()
    # A benchmark downloads nothing.
    tokenizer = cl100k_base(known) if known or cached else train_tokenizer(blocks[:TRAINING_BLOCKS], TRAINED_VOCABULARY)
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    return tokenizer


def write_jsonl(path: Path, texts: Iterable[str]) -> int:
    """Write one `{"text": …}` a line, and return the bytes of text."""
    n_bytes = 0
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            n_bytes += len(text.encode())
    return n_bytes


def write_files(folder: Path, texts: Iterable[str]) -> int:
    """Write JSONL files of 50 MB, since one worker reads a file, and return the bytes of text."""
    folder.mkdir(parents=True)
    left = iter(texts)
    n_bytes = 0
    for number, first in enumerate(iter(lambda: next(left, None), None)):
        n_bytes += write_jsonl(folder / f"{number:05d}.jsonl", _some(first, left))
    return n_bytes


def write_documents(directory: Path, texts: Sequence[str], parts: int) -> int:
    """Write plain documents in parts of about equal size (more when one exceeds 16 MiB), and return their bytes.

    A part is the unit of parallel work, so two workers with three parts would wait for each other.
    """
    sizes = np.array([len(text.encode()) for text in texts])
    # A document goes to the part that its middle falls into.
    chosen = ((np.cumsum(sizes) - sizes / 2) * parts // sizes.sum()).astype(int)
    directory.mkdir(parents=True)
    folder = directory / "work"
    folder.mkdir()
    for part in range(parts):
        with DocumentWriter(folder / f"{part:05d}") as writer:
            for number in np.flatnonzero(chosen == part).tolist():
                writer.write(Document(SOURCE, LICENCE, (Turn("text", texts[number]),)))
    collect_parts(folder, directory)
    return int(sizes.sum())


def read_texts(paths: Sequence[str]) -> Iterator[str]:
    """The text of every record of files or folders, one document each, up to 64 MiB."""
    n_bytes = 0
    for path in paths:
        source = FileSource(name=SOURCE, path=path)
        for file in source_files(source):
            for record in read_records(file):
                if record.value is None:
                    continue
                try:
                    text = shape(record.value, source).document.content
                except BadRecord as error:
                    where = sanitise(f"{file}:{record.row}: {error}")
                    raise ParakeetError(f"{where}. Give --text files whose records are text.") from None
                yield text
                n_bytes += len(text.encode())
                if n_bytes >= MOST_TEXT_BYTES:
                    return


def _some(first: str, texts: Iterator[str]) -> Iterator[str]:
    """The first text and as many of the others as fill a file."""
    n_bytes = len(first.encode())
    yield first
    while n_bytes < FILE_BYTES and (text := next(texts, None)) is not None:
        n_bytes += len(text.encode())
        yield text


def _in_blocks(texts: Iterable[str]) -> Iterator[str]:
    blocks = TextBlocks()
    for text in texts:
        # An empty line closes a full block; otherwise the next document joins it.
        for line in f"{text}\n".split("\n"):
            yield from (block for _, block in blocks.add(f"{line}\n", 1))
    yield from (block for _, block in blocks.flush())


def _invented_block(words: np.ndarray, draw: np.random.Generator) -> str:
    """Sentences of 6 to 20 words, four in a paragraph, until the block is full."""
    paragraphs: list[str] = []
    at = n_bytes = 0
    while n_bytes < BLOCK_BYTES and at < len(words):
        sentences = []
        for length in draw.integers(6, 21, 4).tolist():
            sentences.append(" ".join(words[at : at + length].tolist()).capitalize() + ".")
            at += length
        paragraphs.append(" ".join(sentence for sentence in sentences if len(sentence) > 1))
        n_bytes += len(paragraphs[-1]) + 2
    return "\n\n".join(paragraphs)
