"""From a record's columns to a document: the shapes in which conversations and texts are published."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.documents import Document
from parakeet.data.reading.records import Problem
from parakeet.recipe_sources import Columns, RecordSource

ROLE_NAMES = {
    **dict.fromkeys(("system", "developer"), "System"),
    **dict.fromkeys(("human", "user", "prompter"), "Human"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai"), "Assistant"),
}
"""The names in use for the three speakers, in lower case."""

TURN_KEYS = (("role", "content"), ("from", "value"))
METADATA_COLUMNS = ("id", "topic", "source")
METADATA_CHARACTERS = 100
SHOWN_COLUMNS = 12
NAME_CHARACTERS = 60
DROPPED_TURN = "trailing Human turn without a reply dropped"

# GSM8K: `48/2 = <<48/2=24>>24 clips.`, and a last line `#### 72`.
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_FINAL_ANSWER = re.compile(r"(?:\A|\n)####[ \t]*(\S*\d\S*)\Z")


class BadRecord(Exception):
    """A record that gives no document."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.problem = Problem(reason, detail)
        super().__init__(str(self.problem))


@dataclass(frozen=True)
class Shaped:
    """A document, and a `note` if a part of the record was left out."""

    document: Document
    note: str = ""


def shape(value: Mapping[str, Any] | list[Any] | str, source: RecordSource) -> Shaped:
    """The document in a record. A string is a plain text. Of columns, the first known shape counts:

    `messages`, `conversations`, `instruction` (with `input` or `context`) and `output` or `response`, `prompt` and
    `completion`, `question` and `answer`, `text`. If the source names its `columns`, only those count.

    Content is stripped. The roles are System, Human and Assistant; after the merged system messages Human and Assistant
    alternate. Raises BadRecord with the reason if the record does not fit.
    """
    note = ""
    if isinstance(value, list):
        value = {"messages": value}
    if isinstance(value, str):
        turns: tuple[Turn, ...] = (_plain(value, "text"),)
    else:
        turns, note = _mapped(value, source.columns) if source.columns else _recognised(value)
    metadata = {} if isinstance(value, str) else _metadata(value)
    return Shaped(Document(source.name, source.licence, turns, metadata), note)


def _recognised(record: Mapping[str, Any]) -> tuple[tuple[Turn, ...], str]:
    # In Parquet every row has every column; an absent value is None.
    have = {name for name, value in record.items() if value is not None}
    reply = next((name for name in ("output", "response") if name in have), None)
    if "messages" in have:
        return _conversation(_turns(record["messages"], "messages", TURN_KEYS))
    if "conversations" in have:
        return _conversation(_turns(record["conversations"], "conversations", TURN_KEYS))
    if "instruction" in have and reply:
        return _conversation(_instruction(record, have, reply))
    if {"prompt", "completion"} <= have:
        return _conversation(_exchange(record, "prompt", "completion"))
    if {"question", "answer"} <= have:
        return _conversation(_question(record))
    if "text" in have:
        return (_plain(record["text"], "text"),), ""
    raise BadRecord("unknown columns", f"{_names(record)}; name them in the recipe, with `columns`")


def _mapped(record: Mapping[str, Any], columns: Columns) -> tuple[tuple[Turn, ...], str]:
    named = (columns.text, columns.messages, columns.alternating, columns.human, columns.assistant)
    for name in filter(None, named):
        if record.get(name) is None:
            raise BadRecord("missing column", f"{name}; there are {_names(record)}")
    if columns.text:
        return (_plain(record[columns.text], columns.text),), ""
    if columns.messages:
        keys = ((columns.role, columns.content),)
        return _conversation(_turns(record[columns.messages], columns.messages, keys))
    if columns.alternating:
        return _conversation(_alternating(record[columns.alternating], columns.alternating))
    assert columns.human is not None
    assert columns.assistant is not None
    turns = _exchange(record, columns.human, columns.assistant)
    if columns.system and record.get(columns.system) is not None:
        turns.insert(0, Turn("System", _content(record[columns.system], columns.system)))
    return _conversation(turns)


def _turns(messages: Any, column: str, keys: tuple[tuple[str, str], ...]) -> list[Turn]:
    if not isinstance(messages, list):
        raise BadRecord("not a list of turns", f"{column} is of type {type(messages).__name__}")
    return [_turn(message, f"turn {number}", keys) for number, message in enumerate(messages, start=1)]


def _alternating(contents: Any, column: str) -> list[Turn]:
    if not isinstance(contents, list):
        raise BadRecord("not a list of turns", f"{column} is of type {type(contents).__name__}")
    return [
        Turn(("Human", "Assistant")[index % 2], _content(content, f"turn {index + 1}"))
        for index, content in enumerate(contents)
    ]


def _turn(message: Any, where: str, keys: tuple[tuple[str, str], ...]) -> Turn:
    pair = next((pair for pair in keys if isinstance(message, dict) and all(key in message for key in pair)), None)
    if pair is None:
        wanted = " or ".join(f"{role} and {content}" for role, content in keys)
        raise BadRecord("malformed turn", f"{where} has no {wanted}")
    name = message[pair[0]]
    role = ROLE_NAMES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRecord("unknown role", f"{str(name)[:NAME_CHARACTERS]!r} in {where}")
    return Turn(role, _content(message[pair[1]], where))


def _instruction(record: Mapping[str, Any], have: set[str], reply: str) -> list[Turn]:
    """Dolly's name for the input is `context`."""
    parts = [_content(record["instruction"], "instruction")]
    parts += [_content(record[name], name) for name in ("input", "context") if name in have]
    return [
        Turn("Human", "\n\n".join(part for part in parts if part)),
        Turn("Assistant", _content(record[reply], reply)),
    ]


def _exchange(record: Mapping[str, Any], human: str, assistant: str) -> list[Turn]:
    return [Turn("Human", _content(record[human], human)), Turn("Assistant", _content(record[assistant], assistant))]


def _question(record: Mapping[str, Any]) -> list[Turn]:
    """In an answer like GSM8K's, calculator marks are removed and the last line becomes a sentence."""
    human, assistant = _exchange(record, "question", "answer")
    final = _FINAL_ANSWER.search(assistant.content)
    if final is None:
        return [human, assistant]
    reasoning = _CALCULATION.sub("", assistant.content[: final.start()])
    answer = f"{reasoning}\nThe answer is {final[1].rstrip('.')}."
    return [human, Turn("Assistant", answer.strip())]


def _conversation(turns: list[Turn]) -> tuple[tuple[Turn, ...], str]:
    """Merge the system messages at the beginning; check that Human and Assistant alternate and Assistant is last."""
    if not turns:
        raise BadRecord("empty conversation")
    leading = next((index for index, turn in enumerate(turns) if turn.role != "System"), len(turns))
    system = "\n\n".join(turn.content for turn in turns[:leading] if turn.content)
    spoken = turns[leading:]
    for index, turn in enumerate(spoken):
        if turn.role != ("Human", "Assistant")[index % 2]:
            before = spoken[index - 1].role if index else "the beginning"
            raise BadRecord("roles do not alternate", f"{turn.role} after {before}, turn {leading + index + 1}")
    if len(spoken) < 2:
        raise BadRecord("no reply", "the conversation has no Assistant turn")
    answered = spoken[: len(spoken) // 2 * 2]
    for index, turn in enumerate(answered):
        if not turn.content:
            raise BadRecord("empty turn", f"{turn.role}, turn {leading + index + 1}")
    note = DROPPED_TURN if len(answered) < len(spoken) else ""
    return (*([Turn("System", system)] if system else []), *answered), note


def _plain(value: Any, where: str) -> Turn:
    text = _content(value, where)
    if not text:
        raise BadRecord("empty text")
    return Turn("text", text)


def _content(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadRecord("content is not text", f"{where} is of type {type(value).__name__}")
    if "\0" in value:
        raise BadRecord("NUL character", where)
    return value.replace("\r\n", "\n").strip()


def _metadata(record: Mapping[str, Any]) -> dict[str, str | int]:
    """Only what helps to find the record again."""
    values = {name: record.get(name) for name in METADATA_COLUMNS}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str | int) and len(str(value)) <= METADATA_CHARACTERS
    }


def _names(record: Mapping[str, Any]) -> str:
    names = ", ".join(list(record)[:SHOWN_COLUMNS]) or "none"
    return names + (", …" if len(record) > SHOWN_COLUMNS else "")
