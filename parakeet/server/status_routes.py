"""What watches over a server asks for, and the tokenizer for `parakeet chat --server`."""

import hashlib

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from parakeet.server.metrics import CONTENT_TYPE


async def health(request: Request) -> Response:
    """Whether a model is there to reply."""
    if request.app.state.served is None:
        return JSONResponse({"status": "loading"}, 503, {"retry-after": "2"})
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """The figures that Prometheus reads."""
    served = request.app.state.served
    shown = (None, None) if served is None else (served.name, served.worker)
    page = request.app.state.metrics.render(*shown, len(request.app.state.traffic.running))
    return Response(page, headers={"content-type": CONTENT_TYPE})


async def tokenizer(request: Request) -> Response:
    """The tokenizer of the present model, whole: the client encodes its prompts itself."""
    found = request.app.state.served.worker.engine.tokenizer
    return JSONResponse(
        {
            "name": found.name,
            "pattern": found.pattern,
            "controls": found.controls,
            "vocabulary_sha256": hashlib.sha256(found.vocabulary).hexdigest(),
            "vocabulary": found.vocabulary.decode("ascii"),
            "sha256": found.sha256,
        }
    )


ROUTES = [Route("/health", health), Route("/metrics", metrics), Route("/v1/tokenizer", tokenizer)]
