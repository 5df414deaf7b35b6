"""The routes that OpenAI's clients know."""

import secrets
import time
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parakeet.server.bodies import check_model
from parakeet.server.chat_completions import chat_completions
from parakeet.server.completions import completions
from parakeet.server.errors import ApiError
from parakeet.server.served import Served
from parakeet.server.trace_route import trace


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
    shape = {"context": engine.context, "parameters": engine.parameter_count, "dtype": engine.dtype}
    about = {"id": served.name, "object": "model", "created": served.created, "owned_by": "parakeet"}
    return {**about, "parakeet": shape}


def _methods(*routes: Route) -> dict[str, str]:
    return {route.path: ", ".join(sorted(route.methods or ())) for route in routes}


_HERE = [
    Route("/models", models),
    Route("/models/{name:path}", model),
    Route("/chat/completions", chat_completions, methods=["POST"]),
    Route("/completions", completions, methods=["POST"]),
    Route("/trace", trace, methods=["POST"]),
]


async def elsewhere(request: Request) -> Response:
    """Any other path or method. Raises ApiError."""
    path, here = request.path_params["path"], _methods(*_HERE)
    allowed = here.get(f"/{path}") or (here["/models/{name:path}"] if path.startswith("models/") else None)
    if allowed:
        message = f"/v1/{path} takes {allowed}, not {request.method}."
        raise ApiError(405, message, code="method_not_allowed", headers={"allow": allowed})
    known = ", ".join(f"/v1{each}".replace("{name:path}", "ID") for each in here)
    raise ApiError(404, f"This server has no /v1/{path[:100]}. It has: {known}.", code="unknown_url")


class _Everything(Route):
    """A route of all methods, also those that Starlette does not know."""

    def __init__(self) -> None:
        super().__init__("/{path:path}", elsewhere)
        self.methods = set()


ROUTES: list[BaseRoute] = [Mount("/v1", routes=[*_HERE, _Everything()], middleware=[Middleware(RequestHeaders)])]
