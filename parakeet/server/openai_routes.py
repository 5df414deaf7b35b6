"""The routes that OpenAI's clients know."""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parakeet.chat.storage import session_header
from parakeet.server.bodies import check_model
from parakeet.server.chat_completions import chat_completions
from parakeet.server.completions import completions
from parakeet.server.errors import ApiError
from parakeet.server.served import Served
from parakeet.server.trace_route import trace

RECORDED = ("tokenizer_sha256", "dtype", "cache_dtype", "device", "threads", "kernels", "kernel_sums")
"""What sessions record of an engine, for `parakeet chat --server`."""


class RequestHeaders:
    """An id for each answer, and the milliseconds until it began, as OpenAI's clients log them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - began)))
            await send(message)

        await self.app(scope, receive, with_headers)


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_about(request.app.state.served)]})


async def model(request: Request) -> Response:
    served: Served = request.app.state.served
    check_model(request.path_params["name"], served.name)
    return JSONResponse(_about(served))


def _about(served: Served) -> dict[str, Any]:
    engine = served.worker.engine
    header = session_header(engine, served.name, served.release.weights_sha256)
    own = {
        "context": engine.context,
        "parameters": engine.parameter_count,
        "weights_sha256": served.release.weights_sha256,
        "generation": asdict(served.release.generation),
        **{name: header[name] for name in RECORDED},
    }
    about = {"id": served.name, "object": "model", "created": served.created, "owned_by": "parakeet"}
    return {**about, "parakeet": own}


async def elsewhere(request: Request) -> Response:
    """Any other path or method. Raises ApiError."""
    path = f"/v1/{request.path_params['path']}"
    allowed = _METHODS.get(path) or (_METHODS[f"{MODELS}/ID"] if path.startswith(f"{MODELS}/") else None)
    if allowed:
        message = f"{path[:100]} takes {allowed}, not {request.method}."
        raise ApiError(405, message, code="method_not_allowed", headers={"allow": allowed})
    raise ApiError(404, f"This server has no {path[:100]}. It has: {', '.join(_METHODS)}.", code="unknown_url")


class _Everything(Route):
    """A route of all methods, also those that Starlette does not know."""

    def __init__(self) -> None:
        super().__init__("/v1/{path:path}", elsewhere, middleware=[Middleware(RequestHeaders)])
        self.methods = set()


def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str) -> Route:
    return Route(path, endpoint, methods=[method], middleware=[Middleware(RequestHeaders)])


MODELS = "/v1/models"
_HERE = [
    _route(MODELS, models, "GET"),
    _route(f"{MODELS}/{{name:path}}", model, "GET"),
    _route("/v1/chat/completions", chat_completions, "POST"),
    _route("/v1/completions", completions, "POST"),
    _route("/v1/trace", trace, "POST"),
]
_METHODS = {
    route.path.replace("{name:path}", "ID"): ", ".join(sorted(route.methods)) for route in _HERE if route.methods
}
ROUTES: list[Route] = [*_HERE, _Everything()]
