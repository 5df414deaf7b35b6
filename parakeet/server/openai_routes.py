"""The routes that OpenAI's clients know."""

from starlette.routing import Route

ROUTES: list[Route] = []
