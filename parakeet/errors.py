"""The one exception for mistakes that a person can mend, and the exit status of what a person stopped."""

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as shells have it (128 + SIGINT)."""


class ParakeetError(Exception):
    """Something a user caused and can put right.

    The message is one or a few plain sentences: what is wrong, where (file and row), what to do.
    The command line prints it without a traceback and ends with status 1.
    """
