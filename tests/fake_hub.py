"""A local Hugging Face hub: its answer on datasets, its redirects to another host for large files, its refusals.

`with FakeHub() as hub: hub.commit("me/set", "main", {"a.jsonl": b"..."})`; HF_ENDPOINT is `hub.address`.
"""

import hashlib
import json
import re
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LFS_BYTES = 1000
"""Files of this size and more are in LFS: their sha256 is known, and another host has them."""
TOKEN = "hf_good"
BLOCK = 1 << 14


class HubServer(ThreadingHTTPServer):
    """Serves on this machine during a `with` block. `released` ends what a handler holds back."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.released = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up."""


class FakeHub(HubServer):
    """`requests` are (path, Range header) in the order they came. All may be changed while it serves:

    `gated` and `renamed` datasets; `failures`, each (part of a path, status, headers), which meet the next request for
    such a path; `swapped`, what is sent of a small file in place of its content; `cut_bytes`, after which the reply
    with a large file breaks off; `held_bytes`, after which it is held back until `released` is set; `trickles`, the
    number of replies with a large file that come byte by byte until the client hangs up.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.failures: deque[tuple[str, int, dict[str, str]]] = deque()
        self.cut_bytes: int | None = None
        self.swapped: dict[str, bytes] = {}
        self.held_bytes: int | None = None
        self.trickles = 0
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[tuple[str, str]] = []

    def commit(self, dataset: str, branch: str, files: dict[str, bytes]) -> str:
        """Make `files` the branch's newest commit; its id."""
        content_hashes = json.dumps([(name, hashlib.sha256(content).hexdigest()) for name, content in files.items()])
        commit = hashlib.sha1(f"{branch}{content_hashes}".encode()).hexdigest()
        self.commits.setdefault(dataset, {})[commit] = files
        self.branches.setdefault(dataset, {})[branch] = commit
        self.blobs |= {hashlib.sha256(content).hexdigest(): content for content in files.values()}
        return commit

    def fetched(self, part: str) -> list[str]:
        """The ranges asked of paths with `part` in them."""
        return [wanted for path, wanted in self.requests if part in path]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((path, self.headers.get("Range", "")))
        self.server.tokens.append((path, self.headers.get("Authorization", "")))
        for failure in self.server.failures:
            if failure[0] in path:
                self.server.failures.remove(failure)
                return self._reply(failure[1], b"{}", failure[2])
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._tell(found[1], found[2] or "main")
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*found.groups())
        if path.startswith("/cdn/"):
            return self._send(self.server.blobs[path.removeprefix("/cdn/")], {}, large=True)
        return self._refuse(404, "EntryNotFound")

    def _commit_of(self, dataset: str, revision: str) -> str | None:
        if dataset in self.server.renamed:
            moved = self.path.replace(dataset, self.server.renamed[dataset])
            self._reply(307, b"", {"Location": moved})
            return None
        if dataset not in self.server.commits:
            self._refuse(401, "RepoNotFound")
            return None
        commit = self.server.branches[dataset].get(revision, revision)
        if commit not in self.server.commits[dataset]:
            self._refuse(404, "RevisionNotFound")
            return None
        return commit

    def _tell(self, dataset: str, revision: str) -> None:
        if (commit := self._commit_of(dataset, revision)) is None:
            return
        files = self.server.commits[dataset][commit]
        answer = {"id": dataset, "sha": commit, "siblings": [_sibling(*item) for item in files.items()]}
        self._reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _resolve(self, dataset: str, revision: str, name: str) -> None:
        if (commit := self._commit_of(dataset, revision)) is None:
            return None
        if dataset in self.server.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "GatedRepo")
        if name not in (files := self.server.commits[dataset][commit]):
            return self._refuse(404, "EntryNotFound")
        digest, size = hashlib.sha256(files[name]).hexdigest(), len(files[name])
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(size), "X-Linked-Etag": f'"{digest}"'}
        if size < LFS_BYTES:
            return self._send(self.server.swapped.get(name, files[name]), headers)
        elsewhere = f"http://localhost:{self.server.server_port}/cdn/{digest}"
        return self._reply(302, b"", {**headers, "Location": elsewhere})

    def _send(self, body: bytes, headers: dict[str, str], large: bool = False) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        stop = min(len(body), int(found[2]) + 1) if found and found[2] else len(body)
        place = {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"} if found else {}
        self._head(206 if found else 200, {"Content-Length": str(stop - start), **place, **headers})
        server = self.server
        if large and server.trickles:
            server.trickles -= 1
            while not server.released.wait(0.01):
                self.wfile.write(body[start : start + 1])
                start += 1
            return
        end = min(stop, start + server.cut_bytes) if large and server.cut_bytes else stop
        for position in range(start, end, BLOCK):
            if large and server.held_bytes is not None and position - start >= server.held_bytes:
                server.released.wait()
            self.wfile.write(body[position : min(position + BLOCK, end)])

    def _refuse(self, status: int, code: str) -> None:
        self._reply(status, b'{"error": "no"}', {"X-Error-Code": code, "X-Error-Message": "no\x1b[31m"})

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, {"Content-Length": str(len(body)), **headers})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _sibling(name: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    lfs = {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 130}} if len(content) >= LFS_BYTES else {}
    return {"rfilename": name, "size": len(content), "blobId": blob, **lfs}
