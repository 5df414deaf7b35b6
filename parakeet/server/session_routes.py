"""Conversations on disk, for the page."""

from starlette.routing import Route

ROUTES: list[Route] = []
