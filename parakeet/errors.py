"""The exception for mistakes that a user can correct, and what several modules say about failures."""

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM: 128 + SIGINT, as in shells."""


class ParakeetError(Exception):
    """A problem that the user caused and can correct.

    The message is one or a few plain sentences: what is wrong, where (file and row), what to do. The command line
    prints it without a traceback and exits with status 1.
    """


class ProcessDied(ParakeetError):
    """A process of the build was killed or crashed: the same build goes on where that one ended."""


def os_reason(error: OSError) -> str:
    """`No space left on device (/path)`: what the system says, and the file."""
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
