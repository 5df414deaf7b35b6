"""The server as an ASGI application."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from parakeet.errors import ParakeetError
from parakeet.server.errors import ApiError, answer
from parakeet.server.guards import Access, Guard, Traffic
from parakeet.server.limits import Limits
from parakeet.server.metrics import Metrics
from parakeet.server.openai_routes import ROUTES as OPENAI_ROUTES
from parakeet.server.page_routes import ROUTES as PAGE_ROUTES
from parakeet.server.served import Served
from parakeet.server.session_routes import ROUTES as SESSION_ROUTES
from parakeet.server.status_routes import ROUTES as STATUS_ROUTES

ANYONE = Access()
ORDINARY = Limits()


def make_app(served: Served | None, access: Access = ANYONE, limits: Limits = ORDINARY) -> Starlette:
    """`app.state.served` is the present model: a route reads it once for each request. None while it is loaded."""
    traffic, metrics = Traffic(), Metrics()
    public = [*PAGE_ROUTES, *(route for route in STATUS_ROUTES if route.path == "/health")]
    app = Starlette(
        routes=[*STATUS_ROUTES, *OPENAI_ROUTES, *SESSION_ROUTES, *PAGE_ROUTES],
        exception_handlers=dict.fromkeys((ApiError, ParakeetError, HTTPException), answer),
        middleware=[Middleware(Guard, access, limits, traffic, metrics, public)],
    )
    app.state.served, app.state.traffic, app.state.metrics = served, traffic, metrics
    return app
