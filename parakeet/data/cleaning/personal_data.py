"""E-mail addresses, phone numbers and IP addresses in a text.

Doubtful cases are left alone: masking a sum or a version number destroys the text, and most numbers in a corpus are not
personal.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from parakeet.conversation import Turn
from parakeet.data.cleaning.first_look import matching
from parakeet.data.documents import Document

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.%+-])[A-Za-z0-9][A-Za-z0-9_.%+-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
# The lookbehind comes after the first character, so that the search for that character runs in C.
_IPV4 = re.compile(r"[0-9](?<![\w.].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)")
_IPV6 = re.compile(r"[23fF](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_IPV6_NETWORKS = tuple(map(ipaddress.IPv6Network, ("2000::/3", "fc00::/7", "fe80::/10")))
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:v|ver|version|release|firmware|build|rev|revision|driver|kernel|section|chapter)\.?|§|[A-Za-z][/_-])\s*$",
    re.IGNORECASE,
)
_ADDRESS_BEFORE = re.compile(r"(?:\b(?:ip|ipv4|address|server|host|dns|ping)\b\W*(?:is\s*)?|://)$", re.IGNORECASE)

# A phone number is recognised by a country's prefix, by North American grouping (the area code in brackets, or equal
# separators), or by the word before it.
_END = r"(?![\w%]|[.,-][0-9])"
_WITH_PREFIX = re.compile(
    r"\+(?<![\w.+].)[1-9][0-9]{0,2}[ .-]?(?:\(0?[0-9]{1,4}\)[ .-]?)?[0-9]{1,4}(?:[ .-]?[0-9]{2,4}){1,4}" + _END
)
_WITH_AREA_CODE = re.compile(r"[(1](?<![\w.+-].)(?:(?<=\()|(?<=1)[ .-]\()[2-9][0-9]{2}\) ?[0-9]{3}[ .-][0-9]{4}" + _END)
_IN_GROUPS = re.compile(r"[1-9](?<![\w.+-].)(?:(?<=1)-[2-9][0-9]|(?<!1)[0-9])[0-9]([.-])[0-9]{3}\1[0-9]{4}" + _END)
_AFTER_LABEL = re.compile(r"[(0](?<![\w.+-].)[0-9]{1,5}\)?(?:[ ./-]?[0-9]{2,8}){1,4}" + _END)
_LABEL_BEFORE = re.compile(
    r"\b(?:tel|telephone|phone|mobile|cell|fax|whatsapp)\b\.?(?:\s(?:number|no\.?|is))*:?\s?$", re.IGNORECASE
)
_SUM_BEFORE = re.compile(r"[0-9)=*/×÷^]\s*$")
_AMOUNT_BEFORE = re.compile(r"[0-9)=*/×÷^+<>$€£-]\s*$")
_SUM_AFTER = re.compile(r"\s*[=*/×÷^<>]|\s*[+-]\s*[0-9]|\s*-\(")
_CHARACTERS_BEFORE = 24


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - _CHARACTERS_BEFORE) : match.start()]


def _is_ipv4(match: re.Match[str]) -> bool:
    """Not loopback, 0.x or a mask. Four single digits are a version or a section unless called an address."""
    try:
        address = ipaddress.IPv4Address(match.group())
    except ValueError:
        return False
    before = _before(match)
    if len(match.group()) == len("1.2.3.4") and not _ADDRESS_BEFORE.search(before):
        return False
    return not (address.is_loopback or match.group().startswith(("0.", "255.")) or _VERSION_BEFORE.search(before))


def _is_ipv6(match: re.Match[str]) -> bool:
    """Only in ranges that are assigned: `dead::beef` may as well be C++."""
    try:
        address = ipaddress.IPv6Address(match.group())
    except ValueError:
        return False
    return any(address in network for network in _IPV6_NETWORKS)


def _is_phone(match: re.Match[str]) -> bool:
    number = match.group()
    digits = sum(character.isdigit() for character in number)
    sum_before = _SUM_BEFORE if number.startswith("+") else _AMOUNT_BEFORE
    # E.164 allows 15 digits at most. "+1000000" is an amount.
    fits = 8 <= digits <= 15 and not (number[1:].isdigit() and digits < 10)
    return fits and not sum_before.search(_before(match)) and not _SUM_AFTER.match(match.string, match.end())


def _is_labelled_phone(match: re.Match[str]) -> bool:
    return bool(_LABEL_BEFORE.search(_before(match))) and _is_phone(match)


Check = Callable[[re.Match[str]], bool]

# Kind, its mask, a character that every match contains, expression, and the final check.
_KINDS: tuple[tuple[str, str, str, re.Pattern[str], Check], ...] = (
    ("e-mail", "<email>", "@", _EMAIL, lambda match: True),
    ("IP address", "<ip>", ".", _IPV4, _is_ipv4),
    ("IP address", "<ip>", ":", _IPV6, _is_ipv6),
    ("phone", "<phone>", "+", _WITH_PREFIX, _is_phone),
    ("phone", "<phone>", "(", _WITH_AREA_CODE, _is_phone),
    ("phone", "<phone>", "", _IN_GROUPS, _is_phone),
    ("phone", "<phone>", "0", _AFTER_LABEL, _is_labelled_phone),
)

# A part of every e-mail address, IPv4 and IPv6 address, and at least eight digits, as every phone number has.
_PARTS = (
    r"[A-Za-z0-9_.%+-]@[A-Za-z0-9]|[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23fF][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2}"
    r"|[0-9](?:[ ()./-]{0,3}[0-9]){7}"
)


def may_identify(documents: Sequence[Document]) -> list[bool]:
    """False for documents in which `masked_document` finds nothing."""
    return matching(documents, _PARTS, lambda turn: turn.content)


def masked(text: str) -> tuple[str, Counter[str]]:
    """The text with `<email>`, `<phone>` and `<ip>` in place of personal data, and the number of each kind."""
    found: Counter[str] = Counter()
    for kind, mask, needed, expression, check in _KINDS:
        if needed not in text:
            continue

        def replacement(match: re.Match[str], kind: str = kind, mask: str = mask, check: Check = check) -> str:
            if not check(match):
                return match.group()
            found[kind] += 1
            return mask

        text = expression.sub(replacement, text)
    return text, found


def masked_document(document: Document) -> tuple[Document, Counter[str]]:
    """The document with personal data masked in every turn, and the number of each kind."""
    turns, found = [], Counter[str]()
    for turn in document.turns:
        text, kinds = masked(turn.content)
        turns.append(Turn(turn.role, text))
        found += kinds
    return (replace(document, turns=tuple(turns)), found) if found else (document, found)
