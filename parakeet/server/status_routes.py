"""What watches over a server asks for."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def health(request: Request) -> Response:
    if request.app.state.served is None:
        return JSONResponse({"status": "loading"}, 503, {"retry-after": "1"})
    return JSONResponse({"status": "ok"})


ROUTES = [Route("/health", health)]
