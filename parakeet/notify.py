"""Notices to a person who is not looking: by the web address or the command that `notify:` of the recipe has.

A notice never stops or delays what it is about: nothing here raises, and all of it ends within `SECONDS`.
"""

import base64
import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from parakeet.sanitise import sanitise

if TYPE_CHECKING:
    from parakeet.recipe import Notify

SECONDS = 5.0
"""A notice that has not arrived by then is given up."""
MOST_CHARACTERS = 4_000
"""Of the text: chat services refuse more, and the environment of a command holds 128 KiB."""
SHORTEST_TOKEN = 8
"""Words of a command that are as long or longer are left out of what it says: they may be secret."""

log = logging.getLogger(__name__)


def tell(settings: "Notify | None", event: str, text: str, facts: Mapping[str, Any]) -> None:
    """Send a notice: `event` is promoted, refused, failed or disk_low, `text` what happened in a sentence or a few.

    `facts` are JSON values; those called `recipe` and `release` are sent beside the text too. Returns within
    `SECONDS`. What cannot be sent is logged as a warning, which Python prints on standard error.
    """
    for fault in send(settings, event, text, facts):
        log.warning("The notice %r did not arrive. %s", event, fault)


def send(settings: "Notify | None", event: str, text: str, facts: Mapping[str, Any]) -> list[str]:
    """The same, and instead of logging it returns why the notice did not arrive: by the address, by the command."""
    if settings is None:
        return []
    senders: list[Callable[[], str | None]] = []
    notice = _notice(event, text, facts)
    url, command = settings.url, settings.command
    if url is not None:
        senders.append(lambda: _post(url, notice))
    if command is not None:
        senders.append(lambda: _run(command, notice))
    faults: list[str | None] = [f"It took longer than {SECONDS:.0f} s: {name}." for name in describe(settings)]
    deadline = time.monotonic() + SECONDS
    threads = [threading.Thread(target=_try, args=(faults, n, sender), daemon=True) for n, sender in enumerate(senders)]
    try:
        # A thread, since the look-up of a name has no time limit, and a server may send a byte a second for ever.
        for thread in threads:
            thread.start()
    except RuntimeError:  # no more threads in this system
        return ["No thread can be started to send it."]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [fault for fault in list(faults) if fault is not None]


def describe(settings: "Notify") -> list[str]:
    """Where notices go, for a person: of an address only the host, of a command nothing. Both often hold a token."""
    addresses = [shown_address(settings.url)] if settings.url is not None else []
    return addresses + (["a command"] if settings.command is not None else [])


def shown_address(url: str) -> str:
    """Scheme and host of an address: user, path and query may be secret."""
    parts = urlsplit(url)
    return sanitise(f"{parts.scheme}://{parts.hostname}" + ("/…" if parts.path.strip("/") or parts.query else ""))


def _notice(event: str, text: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    text = sanitise(text)
    known = _json_values(facts)
    return {
        "event": event,
        "text": text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…",
        "recipe": known.get("recipe"),
        "release": known.get("release"),
        "facts": known,
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _json_values(value: Any) -> Any:
    """The value with what JSON lacks as null or as text."""
    if isinstance(value, Mapping):
        return {str(key): _json_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json_values(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _try(faults: list[str | None], number: int, sender: Callable[[], str | None]) -> None:
    try:
        faults[number] = sender()
    except Exception as error:  # a notice must not end a run; the type alone, since the text may name the address
        faults[number] = f"It failed with {type(error).__name__}."


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would become a GET without the notice, perhaps on another host."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _post(url: str, notice: Mapping[str, Any]) -> str | None:
    """Why the address did not take the notice; None if it did."""
    where = shown_address(url)
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    headers = {"Content-Type": "application/json", "User-Agent": "parakeet"}
    if at:  # urllib would take it for a part of the host's name
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    bare = parts._replace(netloc=host, fragment="").geturl()
    request = Request(bare, data=json.dumps(notice).encode(), headers=headers, method="POST")
    try:
        with build_opener(_NoRedirect).open(request, timeout=SECONDS):
            return None
    except HTTPError as error:
        with error:
            if 300 <= error.code < 400:
                target = shown_address(error.headers.get("Location") or "") if error.headers.get("Location") else ""
                return f"{where} redirects{f' to {target}' if '://' in target else ''}: set notify.url to that address."
            return f"{where} answered {error.code}."
    except TimeoutError:
        return f"{where} did not answer within {SECONDS:.0f} s."
    except ssl.SSLError:
        return f"{where} has no valid certificate."
    except URLError as error:
        reason = error.reason
        if isinstance(reason, ssl.SSLError):
            return f"{where} has no valid certificate."
        return f"{where} cannot be reached ({getattr(reason, 'strerror', None) or type(reason).__name__})."
    except (OSError, HTTPException) as error:
        return f"{where} did not answer as a web server does ({type(error).__name__})."


def _run(command: str, notice: Mapping[str, Any]) -> str | None:
    """Why the command did not take the notice; None if it did.

    The shell gets the command as the recipe has it. The text comes by the environment and standard input alone, so
    nothing in it is ever run.
    """
    text = str(notice["text"])
    environment = os.environ | {
        "PARAKEET_EVENT": str(notice["event"]),
        "PARAKEET_TEXT": text,
        "PARAKEET_RECIPE": str(notice["recipe"] or ""),
        "PARAKEET_RELEASE": str(notice["release"] or ""),
        "PARAKEET_FACTS": json.dumps(notice["facts"])[: 10 * MOST_CHARACTERS],
    }
    # Files, not pipes: a program that the command leaves running in the background would keep a pipe open.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(f"{text}\n".encode())
        given.seek(0)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={name: value.replace("\0", "") for name, value in environment.items()},
            start_new_session=True,  # Ctrl-C is not for it, and what it started can be ended with it
        )
        try:
            status = process.wait(SECONDS - 0.5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"notify.command took longer than {SECONDS:.0f} s and was ended."
        if status == 0:
            return None
        said.seek(0)
        words = " ".join(said.read(2_000).decode("utf-8", "replace").split())
        words = _without_secrets(words, command)[:200]
        return f"notify.command ended with status {status}" + (f": {sanitise(words)}" if words else ".")


def _without_secrets(words: str, command: str) -> str:
    """What a command said, without addresses and without the command itself: programs repeat what they were given."""
    words = re.sub(r"(\w+://)\S+", r"\1…", words)
    for part in sorted(re.findall(rf"[\w.~+-]{{{SHORTEST_TOKEN},}}", command), key=len, reverse=True):
        words = words.replace(part, "…")
    return words
