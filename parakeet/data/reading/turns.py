"""What is said in a record: the contents of columns and turns, and the lists of turns in their published forms."""

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import cycle
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.reading.records import BadRecord

ROLE_NAMES = {
    **dict.fromkeys(("system", "developer", "system prompt", "system message"), "System"),
    **dict.fromkeys(("human", "user", "prompter", "instruction", "input", "prompt", "question", "usr"), "Human"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "response", "output", "answer", "completion"),
        "Assistant",
    ),
}
"""The names in use for the three speakers, as `speaker_name` writes them."""
TOOL_NAMES = frozenset(
    {
        *("tool", "tools", "tool call", "tool calls", "tool response", "tool result", "tool output"),
        *("function", "function call", "function response", "function result", "observation", "ipython"),
    }
)

COMMON_KEYS = (("role", "content"), ("from", "value"))
SPEAKER_KEYS = ("role", "from", "speaker", "author", "sender", "user", "type")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "parts")
"""The keys of a turn in use, the most frequent first. Of several, the first that is not null counts."""

EXCHANGES = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("prompt", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("question", "response"),
    ("question", "output"),
    ("question", "answers"),
    ("instruction", "completion"),
    ("instruction", "answer"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("user", "bot"),
    ("human", "bot"),
    ("input", "output"),
    ("input", "response"),
    ("input", "target"),
    ("inputs", "targets"),
    ("problem", "solution"),
)
"""Names of two columns, or keys of an element, with what the human says and the reply. The first pair counts."""

TEXT_PARTS = (None, "text", "input_text", "output_text")
TOOL_PARTS = ("tool_use", "tool_result", "tool_call", "tool_response", "function_call", "function_call_output")
PLACEHOLDERS = frozenset(
    {
        *("noinput", "noinputneeded", "noinputrequired", "noinputprovided", "nocontext", "nocontextprovided"),
        *("n/a", "na", "none", "nan", "null", "nil", "notapplicable", "-", "–", "—"),
    }
)
"""What stands in a column that has nothing to say, in lower case and without spaces and brackets."""
NO_OUTPUT = "nooutput"

NAME_CHARACTERS = 60
MOST_PYTHON_CHARACTERS = 1 << 20
"""A syntax tree takes a hundred times the memory of its text."""

JOINED = "neighbouring turns of one speaker joined"
LEADING_DROPPED = "leading Assistant turn dropped"
TRAILING_DROPPED = "trailing Human turn without a reply dropped"
LATER_SYSTEM = "later System turn counted as the Human's"
NUMBER = "number taken as its text"
FIRST_ANSWER = "first of several answers taken"
ANONYMOUS = "two anonymous speakers taken as Human and Assistant"
PLACEHOLDER_REPLY = "placeholder as reply kept"

_DECORATION = " \t\r\n:#*<>|[]()"
_ANONYMOUS = re.compile(r"\d|\b[a-z]\Z")
"""In a speaker's name: an id, `speaker 1`, `A`, `person b`."""
_BRACKETS = re.compile(r"<(.*)>|\[(.*)\]|\((.*)\)", re.DOTALL)
_MARKED_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
"""Conversations in one string, as Anthropic publishes them: "\\n\\nHuman: …\\n\\nAssistant: …"."""
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass
class Account:
    """What was done to a record beyond copying: `notes`, and the names of the columns and keys of turns that hold
    something and are not `used`; the value says whether it is text."""

    notes: dict[str, None] = field(default_factory=dict)
    unused: dict[str, bool] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes[text] = None

    def leave(self, name: str, value: Any) -> None:
        """Count a value that is not used. Nothing is lost of an empty one; in CSV it is "[]"."""
        is_empty = value in ("", "[]", "{}") if isinstance(value, str) else is_missing(value) or value in ([], {})
        if not is_empty:
            short = name[:NAME_CHARACTERS]
            self.unused[short] = self.unused.get(short, False) or _holds_text(value)


def is_missing(value: Any) -> bool:
    """Null, or NaN, which stands for it in numeric columns."""
    return value is None or (isinstance(value, float) and math.isnan(value))


@lru_cache(maxsize=4096)
def speaker_name(name: str) -> str:
    """A speaker's name as names are compared: `USER:`, `<|user|>` and `user` are one."""
    return " ".join(name.strip(_DECORATION).lower().replace("_", " ").replace("-", " ").split())


def is_placeholder(text: str) -> bool:
    return _bare(text) in PLACEHOLDERS


def column_text(value: Any, where: str, account: Account) -> str:
    """The text of a column, stripped. A number or boolean is its JSON text, null is empty.

    Raises BadRecord for a list, an object, and text with a NUL character.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise BadRecord("NUL character", where)
        return value.replace("\r\n", "\n").strip()
    if is_missing(value):
        return ""
    if isinstance(value, bool | int | float):
        account.note(NUMBER)
        return json.dumps(value)
    raise BadRecord("content is not text", f"{where} is of type {type(value).__name__}")


def reply_text(value: Any, where: str, account: Account) -> str:
    """The text of a column with a reply. A placeholder may be the right answer to a question, so it is only noted."""
    text = column_text(value, where, account)
    if _bare(text) == NO_OUTPUT:
        return ""
    if is_placeholder(text):
        account.note(PLACEHOLDER_REPLY)
    return text


def turn_text(value: Any, where: str, account: Account) -> str:
    """The text of a turn, stripped. If it has parts, their texts are joined by line ends.

    Raises BadRecord if a part is no text, such as an image or a tool call.
    """
    if isinstance(value, dict):
        value = value.get("parts", [value])
    if not isinstance(value, list):
        return column_text(value, where, account)
    texts = (_part_text(part, where, account) for part in value if part is not None)
    return "\n".join(text for text in texts if text)


def _part_text(part: Any, where: str, account: Account) -> str:
    if isinstance(part, str):
        return column_text(part, where, account)
    if not isinstance(part, dict):
        raise BadRecord("content is not text", f"{where} has a part of type {type(part).__name__}")
    kind, text = part.get("type"), part.get("text")
    if kind in TOOL_PARTS:
        raise BadRecord("tool calls", where)
    if isinstance(text, dict):
        text = text.get("value")
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise BadRecord("content is not text", f"{where} has a part of type {str(kind)[:NAME_CHARACTERS]}")
    return column_text(text, where, account)


def list_of_turns(value: Any) -> list[Any] | None:
    """The list in the forms that it is published in, or None.

    A list; one as JSON or Python text; a string with `Human:` and `Assistant:` paragraphs; one turn; an object of lists
    of equal lengths, each with one key of all turns.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        if value.lstrip()[:1] in ("[", "{"):
            parsed = _parsed(value)
            return None if isinstance(parsed, str) else list_of_turns(parsed)
        return marked_turns(value)
    if not isinstance(value, dict) or _turn_keys(value) is None:
        return None
    lists = {key: items for key, items in value.items() if isinstance(items, list)}
    keys = _turn_keys(lists)
    if keys is None:
        return [value]
    length = len(lists[keys[0]])
    if any(len(items) != length for items in lists.values()):
        return None
    return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]


def _parsed(text: str) -> Any:
    """JSON, or what Python prints, as pandas writes lists into CSV."""
    for parse in (json.loads, ast.literal_eval)[: 1 if len(text) > MOST_PYTHON_CHARACTERS else 2]:
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if _SURROGATE_ESCAPE.search(text) and not _is_encodable(value):
            raise BadRecord("lone surrogate")
        return value
    return None


def _is_encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=repr).encode()
    except (UnicodeEncodeError, TypeError):
        return False
    return True


def marked_turns(text: str) -> list[dict[str, str]] | None:
    """The turns of a string with `Human:` and `Assistant:` at the beginning of its paragraphs; None without them."""
    if not text.lstrip().startswith(("Human:", "Assistant:")):
        return None
    _, *pieces = _MARKED_SPEAKER.split(text)
    return [{"role": role, "content": said} for role, said in zip(pieces[::2], pieces[1::2], strict=True)]


def looks_like_turns(value: Any, texts: bool = False) -> bool:
    """Whether the first element is a turn or an exchange; with `texts`, it may also be a text."""
    turns = _ungrouped(list_of_turns(value) or [])
    first = _as_object(turns[0]) if turns else None
    if isinstance(first, dict):
        return _turn_keys(first) is not None or _exchange_of(first) is not None
    return _is_pair(first) or (texts and isinstance(first, str))


@dataclass(slots=True)
class TurnReader:
    """Reads lists of turns. `speakers` are names of the recipe, `keys` a speaker's and a content's key, if named there.

    What is not used of a turn goes to the account as `<column>[].<key>`.
    """

    account: Account
    speakers: Mapping[str, str]
    keys: tuple[str, str] | None = None

    def turns(self, value: Any, column: str) -> list[Turn]:
        """The turns in a list of turns, of exchanges, or of texts that alternate between Human and Assistant.

        Raises BadRecord if it is something else, has an unknown speaker or tool calls.
        """
        messages = [] if is_missing(value) or value == "" else list_of_turns(value)
        if messages is None:
            raise BadRecord("not a list of turns", f"{column} is of type {type(value).__name__}")
        # MT-bench's `turns` are the human's alone. A line of bare strings is likely to be something else.
        if column not in ("", "turns") and len(messages) > 1 and all(isinstance(text, str | None) for text in messages):
            return self.alternating(messages, column)
        if column:
            messages = self._from_pairs(_ungrouped(messages))
        messages = [_as_object(message) for message in messages]
        reader = self
        if two := self._anonymous(messages):
            self.account.note(ANONYMOUS)
            reader = replace(self, speakers={**dict(zip(two, ("Human", "Assistant"), strict=False)), **self.speakers})
        return [
            turn
            for number, message in enumerate(messages, start=1)
            for turn in reader._read(message, f"turn {number}", column)
        ]

    def alternating(self, value: Any, column: str) -> list[Turn]:
        """Texts that alternate, the human's first."""
        contents = _parsed(value) if isinstance(value, str) else value
        if not isinstance(contents, list):
            raise BadRecord("not a list of turns", f"{column} is of type {type(value).__name__}")
        return [
            Turn(("Human", "Assistant")[index % 2], turn_text(content, f"turn {index + 1}", self.account))
            for index, content in enumerate(contents)
        ]

    def _read(self, message: Any, where: str, column: str) -> Iterator[Turn]:
        if not isinstance(message, dict):
            raise self._malformed(where)
        if message.get("tool_calls") or message.get("function_call"):
            raise BadRecord("tool calls", where)
        if keys := self._keys_of(message):
            yield Turn(self._role(message[keys[0]], where), turn_text(message[keys[1]], where, self.account))
        elif self.keys is None and (keys := _exchange_of(message)):
            yield Turn("Human", turn_text(message[keys[0]], where, self.account))
            yield Turn("Assistant", turn_text(message[keys[1]], where, self.account))
        else:
            raise self._malformed(where)
        if len(message) > len(keys):
            for key, value in message.items():
                if key not in keys:
                    self.account.leave(f"{column}[].{key}", value)

    def _anonymous(self, messages: list[Any]) -> list[str]:
        """The speakers, if there are at most two and both have ids or letters for names; the first one begins."""
        names: dict[str, None] = {}
        for message in messages:
            keys = self._keys_of(message) if isinstance(message, dict) else None
            name = message[keys[0]] if keys else None
            if not isinstance(name, str | int) or self._known(name) or not _ANONYMOUS.search(speaker_name(str(name))):
                return []
            names[speaker_name(str(name))] = None
        return list(names) if len(names) <= 2 else []

    def _keys_of(self, message: Mapping[str, Any]) -> tuple[str, str] | None:
        if self.keys is None:
            return _turn_keys(message)
        return self.keys if all(key in message for key in self.keys) else None

    def _from_pairs(self, messages: list[Any]) -> list[Any]:
        """Turns or exchanges as objects, if the list has them as pairs of texts.

        They are turns if half of the first texts are speakers, since one may be unknown.
        """
        if not all(_is_pair(message) for message in messages):
            return messages
        speakers = sum(self._known(first) is not None for first, _ in messages)
        keys = ("role", "content") if 2 * speakers >= len(messages) else ("input", "output")
        return [dict(zip(keys, message, strict=True)) for message in messages]

    def _role(self, name: Any, where: str) -> str:
        role = self._known(name)
        if role is not None:
            return role
        if isinstance(name, str) and speaker_name(name) in TOOL_NAMES:
            raise BadRecord("tool calls", f"{where} is of {name[:NAME_CHARACTERS]!r}")
        raise BadRecord("unknown speaker", f"{str(name)[:NAME_CHARACTERS]!r} in {where}")

    def _known(self, name: Any) -> str | None:
        if not isinstance(name, str | int):
            return None
        return self.speakers.get(speaker_name(str(name))) or ROLE_NAMES.get(speaker_name(str(name)))

    def _malformed(self, where: str) -> BadRecord:
        return BadRecord("malformed turn", f"{where} has no {' and '.join(self.keys or ('role', 'content'))}")


def conversation(turns: list[Turn], account: Account) -> tuple[Turn, ...]:
    """The turns as System (if there is one), Human, Assistant, Human, … Assistant, none of them empty.

    Before the first Human, System turns are merged and Assistant turns dropped. A later System turn counts as the
    Human's. Neighbouring turns of one speaker are joined by a blank line, and a last Human turn is dropped. Raises
    BadRecord if no reply is left, or if the Human or the Assistant says nothing.
    """
    if not turns:
        raise BadRecord("empty conversation")
    if _alternate(turns):  # most conversations do; a third of the time for a short one
        return tuple(turns)
    begin = next((index for index, turn in enumerate(turns) if turn.role == "Human"), None)
    if begin is None:
        if all(turn.role == "System" for turn in turns):
            raise BadRecord("no reply", "the conversation has no Assistant turn")
        raise BadRecord("no Human turn", "the conversation has nothing that the Assistant replies to")
    system = "\n\n".join(turn.content for turn in turns[:begin] if turn.role == "System" and turn.content)
    if any(turn.role == "Assistant" for turn in turns[:begin]):
        account.note(LEADING_DROPPED)
    spoken: list[tuple[str, list[str], int]] = []
    for number, turn in enumerate(turns[begin:], start=begin + 1):
        role = turn.role
        if role == "System":
            if not turn.content:
                continue
            account.note(LATER_SYSTEM)
            role = "Human"
        if not spoken or spoken[-1][0] != role:
            spoken.append((role, [], number))
        if turn.content:
            spoken[-1][1].append(turn.content)
    if spoken[-1][0] == "Human":
        spoken.pop()
        if not spoken:
            raise BadRecord("no reply", "the conversation has no Assistant turn")
        account.note(TRAILING_DROPPED)
    empty = next(((role, number) for role, contents, number in spoken if not contents), None)
    if empty is not None:
        raise BadRecord("empty turn", f"{empty[0]}, turn {empty[1]}")
    if any(len(contents) > 1 for _, contents, _ in spoken):
        account.note(JOINED)
    said = (Turn(role, "\n\n".join(contents)) for role, contents, _ in spoken)
    return (*([Turn("System", system)] if system else []), *said)


def _alternate(turns: list[Turn]) -> bool:
    """Whether the turns are as `conversation` returns them."""
    spoken = turns[1:] if turns[0].role == "System" else turns
    return (
        len(spoken) % 2 == 0
        and len(spoken) > 0
        and all(turn.content for turn in turns)
        and all(turn.role == role for turn, role in zip(spoken, cycle(("Human", "Assistant")), strict=False))
    )


def _turn_keys(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """The keys of the speaker and of the content in a turn."""
    for keys in COMMON_KEYS:
        if message.get(keys[0]) is not None and message.get(keys[1]) is not None:
            return keys
    speaker, content = _first_key(message, SPEAKER_KEYS), _first_key(message, CONTENT_KEYS)
    return None if speaker is None or content is None else (speaker, content)


def _first_key(message: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    present = None
    for key in keys:
        if key in message:
            if message[key] is not None:
                return key
            present = present or key
    return present


def _exchange_of(message: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in EXCHANGES if pair[0] in message and pair[1] in message), None)


def _as_object(message: Any) -> Any:
    """Arrow gives a map as a list of pairs."""
    if isinstance(message, list) and message and all(isinstance(item, tuple) for item in message):
        return dict(message)
    return message


def _ungrouped(messages: list[Any]) -> list[Any]:
    """The turns, also of a list that groups neighbouring turns of one speaker."""
    if not all(isinstance(group, list) and group and isinstance(group[0], dict) for group in messages):
        return messages
    keys = _turn_keys(messages[0][0]) if messages else None
    if keys is None or any(len({str(turn.get(keys[0])) for turn in group}) > 1 for group in messages):
        return messages
    return [turn for group in messages for turn in group]


def _is_pair(message: Any) -> bool:
    return isinstance(message, list) and len(message) == 2 and all(isinstance(text, str) for text in message)


def _bare(text: str) -> str:
    """A short text in lower case without spaces, hyphens and brackets; a longer one is no placeholder."""
    if len(text) > NAME_CHARACTERS:
        return text
    inside = _BRACKETS.fullmatch(text.strip())
    word = next(filter(None, inside.groups()), "") if inside else text
    return re.sub(r"[\s_-]", "", word).lower().rstrip(".") or word.strip()[:1]


def _holds_text(value: Any, depth: int = 4) -> bool:
    """Only the beginning of what is deep or long is searched."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, dict):
        value = list(value.values())
    return depth > 0 and isinstance(value, list | tuple) and any(_holds_text(item, depth - 1) for item in value[:8])
