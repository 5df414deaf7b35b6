"""Everything that goes wrong, in the form that OpenAI's clients read."""

import re
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.server.worker import Busy

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_FOLDERS = re.compile(r"""(?<![^\s'"(\[=])/(?:[^\s/'"]+/)+(?=[^\s/])""")
"""All of an absolute path before its last part."""


class ApiError(Exception):
    """An answer other than 200. `param` is the field that is wrong, `code` a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """Any exception as an answer. One that is not expected tells nothing about this machine."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(429, str(error), code="queue_full", headers={"retry-after": str(max(1, round(error.seconds)))})
    if isinstance(error, ParakeetError):
        return ApiError(400, without_paths(str(error)))
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    return ApiError(500, "The server failed. Its terminal says more.")


def without_paths(text: str) -> str:
    """A message that names no folder of this machine: of each absolute path, only the last part is left."""
    # These may have spaces in their names, at which the pattern would end.
    for folder in sorted({str(home()), str(Path.home())}, key=len, reverse=True):
        if folder != "/":
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", "/…", text)
    return _FOLDERS.sub("", text)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler of exceptions."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        return _nothing_there(request, error).response()
    return as_api_error(error).response()


def _nothing_there(request: Request, error: HTTPException) -> ApiError:
    path = request.url.path[:100]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{path} takes {allowed}, not {request.method}."
        return ApiError(405, message, code="method_not_allowed", headers={"allow": allowed})
    return ApiError(404, f"This server has no {path}.", code="unknown_url")
