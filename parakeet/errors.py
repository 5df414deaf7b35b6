"""The exception for mistakes that a user can correct, and the exit status of an interrupted command."""

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM: 128 + SIGINT, as in shells."""


class ParakeetError(Exception):
    """A problem that the user caused and can correct.

    The message is one or a few plain sentences: what is wrong, where (file and row), what to do. The command line
    prints it without a traceback and exits with status 1.
    """
