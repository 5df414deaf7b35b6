"""From a record's columns to a document: the shapes in which conversations and texts are published."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from parakeet.conversation import Turn
from parakeet.data.documents import Document
from parakeet.data.reading.records import BadRecord
from parakeet.data.reading.turns import (
    EXCHANGES,
    FIRST_ANSWER,
    NAME_CHARACTERS,
    Account,
    TurnReader,
    column_text,
    conversation,
    is_missing,
    is_placeholder,
    looks_like_turns,
    marked_turns,
    reply_text,
    speaker_name,
    turn_text,
)
from parakeet.recipe_sources import Columns, RecordSource

CONVERSATIONS = ("messages", "conversations")
LIKELY_CONVERSATIONS = ("conversation", "dialogue", "dialog", "turns", "chat")
POSSIBLE_CONVERSATIONS = ("data", "contents", "items")
"""Columns with a list of turns: always; if they look like one; if the record moreover has no other shape."""
TEXTS_ALTERNATE = ("conversation", "dialogue", "dialog")
"""Columns of which a list of texts alternates between Human and Assistant. MT-bench's `turns` are the human's alone."""
PROMPTS = ("prompt", "question", "instruction", "query", "input")
"""Columns with what comes before `chosen`."""
SUPPLEMENTS = ("input", "context")
"""Columns that follow what the human says. `context` is Dolly's name."""
REPLIES = ("chosen", "completion", "response", "output", "answer")
"""Columns with the reply to a conversation that ends with the human, as LLaMA-Factory writes preferences."""
SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "systeminstruction")
TREE_COLUMNS = ("message_id", "parent_id")
"""OpenAssistant's rows are single messages of a tree."""
DEFAULT_KEYS = (Columns.model_fields["role"].default, Columns.model_fields["content"].default)
METADATA_COLUMNS = ("id", "topic", "source")
METADATA_CHARACTERS = 100
SHOWN_COLUMNS = 12

TREE_MESSAGE = "one message of a conversation tree read as a text"

# GSM8K: `48/2 = <<48/2=24>>24 clips.`, and a last line `#### 72`.
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_FINAL_ANSWER = re.compile(r"(?:\A|\n)####[ \t]*(\S*\d\S*)\Z")


@dataclass(frozen=True)
class Shaped:
    """A document and what was done to its record.

    `notes` say what was left out or changed. `unused` names the columns (`weight`) and keys of turns
    (`messages[].weight`) that hold something and went nowhere; the value says whether it is text.
    """

    document: Document
    notes: Collection[str] = ()
    unused: Mapping[str, bool] = field(default_factory=dict)


def shape(value: Mapping[str, Any] | list[Any] | str, source: RecordSource) -> Shaped:
    """The document in a record: its columns, a list of turns, or a plain text.

    Of columns, the first known shape counts, in the order that docs/data.md lists; null columns count if there is no
    other shape. If the source names its `columns`, only those count. Names of columns are compared in lower case.

    Content is stripped. The roles are System, Human and Assistant; after the System turn, Human and Assistant
    alternate. Raises BadRecord with the reason if the record does not fit.
    """
    account = Account()
    metadata: dict[str, str | int] = {}
    if isinstance(value, str):
        turns: tuple[Turn, ...] = (_plain(value, "text", account),)
    elif isinstance(value, list):
        turns = conversation(_reader(source, account).turns(value, ""), account)
    else:
        record = _Record(value, account, _reader(source, account))
        turns = record.mapped(source.columns) if source.columns else record.recognised()
        metadata = _metadata(value)
        record.leave_unused(turns, metadata)
    return Shaped(Document(source.name, source.licence, turns, metadata), tuple(account.notes), account.unused)


def _reader(source: RecordSource, account: Account) -> TurnReader:
    columns = source.columns
    keys = (columns.role, columns.content) if columns is not None else DEFAULT_KEYS
    speakers = {speaker_name(name): role.capitalize() for name, role in source.speakers.items()}
    return TurnReader(account, speakers, None if keys == DEFAULT_KEYS else keys)


class _Record:
    """A record whose columns are taken one by one; those that are not are unused."""

    def __init__(self, values: Mapping[str, Any], account: Account, reader: TurnReader) -> None:
        self.values = values
        self.account = account
        self.reader = reader
        self.used: set[str] = set()
        # In Parquet every row has every column; an absent value is null.
        self.names = {name.strip().lower(): name for name, value in values.items() if not is_missing(value)}

    def recognised(self) -> tuple[Turn, ...]:
        turns = self._known_shape()
        if turns is None:
            self.names = {name.strip().lower(): name for name in self.values}
            turns = self._known_shape()
        if turns is None:
            raise BadRecord("unknown columns", _listed(self.values))
        return turns

    def mapped(self, columns: Columns) -> tuple[Turn, ...]:
        """The shape that the recipe names. Null is empty; a column that is not there is a fault."""
        named = (columns.text, columns.messages, columns.alternating, columns.human, columns.assistant)
        for name in filter(None, named):
            if name not in self.values:
                raise BadRecord("missing column", f"{name}; there are {_listed(self.values)}")
            self.used.add(name)
        if columns.text:
            return (_plain(self.values[columns.text], columns.text, self.account),)
        if columns.messages:
            turns = self.reader.turns(self.values[columns.messages], columns.messages)
        elif columns.alternating:
            contents = self.values[columns.alternating]
            turns = [] if contents is None else self.reader.alternating(contents, columns.alternating)
        else:
            assert columns.human is not None
            assert columns.assistant is not None
            turns = [
                Turn("Human", column_text(self.values[columns.human], columns.human, self.account)),
                Turn("Assistant", reply_text(self.values[columns.assistant], columns.assistant, self.account)),
            ]
        if columns.system and not is_missing(self.values.get(columns.system)):
            self.used.add(columns.system)
            turns.insert(0, Turn("System", self._unless_placeholder(self.values[columns.system], columns.system)))
        return conversation(turns, self.account)

    def leave_unused(self, turns: tuple[Turn, ...], metadata: Mapping[str, Any]) -> None:
        """Report the columns that went nowhere. Nothing is lost of one whose text a turn repeats."""
        said = None
        for name, value in self.values.items():
            if name in self.used or name in metadata or is_missing(value):
                continue
            if isinstance(value, str):
                said = said or {turn.content for turn in turns}
                if value.strip() in said:
                    continue
            self.account.leave(name, value)

    def _known_shape(self) -> tuple[Turn, ...] | None:
        for name in CONVERSATIONS:
            if name in self.names:
                return self._talk(self._turns(name))
        for name in LIKELY_CONVERSATIONS:
            if name in self.names and looks_like_turns(self._peek(name), texts=name in TEXTS_ALTERNATE):
                return self._talk(self._turns(name))
        if "chosen" in self.names and (turns := self._preferred()) is not None:
            return self._talk(turns)
        for human, assistant in EXCHANGES:
            if human in self.names and assistant in self.names:
                return self._talk(self._exchange(human, assistant))
        if "text" in self.names:
            if all(name in self.values for name in TREE_COLUMNS):
                self.account.note(TREE_MESSAGE)
            return (_plain(self._take("text"), "text", self.account),)
        for name in POSSIBLE_CONVERSATIONS:
            # UltraChat's `data` holds texts, beside an id.
            alone = name == "data" and set(self.names) <= {name, "id"}
            if name in self.names and looks_like_turns(self._peek(name), texts=alone):
                return self._talk(self._turns(name))
        return None

    def _peek(self, name: str) -> Any:
        return self.values[self.names[name]]

    def _take(self, name: str) -> Any:
        self.used.add(self.names[name])
        return self._peek(name)

    def _turns(self, name: str) -> list[Turn]:
        return self.reader.turns(self._take(name), name)

    def _talk(self, turns: list[Turn]) -> tuple[Turn, ...]:
        """The conversation with the System turn, the earlier exchanges and the reply that stand in other columns."""
        turns = self._answered(turns)
        if "history" in self.names and looks_like_turns(self._peek("history"), texts=True):
            begin = next((index for index, turn in enumerate(turns) if turn.role != "System"), len(turns))
            turns[begin:begin] = self._turns("history")
        systems = [turn.content for turn in turns if turn.role == "System"]
        for name in SYSTEMS:
            if name in self.names:
                content = self._system(name)
                if content and content not in systems:
                    turns.insert(0, Turn("System", content))
                if content:
                    break
        return conversation(turns, self.account)

    def _system(self, name: str) -> str:
        """The text of a column with a System turn, also of one in parts; "" if it is something else."""
        value = self._peek(name)
        if isinstance(value, str):
            return self._supplement(name)
        try:
            content = turn_text(value, name, self.account) if isinstance(value, list | dict) else ""
        except BadRecord:
            return ""
        if content:
            self.used.add(self.names[name])
        return content

    def _answered(self, turns: list[Turn]) -> list[Turn]:
        """The turns with a reply, if they end with the Human's and it stands in a column of its own."""
        if not turns or turns[-1].role != "Human":
            return turns
        for name in REPLIES:
            if name not in self.names or self.names[name] in self.used:
                continue
            value = self._peek(name)
            if isinstance(value, str) and marked_turns(value) is None:
                return [*turns, Turn("Assistant", reply_text(self._take(name), name, self.account))]
            if looks_like_turns(value):
                reply = self.reader.turns(value, name)
                if all(turn.role == "Assistant" for turn in reply):
                    self.used.add(self.names[name])
                    return [*turns, *reply]
        return turns

    def _exchange(self, human: str, assistant: str) -> list[Turn]:
        """What the human says with its supplements, and the reply. Both may be lists of turns, as TRL writes them."""
        reply = self._take(assistant)
        turns = self._prompt(human)
        if isinstance(reply, list | dict) and looks_like_turns(reply):
            return [*turns, *self.reader.turns(reply, assistant)]
        answer = reply_text(self._first_answer(reply) if assistant == "answers" else reply, assistant, self.account)
        if (human, assistant) == ("question", "answer"):
            answer = _without_marks(answer)
        parts = [turns.pop().content if turns and turns[-1].role == "Human" else ""]
        for name in SUPPLEMENTS:
            if name in self.names and name != human and not self._is_foreign_context(name):
                parts.append(self._supplement(name))
        return [*turns, Turn("Human", "\n\n".join(part for part in parts if part)), Turn("Assistant", answer)]

    def _is_foreign_context(self, name: str) -> bool:
        """HotpotQA's `context` is an object, and its questions make sense without it. An `input` is always needed."""
        return name == "context" and isinstance(self._peek(name), list | dict)

    def _supplement(self, name: str) -> str:
        return self._unless_placeholder(self._take(name), name)

    def _unless_placeholder(self, value: Any, name: str) -> str:
        """The text of a column that may have nothing to say."""
        text = column_text(value, name, self.account)
        if not is_placeholder(text):
            return text
        self.account.note(f"placeholder in {name[:NAME_CHARACTERS]} taken as empty")
        return ""

    def _prompt(self, name: str) -> list[Turn]:
        """What comes before a reply: a text, a list of turns, or paragraphs marked `Human:` and `Assistant:`."""
        value = self._take(name)
        if isinstance(value, list | dict):
            return self.reader.turns(value, name)
        text = column_text(value, name, self.account)
        if not (paragraphs := marked_turns(text)):
            return [Turn("Human", text)]
        marked = self.reader.turns(paragraphs, name)
        if marked[-1] == Turn("Assistant", ""):
            marked.pop()
        return marked or [Turn("Human", text)]

    def _preferred(self) -> list[Turn] | None:
        """The better of two replies, `chosen`, with what comes before it."""
        prompt = next((name for name in PROMPTS if name in self.names), None)
        chosen = self._peek("chosen")
        if looks_like_turns(chosen):
            turns = self._turns("chosen")
            spoken = any(turn.role == "Human" for turn in turns)
            return turns if spoken or prompt is None else [*self._prompt(prompt), *turns]
        if prompt is None:
            return None
        return [*self._prompt(prompt), Turn("Assistant", reply_text(self._take("chosen"), "chosen", self.account))]

    def _first_answer(self, answers: Any) -> Any:
        """The first of a list, also inside SQuAD's {"text": […], "answer_start": […]}."""
        if isinstance(answers, dict) and isinstance(answers.get("text"), list):
            answers = answers["text"]
        if not isinstance(answers, list):
            return answers
        if len(answers) > 1:
            self.account.note(FIRST_ANSWER)
        return answers[0] if answers else None


def _without_marks(answer: str) -> str:
    """In an answer like GSM8K's, calculator marks are removed and the last line becomes a sentence."""
    final = _FINAL_ANSWER.search(answer)
    if final is None:
        return answer
    reasoning = _CALCULATION.sub("", answer[: final.start()])
    return f"{reasoning}\nThe answer is {final[1].rstrip('.')}.".strip()


def _plain(value: Any, where: str, account: Account) -> Turn:
    if isinstance(value, bool | int | float) and not is_missing(value):
        raise BadRecord("content is not text", f"{where} is of type {type(value).__name__}")
    text = column_text(value, where, account)
    if not text:
        raise BadRecord("empty text")
    return Turn("text", text)


def _metadata(record: Mapping[str, Any]) -> dict[str, str | int]:
    """Only what helps to find the record again."""
    values = {name: record.get(name) for name in METADATA_COLUMNS}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str | int) and len(str(value)) <= METADATA_CHARACTERS
    }


def _listed(names: Mapping[str, Any]) -> str:
    return (", ".join(list(names)[:SHOWN_COLUMNS]) or "none") + (", …" if len(names) > SHOWN_COLUMNS else "")
