"""The page itself: a few files of our own, which the browser may use and nothing else."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from parakeet.server.errors import ApiError

FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
POLICY = "; ".join([
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    # The icon is in the page.
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
])  # fmt: skip


@dataclass(frozen=True)
class PageFile:
    kind: str
    content: bytes
    compressed: bytes
    tag: str


@cache
def page_files() -> dict[str, PageFile]:
    """The files of the page by name."""
    return {path.name: _page_file(path) for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}


def _page_file(path: Path) -> PageFile:
    content = path.read_bytes()
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return PageFile(KINDS[path.suffix], content, gzip.compress(content, mtime=0), tag)


async def page(request: Request) -> Response:
    """A file of the page. The browser asks each time whether its copy is still the same: an update shows at once."""
    name = request.path_params.get("name", "index.html")
    if name not in page_files():
        raise ApiError(404, "The page has no such file.")
    found = page_files()[name]
    headers = {
        "content-security-policy": POLICY,
        "cache-control": "no-cache",
        "etag": found.tag,
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = found.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        content = found.compressed
    return Response(content, media_type=found.kind, headers=headers)


ROUTES: list[Route] = [Route("/", page), Route("/page/{name}", page)]
