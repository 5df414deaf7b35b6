"""Sources of the kind `bucket`, from moto's S3-compatible server."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from parakeet.recipe_sources import BucketSource

from ..fault_server import FaultServer, wait_until
from .conftest import IMPATIENT, QUICK, SourceFetching

LARGE = os.urandom(300_000).hex().encode()
FILES = {
    "text/a.jsonl": LARGE,
    "text/deep/b.jsonl": b'{"text": "b"}\n',
    "text/c.md": b"c\n",
    "text/deep/": b"",
    "other/d.jsonl": b"d\n",
}


class Store:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        settings = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        self.client = boto3.client("s3", **settings)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=key, Body=content)

    def source(self, path: str, **settings: Any) -> BucketSource:
        return BucketSource(kind="bucket", name="s3-set", path=path, **({"endpoint": self.endpoint} | settings))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = Store(server)
    if not any(bucket["Name"] == "bucket" for bucket in store.client.list_buckets()["Buckets"]):
        store.client.create_bucket(Bucket="bucket")
    for key, content in FILES.items():
        store.put(key, content)
    return store


@pytest.fixture
def fetching(source_fetching: SourceFetching) -> SourceFetching:
    return source_fetching


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("s3://bucket/text/*.jsonl", ["a.jsonl"]),
        ("s3://bucket/text/**/*.jsonl", ["a.jsonl", "deep/b.jsonl"]),
        ("s3://bucket/text/", ["a.jsonl", "c.md", "deep/b.jsonl"]),
        ("s3://bucket/text/c.md", ["c.md"]),
        ("s3://bucket/*/[bd].jsonl", ["other/d.jsonl"]),
    ],
)
def test_globs_folders_and_objects(store: Store, fetching: SourceFetching, path: str, names: list[str]) -> None:
    counts = fetching(store.source(path))
    assert list(fetching.files) == names
    contents = {key.rpartition("/")[2]: content for key, content in FILES.items()}
    assert list(fetching.files.values()) == [contents[name.rpartition("/")[2]] for name in names]
    assert counts["files"] == len(names)
    assert all(entry["origin"].startswith("s3://bucket/") and entry["etag"] for entry in counts["entries"])


@pytest.mark.parametrize("path", ["s3://bucket/none/*", "s3://bucket/gone.jsonl", "s3://nowhere/a.jsonl"])
def test_nothing_there(store: Store, fetching: SourceFetching, path: str) -> None:
    message = fetching.refused(store.source(path))
    assert "no object matches this path" in message or "there is no such bucket" in message


def test_a_second_try_fetches_only_what_is_new_or_was_changed(store: Store, fetching: SourceFetching) -> None:
    source = store.source("s3://bucket/text/")
    first = fetching(source)
    kept = (fetching.output / "a.jsonl").stat().st_mtime_ns
    store.put("text/c.md", b"changed\n")
    store.put("text/deep/b.jsonl", b"")
    (fetching.output / "deep" / "left.txt").write_text("of an object that is gone", encoding="utf-8")
    second = fetching(source)
    assert fetching.files == {"a.jsonl": LARGE, "c.md": b"changed\n", "deep/b.jsonl": b""}
    assert (fetching.output / "a.jsonl").stat().st_mtime_ns == kept
    assert first["entries"][0] == second["entries"][0]


def test_a_damaged_file_is_fetched_again(store: Store, fetching: SourceFetching) -> None:
    source = store.source("s3://bucket/text/a.jsonl")
    fetching(source)
    (fetching.output / "a.jsonl").write_bytes(LARGE[:-1] + b"?")
    fetching(source)
    assert fetching.files == {"a.jsonl": LARGE}


def test_a_slice_is_whole_lines_of_the_first_files(store: Store, fetching: SourceFetching) -> None:
    lines = b"".join(b'{"text": "%06d"}\n' % number for number in range(20_000))
    store.put("sliced/a.jsonl", b'{"text": "first"}\n')
    store.put("sliced/b.jsonl", lines)
    store.put("sliced/c.jsonl", lines)
    counts = fetching(store.source("s3://bucket/sliced/*.jsonl"), limit=0.25)
    assert list(fetching.files) == ["a.jsonl", "b.jsonl"]
    cut = fetching.files["b.jsonl"]
    assert lines.startswith(cut)
    assert cut.endswith(b"\n")
    assert 0 <= 0.25 * (2 * len(lines) + 18) - counts["bytes"] < 18
    assert counts["sliced"] is True


@contextmanager
def gateway(endpoint: str, answer: Callable[[int, bytes], bytes]) -> Iterator[str]:
    """The store behind a gateway that sends `answer(n, body)` to the n-th request for a range (from 1)."""
    ranges = itertools.count(1)

    class Gateway(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            found = requests.request(self.command, endpoint + self.path, headers=dict(self.headers.items()))
            body = answer(next(ranges), found.content) if "Range" in self.headers else found.content
            length = found.headers["Content-Length"] if self.command == "HEAD" else str(len(body))
            self.send_response(found.status_code)
            for name, value in {**found.headers, "Content-Length": length}.items():
                if name not in ("Server", "Date", "Connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SCRIPT = """
    import sys
    from pathlib import Path
    from parakeet.download import bucket
    from parakeet.download.sources import fetch_source
    from parakeet.progress import Progress
    from parakeet.recipe_sources import BucketSource

    bucket.PIECE_BYTES = 20_000
    source = BucketSource(kind="bucket", name="s3-set", path="s3://bucket/text/a.jsonl", endpoint=sys.argv[2])
    fetch_source(source, 1.0, Path(sys.argv[1]), Progress())
"""


def test_kill_9_in_the_middle_of_an_object(store: Store, fetching: SourceFetching) -> None:
    fetching.output.mkdir()
    released = threading.Event()

    def answer(number: int, body: bytes) -> bytes:
        if number > 5:
            released.wait()
        return body

    with gateway(store.endpoint, answer) as endpoint:
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), str(fetching.output), endpoint])
        wait_until(lambda: any(part.stat().st_size for part in fetching.parts), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        released.set()
    (part,) = fetching.parts
    have = part.stat().st_size
    assert 0 < have < len(LARGE)
    # If the whole object were fetched again, this would be overwritten.
    part.write_bytes(b"x" * have)
    fetching(store.source("s3://bucket/text/a.jsonl"))
    assert fetching.files == {"a.jsonl": b"x" * have + LARGE[have:]}


def test_a_part_of_an_object_that_was_replaced_is_dropped(store: Store, fetching: SourceFetching) -> None:
    source = store.source("s3://bucket/text/a.jsonl")
    fetching(source)
    (record,) = (fetching.output / "work" / "records").iterdir()
    record.rename(fetching.output / "work" / "parts" / record.name)
    (fetching.output / "a.jsonl").rename(fetching.output / "work" / "parts" / record.stem)
    store.put("text/a.jsonl", LARGE[::-1])
    fetching(source)
    assert fetching.files == {"a.jsonl": LARGE[::-1]}


def test_open_stores_are_read_without_credentials(
    store: Store, fetching: SourceFetching, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.client.put_bucket_acl(Bucket="bucket", ACL="public-read")
    store.client.put_object_acl(Bucket="bucket", Key="text/c.md", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "there are no credentials for it: set AWS_ACCESS_KEY_ID" in fetching.refused(
        store.source("s3://bucket/text/c.md")
    )
    fetching(store.source("s3://bucket/text/c.md", anonymous=True))
    assert fetching.files == {"c.md": b"c\n"}


@pytest.mark.parametrize(("fault", "words"), [
    ("status_403", "refuses access"),
    ("status_503", "the store fails"),
    ("silent", "the store does not answer"),
    ("portal", "the store fails (Internal Server Error)"),  # what botocore makes of a page
])  # fmt: skip
def test_a_store_that_is_out_of_order(store: Store, fetching: SourceFetching, fault: str, words: str) -> None:
    with FaultServer(b"") as server:
        endpoint = server.address(fault).rpartition("/")[0]
        fetching.policy = IMPATIENT if fault == "silent" else QUICK
        assert words in fetching.refused(store.source("s3://bucket/a.jsonl", endpoint=endpoint))


def test_a_short_piece_is_asked_for_again(
    store: Store, fetching: SourceFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parakeet.download.bucket.PIECE_BYTES", 200_000)
    with gateway(store.endpoint, lambda number, body: body[:7000] if number <= 2 else body) as endpoint:
        fetching(store.source("s3://bucket/text/a.jsonl", endpoint=endpoint))
    assert fetching.files == {"a.jsonl": LARGE}
    assert "the store sent 7,000 of 200,000 bytes" in fetching.said.getvalue()


def test_nobody_at_the_endpoint(store: Store, fetching: SourceFetching) -> None:
    message = fetching.refused(store.source("s3://bucket/a.jsonl", endpoint="http://127.0.0.1:9"))
    assert "the store does not answer" in message
    assert "asked 3 times" in message
