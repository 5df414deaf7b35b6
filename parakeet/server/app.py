"""The server as an ASGI application."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from parakeet.errors import ParakeetError
from parakeet.server.errors import ApiError, answer
from parakeet.server.openai_routes import ROUTES as OPENAI_ROUTES
from parakeet.server.page_routes import ROUTES as PAGE_ROUTES
from parakeet.server.served import Served
from parakeet.server.session_routes import ROUTES as SESSION_ROUTES
from parakeet.server.status_routes import ROUTES as STATUS_ROUTES


def make_app(served: Served | None) -> Starlette:
    """`app.state.served` is the present model: a route reads it once for each request. None while it is loaded."""
    app = Starlette(
        routes=[*STATUS_ROUTES, *OPENAI_ROUTES, *SESSION_ROUTES, *PAGE_ROUTES],
        exception_handlers=dict.fromkeys((ApiError, ParakeetError, HTTPException, Exception), answer),
    )
    app.state.served = served
    return app
