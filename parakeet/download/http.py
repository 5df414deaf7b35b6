"""Files at http(s) addresses, Google Drive's included: reading them, and every failure in plain words."""

import email.utils
import hashlib
import http.client
import json
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from parakeet.download.source_folder import SourceFiles
from parakeet.download.transfer import (
    READ_BYTES,
    Checks,
    PermanentError,
    Read,
    Reading,
    Remote,
    RestartError,
    RetryPolicy,
    TransientError,
    Version,
    naming,
    plain,
    retrying,
)
from parakeet.download.web_pages import PAGE_BYTES, fault_of_page, meaning_of
from parakeet.formatting import format_bytes
from parakeet.recipe_sources import DownloadSource, RemoteFile

if TYPE_CHECKING:
    import requests

STALL_BYTES = 512 << 10
"""What has to arrive within `RetryPolicy.stall_timeout`."""
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36"
"""Google Drive and some other hosts refuse clients that are no browsers."""
GZIP_MARK = b"\x1f\x8b\x08"
GZIP_HEAD_BYTES = 1 << 10
"""Enough of a gzip file to see what is in it."""
DRIVE = "drive.google.com"
DRIVE_NAME = "Google Drive"
DRIVE_PAGES = 5
"""Most pages that Google Drive may send before the file."""

Refusal = Callable[[int, Mapping[str, str]], PermanentError | TransientError]
"""What an HTTP status of 400 or more means, by its headers."""

_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_STATUSES = {
    401: "it wants a password, and ~/.netrc has none that it accepts",
    403: "it refuses access",
    404: "it has no such file",
    410: "it does not have this file any more",
    429: "it was asked too often",
}


class DownloadFiles(SourceFiles[DownloadSource]):
    """The files of a source of the kind `download`."""

    duplicate_hint = "Give it a file_name in the recipe"

    def files(self) -> list[Remote]:
        """The recipe's files. Servers are asked for sizes only where a share of the files is wanted."""
        return [self._remote(file) for file in self.source.files]

    def _remote(self, file: RemoteFile) -> Remote:
        address = file.url or drive_address(str(file.drive_id))
        name = file.file_name or unquote(urlsplit(address).path).rpartition("/")[2]
        remote = http_remote(address, name, Checks(n_bytes=file.n_bytes, sha256=file.sha256), self.policy)
        if file.drive_id:
            return replace(remote, origin=f"{DRIVE_NAME} {file.drive_id}", n_bytes=file.n_bytes)
        if self.limit >= 1.0:
            return replace(remote, n_bytes=file.n_bytes)

        def ask() -> Reading:
            with closing(remote.read(0, None, None)) as reading:
                return reading

        with naming(remote.origin):
            offer = retrying(ask, self.policy, self.say)
        n_bytes, validator = offer.version
        if not offer.ranges or n_bytes is None:
            return replace(remote, n_bytes=file.n_bytes or n_bytes)
        return replace(remote, n_bytes=n_bytes, validator=validator, ranges=True)


def http_remote(address: str, name: str, checks: Checks, policy: RetryPolicy) -> Remote:
    """A file at an address, before the server has been asked."""
    read, key = http_reader(address, policy, name=name), part_key(address, checks)
    return Remote(name, name_of(address), read, checks=checks, ranges=False, key=key)


def part_key(place: str, checks: Checks) -> str:
    """A name for the unfinished download of a file with these properties from one place."""
    return hashlib.sha256(json.dumps([place, checks.n_bytes, checks.sha256]).encode()).hexdigest()[:16]


def name_of(place: str) -> str:
    """A name for messages, without the passwords and tokens that an address can hold. A path is its own name."""
    if not is_address(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return place
    if parts.hostname in (DRIVE, "docs.google.com"):
        return DRIVE_NAME
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_address(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def drive_address(drive_id: str) -> str:
    return f"https://{DRIVE}/uc?id={drive_id}"


def http_reader(
    address: str,
    policy: RetryPolicy,
    headers: Mapping[str, str] | None = None,
    refusal: Refusal | None = None,
    name: str = "",
) -> Read:
    """Read the file at an address. `headers` (a token, say) are not sent on to other hosts.

    `name` says what the file is, where the address does not.
    """
    is_gzip = (name or urlsplit(address).path).lower().endswith((".gz", ".tgz"))

    def read(start: int, stop: int | None, validator: str | None) -> Reading:
        wanted = {"User-Agent": USER_AGENT, **(headers or {}), "Accept-Encoding": "identity"}
        if start or stop is not None:
            wanted["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if validator is not None:
                wanted["If-Range"] = validator
        with ExitStack() as stack, explained():
            response = _response(address, wanted, policy, stack)
            status = response.status_code
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                raise RestartError("the file is now shorter than what has arrived")
            if status >= 400:
                raise (refusal or fault_of_status)(status, response.headers)
            reading = _reading(response, start, stop, policy, is_gzip)
            if _drive_id(address):
                # Google Drive serves each download from a new address, so its validators mean little.
                reading = replace(reading, version=reading.version._replace(validator=None))
            return replace(reading, close=stack.pop_all().close)

    return read


def _response(address: str, headers: dict[str, str], policy: RetryPolicy, stack: ExitStack) -> "requests.Response":
    """The response that has the file; Google Drive's confirmation pages in front of it are passed."""
    import requests

    session = stack.enter_context(requests.Session())
    drive_id = _drive_id(address)
    here = drive_address(drive_id) if drive_id else address
    for _ in range(DRIVE_PAGES):
        timeout = (policy.connect_timeout, policy.read_timeout)
        response = session.get(here, stream=True, timeout=timeout, headers=headers)
        stack.callback(response.close)
        hops = [answer.url for answer in (*response.history, response)]
        if address.lower().startswith("https:") and not all(hop.startswith("https:") for hop in hops):
            raise PermanentError("it redirects from https to http, where anyone on the network could change the file")
        if not drive_id or response.status_code >= 400 or "Content-Disposition" in response.headers:
            return response
        page = response.raw.read(PAGE_BYTES, decode_content=True)
        here = _behind_page(page)
    raise PermanentError(fault_of_page(page) or "Google Drive sends one page after another instead of the file")


def _drive_id(address: str) -> str | None:
    """The file's id in an address or share link of Google Drive; None for addresses of other hosts."""
    if name_of(address) != DRIVE_NAME:
        return None
    from gdown.parse_url import parse_url

    found: str | None = parse_url(address)[0]
    return found


def _behind_page(page: bytes) -> str:
    """The address that a page of Google Drive leads to; PermanentError for its quota page and the like."""
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import FileURLRetrievalError

    try:
        return str(get_url_from_gdrive_confirmation(page.decode("utf-8", "replace")))
    except FileURLRetrievalError as error:
        reason = fault_of_page(page) or meaning_of(str(error)) or f"Google Drive gives no file: {plain(error)}"
        raise PermanentError(reason) from None


def _reading(
    response: "requests.Response", start: int, stop: int | None, policy: RetryPolicy, is_gzip: bool
) -> Reading:
    """What the headers of a response say. `is_gzip` says that the file is itself compressed with gzip."""
    headers = response.headers
    encoded = "Content-Encoding" in headers
    as_published = is_gzip and headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip")
    place, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
    if partial and (encoded or place.partition("-")[0] != str(start)):
        raise RestartError("it does not continue where the transfer stopped")
    size = total if partial else headers.get("Content-Length", "")
    begins = start if partial else 0
    wanted = None if stop is None else stop - begins
    etag = headers.get("ETag", "W/")
    version = Version(
        int(size) if size.isdecimal() and not encoded else None,
        # RFC 9110 §8.8: a strong ETag, else Last-Modified. If it differs, the file has changed.
        headers.get("Last-Modified") if etag.startswith("W/") else etag,
    )
    ranges = not encoded and headers.get("Accept-Ranges", "").lower() == "bytes"
    if as_published:
        pieces = _published(_pieces(response, None, policy, decode=False), wanted)
    else:
        pieces = _pieces(response, wanted, policy)
    return Reading(begins, version, pieces, ranges)


def _published(body: Iterator[bytes], n_bytes: int | None) -> Iterator[bytes]:
    """The first `n_bytes` (None: all) of a .gz file that came with `Content-Encoding: gzip`.

    Most servers mean the file's own compression, so the body is the file. Some compress the file once more.
    """
    head = b""
    while len(head) < GZIP_HEAD_BYTES and (piece := next(body, b"")):
        head += piece
    file: Iterator[bytes] = chain([head], body)
    with suppress(zlib.error):
        if zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, len(GZIP_MARK)) == GZIP_MARK:
            file = _unzipped(file)
    for piece in file:
        yield piece if n_bytes is None else piece[:n_bytes]
        if n_bytes is not None and (n_bytes := n_bytes - len(piece)) <= 0:
            return


def _unzipped(packed: Iterator[bytes]) -> Iterator[bytes]:
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for piece in packed:
            while piece and not unzip.eof:
                yield unzip.decompress(piece, READ_BYTES)
                piece = unzip.unconsumed_tail
    except zlib.error:
        raise PermanentError("it sent a compressed body that cannot be decompressed") from None
    if not unzip.eof:
        raise TransientError("it did not send all that it had announced")


def _pieces(
    response: "requests.Response", n_bytes: int | None, policy: RetryPolicy, decode: bool = True
) -> Iterator[bytes]:
    """The body up to so many bytes (None: all of it). TransientError if it comes too slowly."""
    left = READ_BYTES if n_bytes is None else n_bytes
    since, arrived = time.monotonic(), 0
    while left > 0:
        with explained():
            piece = response.raw.read1(min(READ_BYTES, left), decode_content=decode)
        if not piece:
            return
        yield piece
        left -= 0 if n_bytes is None else len(piece)
        arrived += len(piece)
        if arrived >= STALL_BYTES:
            since, arrived = time.monotonic(), 0
        elif left > 0 and time.monotonic() - since > policy.stall_timeout:
            raise TransientError(f"it sent less than {format_bytes(STALL_BYTES, 0)} in {policy.stall_timeout:g} s")


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of requests and urllib3 into PermanentError and TransientError. The disk's OSError passes."""
    import requests
    import urllib3

    try:
        yield
    except requests.TooManyRedirects:
        raise PermanentError("it redirects in a circle") from None
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, requests.exceptions.MissingSchema):
        raise PermanentError("its address, or one it redirects to, is malformed or not http(s)") from None
    except requests.exceptions.SSLError as error:
        reason = f"its TLS certificate or connection cannot be trusted ({plain(_root(error))})"
        raise PermanentError(reason) from None
    except (requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError):
        raise PermanentError("it sent a compressed body that cannot be decompressed") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise TransientError(fault_of_connection(error)) from None
    except (ValueError, LookupError) as error:
        raise PermanentError(f"its answer cannot be understood ({plain(error)})") from None


def fault_of_status(status: int, headers: Mapping[str, str]) -> PermanentError | TransientError:
    """What an HTTP status of 400 or more means."""
    phrase = next((known.phrase for known in HTTPStatus if known == status), "")
    reason = f"{_STATUSES.get(status, 'it fails')} (HTTP status {status} {phrase}".rstrip() + ")"
    if status not in _TRANSIENT_STATUSES:
        return PermanentError(reason)
    return TransientError(reason, _seconds(headers.get("Retry-After", "")))


def _seconds(retry_after: str) -> float | None:
    """From now; the header holds a number of seconds or an HTTP date (RFC 9110 §10.2.3)."""
    if retry_after.isdecimal():
        return float(retry_after)
    with suppress(ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


def fault_of_connection(error: BaseException) -> str:
    root = _root(error)
    if isinstance(root, http.client.IncompleteRead):
        return "it did not send all that it had announced"
    if isinstance(root, socket.gaierror):
        return "its name cannot be found (is there a network?)"
    if isinstance(root, ConnectionRefusedError):
        return "it refuses the connection"
    if isinstance(root, TimeoutError) or "timed out" in str(error).lower():
        return "it does not answer in time"
    if isinstance(root, ssl.SSLError | ConnectionError):
        return "the connection broke"
    return f"the connection failed ({type(root).__name__})"


def _root(error: BaseException) -> BaseException:
    """The first error of the chain: requests and urllib3 wrap each other's."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
