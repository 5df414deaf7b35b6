"""E-mail addresses, phone numbers and IP addresses in a text.

What is doubtful is left alone: a sum or a version number that is masked is a text destroyed, and most numbers of a
corpus are not personal.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from parakeet.conversation import Turn
from parakeet.data.documents import Document

MASKS = {"e-mail": "<email>", "phone": "<phone>", "IP address": "<ip>"}
"""What stands in the place of each kind."""

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.%+-])[A-Za-z0-9][A-Za-z0-9_.%+-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)

_IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:v|ver|version|release|firmware|build|rev|revision|driver|kernel|section|chapter)\.?|§|[A-Za-z][/_-])\s*$",
    re.IGNORECASE,
)
_CHARACTERS_BEFORE = 20

# Four ways in which a number shows that it is a phone's: a country's prefix, North America's grouping with an area
# code in brackets or with equal separators, or the word before it.
_PHONE = re.compile(
    r"(?<![\w.+])\+[1-9][0-9]{0,2}[ .-]?(?:\(0?[0-9]{1,4}\)[ .-]?)?[0-9]{1,4}(?:[ .-]?[0-9]{2,4}){1,4}(?![\w%]|[.,-][0-9])"
    r"|(?<!\w)(?:1[ .-])?\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}(?![\w%]|[.,-][0-9])"
    r"|(?<![\w.+-])(?:1-)?[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}(?![\w%]|[.,-][0-9])"
)
_LABELLED_PHONE = re.compile(
    r"(?<=\b(?:phone|hatsapp|obile).{2})"
    if False
    else r"(?P<label>\b(?:tel|telephone|phone|mobile|cell|fax|whatsapp)\b\.?(?:\s(?:number|no\.?|is))*:?\s?)"
    r"\(?0[0-9]{1,4}\)?(?:[ ./-]?[0-9]{2,8}){1,4}(?![\w%]|[.,-][0-9])",
    re.IGNORECASE,
)
