"""`parakeet pages`: the home's pages over HTTP, for this machine only. A browser opens no `file://` link of a web page.

Imports nothing heavy: whoever writes links to the pages imports it.
"""

import html
import os
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from parakeet.errors import ParakeetError, os_reason

ADDRESS, PORT = "127.0.0.1", 3042
"""Fixed, so that links in Dagster's history stay valid."""

SERVED = re.compile(r"(data_card|report|releases|original_model)/[A-Za-z0-9-]+/[a-z_]+\.(html|png)")
"""Pages and pictures of artefacts. No weights, text or settings."""
TYPES = {"html": "text/html; charset=utf-8", "png": "image/png"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def page_address(page: Path, root: Path) -> str:
    """The link to a page under `root` while `serve_pages` runs; the file's own URL if it is not served."""
    try:
        name = page.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        name = ""
    return f"http://{ADDRESS}:{PORT}/{quote(name)}" if SERVED.fullmatch(name) else page.as_uri()


def page_server(root: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server of the pages under `root`; `serve_forever` runs it. ParakeetError if the port cannot be used."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            name = unquote(urlsplit(self.path).path).lstrip("/")
            status, kind, body = HTTPStatus.OK, "html", b""
            # A page of another site could otherwise read these under a name that leads to this machine.
            if self.headers.get("Host", "").partition(":")[0] not in (ADDRESS, "localhost"):
                status, body = HTTPStatus.FORBIDDEN, b"Open this page under 127.0.0.1."
            elif name == "":
                body = _index(root).encode()
            elif (content := _content(root, name)) is not None:
                kind, body = name.rpartition(".")[2], content
            else:
                status, body = HTTPStatus.NOT_FOUND, b"There is no such page. <a href='/'>All pages</a>"
            self.send_response(status)
            for header, value in {**HEADERS, "Content-Type": TYPES[kind], "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: the terminal shows where the pages are."""

    try:
        return ThreadingHTTPServer((ADDRESS, port), Handler)
    except OSError as error:
        raise ParakeetError(
            f"The pages cannot be served on {ADDRESS}, port {port}: {os_reason(error)}. If `parakeet pages` runs "
            f"already, open http://{ADDRESS}:{port}/. Otherwise end the program that uses the port."
        ) from None


def _content(root: Path, name: str) -> bytes | None:
    """The bytes of a file that may be served; None if there is none. A link must not lead out of the home."""
    path = root / name
    if not SERVED.fullmatch(name) or not path.resolve().is_relative_to(root.resolve()):
        return None
    try:
        return path.read_bytes()
    except OSError:
        return None


def _index(root: Path) -> str:
    """All pages, the newest first."""
    pages = {path.resolve() for path in root.glob("*/*/*.html")}
    names = {path.relative_to(root.resolve()).as_posix(): path for path in pages if path.is_relative_to(root.resolve())}
    newest = sorted((name for name in names if SERVED.fullmatch(name)), key=lambda name: -os.path.getmtime(names[name]))
    items = "".join(f'<li><a href="/{quote(name)}">{html.escape(name)}</a></li>' for name in newest)
    empty = "<p>No page has been made yet: run <code>parakeet build</code>.</p>"
    return f"<!doctype html><title>Parakeet</title><h1>Pages</h1>{f'<ul>{items}</ul>' if items else empty}"
