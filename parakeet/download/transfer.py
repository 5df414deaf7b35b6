"""One request at a time through gdown, for HTTP and Google Drive alike, with every failure in plain words.

What gdown 6.5 leaves to its caller: it has no timeout of its own, follows a trickle for ever, continues a partial
file of whatever origin, and checks no more than the length.
"""

import email.utils
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from parakeet.download.pages import meaning_of
from parakeet.sanitise import sanitise

T = TypeVar("T")

DRIVE = "drive.google.com"
_DRIVE_HOSTS = (DRIVE, "docs.google.com")
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Statuses after which the same request may succeed a little later."""
_STATUSES = {
    401: "it wants a password, and ~/.netrc has none that it takes",
    403: "it refuses access",
    404: "it has no such file",
    410: "it does not have this file any more",
    429: "it was asked too often",
}


@dataclass(frozen=True)
class Patience:
    """How long a source may take, in seconds, and how often it is asked again without any progress."""

    connect: float = 15.0
    silence: float = 60.0
    """Longest wait for any byte."""
    chunk: float = 180.0
    """Longest wait for gdown's next 512 KiB: a server that trickles is never silent, and never done."""
    tries: int = 4
    backoff: float = 1.0
    """Least wait after the first failure; it doubles with each one more."""
    longest_wait: float = 60.0
    """Most that is waited at a time, and that a server's Retry-After is followed."""


PATIENCE = Patience()


class Unfit(Exception):
    """This source does not have the file; asking it again would not help."""


class Broken(Exception):
    """The transfer failed in a way that may pass. `wait` is the server's own word on when, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Attempts:
    """Waits after each failure, until there were too many in a row that brought nothing new: a connection that drops
    now and then is no reason to give up. `begun` is what an earlier call left, in bytes."""

    def __init__(self, patience: Patience, say: Callable[[str], None], begun: int = 0) -> None:
        self._patience = patience
        self._say = say
        self._longest = begun
        self._failures = 0

    def failed(self, error: Broken, position: int = 0) -> None:
        """Wait, or raise Broken where it is hopeless. `position` is how far this attempt came, in bytes."""
        self._failures = 1 if position > self._longest else self._failures + 1
        self._longest = max(position, self._longest)
        if self._failures >= self._patience.tries:
            raise Broken(f"{error} (asked {self._failures} times)") from None
        # At least the doubling one: a server that always says "in a second" would be given up after ten.
        wait = max(error.wait or 0.0, self._patience.backoff * 2 ** (self._failures - 1))
        wait = min(wait, self._patience.longest_wait)
        self._say(f"{error}. Trying again in {wait:.0f} s")
        time.sleep(wait)


def persistently(ask: Callable[[], T], patience: Patience, say: Callable[[str], None]) -> T:
    """What `ask` returns, asked again where it raises Broken."""
    attempts = Attempts(patience, say)
    while True:
        try:
            return ask()
        except Broken as error:
            attempts.failed(error)


@dataclass(frozen=True)
class Offer:
    """What a source would send now: the file's first bytes (up to 512 KiB), and its size where that is announced."""

    head: bytes
    total: int | None


def drive_address(drive_id: str) -> str:
    return f"https://{DRIVE}/uc?id={drive_id}"


def is_drive(address: str) -> bool:
    return urlsplit(address).hostname in _DRIVE_HOSTS


def look(address: str, patience: Patience) -> Offer:
    """Ask for the file and hang up after its first bytes. Raises Unfit or Broken."""
    head = io.BytesIO()
    announced: int | None = None

    def enough(done: int, total: int | None) -> None:
        nonlocal announced
        announced = total
        raise _Enough

    with explained(patience), _watched(patience, enough) as (cancel, seen), suppress(_Enough):
        _gdown(address, head, seen, cancel, patience)
    return Offer(head.getvalue(), announced)


def validator_of(address: str, patience: Patience) -> str | None:
    """A strong ETag, else Last-Modified (RFC 9110 §8.8): where it differs, the file is another one. Google Drive has
    none. gdown shows no headers, hence a request of our own. Raises Unfit or Broken."""
    import requests

    if is_drive(address):
        return None
    headers = {"Accept-Encoding": "identity"}
    timeout = (patience.connect, patience.silence)
    with explained(patience), requests.get(address, stream=True, timeout=timeout, headers=headers) as response:
        response.raise_for_status()
        refuse_downgrade(address, [hop.url for hop in (*response.history, response)])
        return validator_in(response.headers)


def validator_in(headers: Mapping[str, str]) -> str | None:
    tag = headers.get("ETag", "W/")
    return headers.get("Last-Modified") if tag.startswith("W/") else tag


def refuse_downgrade(address: str, hops: list[str]) -> None:
    """Raise Unfit where a redirect, whose addresses are `hops`, left https."""
    if address.lower().startswith("https:") and not all(hop.startswith("https:") for hop in hops):
        raise Unfit("it redirects from https to http, where anybody on the way could change the file")


def transfer(address: str, output: Path, seen: Callable[[int, int | None], None], patience: Patience) -> None:
    """Write the file to `output`, going on with gdown's `.part` beside it if there is one.

    `seen(bytes so far, total or None)` is called about every 512 KiB; what it raises ends the transfer and keeps the
    part. Raises Unfit or Broken; OSError for the disk's own faults.
    """
    with explained(patience), _watched(patience, seen) as (cancel, watched):
        _gdown(address, str(output), watched, cancel, patience)


class _Enough(Exception):
    pass


def _gdown(
    address: str,
    output: str | io.BytesIO,
    progress: Callable[[int, int | None], None],
    cancel: threading.Event,
    patience: Patience,
) -> None:
    import gdown

    gdown.download(
        url=address,
        output=output,
        quiet=True,
        use_cookies=False,  # they would be kept in the user's home
        resume=True,  # also asks for identity encoding, without which offsets would mean nothing
        progress=progress,
        timeout=(patience.connect, patience.silence),
        cancel=cancel,
    )


@contextmanager
def _watched(
    patience: Patience, seen: Callable[[int, int | None], None]
) -> Iterator[tuple[threading.Event, Callable[[int, int | None], None]]]:
    """An event that is set when `seen`, wrapped, was not called for `patience.chunk` seconds."""
    cancel, over = threading.Event(), threading.Event()
    latest = time.monotonic()

    def watched(done: int, total: int | None) -> None:
        nonlocal latest
        latest = time.monotonic()
        seen(done, total)

    def watch() -> None:
        while not over.wait(min(1.0, patience.chunk / 4)):
            if time.monotonic() - latest > patience.chunk:
                cancel.set()
                return

    thread = threading.Thread(target=watch, name="parakeet-download-watch", daemon=True)
    thread.start()
    try:
        yield cancel, watched
    finally:
        over.set()
        thread.join()


@contextmanager
def explained(patience: Patience) -> Iterator[None]:
    """Turn what gdown, requests and urllib3 raise into Unfit and Broken; the disk's OSError passes."""
    import requests
    import urllib3
    from gdown.exceptions import DownloadCancelled, DownloadError, FileURLRetrievalError

    try:
        yield
    except DownloadCancelled:
        raise Broken(f"it sent less than 512 KiB in {patience.chunk:.0f} s") from None
    except FileURLRetrievalError as error:
        raise Unfit(meaning_of(str(error)) or f"Google Drive gives no file: {plain(error)}") from None
    except DownloadError:
        raise Broken("it did not send all that it had announced") from None
    except requests.HTTPError as error:
        response = error.response
        assert isinstance(response, requests.Response)
        raise fault_of_status(response.status_code, response.headers, patience) from None
    except requests.TooManyRedirects:
        raise Unfit("it redirects in a circle") from None
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, requests.exceptions.MissingSchema):
        raise Unfit("it redirects to an address that is neither http nor https, or the address is malformed") from None
    except requests.exceptions.SSLError as error:
        raise Unfit(f"its TLS certificate or connection cannot be trusted ({plain(_root(error))})") from None
    except requests.exceptions.ContentDecodingError:
        raise Unfit("it sent a compressed body that cannot be decompressed") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise Broken(fault_of_connection(error)) from None
    except (ValueError, LookupError) as error:
        raise Unfit(f"its answer cannot be understood ({plain(error)})") from None


def fault_of_status(status: int, headers: Mapping[str, str], patience: Patience) -> Unfit | Broken:
    """What an HTTP status that is no success means; Broken where it may pass."""
    phrase = next((known.phrase for known in HTTPStatus if known == status), "")
    reason = f"{_STATUSES.get(status, 'it fails')} (HTTP status {status} {phrase}".rstrip() + ")"
    if status not in _PASSING:
        return Unfit(reason)
    return Broken(reason, _seconds(headers.get("Retry-After", "")))


def _seconds(retry_after: str) -> float | None:
    """From now; the header holds a number of seconds or an HTTP date (RFC 9110 §10.2.3)."""
    if retry_after.isdecimal():
        return float(retry_after)
    with suppress(ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


def fault_of_connection(error: BaseException) -> str:
    root = _root(error)
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
    """The error that began it all: requests and urllib3 wrap each other's."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def plain(words: object) -> str:
    """Another program's words on one line."""
    return " ".join(sanitise(str(words)).split())[:200]
