"""Links from an asset to the code that makes it: to the git host if the checkout has one, else to the file."""

import inspect
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from parakeet.home import checkout
from parakeet.provenance import git

HOST = re.compile(r"(?:[a-z+]+://)?(?:[^@/]*@)?(github\.com|gitlab\.com)(?::\d+)?[:/](.+?)(?:\.git)?/*")
"""A remote's address. What stands before the @, which may be a token, is never shown."""


def code_references(function: Any) -> dg.CodeReferencesMetadataValue:
    """Where a function is written, as Dagster's metadata `dagster/code_references`."""
    function = inspect.unwrap(function)
    path, line = Path(function.__code__.co_filename), function.__code__.co_firstlineno
    root, address = checkout(), web_address()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        if root is not None and address and path.is_relative_to(root):
            name = path.relative_to(root).as_posix()
            web = dg.UrlCodeReference(url=f"{address}/{name}#L{line}", label=name)
            return dg.CodeReferencesMetadataValue(code_references=[web])
        local = dg.LocalFileCodeReference(file_path=str(path), line_number=line)
        return dg.CodeReferencesMetadataValue(code_references=[local])


@cache
def web_address() -> str:
    """Where the checkout's files are on the web; empty if its `origin` is at no host that is known."""
    return address_of(_git("remote", "get-url", "origin"))


@cache
def commit() -> str:
    """The checkout's commit, 12 digits; empty if the code is not in a checkout."""
    return _git("rev-parse", "--short=12", "HEAD")


def _git(*arguments: str) -> str:
    """What git says of the checkout; empty if it says nothing."""
    root = checkout()
    if root is None or not (root / ".git").exists():
        return ""
    return (git(root, *arguments) or b"").decode(errors="replace").strip()


def address_of(remote: str) -> str:
    """The web address of the default branch of a remote; empty if its host is not known."""
    match = HOST.fullmatch(remote)
    if match is None:
        return ""
    return f"https://{match[1]}/{match[2]}/{'-/' * (match[1] == 'gitlab.com')}blob/HEAD"
