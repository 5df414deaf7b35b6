"""Recognises web pages that a server sends instead of a file, and explains what they mean."""

import html
import re

from parakeet.formatting import one_line

PAGE_BYTES = 64 << 10
"""How much of a page is read."""
TITLE_CHARACTERS = 8 << 10
"""Where a title is looked for: the search takes quadratic time on a page of nothing but open titles."""

_PAGE = re.compile(
    rb"\s*(?:<!--(?:(?!-->).)*-->\s*|<\?xml[^>]*>\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.I | re.S)
_MEANINGS = (
    (
        ("too many users have viewed or downloaded this file", "quota exceeded"),
        "Google Drive says that too many people have downloaded this file lately (its quota page). It will be "
        "available again within 24 hours",
    ),
    (
        ("virus scan warning", "scan this file for viruses", 'id="download-form"'),
        "Google Drive sent its virus-scan page instead of the file",
    ),
    (
        ("accounts.google.com", "servicelogin", "sign in - google", "sign in – google"),
        "Google asks for a sign-in: the file is not shared with everybody",
    ),
    (
        ("you need access", "request access", "access denied", "change the permission"),
        "Google Drive refuses access: the file is not shared with everybody, or was downloaded too often",
    ),
    (
        ("file you have requested does not exist", "file you requested has been deleted"),
        "Google Drive says that the file does not exist any more",
    ),
)
"""Phrases on Google's English pages, in lower case, and what they mean. "change the permission" is gdown's phrase."""


def fault_of_page(head: bytes) -> str | None:
    """What a web page says instead of the file; None if these first bytes of a file are not HTML."""
    start = head.removeprefix(b"\xef\xbb\xbf")
    if not _PAGE.match(start):
        return None
    text = start[:PAGE_BYTES].decode("utf-8", "replace")
    title = _TITLE.search(text[:TITLE_CHARACTERS])
    name = one_line(html.unescape(title[1]))[:80] if title else ""
    return meaning_of(text) or f"it sent a web page{f' titled “{name}”' if name else ''} instead of the file"


def meaning_of(text: str) -> str | None:
    """What a message of Google Drive means, if it is a known one."""
    lower = " ".join(html.unescape(text).lower().replace("’", "'").split())
    return next((meaning for phrases, meaning in _MEANINGS if any(phrase in lower for phrase in phrases)), None)
