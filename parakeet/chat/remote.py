"""The engine of a chat whose model is in a running `parakeet serve`. Imports no torch."""

import http.client
import json
import math
import os
import queue
import shutil
import socket
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import platformdirs

from parakeet.api_key import read_key
from parakeet.chat.models import OpenedModel, recorded_release
from parakeet.errors import ParakeetError, os_reason
from parakeet.generation.steps import NextToken, Step, Timing
from parakeet.release.verify import Release
from parakeet.sampling_settings import SamplingSettings
from parakeet.tokenizer import SETTINGS_FILE, VOCABULARY_FILE, Tokenizer

if TYPE_CHECKING:
    from parakeet.generation.engine import Engine

CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.1
"""Between two looks whether Ctrl-C was pressed while nothing comes."""
LARGEST_ANSWER = 64 << 20


@dataclass(frozen=True)
class Server:
    """Where a `parakeet serve` listens."""

    scheme: str
    host: str
    port: int
    key: str | None = None

    @classmethod
    def parse(cls, url: str, key_file: Path | None = None) -> "Server":
        """Of `http://HOST:PORT`, or HOST:PORT. Raises ParakeetError if that is no address, or the key cannot be read.

        A path such as `/v1`, with which OpenAI's clients write it, is left out.
        """
        wrong = ParakeetError(f"{url!r} is no address of a server: write it like http://127.0.0.1:8000.")
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise wrong
        return cls(parts.scheme, parts.hostname, port, None if key_file is None else read_key(key_file))

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path. Raises ParakeetError if the server does not answer with one."""
        connection = self.connect()
        try:
            return self._object(connection.ask("GET", path).read(LARGEST_ANSWER))
        except (OSError, http.client.HTTPException):
            raise self._gone() from None
        finally:
            connection.close()

    def connect(self) -> "Connection":
        """Raises ParakeetError if nobody is there."""
        kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise self._unreachable(error) from None
        connection.sock.settimeout(None)  # a long prompt takes long
        return Connection(self, connection, connection.sock)

    def _unreachable(self, error: Exception) -> ParakeetError:
        why = os_reason(error) if isinstance(error, OSError) else "it does not speak HTTP"
        return ParakeetError(f"There is no server at {self.url} ({why}). Start one with: parakeet serve")

    def _gone(self) -> ParakeetError:
        return ParakeetError(f"The server at {self.url} ended in the middle of its answer.")

    def _refused(self, status: int, body: bytes) -> ParakeetError:
        if status == 401:
            given = "Another API key is needed" if self.key else "An API key is needed"
            return ParakeetError(f"{given} by the server at {self.url}: give its file with --api-key-file.")
        try:
            said = str(json.loads(body)["error"]["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ParakeetError(f"{self.url} answered with status {status}: it is no `parakeet serve`.")
        return ParakeetError(f"The server at {self.url} answered: {said}")

    def _object(self, body: bytes) -> dict[str, Any]:
        with suppress(ValueError, RecursionError):
            if isinstance(found := json.loads(body), dict):
                return found
        raise ParakeetError(f"{self.url} is no `parakeet serve`: it answered with something else than JSON.")

    def events(self, body: Mapping[str, Any]) -> "Events":
        """The events of a streamed completion."""
        return Events(self, self.connect(), {**body, "stream": True})


@dataclass(frozen=True)
class Connection:
    """For one request."""

    server: Server
    connection: http.client.HTTPConnection
    opened: socket.socket
    """The connection forgets it once it has the answer's head."""

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> http.client.HTTPResponse:
        """An answer that is not read yet. Raises ParakeetError for one with an error."""
        key = self.server.key
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        try:
            self.connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = self.connection.getresponse()
            if response.status != 200:
                raise self.server._refused(response.status, response.read(LARGEST_ANSWER))
        except (OSError, http.client.HTTPException) as error:
            raise self.server._unreachable(error) from None
        return response

    def give_up(self) -> None:
        """End what another thread reads from it."""
        with suppress(OSError):
            self.opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.close()
        self.opened.close()


class Events:
    """The events of an answer, read in a thread of their own: a read that waits could not be stopped by Ctrl-C."""

    def __init__(self, server: Server, connection: Connection, body: Mapping[str, Any]) -> None:
        self._server, self._connection = server, connection
        self._found: queue.SimpleQueue[dict[str, Any] | ParakeetError] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=[body], name="server", daemon=True).start()

    def next(self) -> dict[str, Any] | None:
        """The next event; None if nothing came for a moment. Raises ParakeetError if there is none after the last."""
        try:
            found = self._found.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None
        if isinstance(found, ParakeetError):
            raise found
        return found

    def close(self) -> None:
        """Give the answer up: the server stops generating it."""
        self._connection.give_up()

    def _read(self, body: Mapping[str, Any]) -> None:
        end = self._server._gone()
        try:
            for line in self._connection.ask("POST", "/v1/completions", body):
                if line.startswith(b"data: {"):
                    self._found.put(json.loads(line[6:]))
        except ParakeetError as error:
            end = error
        except (OSError, ValueError, RecursionError, http.client.HTTPException):
            pass  # it is gone
        self._found.put(end)
        self._connection.close()


class RemoteEngine:
    """What a chat uses of `Engine`, by requests to a server."""

    choice = None
    """The server chose, and told its own terminal."""

    def __init__(self, server: Server, about: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        """`about` is what the server tells of the model at /v1/models."""
        own = about["parakeet"]
        self.server, self.url, self.tokenizer = server, server.url, tokenizer
        self.name = str(about["id"])
        self.weights_sha256 = str(own["weights_sha256"])
        self.context = int(own["context"])
        self.parameter_count = int(own["parameters"])
        self.dtype = str(own["dtype"])
        self.device = str(own["device"])
        self.kernels = bool(own["kernels"])
        self.kernel_sums = own["kernel_sums"]
        self.cache_dtype = str(own["cache_dtype"])
        self.threads = int(own["threads"])
        self.longest_token = max(tokenizer.lengths().values())
        self.timing = Timing()

    def generate(self, prompt_ids: Sequence[int], settings: SamplingSettings) -> Iterator[Step]:
        """As `Engine.generate`. Closing the iterator stops the reply on the server.

        Raises ParakeetError if the server is gone, refuses, or serves another model by now.
        """
        self.timing = timing = Timing(prompt_tokens=len(prompt_ids))
        # With log-probabilities, each event has its tokens, which are counted.
        asked = {**asdict(settings), "prompt": list(prompt_ids), "logprobs": 0, "model": self.name}
        events = self.server.events(asked)
        try:
            while True:
                event = events.next()
                if event is None:
                    yield Step(None, "", None)
                    continue
                choice = self._choice(event)
                tokens = [self._id(name) for name in (choice["logprobs"] or {"tokens": ()})["tokens"]]
                timing.reply_tokens += len(tokens)
                own = choice.get("parakeet")
                if own is not None:
                    known = {field.name for field in fields(Timing)}
                    self.timing = replace(timing, **{name: own["timing"][name] for name in known & {*own["timing"]}})
                for token_id in tokens[:-1]:
                    yield Step(token_id, "", None)
                finish_reason = str(own["finish_reason"]) if own is not None else None
                yield Step(tokens[-1] if tokens else None, str(choice["text"]), finish_reason)
                if own is not None:
                    return
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise self._another_version(error) from None
        finally:
            events.close()

    def likeliest(self, prompt_ids: Sequence[int], settings: SamplingSettings, number: int) -> list[NextToken]:
        """As `Engine.likeliest`, but what is drawn is not known: only the likeliest tokens come from the server."""
        asked = {"prompt": list(prompt_ids), "max_tokens": 1, "logprobs": number, "temperature": 0, "model": self.name}
        events = self.server.events(asked)
        try:
            while True:
                event = events.next()
                if event is not None and (found := self._choice(event)["logprobs"]) is not None:
                    break
            # The token that was drawn is among them, even if others are likelier.
            named = sorted(found["top_logprobs"][0].items(), key=lambda pair: -pair[1])[:number]
            return [NextToken(self._id(name), math.exp(value), None) for name, value in named]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise self._another_version(error) from None
        finally:
            events.close()

    def _id(self, name: str) -> int:
        """The token that completions show by this name: see `CompletionLogProbabilities`."""
        controls = self.tokenizer.controls
        if name in controls:
            return controls[name]
        coded = name.removeprefix("bytes:\\x")
        data = name.encode() if coded == name else bytes.fromhex(coded.replace("\\x", ""))
        try:
            return self.tokenizer.encoding.encode_single_token(data)
        except KeyError:
            return int(name[1:-1])  # <123>: an id without a token

    def _choice(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        if "error" in event:
            raise ParakeetError(f"The server at {self.server.url} stopped: {event['error']['message']}")
        if self.weights_sha256[:12] not in str(event["system_fingerprint"]):
            raise ParakeetError(
                f"The server at {self.server.url} serves another model by now: enter /model {event['model']} to go on "
                "with it."
            )
        found: Mapping[str, Any] = event["choices"][0]
        return found

    def _another_version(self, error: Exception) -> ParakeetError:
        return ParakeetError(f"{self.server.url} is another version of `parakeet serve`: it lacks {error}.")


def open_remote(server: Server, root: Path, name: str = "") -> OpenedModel:
    """The model of a server, which may be asked for by its name.

    Raises ParakeetError if there is no server, it is no `parakeet serve`, or serves no model of this name.
    """
    listed = server.get("/v1/models")
    try:
        about = listed["data"][0]
        if name not in ("", about["id"]):
            raise ParakeetError(f"The server at {server.url} has one model: {about['id']}.")
        own = about["parakeet"]
        tokenizer = _tokenizer(server, str(own["tokenizer_sha256"]))
        engine = RemoteEngine(server, about, tokenizer)
        generation = {**own["generation"], "stop": tuple(own["generation"]["stop"])}
        # The folder of the model, where it is on this machine too, is what /trace needs.
        folder = recorded_release(root, engine.weights_sha256) or root / "releases" / "elsewhere"
        release = Release(folder, engine.name, SamplingSettings(**generation), engine.weights_sha256)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ParakeetError(f"{server.url} is no `parakeet serve` of this version: it lacks {error}.") from None
    return OpenedModel(release, cast("Engine", engine))


def _tokenizer(server: Server, sha256: str) -> Tokenizer:
    """The tokenizer with this hash: of an earlier chat, or from the server."""
    if not (len(sha256) == 64 and sha256.isalnum()):
        raise ValueError("the hash of its tokenizer")
    kept = Path(platformdirs.user_cache_dir("parakeet")) / "tokenizers" / sha256
    with suppress(ParakeetError, OSError):
        if (found := Tokenizer.load(kept)).sha256 == sha256:
            return found
    sent = server.get("/v1/tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        settings = {name: sent[name] for name in ("name", "pattern", "controls", "vocabulary_sha256")}
        (Path(folder) / SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
        (Path(folder) / VOCABULARY_FILE).write_text(str(sent["vocabulary"]), encoding="ascii")
        found = Tokenizer.load(Path(folder))
    if found.sha256 != sha256:
        raise ParakeetError(f"The server at {server.url} has just taken up another model: try again.")
    with suppress(OSError):
        _keep(found, kept)
    return found


def _keep(tokenizer: Tokenizer, folder: Path) -> None:
    """Save for later chats, all at once: another one may be reading there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        tokenizer.save(new)
        os.rename(new, folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
