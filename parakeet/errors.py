"""The one exception for mistakes that a person can mend."""


class ParakeetError(Exception):
    """Something a user caused and can put right.

    The message is one or a few plain sentences: what is wrong, where (file and row), what to do.
    The command line prints it without a traceback and ends with status 1.
    """
