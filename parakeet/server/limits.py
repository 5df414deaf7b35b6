"""How much the server takes before it refuses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes, counts and seconds. Tests give short ones."""

    body_bytes: int = 1 << 20
    import_bytes: int = 64 << 20
    """Of a session's file that is imported."""
    requests: int = 128
    """At once, with those that wait in the worker's queue."""
    connections: int = 256
    """At once. More are answered 503, and four times as many are closed without an answer."""
    header_seconds: float = 10
    """From the first byte of a request, or from the connection, to the end of its headers."""
    body_seconds: float = 60
    """From the same moment to the end of the body."""
    send_seconds: float = 30
    """For which a client may read nothing while the server has text for it."""
    request_seconds: float = 3600
    """For a whole request. A full queue of long replies of a slow model takes most of it."""
    keep_alive_seconds: int = 30
    drain_seconds: float = 5
    """For which running requests may go on once the server was told to stop."""
