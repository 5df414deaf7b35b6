"""`parakeet bench trace`: how fast the trace index is built, with how much memory, and how fast it answers."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from parakeet.benchmarks.process import Answer, MemorySampler, ask_once, print_result
from parakeet.data.tokens.shards import ranges
from parakeet.errors import ParakeetError
from parakeet.formatting import format_count, format_duration, render_table
from parakeet.progress import Progress
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex
from parakeet.trace.spans import maximal

VOCABULARY = 100_288
PHRASES = 400_000
MOST_PHRASE_TOKENS = 6
DOCUMENT_TOKENS = 600
COPIED = 0.05
"""Share of the documents that begin as another one."""
BUILT_TOKENS = 20_000_000
PATHOLOGICAL_TOKENS = 1_000_000
REPLY_TOKENS = 512
WARM, COLD = 40, 12
"""Replies that are looked up with the index in memory, and with its files dropped from the page cache before each."""


class Corpus:
    """Documents in memory that `build_index` takes in place of token shards: `ids` (Σ lengths,) one after the other."""

    directory = "the benchmark's text"
    names = ("invented",)

    def __init__(self, ids: np.ndarray, lengths: np.ndarray, rows: int = VOCABULARY) -> None:
        self.ids = ids.astype(np.uint32)
        self.vocabulary_rows = rows
        self._lengths = lengths.astype(np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self) -> np.ndarray:
        return self._lengths

    def sources(self) -> np.ndarray:
        return np.zeros(len(self), np.int16)

    def doc_ids(self) -> np.ndarray:
        return np.stack([np.zeros(len(self), np.uint64), np.arange(len(self), dtype=np.uint64)], axis=1)

    def doc_id(self, number: int) -> bytes:
        return number.to_bytes(16, "big")

    def read(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self.ids[ranges(self._starts[documents] + starts, lengths)]


def run(tokens: int) -> None:
    """Tables of builds and of look-ups in a text of so many tokens, then one JSON line."""
    progress = Progress()
    texts = {
        "natural": min(tokens, BUILT_TOKENS),
        "equal tokens": PATHOLOGICAL_TOKENS,
        "Fibonacci": PATHOLOGICAL_TOKENS,
    }
    builds = []
    for text, size in texts.items():
        progress.say(f"indexing {format_count(size)} tokens, {text}")
        builds.append({"text": text, **_asked("build", {"text": text, "tokens": size})})
    with TemporaryDirectory(prefix="parakeet-trace-") as folder:
        progress.say(f"indexing {format_count(tokens)} tokens to look up replies in")
        builds.append({"text": "natural", **_asked("build", {"text": "natural", "tokens": tokens, "folder": folder})})
        progress.say(f"looking up {WARM + COLD} replies")
        replies = _asked("look_up", {"folder": folder})
    _print_builds(builds)
    _print_replies(replies)
    print_result({"benchmark": "trace", "builds": builds, "replies": replies})


def _asked(function: str, request: dict[str, Any]) -> Answer:
    answer = ask_once(f"{__name__}:{function}", request, threads=1)
    if "refused" in answer:
        raise ParakeetError(f"The benchmark cannot be run: {answer['refused']}")
    return answer


def build(request: dict[str, Any]) -> Answer:
    """In a process of its own: build an index on one core, in the request's `folder` or one that is deleted again."""
    corpus = TEXTS[request["text"]](request["tokens"])
    with TemporaryDirectory(prefix="parakeet-trace-") as spare:
        folder = Path(request.get("folder", spare))
        sampler = MemorySampler()
        before = sampler.sample()
        cpu, wall = time.process_time(), time.perf_counter()
        with sampler:
            build_index(corpus, "none", "none", folder, Progress())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    n = len(corpus.ids)
    return {
        "tokens": n,
        "documents": len(corpus),
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "tokens_per_cpu_second": round(n / cpu),
        "peak_bytes_per_token": round((sampler.peak - before) / n, 1),
        "disk_bytes_per_token": round(n_bytes / n, 2),
    }


def look_up(request: dict[str, Any]) -> Answer:
    """In a process of its own: seconds for all maximal spans of each reply with counts and ten documents each."""
    folder = Path(request["folder"])
    index = TraceIndex.open(folder)
    replies = list(_replies(index, WARM + COLD))
    spans = [_spans(index, reply) for reply in replies[:WARM]]
    answer: Answer = {
        "tokens": index.tokens,
        "reply_tokens": REPLY_TOKENS,
        "spans": round(float(np.mean(spans)), 1),
        "warm": _times([partial(_spans, index, ids) for ids in replies[:WARM]]),
    }
    if hasattr(os, "posix_fadvise"):
        del index  # what is mapped would stay in memory
        cold = [partial(_spans_of, folder, ids) for ids in replies[WARM:]]
        answer["cold"] = _times(cold, partial(_drop, folder))
    return answer


def _spans(index: TraceIndex, ids: np.ndarray) -> int:
    """Look up what a trace of a reply shows. Returns the number of spans."""
    longest = index.longest_matches(ids)
    starts = np.flatnonzero(maximal(longest))
    index.counts(ids, starts, longest[starts])
    for occurrences in index.occurrences_of(ids, starts, longest[starts], 10):
        for occurrence in occurrences:
            index.document(occurrence.document)
    return len(starts)


def _spans_of(folder: Path, ids: np.ndarray) -> int:
    return _spans(TraceIndex.open(folder), ids)


def _replies(index: TraceIndex, n: int) -> Iterator[np.ndarray]:
    """(REPLY_TOKENS,) each: new text of the same kind, with three passages of 40 tokens copied from the index."""
    draw = np.random.default_rng(2)
    new = invented(n * REPLY_TOKENS, seed=2).ids.reshape(n, REPLY_TOKENS)
    for reply in new:
        for number, at in zip(draw.integers(index.documents, size=3), (30, 200, 400), strict=True):
            copied = index.read(int(number), 0, 40)
            reply[at : at + len(copied)] = copied
        yield reply


def _times(works: Sequence[Callable[[], Any]], before: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Milliseconds of the works: median and 95th percentile of wall time, of the same less the time that the process
    waited for a core (if the system tells), and of CPU time."""
    seconds: dict[str, list[float]] = {"": [], "with_a_core_": [], "cpu_": []}
    for work in works:
        before()
        spent, waited, began = time.thread_time(), _waited(), time.perf_counter()
        work()
        wall = time.perf_counter() - began
        for name, found in zip(seconds, (wall, wall - _waited() + waited, time.thread_time() - spent), strict=True):
            seconds[name].append(found)
    return {
        f"{name}p{percent}_ms": round(1000 * float(np.percentile(found, percent)), 1)
        for name, found in seconds.items()
        for percent in (50, 95)
    }


def _waited() -> float:
    """Seconds for which this thread was ready, while other programs had the cores; 0 if the system does not tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _drop(folder: Path) -> None:
    """Drop the files from the page cache."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not written yet would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _print_builds(builds: list[dict[str, Any]]) -> None:
    rows = [
        (
            build["text"],
            format_count(build["tokens"]),
            format_duration(build["cpu_seconds"]),
            format_count(build["tokens_per_cpu_second"]),
            build["peak_bytes_per_token"],
            build["disk_bytes_per_token"],
        )
        for build in builds
    ]
    columns = ("text", "tokens", "CPU time", "tokens/s", "peak bytes/token", "disk bytes/token")
    click.echo(f"Builds, on one core\n{render_table(columns, rows, right=range(1, 6))}\n")


def _print_replies(replies: dict[str, Any]) -> None:
    rows = [(name, *replies[name].values()) for name in ("warm", "cold") if name in replies]
    columns = ("ms", "p50", "p95", "p50 with a core", "p95 with a core", "CPU p50", "CPU p95")
    table = render_table(columns, rows, right=range(1, 7))
    click.echo(
        f"Replies of {REPLY_TOKENS} tokens in a text of {format_count(replies['tokens'])}: all {replies['spans']:.0f} "
        f"maximal spans, with counts and ten documents each.\nCold: the files are dropped from the page cache before "
        f"each, and the index is opened again.\nWith a core: without the time in which other programs had all cores.\n"
        f"{table}\n"
    )


def invented(tokens: int, seed: int = 1) -> Corpus:
    """About as repetitive as text: ids and phrases by Zipf's law, and some documents copied from others.

    Texts of all seeds have the same phrases.
    """
    draw = np.random.default_rng(0)
    ids_of_phrases = draw.permutation(VOCABULARY)[_zipf(draw, VOCABULARY, PHRASES * MOST_PHRASE_TOKENS)]
    lengths_of_phrases = draw.integers(1, MOST_PHRASE_TOKENS + 1, PHRASES)
    draw = np.random.default_rng([seed, tokens])
    phrases = _zipf(draw, PHRASES, 2 * tokens // MOST_PHRASE_TOKENS + 1)
    counts = lengths_of_phrases[phrases]
    ids = np.empty(tokens, np.uint32)
    filled, piece = 0, 1 << 20
    for begin in range(0, len(phrases), piece):
        part = slice(begin, begin + piece)
        found = ids_of_phrases[ranges(phrases[part] * MOST_PHRASE_TOKENS, counts[part])][: tokens - filled]
        ids[filled : filled + len(found)] = found
        filled += len(found)
    ids = ids[:filled]
    lengths = draw.geometric(1 / DOCUMENT_TOKENS, max(1, filled // DOCUMENT_TOKENS))
    ends = np.cumsum(lengths)
    lengths = lengths[: np.searchsorted(ends, filled)]
    used = int(lengths.sum())
    lengths = np.append(lengths, filled - used)
    starts = np.cumsum(lengths) - lengths
    for to in np.flatnonzero(draw.random(len(lengths)) < COPIED).tolist():
        other = int(draw.integers(len(lengths)))
        n = min(int(lengths[to]), int(lengths[other]))
        ids[starts[to] : starts[to] + n] = ids[starts[other] : starts[other] + n]
    return Corpus(ids, lengths)


def _zipf(draw: np.random.Generator, kinds: int, n: int) -> np.ndarray:
    """(n,) numbers below `kinds`; number k is drawn in proportion to 1 / (k + 3)."""
    # The inverse of the integral of 1 / (x + 3), in place of a table: the same law, without a search for each.
    return np.minimum((3 * ((kinds + 3) / 3) ** draw.random(n) - 3).astype(np.int64), kinds - 1)


def _fibonacci(tokens: int) -> Corpus:
    """A string over two ids with as many different repeats as there can be."""
    one, other = np.zeros(1, np.uint32), np.array([0, 1], np.uint32)
    while len(other) < tokens:
        one, other = other, np.concatenate([other, one])
    return Corpus(other[:tokens], np.array([tokens]))


TEXTS: dict[str, Callable[[int], Corpus]] = {
    "natural": invented,
    "equal tokens": lambda tokens: Corpus(np.zeros(tokens, np.uint32), np.array([tokens])),
    "Fibonacci": _fibonacci,
}
