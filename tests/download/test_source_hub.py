"""Sources of the kind `hub`, from a local hub over HTTP."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.download.sources import safe_name
from parakeet.recipe_sources import HubSource

from ..fake_hub import TOKEN, FakeHub
from ..fault_server import wait_until
from .conftest import QUICK, SourceFetching

LARGE = os.urandom(150_000).hex().encode()
FILES = {"README.md": b"# A set\n", "data/a.jsonl": LARGE, "data/b.jsonl": b'{"text": "b"}\n', "other/c.jsonl": b"c\n"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with FakeHub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        running.commit("me/set", "main", FILES)
        yield running


@pytest.fixture
def fetching(source_fetching: SourceFetching) -> SourceFetching:
    return source_fetching


def source(*globs: str, dataset: str = "me/set", revision: str = "main") -> HubSource:
    return HubSource(kind="hub", name="my.set", dataset=dataset, revision=revision, files=list(globs or ["data/*"]))


def test_matching_files_come_with_their_folders(hub: FakeHub, fetching: SourceFetching) -> None:
    counts = fetching(source())
    assert fetching.files == {name: FILES[name] for name in ("data/a.jsonl", "data/b.jsonl")}
    commit = hub.branches["me/set"]["main"]
    assert (counts["files"], counts["dataset"], counts["revision"]) == (2, "me/set", commit)
    assert counts["bytes"] == sum(map(len, fetching.files.values()))
    assert counts["entries"][0] == {
        "name": "data/a.jsonl",
        "bytes": len(LARGE),
        "sha256": hashlib.sha256(LARGE).hexdigest(),
        "origin": f"hf://datasets/me/set@{commit[:12]}/data/a.jsonl",
        "etag": hashlib.sha256(LARGE).hexdigest(),
    }


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["*.md"], ["README.md"]),
        (["**/*.jsonl"], ["data/a.jsonl", "data/b.jsonl", "other/c.jsonl"]),
        (["data/b*", "other/c.jsonl"], ["data/b.jsonl", "other/c.jsonl"]),
    ],
)
def test_globs(hub: FakeHub, fetching: SourceFetching, globs: list[str], names: list[str]) -> None:
    fetching(source(*globs))
    assert list(fetching.files) == names


def test_a_tag_and_a_commit_are_revisions(hub: FakeHub, tmp_path: Path) -> None:
    tagged = hub.commit("me/set", "v1.0/old", {"data/a.jsonl": b"old\n"})
    for revision in ("v1.0/old", tagged):
        fetching = SourceFetching(tmp_path / revision.replace("/", "-"))
        assert fetching(source(revision=revision))["revision"] == tagged
        assert fetching.files == {"data/a.jsonl": b"old\n"}


def test_a_branch_that_moves_between_two_tries_is_not_followed(hub: FakeHub, fetching: SourceFetching) -> None:
    first = hub.branches["me/set"]["main"]
    hub.failures.extend(("b.jsonl", 503, {}) for _ in range(3))
    assert "HTTP status 503" in fetching.refused(source())
    hub.commit("me/set", "main", {"data/a.jsonl": b"new", "data/b.jsonl": b"new"})
    asked = len(hub.requests)
    assert fetching(source())["revision"] == first
    assert fetching.files == {name: FILES[name] for name in ("data/a.jsonl", "data/b.jsonl")}
    assert not any("a.jsonl" in path for path, _ in hub.requests[asked:])  # it had arrived


def test_a_dataset_that_was_renamed_is_found_and_named(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.renamed["me/old"] = "me/set"
    assert fetching(source(dataset="me/old"))["dataset"] == "me/set"
    assert "me/old is called me/set now: correct the recipe" in fetching.said.getvalue()


def test_a_missing_dataset(hub: FakeHub, fetching: SourceFetching) -> None:
    message = fetching.refused(source(dataset="me/gone"))
    assert "dataset me/gone: the hub has no dataset of this name for you: it was renamed or removed" in message


def test_a_missing_revision(hub: FakeHub, fetching: SourceFetching) -> None:
    assert "it has no revision v9" in fetching.refused(source(revision="v9"))


def test_a_gated_dataset_needs_its_terms_and_a_token(
    hub: FakeHub, fetching: SourceFetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add("me/set")
    message = fetching.refused(source())
    assert f"it is gated: accept its terms on {hub.address}/datasets/me/set, and set HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetching(source())
    assert len(fetching.files) == 2
    elsewhere = [token for path, token in hub.tokens if path.startswith("/cdn/")]
    assert elsewhere == [""]  # the token is the hub's business only


def test_no_file_matches(hub: FakeHub, fetching: SourceFetching) -> None:
    message = fetching.refused(source("*.parquet"))
    assert (
        "none of its files matches *.parquet; it has: README.md, data/a.jsonl, data/b.jsonl, other/c.jsonl" in message
    )


@pytest.mark.parametrize("where", ["/api/", "/resolve/", "/cdn/"])
def test_what_passes_is_waited_for(hub: FakeHub, fetching: SourceFetching, where: str) -> None:
    hub.failures += [(where, 429, {"RateLimit": '"api";r=0;t=1'}), (where, 502, {"Retry-After": "0"})]
    fetching(source())
    assert fetching.files["data/a.jsonl"] == LARGE
    assert "it was asked too often (HTTP status 429" in fetching.said.getvalue()


def test_what_does_not_pass_comes_to_an_end(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.failures.extend(("/api/", 429, {"Retry-After": "1000"}) for _ in range(9))
    message = fetching.refused(source())
    assert "it was asked too often (HTTP status 429 Too Many Requests) (asked 3 times)" in message
    assert len(hub.requests) == 3


@pytest.mark.parametrize(("status", "headers", "words"), [
    (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "does not know the token in HF_TOKEN"),
    (403, {"X-Error-Message": "not\x1b[2J you"}, "the hub refuses access: not you"),
    (200, {"Content-Type": "text/html"}, "answer cannot be understood"),
])  # fmt: skip
def test_other_refusals(
    hub: FakeHub, fetching: SourceFetching, status: int, headers: dict[str, str], words: str
) -> None:
    hub.failures.append(("/api/", status, headers))
    assert words in fetching.refused(source())


def test_nobody_at_the_address(fetching: SourceFetching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "it refuses the connection (asked 3 times)" in fetching.refused(source())


def test_a_connection_that_drops_is_continued(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.cut_bytes = 100_000
    fetching(source())
    assert fetching.files["data/a.jsonl"] == LARGE
    assert [wanted.partition("-")[0] for wanted in hub.fetched("/cdn/")] == ["bytes=0", "bytes=100000", "bytes=200000"]


def test_a_trickle_is_broken_off_and_tried_again(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.trickles = 1
    fetching.policy = replace(QUICK, stall_timeout=0.5, attempts=10)
    fetching(source())
    assert fetching.files["data/a.jsonl"] == LARGE
    assert "it sent less than 512 KiB in 0.5 s" in fetching.said.getvalue()
    assert len(hub.fetched("/cdn/")) > 1


def test_another_file_than_was_listed_is_refused(hub: FakeHub, fetching: SourceFetching) -> None:
    digest = hashlib.sha256(LARGE).hexdigest()
    hub.blobs[digest] = bytes(len(LARGE))
    assert f"expected {digest}" in fetching.refused(source())
    assert "data/a.jsonl" not in fetching.files
    hub.blobs[digest] = LARGE
    fetching(source())
    assert fetching.files["data/a.jsonl"] == LARGE


def test_a_file_outside_of_lfs_is_held_to_its_git_blob(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.swapped["data/b.jsonl"] = FILES["data/b.jsonl"][::-1]
    assert "its git hash is" in fetching.refused(source())
    assert list(fetching.files) == ["data/a.jsonl"]
    hub.swapped.clear()
    fetching(source())
    assert fetching.files["data/b.jsonl"] == FILES["data/b.jsonl"]


def test_a_page_is_no_file(hub: FakeHub, fetching: SourceFetching) -> None:
    page = b"<!DOCTYPE html><html><head><title>Sign in</title></head>" + b" " * len(LARGE)
    hub.blobs[hashlib.sha256(LARGE).hexdigest()] = page[: len(LARGE)]
    assert "it sent a web page titled “Sign in” instead of the file" in fetching.refused(source())


def test_a_part_that_went_bad_costs_one_more_transfer(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.cut_bytes = 100_000
    hub.failures.extend(("b.jsonl", 503, {}) for _ in range(3))
    fetching.refused(source())  # a.jsonl has arrived
    record = next((fetching.output / "work" / "records").iterdir())
    record.unlink()
    (fetching.output / "data" / "a.jsonl").write_bytes(b"x" * 50_000)
    about = {"n_bytes": len(LARGE), "validator": hashlib.sha256(LARGE).hexdigest()}
    (fetching.output / "work" / "parts" / record.name).write_text(json.dumps(about), encoding="utf-8")
    hub.cut_bytes = None
    fetching(source())
    assert fetching.files["data/a.jsonl"] == LARGE
    assert "put together from several transfers" in fetching.said.getvalue()


def test_names_that_others_chose_are_made_safe(hub: FakeHub, fetching: SourceFetching) -> None:
    names = {
        "work/x.txt": "_work/x.txt",
        "manifest.json": "_manifest.json",
        "a/.hidden.txt": "a/_.hidden.txt",
        "a\\..\\b.txt": "a/b.txt",
        "\x1b[2J.txt": "_[2J.txt",
    }
    hub.commit("me/set", "main", {name: name.encode() for name in names})
    fetching(source("**"))
    assert fetching.files == {safe: name.encode() for name, safe in names.items()}


@given(st.text(alphabet=st.sampled_from("a./\\:\x1b\u202e\ud800 work"), max_size=20) | st.text(max_size=20))
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    safe = safe_name(name)
    steps = safe.split("/")
    assert safe == "" or not any(step.startswith(".") or not step.strip() for step in steps)
    assert steps[0].lower() != "work"
    assert safe.lower() != "manifest.json"
    assert safe.isprintable()
    assert safe_name(safe) == safe


def test_two_names_that_come_to_the_same(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.commit("me/set", "main", {"a\\b.txt": b"1", "A/b.txt": b"2"})
    assert "would have the same name as" in fetching.refused(source("**"))


SCRIPT = """
    import sys
    from pathlib import Path
    from parakeet.download.sources import fetch_source
    from parakeet.progress import Progress
    from parakeet.recipe_sources import HubSource

    source = HubSource(kind="hub", name="x", dataset="me/set", files=["data/*"])
    fetch_source(source, 1.0, Path(sys.argv[1]), Progress())
"""


def test_kill_9_in_the_middle_of_a_file(hub: FakeHub, fetching: SourceFetching) -> None:
    """The next try asks for the missing bytes only."""
    fetching.output.mkdir()
    hub.held_bytes = 200_000
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), str(fetching.output)])
    wait_until(lambda: any(part.stat().st_size > 100_000 for part in fetching.parts), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = fetching.parts[0].stat().st_size
    assert 0 < have < len(LARGE)
    asked = len(hub.requests)
    hub.released.set()
    fetching(source())
    assert fetching.files["data/a.jsonl"] == LARGE
    transfers = [wanted for path, wanted in hub.requests[asked:] if path.startswith("/cdn/")]
    assert transfers == [f"bytes={have}-{len(LARGE) - 1}"]


def test_a_full_disk_keeps_what_had_arrived(hub: FakeHub, fetching: SourceFetching) -> None:
    fetching.output.mkdir()
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    command = [sys.executable, "-c", limit + textwrap.dedent(SCRIPT), str(fetching.output)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert "OSError: [Errno 27] File too large" in process.stderr  # the store makes a message of it
    asked = len(hub.requests)
    fetching(source())
    assert fetching.files["data/a.jsonl"] == LARGE
    assert [wanted for path, wanted in hub.requests[asked:] if path.startswith("/cdn/")] == [
        f"bytes=100000-{len(LARGE) - 1}"
    ]


def parquet(rows: list[str]) -> bytes:
    """Ten row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    table = pa.table({"text": rows})
    pq.write_table(table, stream, row_group_size=len(rows) // 10, compression="none", use_dictionary=False)
    return stream.getvalue()


def test_parquet_slices_read_only_their_row_groups(hub: FakeHub, fetching: SourceFetching) -> None:
    import pyarrow.parquet as pq

    rows = [os.urandom(500).hex() for _ in range(4000)]
    content = parquet(rows)
    hub.commit("me/set", "main", {"data/a.parquet": content})
    counts = fetching(source(), limit=0.25)
    assert counts["sliced"] is True
    table = pq.read_table(io.BytesIO(fetching.files["data/a.parquet"]))
    assert table.column("text").to_pylist() == rows[:800]
    assert counts["share"] == pytest.approx(0.2, rel=0.01)
    assert fetching(source(), limit=0.25)["entries"] == counts["entries"]
    spans = [wanted.removeprefix("bytes=").split("-") for wanted in hub.fetched("/cdn/")]
    assert sum(int(stop) - int(start) + 1 for start, stop in spans) < 0.9 * len(content)


def test_a_parquet_file_that_is_none(hub: FakeHub, fetching: SourceFetching) -> None:
    hub.commit("me/set", "main", {"data/a.parquet": LARGE})
    assert "it is not a readable Parquet file" in fetching.refused(source(), limit=0.1)


def test_a_parquet_file_with_a_damaged_page_is_the_sources_fault(hub: FakeHub, fetching: SourceFetching) -> None:
    content = parquet([os.urandom(50).hex() for _ in range(1000)])
    hub.commit("me/set", "main", {"data/a.parquet": content})
    hub.blobs[hashlib.sha256(content).hexdigest()] = content[:4] + b"\xff" * 200 + content[204:]
    assert "it is a damaged Parquet file" in fetching.refused(source(), limit=0.1)
