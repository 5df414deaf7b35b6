"""Conversations on disk, for the page: list, search, rename, import, export, and replies that branch."""

import asyncio
import json
import secrets
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import parakeet
from parakeet.chat.session import SEED_BITS, Pending
from parakeet.chat.storage import SessionExists, SessionOpen, SessionRow, latest_first
from parakeet.errors import ParakeetError
from parakeet.generation.batch import Request as Generation
from parakeet.sampling_settings import OPTIONS, Option, SamplingSettings, with_values
from parakeet.server.errors import ApiError, without_paths
from parakeet.server.event_stream import while_connected
from parakeet.server.open_sessions import OpenSession, OpenSessions
from parakeet.server.served import Served
from parakeet.server.session_list import SessionList
from parakeet.server.session_replies import Reply, ReplyStream, context_object, exchange_object
from parakeet.server.token_chances import token_chances

KINDS = ("reply", "retry", "edit", "continue", "again")
FILE_TYPE = "application/jsonl"

Endpoint = Callable[[Request], Awaitable[Response]]


class Answer(JSONResponse):
    """In ASCII: a name in an imported file may be no text that has a UTF-8 form."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


def _answers(endpoint: Endpoint) -> Endpoint:
    """An endpoint whose errors about names have the right status."""

    @wraps(endpoint)
    async def answering(request: Request) -> Response:
        try:
            return await endpoint(request)
        except SessionOpen as error:
            raise ApiError(409, without_paths(str(error)), code="session_open") from None
        except SessionExists as error:
            raise ApiError(409, without_paths(str(error)), code="session_exists") from None

    return answering


def _served(request: Request) -> Served:
    served: Served = request.app.state.served
    return served


def _open_sessions(request: Request) -> OpenSessions:
    state = request.app.state
    if not hasattr(state, "sessions"):
        state.sessions = OpenSessions(_served(request).root)
    sessions: OpenSessions = state.sessions
    return sessions


async def close_sessions(app: Starlette) -> None:
    """At the server's end: stop all replies, keep what was shown, let go of the files."""
    if hasattr(app.state, "sessions"):
        await app.state.sessions.close()


@_answers
async def about(request: Request) -> Response:
    served = _served(request)
    engine = served.worker.engine
    return Answer(
        {
            "model": served.name,
            "parameters": engine.parameter_count,
            "context": engine.context,
            "dtype": engine.dtype,
            "device": engine.device,
            "version": parakeet.__version__,
            "batch": served.worker.batch,
            "settings": [_setting(name, served.release.generation) for name in OPTIONS],
            "trace": await asyncio.to_thread(_has_trace, request, served),
            "system": "",
        }
    )


@_answers
async def list_sessions(request: Request) -> Response:
    state = request.app.state
    if not hasattr(state, "session_list"):
        state.session_list = SessionList(_served(request).root)
    search = request.query_params.get("search", "")
    unrecorded = _open_sessions(request).unrecorded(search)
    return await _answer(
        lambda: {"sessions": [_row(row) for row in latest_first([*state.session_list.find(search), *unrecorded])]}
    )


@_answers
async def create(request: Request) -> Response:
    body = await _body(request, "name")
    found = await _open_sessions(request).create(_text(body, "name"), _served(request))
    return await _answer(lambda: _session(found), 201)


@_answers
async def read(request: Request) -> Response:
    found = await _open_sessions(request).read(_name(request), _served(request))
    return await _answer(lambda: _session(found))


@_answers
async def change(request: Request) -> Response:
    body = await _body(request, "name", "system", "at")
    if len(body) != 1:
        raise ApiError(400, "Give one of name, system and at.")
    name, system = _text(body, "name"), _text(body, "system")
    if name is None and system is None and "at" not in body:
        raise ApiError(400, "name and system must be text.", next(iter(body)))
    sessions = _open_sessions(request)
    async with sessions.use(_name(request), _served(request)) as found:
        if name is not None:
            await sessions.rename(found, name)
        elif system is not None:
            await asyncio.to_thread(found.session.set_system, system)
        else:
            await asyncio.to_thread(found.session.go_to, _exchange(found, body, "at"))
        found.look()
        return await _answer(lambda: _session(found))


@_answers
async def remove(request: Request) -> Response:
    await _open_sessions(request).remove(_name(request))
    return Response(status_code=204)


@_answers
async def download(request: Request) -> Response:
    name = _name(request)
    content = await _open_sessions(request).content(name, _served(request))
    return Response(content, headers={"content-disposition": f'attachment; filename="{name}.jsonl"'},
                    media_type=FILE_TYPE)  # fmt: skip


@_answers
async def take_in(request: Request) -> Response:
    name = request.query_params.get("name")
    found = await _open_sessions(request).take_in(name, await request.body(), _served(request))
    return await _answer(lambda: _session(found), 201)


@_answers
async def reply(request: Request) -> Response:
    body = await _body(request, "kind", "message", "exchange", "settings")
    kind, message, changes = _text(body, "kind"), _text(body, "message") or "", body.get("settings") or {}
    if kind not in KINDS:
        raise ApiError(400, f"kind must be one of {', '.join(KINDS)}.", "kind")
    if not isinstance(changes, dict):
        raise ApiError(400, "settings must be an object.", "settings")
    served = _served(request)
    async with _open_sessions(request).use(_name(request), served) as found:
        exchange = _exchange(found, body, "exchange") if "exchange" in body else found.session.conversation.at
        if kind != "reply" and exchange is None:
            raise ApiError(400, f"{kind} needs the exchange that it is for.", "exchange")
        repeated = (
            found.session.conversation.nodes[exchange].events[0] if kind == "again" and exchange is not None else None
        )
        pending = await asyncio.to_thread(_begin, found, kind, message, exchange, changes)
        stream = served.worker.submit(Generation(pending.prompt_ids, [pending.settings]))
        return ReplyStream(Reply(found, pending, stream, served.name, repeated))


@_answers
async def tokens(request: Request) -> Response:
    body = await _body(request, "exchange")
    served = _served(request)
    found = await _open_sessions(request).read(_name(request), served)
    exchange = _exchange(found, body, "exchange") if "exchange" in body else None
    if exchange is None:
        raise ApiError(400, "exchange must be the id of an exchange.", "exchange")
    scored = token_chances(found.session.conversation, exchange, served.worker)
    chances = await while_connected(request, scored)
    return await _answer(lambda: {"tokens": chances})


def _begin(found: OpenSession, kind: str, message: str, exchange: int | None, changes: Mapping[str, Any]) -> Pending:
    session = found.session
    if kind != "again":
        session.settings = with_values(session.settings, changes)
        # A fixed seed would give the same reply again.
        seed = secrets.randbits(SEED_BITS) if kind == "retry" else None
        return session.begin(kind, message, exchange, seed, shared=True)
    assert exchange is not None
    recorded = session.conversation.nodes[exchange].events[0]
    present = session.settings
    try:
        session.settings = SamplingSettings(**recorded["settings"])
        return session.begin("retry", "", exchange, recorded["seed"], shared=True)
    except TypeError as error:
        raise ParakeetError(f"Its settings do not fit this version of Parakeet ({error}).") from None
    finally:
        session.settings = present


async def _answer(content: Callable[[], Any], status: int = 200) -> Answer:
    """Made and written in a thread: a long session takes seconds."""
    return await asyncio.to_thread(lambda: Answer(content(), status))


def _session(found: OpenSession) -> dict[str, Any]:
    session = found.session
    settings = {name: getattr(session.settings, name) for name in OPTIONS}
    return {
        "name": found.name,
        "model": found.model,
        "system": session.system,
        "at": session.conversation.at,
        "settings": settings,
        "context": context_object(found),
        "notes": found.notes,
        "replying": found.reply is not None,
        "exchanges": [exchange_object(node) for node in session.conversation.nodes],
    }


def _row(row: SessionRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "exchanges": row.exchanges,
        "when": row.when,
        "model": row.model,
        "first_words": row.first_words,
        "problem": without_paths(row.problem),
    }


def _setting(name: str, defaults: SamplingSettings) -> dict[str, Any]:
    option = OPTIONS[name]
    limits = option.limits or {}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le")
    return {
        "name": name,
        "value": getattr(defaults, name),
        "help": option.help,
        "expected": option.expected,
        **({} if low is None else {"minimum": low}),
        **({} if high is None else {"maximum": high}),
        "kind": _kind(name, option),
    }


def _kind(name: str, option: Option) -> str:
    if name == "seed":
        return "seed"
    if option.repeatable:
        return "texts"
    return {"": "switch", "N": "whole"}.get(option.metavar, "number")


def _has_trace(request: Request, served: Served) -> bool:
    """Whether there is an index of the model's training text. One may be made while it is served."""
    traced: weakref.ref[Served] | None = getattr(request.app.state, "traced", None)
    if traced is not None and traced() is served:
        return True
    from parakeet.trace.stored import index_of_model

    try:
        index_of_model(served.release.directory, served.root, served.worker.engine.tokenizer.sha256)
    except ParakeetError:
        return False
    request.app.state.traced = weakref.ref(served)
    return True


def _name(request: Request) -> str:
    return str(request.path_params["name"])


async def _body(request: Request, *fields: str) -> dict[str, Any]:
    """The JSON object of a request, {} for an empty body."""
    content = await request.body()
    try:
        body = json.loads(content, parse_constant=_no_number) if content.strip() else {}
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    for name in body:
        if name not in fields:
            raise ApiError(400, f"There is no field {name[:60]!r} here: the fields are {', '.join(fields)}.", name[:60])
    return body


def _no_number(text: str) -> None:
    raise ValueError(text)


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{name} must be text.", name)
    return value


def _exchange(found: OpenSession, body: Mapping[str, Any], name: str) -> int | None:
    value = body[name]
    if value is None:
        return None
    if type(value) is not int:
        raise ApiError(400, f"{name} must be the id of an exchange, or null.", name)
    if not 0 <= value < len(found.session.conversation.nodes):
        raise ApiError(404, f"The session has no exchange {value}.", name, "exchange_not_found")
    return value


ROUTES: list[Route] = [
    Route("/api/about", about),
    Route("/api/sessions", list_sessions, methods=["GET"]),
    Route("/api/sessions", create, methods=["POST"]),
    Route("/api/sessions/import", take_in, methods=["POST"]),
    Route("/api/sessions/{name}", read, methods=["GET"]),
    Route("/api/sessions/{name}", change, methods=["PATCH"]),
    Route("/api/sessions/{name}", remove, methods=["DELETE"]),
    Route("/api/sessions/{name}/file", download),
    Route("/api/sessions/{name}/replies", reply, methods=["POST"]),
    Route("/api/sessions/{name}/tokens", tokens, methods=["POST"]),
]
