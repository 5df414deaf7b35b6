"""A local Hugging Face hub that takes uploads: accounts, repositories, commits, and both of its stores for large files.

`with UploadHub() as hub`; HF_ENDPOINT is `hub.address`, and `hub.repositories["me/model"].files` is what arrived.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from .fake_hub import HubServer

TOKEN, READ_TOKEN = "hf_good", "hf_reader"
ACCOUNT, ORGANISATION = "me", "birds"
LARGE_BYTES = 1000
"""Files of this size and more are in a store for large files: xet, or LFS for a client that has xet switched off."""
FAR_FUTURE = 1 << 33


@dataclass
class Repository:
    private: bool = False
    files: dict[str, str] = field(default_factory=dict)
    """By name: the id of a git blob, or the sha256 of a large file."""
    commits: int = 0

    @property
    def newest(self) -> str:
        return hashlib.sha1(f"{self.commits}".encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    n_bytes: int
    authorization: str


class UploadHub(HubServer):
    """`requests` are those that arrived whole, in order. The rest may be changed while it serves:

    `failures` are the statuses and headers that meet every request for a path with such a part; `held` is a part of the
    path of requests that are read and never answered; `holding` says that there was one.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        """Files in LFS by sha256."""
        self.blocks: dict[str, int] = {}
        """Sizes of the blocks in xet. Which files they make up is in `shards`."""
        self.shards: list[bytes] = []
        self.failures: dict[str, tuple[int, dict[str, str]]] = {}
        self.requests: list[Request] = []
        self.held = "nothing"
        self.holding = threading.Event()

    def sent(self, part: str) -> list[Request]:
        """The requests for paths with `part` in them."""
        return [request for request in self.requests if part in request.path]

    def has(self, sha256: str) -> bool:
        """Whether all of a large file has arrived."""
        digest = bytes.fromhex(sha256)
        # xet writes a hash as four numbers of eight bytes, the lowest byte first.
        swapped = b"".join(digest[start : start + 8][::-1] for start in range(0, 32, 8))
        return sha256 in self.large or any(digest in shard or swapped in shard for shard in self.shards)


class _Handler(BaseHTTPRequestHandler):
    server: UploadHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server, path = self.server, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        authorization = self.headers.get("Authorization", "")
        server.requests.append(Request(self.command, path, len(body), authorization))
        if server.held in path:
            server.holding.set()
            server.released.wait()
            self.close_connection = True
            return None
        for part, (status, headers) in server.failures.items():
            if part in path:
                return self._reply({"error": "no"}, status, headers)
        if path.startswith(("/v1/", "/v2/", "/lfs/")):
            return self._store(path, body)
        if authorization.removeprefix("Bearer ") not in (TOKEN, READ_TOKEN):
            return self._reply({"error": "no"}, 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path == "/api/whoami-v2":
            role = "read" if authorization.endswith(READ_TOKEN) else "write"
            return self._reply(
                {"name": ACCOUNT, "orgs": [{"name": ORGANISATION}], "auth": {"accessToken": {"role": role}}}
            )
        if path == "/api/validate-yaml":
            card = json.loads(body)["content"]
            errors = [] if card.startswith("---\n") else [{"message": "The card has no header."}]
            return self._reply({"errors": errors, "warnings": []}, 400 if errors else 200)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        found = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/.]+)(?:\.git/info)?(/.*)?", path)
        if found is None or found[1] not in server.repositories:
            return self._reply({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})
        return self._of_repository(found[1], found[2] or "", body)

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or ACCOUNT
        name = f"{owner}/{wanted['name']}"
        if owner not in (ACCOUNT, ORGANISATION):
            return self._reply({"error": "no"}, 403, {"X-Error-Message": f"You have no rights in {owner}\x1b[31m"})
        if name in self.server.repositories:
            return self._reply({"error": "exists", "url": f"{self.server.address}/{name}"}, 409)
        self.server.repositories[name] = Repository(private=wanted.get("visibility") == "private")
        return self._reply({"url": f"{self.server.address}/{name}"})

    def _of_repository(self, name: str, action: str, body: bytes) -> None:
        repository = self.server.repositories[name]
        if action in ("", "/revision/main"):
            siblings = [{"rfilename": file} for file in repository.files]
            return self._reply(
                {"id": name, "sha": repository.newest, "private": repository.private, "siblings": siblings}
            )
        if action.startswith("/preupload/"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE_BYTES else "regular",
                    "shouldIgnore": False,
                    "oid": repository.files.get(file["path"]),
                }
                for file in json.loads(body)["files"]
            ]
            return self._reply({"files": files})
        if action.startswith("/xet-write-token/"):
            return self._reply({"accessToken": "x", "casUrl": self.server.address, "exp": FAR_FUTURE})
        if action == "/lfs/objects/batch":
            return self._reply({"objects": [self._offer(each) for each in json.loads(body)["objects"]]})
        if action.startswith("/commit/"):
            return self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        return self._reply({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})

    def _offer(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if self.server.has(wanted["oid"]):
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.server.address}/lfs/{wanted['oid']}"}}}

    def _store(self, path: str, body: bytes) -> None:
        """LFS and xet. As the client of xet does with earlier servers, it asks for /v2 and /v1/xorb-grants first."""
        if path.startswith("/lfs/"):
            digest = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != digest:
                return self._reply({"error": "damaged"}, 400)
            self.server.large[digest] = body
            return self._reply({})
        if path.startswith("/v1/xorbs/"):
            known = path in self.server.blocks
            self.server.blocks[path] = len(body)
            return self._reply({"was_inserted": not known})
        if path == "/v1/shards":
            self.server.shards.append(body)
            return self._reply({"result": 1})
        return self._reply({"error": "no"}, 404)

    def _commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
            elif line["key"] == "lfsFile":
                if not self.server.has(value["oid"]):
                    return self._reply({"error": f"{value['path']} has not arrived"}, 400)
                files[value["path"]] = value["oid"]
        repository.files |= files
        repository.commits += 1
        address = f"{self.server.address}/{name}/commit/{repository.newest}"
        return self._reply({"commitUrl": address, "commitOid": repository.newest})

    def _reply(self, answer: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {
            **(headers or {}), "Content-Length": str(len(body)), "Content-Type": "application/json"
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
