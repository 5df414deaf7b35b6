"""/v1/trace: where the wording of a text stands in the training text."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from parakeet.errors import ParakeetError
from parakeet.server.bodies import TraceBody, checked, read
from parakeet.server.errors import ApiError
from parakeet.server.event_stream import while_connected
from parakeet.server.served import Served

MOST_BYTES = 64 << 10
"""Of a text: a trace takes up to 1,500 bytes of memory for each byte of it."""
MOST_PLACES = 20_000
"""In an answer: they take 10 MB."""

_one_at_a_time = ThreadPoolExecutor(1, "trace")
"""Not asyncio's threads: those that wait would keep all of them from replies and sessions."""


async def trace(request: Request) -> Response:
    served: Served = request.app.state.served
    body = await read(request, lambda values: checked(TraceBody, values, served.name))
    if (n_bytes := len(body.input.encode())) > MOST_BYTES:
        message = f"input has {n_bytes:,} bytes, but at most {MOST_BYTES:,} are traced at once: send it in parts."
        raise ApiError(400, message, "input")
    return await while_connected(
        request, asyncio.get_running_loop().run_in_executor(_one_at_a_time, _trace, served, body)
    )


def _trace(served: Served, body: TraceBody) -> Response:
    from parakeet.trace.page import as_document

    if not body.input.strip():
        raise ApiError(400, "input is empty: there is nothing to trace.", "input")
    n_tokens = len(served.worker.engine.tokenizer.encode(body.input))
    if n_tokens < body.min_tokens:
        message = (
            f"input has {n_tokens:,} tokens, and a span has at least {body.min_tokens:,}: so short a text stands in "
            "any corpus by chance. Send a longer one, or a smaller min_tokens."
        )
        raise ApiError(400, message, "input")
    try:
        tracer = served.tracer
        found = tracer.trace(body.input, body.min_tokens, body.documents)
    except ParakeetError:  # its message has folders of this machine
        message = (
            f"There is no usable index of the text that {served.name} was trained on. Make it where the server "
            "runs, with the recipe file that the model was built from: parakeet index build --recipe FILE"
        )
        raise ApiError(404, message, code="no_trace_index") from None
    places = sum(len(span.places) for span in found.spans)
    if places > MOST_PLACES:
        message = (
            f"The spans of input have {places:,} places in the training text, but at most {MOST_PLACES:,} are "
            "returned. Send a shorter text, a larger min_tokens or fewer documents."
        )
        raise ApiError(400, message, "input")
    about = tracer.about()
    about["index"].pop("folder")
    return JSONResponse(as_document(found, about))
