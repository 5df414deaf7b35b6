"""A local HTTP server that plays each fault a download can meet, by the first part of the address.

`with FaultServer(body) as server: server.address("cut")`
"""

import base64
import fcntl
import gzip
import mmap
import re
import socket
import ssl
import struct
import subprocess
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

BLOCK = 1 << 16

QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently. Please try again later.</p>
</body></html>"""
_FORM = (  # on one line, as gdown reads pages by lines
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="hidden" name="id" value="x"><input type="hidden" name="confirm" value="t"></form>'
)
VIRUS_SCAN = f"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p class="uc-warning-caption">Google Drive can&#39;t scan this file for viruses.</p>
{_FORM}</body></html>"""
SIGN_IN = """<!doctype html><html><head><title>Google Drive: Sign-in</title></head><body>
<a href="https://accounts.google.com/ServiceLogin?continue=x">Continue to Google Drive</a></body></html>"""
PERMISSION = """<html><head><title>Google Drive - Access Denied</title></head><body>You need access.</body></html>"""
PORTAL = """\ufeff  <!-- Wi-Fi -->
<HTML><head><title>Welcome to\x1b[31m the hotel</title></head></HTML>"""
PAGES = {"quota": QUOTA, "virus_scan": VIRUS_SCAN, "sign_in": SIGN_IN, "permission": PERMISSION, "portal": PORTAL}


class FaultServer(ThreadingHTTPServer):
    """Serves `body` at `address(fault)`; `requests` are (fault, Range header or "") in the order they came.

    `cut_bytes` is where the faults that cut a body do so, counted from the beginning of each reply; `version` is
    the ETag ("" for none), `elsewhere` where `redirect_elsewhere` leads, `refuse_after` how often `begins_then_refuses`
    sends the file, and `released` lets `held` send the rest. All, and `body`, may be changed while it serves. With a
    `certificate` (PEM, with its key) it speaks https.
    """

    daemon_threads = True

    def __init__(self, body: bytes | mmap.mmap, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.body = body
        self.elsewhere = ""
        self.refuse_after = 1
        self.cut_bytes = 1_200_000
        self.version = '"one"'
        self.requests: list[tuple[str, str]] = []
        self.asked: Counter[str] = Counter()
        self.released = threading.Event()
        self.over = threading.Event()

    def address(self, fault: str, name: str = "model.pth") -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/{fault}/{name}"

    def ranges(self, fault: str) -> list[str]:
        """The Range headers that a fault was asked with."""
        return [wanted for asked, wanted in self.requests if asked == fault and wanted]

    def __enter__(self) -> "FaultServer":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what half of the faults are about."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        fault = urlsplit(self.path).path.split("/")[1]
        self.server.asked[fault] += 1
        self.server.requests.append((fault, self.headers.get("Range", "")))
        status = re.fullmatch(r"status_(\d+)", fault)
        if status:
            self._reply(int(status[1]), b"no", {"Retry-After": "0"})
        elif fault in PAGES:
            self._reply(200, PAGES[fault].encode(), {"Content-Type": "text/html; charset=utf-8"})
        else:
            getattr(self, f"play_{fault}")()

    def play_whole(self) -> None:
        """A good server: Range, If-Range, ETag."""
        self._send(ranged=True)

    def play_cut(self) -> None:
        """Every reply breaks off after `cut_bytes`; Range works, so that the client can continue."""
        self._send(ranged=True, limit=self.server.cut_bytes)

    def play_reset(self) -> None:
        """The same, with a reset connection once all is sent: a reset discards what was not."""
        self._send(ranged=True, limit=self.server.cut_bytes)
        wait_until(lambda: fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)) == bytes(4))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def play_short(self) -> None:
        """The right Content-Length and never more than a part of the body; no Range."""
        self._send(limit=self.server.cut_bytes)

    def play_cut_without_range(self) -> None:
        """Breaks off until it is asked to continue with Range, which it ignores; from then on it sends all."""
        self._send(limit=None if self.server.ranges("cut_without_range") else self.server.cut_bytes)

    def play_wrong_range(self) -> None:
        """Answers Range with 206 and the bytes of another place."""
        if "Range" in self.headers:
            body = self.server.body
            length = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
            self._reply(206, body, length)
        else:
            self._send(limit=self.server.cut_bytes)

    def play_length_too_small(self) -> None:
        self._send(length=len(self.server.body) // 2)

    def play_length_too_large(self) -> None:
        self._send(length=len(self.server.body) + 1000)

    def play_no_length(self) -> None:
        self._send(length=-1)

    def play_flaky(self) -> None:
        """Fails twice, then is well."""
        if self.server.asked["flaky"] <= 2:
            self._reply(503, b"", {"Retry-After": "0"})
        else:
            self._send(ranged=True)

    def play_begins_then_refuses(self) -> None:
        """Gives a part of the file, then Google's quota page, as Drive does."""
        if self.server.asked["begins_then_refuses"] <= self.server.refuse_after:
            self._send(ranged=True, limit=self.server.cut_bytes)
        else:
            self._reply(200, QUOTA.encode(), {"Content-Type": "text/html"})

    def play_password(self) -> None:
        """A good server for who says `me` and `word`."""
        if self.headers.get("Authorization") == f"Basic {base64.b64encode(b'me:word').decode()}":
            self._send(ranged=True)
        else:
            self._reply(401, b"")

    def play_redirect(self) -> None:
        self._reply(302, b"", {"Location": "/whole/other.bin"})

    def play_redirect_loop(self) -> None:
        self._reply(302, b"", {"Location": self.path})

    def play_redirect_to_file(self) -> None:
        self._reply(302, b"", {"Location": "file:///etc/passwd"})

    def play_redirect_elsewhere(self) -> None:
        self._reply(302, b"", {"Location": self.server.elsewhere})

    def play_gzip(self) -> None:
        self._reply(200, gzip.compress(self.server.body, 1), {"Content-Encoding": "gzip"})

    def play_labelled_gzip(self) -> None:
        """A server that takes the compression of a .gz file for one of the transfer."""
        self._reply(200, self.server.body, {"Content-Encoding": "x-gzip"})

    def play_gzip_garbage(self) -> None:
        self._reply(200, self.server.body, {"Content-Encoding": "gzip"})

    def play_trickle(self) -> None:
        """A byte now and then: never silent, never done."""
        self._headers(200, {"Content-Length": str(len(self.server.body))})
        for byte in self.server.body:
            if self.server.over.wait(0.05):
                return
            self.wfile.write(bytes([byte]))

    def play_silent(self) -> None:
        """Takes the request and says nothing."""
        self.server.over.wait()

    def play_held(self) -> None:
        """A good server that sends `cut_bytes` and holds the rest back until it is `released`."""
        self._send(ranged=True, held=True)

    def play_endless(self) -> None:
        self._headers(200, {})
        while not self.server.over.is_set():
            self.wfile.write(self.server.body)

    def play_empty(self) -> None:
        self._reply(200, b"")

    def play_disposition(self) -> None:
        self._send(ranged=True, more={"Content-Disposition": 'attachment; filename="../../evil.pth"'})

    def play_drive(self, limit: int | None = None) -> None:
        """Google Drive with a file too large for its virus scanner: a page first, then the file."""
        if "confirm" in parse_qs(urlsplit(self.path).query):
            self._send(ranged=True, limit=limit, more={"Content-Disposition": 'attachment; filename="a.pth"'})
        else:
            self._reply(200, VIRUS_SCAN.encode(), {"Content-Type": "text/html"})

    def play_drive_cut(self) -> None:
        """The same, with a line that breaks."""
        self.play_drive(limit=self.server.cut_bytes)

    def _send(
        self,
        ranged: bool = False,
        limit: int | None = None,
        length: int | None = None,
        held: bool = False,
        more: dict[str, str] | None = None,
    ) -> None:
        """The body, from where Range asks if `ranged`; at most `limit` bytes; `length` is announced (-1: nothing)."""
        body, start, stop = self.server.body, 0, len(self.server.body)
        headers = {**({"Accept-Ranges": "bytes"} if ranged else {}), **(more or {})}
        headers |= {"ETag": self.server.version} if self.server.version else {}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        part = ranged and wanted and self.headers.get("If-Range", self.server.version) == self.server.version
        if part and wanted:
            start, stop = int(wanted[1]), min(stop, int(wanted[2]) + 1 if wanted[2] else stop)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        announced = stop - start if length is None else length
        self._headers(206 if part else 200, headers | ({"Content-Length": str(announced)} if announced >= 0 else {}))
        end = stop if limit is None else min(stop, start + limit)
        for position in range(start, end, BLOCK):
            if held and position - start >= self.server.cut_bytes:
                self.server.released.wait()
            self.wfile.write(body[position : min(position + BLOCK, end)])

    def _reply(self, status: int, body: bytes | mmap.mmap, headers: dict[str, str] | None = None) -> None:
        self._headers(status, {"Content-Length": str(len(body)), **(headers or {})})
        self.wfile.write(body)

    def _headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait for an event in another thread, or in a process that must be alive until then."""
    deadline = time.monotonic() + 120  # only so that a broken test ends
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.005)


def rewriting(address_of: Callable[[str], str | None], get: Callable[..., Any]) -> Callable[..., Any]:
    """requests' `Session.get` that asks elsewhere, for hosts that a test cannot reach, such as Google's."""

    def elsewhere(session: Any, url: str, **options: Any) -> Any:
        answer = get(session, address_of(url) or url, **options)
        answer.url = url
        return answer

    return elsewhere
