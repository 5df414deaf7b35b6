"""Which records a JSON object holds: it may be one, or hold them in lists or by id."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

TABLE_KEY = re.compile(
    "data|dataset|records|rows|items|entries|examples|instances|samples|documents|docs|articles|results|questions"
    "|train|training|test|validation|valid|val|dev|eval",
    re.IGNORECASE,
)
"""Names under which files keep their records."""
RECORD_KEY = re.compile(
    "text|messages|conversations?|dialogue|dialog|turns|chosen|rejected|history"
    "|instruction|input|output|prompt|completion|response|question|query|answer",
    re.IGNORECASE,
)
"""Columns of known shapes: an object with one of them is a record."""
TURN_KEYS = (("role", "content"), ("from", "value"))
TURN_EXTRAS = frozenset(("name", "weight", "tool_calls", "tool_call_id", "function_call", "train"))
SPEAKER = re.compile(
    r"\s*(system|developer|user|human|prompter|assistant|gpt|chatgpt|bot|chatbot|model|ai|tool)\s*", re.IGNORECASE
)
DECIDED_CHARACTERS = 8 << 20
"""By then it is known what an object holds. It is held in memory until then."""
CONVERSATION_TURNS = 100_000
CONVERSATION_CHARACTERS = 64 << 20

Found = Iterator[tuple[Any, bool]]
"""Records, and whether escapes of lone surrogates may be in them."""


class Part(NamedTuple):
    """A part of an object: a `member`, or an `element` of a list or an `entry` of an object that is a member.

    `name` is the key of an entry, `characters` the length of the part's text.
    """

    kind: str
    key: str
    name: str
    value: Any
    suspect: bool
    characters: int


def is_turn(value: Any) -> bool:
    """Whether a value is a turn of a conversation, with nothing that says it is a record of its own."""
    if not isinstance(value, dict):
        return False
    return any(
        isinstance(speaker := value.get(role), str)
        and SPEAKER.fullmatch(speaker)
        and content in value
        and value.keys() <= {role, content, *TURN_EXTRAS}
        for role, content in TURN_KEYS
    )


def conversations_joined(elements: Found) -> Found:
    """The elements of an array; if they are turns, one conversation."""
    held: list[Any] = []
    suspect, characters = False, 0
    for value, one_suspect in elements:
        characters += sum(len(item) for item in value.values() if isinstance(item, str)) if is_turn(value) else 0
        if not is_turn(value) or characters > CONVERSATION_CHARACTERS or len(held) == CONVERSATION_TURNS:
            yield from ((turn, suspect) for turn in held)
            yield value, one_suspect
            yield from elements
            return
        held.append(value)
        suspect |= one_suspect
    if held:
        yield held, suspect


class ObjectRecords:
    """The records of an object, from its parts in their order.

    It is one record if a column of a known shape is among its members. Otherwise lists of objects under a name of
    `TABLE_KEY`, or without anything else beside them, hold the records; lists of turns alone are conversations, and
    objects alone are records by their ids. Anything else is one record.
    """

    def __init__(self) -> None:
        self.held_characters = 0
        """The text of what is in memory."""
        self._held: list[Part] = []
        self._kinds: Counter[str] = Counter()
        self._key = ""
        self._columns: list[str] = []
        self._open: list[Part] = []  # the elements of a conversation that is not complete
        self._way: Callable[[Part], Found] | None = None

    def add(self, part: Part) -> Found:
        """The records that are complete and known to be records."""
        if self._way is not None:
            yield from self._way(part)
            return
        self._note(part)
        self._held.append(part)
        self.held_characters += part.characters
        if self.held_characters > DECIDED_CHARACTERS and (way := self._decided()):
            yield from self._begun(way)

    def end(self) -> Found:
        """The records that remain."""
        if self._way is None:
            way = self._decided()
            if way is None:
                yield _whole(self._held), any(part.suspect for part in self._held)
                return
            yield from self._begun(way)
        yield from self._conversation_closed()

    def _note(self, part: Part) -> None:
        """Count what kinds of members there are."""
        is_new = part.key != self._key or part.kind == "member"
        self._key = part.key
        is_record = RECORD_KEY.fullmatch(part.key) is not None
        is_table = TABLE_KEY.fullmatch(part.key) is not None
        if part.kind == "element":
            if is_new:
                turns = is_turn(part.value)
                self._kinds["record"] += is_record
                self._kinds["turns" if turns else "rows"] += 1
                self._kinds["table"] += is_table and not turns
        elif part.kind == "entry":
            self._kinds["table" if isinstance(part.value, dict | list) else "other"] += 1
        elif isinstance(part.value, dict):
            # Under such a key the members follow as entries.
            self._kinds["objects"] += not is_table
        else:
            self._kinds["record"] += is_record
            self._kinds["other"] += part.value != []
            if part.key == "columns" and isinstance(part.value, list):
                self._columns = part.value

    def _decided(self) -> Callable[[Part], Found] | None:
        """How records are found in the parts; None if all of them are one record, or not enough of them are known."""
        kinds = self._kinds
        if kinds["record"]:
            return None
        if kinds["table"] or (kinds["rows"] and not (kinds["turns"] or kinds["objects"] or kinds["other"])):
            return self._row
        if kinds["turns"] and not (kinds["rows"] or kinds["objects"] or kinds["other"]):
            return self._turn
        if kinds["objects"] and not (kinds["rows"] or kinds["turns"] or kinds["other"]):
            return self._by_id
        return None

    def _begun(self, way: Callable[[Part], Found]) -> Found:
        self._way = way
        held, self._held, self.held_characters = self._held, [], 0
        yield from chain.from_iterable(map(way, held))

    def _row(self, part: Part) -> Found:
        """Members beside the lists describe the file."""
        if part.kind == "entry" and _is_table(part.value):  # splits under `data`
            yield from ((value, part.suspect) for value in part.value)
        elif part.kind == "entry":
            yield _with_id(part.value, part.name), part.suspect
        elif part.kind == "element":
            value = part.value
            if self._columns and isinstance(value, list) and len(value) == len(self._columns):
                # pandas' orient="split"
                value = dict(zip(map(str, self._columns), value, strict=True))
            yield value, part.suspect

    def _by_id(self, part: Part) -> Found:
        yield _with_id(part.value, part.key), part.suspect

    def _turn(self, part: Part) -> Found:
        if self._open and (part.key != self._open[0].key or part.kind != "element"):
            yield from self._conversation_closed()
        if part.kind == "element":
            self._open.append(part)
            self.held_characters += part.characters
        else:
            yield part.value, part.suspect

    def _conversation_closed(self) -> Found:
        if self._open:
            yield [part.value for part in self._open], any(part.suspect for part in self._open)
        self._open, self.held_characters = [], 0


def _whole(parts: list[Part]) -> dict[str, Any]:
    """The object from its parts."""
    whole: dict[str, Any] = {}
    key = None
    for part in parts:
        if part.kind == "member":
            whole[part.key] = part.value
        elif part.kind == "entry":
            whole[part.key][part.name] = part.value
        elif part.key != key:
            whole[part.key] = [part.value]
        else:
            whole[part.key].append(part.value)
        key = part.key
    return whole


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and not is_turn(value[0])


def _with_id(value: Any, name: str) -> Any:
    return {"id": name, **value} if isinstance(value, dict) else value
