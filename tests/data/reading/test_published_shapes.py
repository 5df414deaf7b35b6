"""The forms in which conversations and texts are published: what becomes of each, and that nothing of it is lost."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.reading.collect import collect_documents
from parakeet.data.reading.records import BadRecord
from parakeet.data.reading.shapes import shape
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe_sources import Columns, FileSource

from . import collecting
from .collecting import jsonl, recipe_of

Turns = list[tuple[str, str]]

CASES = Path(__file__).parents[4] / "shared/cases"
MINE = FileSource(name="mine", path="x")
SYSTEM = ("System", "Be kind.")
EXCHANGE = [("Human", "Hi"), ("Assistant", "Hello")]
TWO = [*EXCHANGE, ("Human", "And?"), ("Assistant", "Fine.")]
OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def turns_of(value: Any, source: FileSource = MINE) -> Turns:
    return [(turn.role, turn.content) for turn in shape(value, source).document.turns]


def reason_of(value: Any, source: FileSource = MINE) -> str:
    with pytest.raises(BadRecord) as error:
        shape(value, source)
    return str(error.value)


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content, **more}, {"role": "assistant", "content": "Hello"}]}


PUBLISHED: dict[str, tuple[Any, Turns, set[str]]] = {
    "OpenAI chat": ({"messages": [{"role": "system", "content": "Be kind."}, *OPENAI]}, [SYSTEM, *EXCHANGE], set()),
    "OpenAI chat, weights": (
        {"messages": [OPENAI[0], {**OPENAI[1], "weight": 0}]},
        EXCHANGE,
        {"messages[].weight"},
    ),
    "OpenAI completion": ({"prompt": "Hi", "completion": " Hello"}, EXCHANGE, set()),
    "nanochat": (OPENAI, EXCHANGE, set()),
    "ShareGPT": ({"id": "x_0", "conversations": SHAREGPT}, EXCHANGE, set()),
    "ShareGPT with system and tools": (
        {"conversations": SHAREGPT, "system": "Be kind.", "tools": "[{}]"},
        [SYSTEM, *EXCHANGE],
        {"tools"},
    ),
    "ShareGPT, raw": ({"items": SHAREGPT, "id": "a", "title": "t"}, EXCHANGE, {"title"}),
    "SlimOrca": (
        {"conversations": [{"from": "system", "value": "Be kind.", "weight": 0}, *SHAREGPT]},
        [SYSTEM, *EXCHANGE],
        {"conversations[].weight"},
    ),
    "OpenHermes": (
        {"conversations": SHAREGPT, "source": "a", "category": "b", "system_prompt": None, "views": None},
        EXCHANGE,
        {"category"},
    ),
    "Capybara": (
        {"source": "a", "conversation": [{"input": "Hi", "output": "Hello"}, {"input": "And?", "output": "Fine."}]},
        TWO,
        set(),
    ),
    "LIMA": ({"conversations": ["Hi", "Hello", "And?", "Fine."], "source": "stackexchange"}, TWO, set()),
    "UltraChat": ({"id": "0", "data": ["Hi", "Hello", "And?", "Fine."]}, TWO, set()),
    "UltraChat 200k": ({"prompt": "Hi", "prompt_id": "f0", "messages": OPENAI}, EXCHANGE, {"prompt_id"}),
    "no_robots": ({"prompt": "Hi", "prompt_id": "f0", "messages": OPENAI}, EXCHANGE, {"prompt_id"}),
    "SmolTalk": ({"messages": OPENAI, "source": "smol-magpie"}, EXCHANGE, set()),
    "TULU": ({"id": "a", "messages": OPENAI, "dataset": "cot"}, EXCHANGE, {"dataset"}),
    "WildChat": (
        {"conversation": [{**OPENAI[0], "toxic": False}, OPENAI[1]], "turn": 1, "redacted": False},
        EXCHANGE,
        {"turn", "redacted", "conversation[].toxic"},
    ),
    "DailyDialog": ({"dialog": ["Hi", "Hello"], "act": [1, 2]}, EXCHANGE, {"act"}),
    "Chitchat": (
        {"messages": [[{"text": "Hi", "sender": "7-be"}], [{"text": text, "sender": "5c"} for text in ("Hel", "lo")]]},
        [("Human", "Hi"), ("Assistant", "Hel\n\nlo")],
        set(),
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is an instruction. Add. 1, 2: 3"},
        [("Human", "Add.\n\n1, 2"), ("Assistant", "3")],
        {"text"},
    ),
    "Alpaca with system and history": (
        {"instruction": "And?", "input": "", "output": "Fine.", "system": "Be kind.", "history": [["Hi", "Hello"]]},
        [SYSTEM, *TWO],
        set(),
    ),
    "Dolly": (
        {"instruction": "When?", "context": "On Monday.", "response": "Then.", "category": "closed_qa"},
        [("Human", "When?\n\nOn Monday."), ("Assistant", "Then.")],
        {"category"},
    ),
    "WizardLM": ({"instruction": "Hi", "output": "Hello"}, EXCHANGE, set()),
    "OpenOrca": (
        {"id": "flan.1", "system_prompt": "Be kind.", "question": "Hi", "response": "Hello"},
        [SYSTEM, *EXCHANGE],
        set(),
    ),
    "GSM8K": (
        {"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"},
        [("Human", "1+1?"), ("Assistant", "2\nThe answer is 2.")],
        set(),
    ),
    "MetaMath": ({"query": "Hi", "response": "Hello", "type": "FOBAR", "original_question": "Hi"}, EXCHANGE, {"type"}),
    "Numina": ({"problem": "Hi", "solution": "Hello"}, EXCHANGE, set()),
    "SQuAD": (
        {"question": "Hi", "context": "There.", "answers": {"text": ["Hello", "Hey"], "answer_start": [0, 1]}},
        [("Human", "Hi\n\nThere."), ("Assistant", "Hello")],
        set(),
    ),
    "Aya": ({"inputs": "Hi", "targets": "Hello", "language": "English"}, EXCHANGE, {"language"}),
    "Firefly": ({"kind": "NLI", "input": "Hi", "target": "Hello"}, EXCHANGE, {"kind"}),
    "FAQ": ({"Question": "Hi", "Answer": "Hello"}, EXCHANGE, set()),
    "user and assistant": ({"user": "Hi", "assistant": "Hello"}, EXCHANGE, set()),
    "HelpSteer": ({"prompt": "Hi", "response": "Hello", "helpfulness": 4}, EXCHANGE, {"helpfulness"}),
    "HH-RLHF": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant: Fine.", "rejected": "\n\nHuman: Hi"},
        TWO,
        {"rejected"},
    ),
    "HH-RLHF, full": (
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant:",
            "chosen": " Fine.",
            "rejected": " No.",
        },
        TWO,
        {"rejected"},
    ),
    "DPO pairs": (
        {"system": "Be kind.", "question": "Hi", "chosen": "Hello", "rejected": "No."},
        [SYSTEM, *EXCHANGE],
        {"rejected"},
    ),
    "LLaMA-Factory preference": (
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "No."}},
        EXCHANGE,
        {"rejected"},
    ),
    "messages and chosen": ({"messages": OPENAI[:1], "chosen": "Hello", "rejected": "No."}, EXCHANGE, {"rejected"}),
    "messages and completion": ({"messages": OPENAI[:1], "completion": OPENAI[1:]}, EXCHANGE, set()),
    "Anthropic API": (
        {"system": [{"type": "text", "text": "Be kind."}], "messages": OPENAI},
        [SYSTEM, *EXCHANGE],
        set(),
    ),
    "a system that is no text": ({"system": [{"type": "image"}], "messages": OPENAI}, EXCHANGE, {"system"}),
    "Gemini with system": (
        {
            "systemInstruction": {"parts": [{"text": "Be kind."}]},
            "contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}],
        },
        [SYSTEM, *EXCHANGE],
        set(),
    ),
    "UltraFeedback": (
        {"prompt": "Hi", "chosen": OPENAI, "rejected": OPENAI[:1], "score_chosen": 8.5},
        EXCHANGE,
        {"rejected", "score_chosen"},
    ),
    "TRL preference": ({"prompt": OPENAI[:1], "chosen": OPENAI[1:], "rejected": OPENAI[1:]}, EXCHANGE, {"rejected"}),
    "TRL prompt and completion": ({"prompt": OPENAI[:1], "completion": OPENAI[1:]}, EXCHANGE, set()),
    "Gemini": (
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]},
        EXCHANGE,
        set(),
    ),
    "Cohere": (
        {"messages": [{"role": "User", "message": "Hi"}, {"role": "CHATBOT", "message": "Hello"}]},
        EXCHANGE,
        set(),
    ),
    "messages as JSON": ({"messages": json.dumps(OPENAI)}, EXCHANGE, set()),
    "messages as Python prints them": ({"messages": str(OPENAI)}, EXCHANGE, set()),
    "lists by key": ({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}}, EXCHANGE, set()),
    "ShareGPT's by key": ({"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}}, EXCHANGE, set()),
    "messages as Arrow's maps": ({"messages": [list(turn.items()) for turn in OPENAI]}, EXCHANGE, set()),
    "pairs of texts": ({"conversation": [["Hi", "Hello"], ["And?", "Fine."]]}, TWO, set()),
    "pairs of speaker and text": ({"conversation": [["user", "Hi"], ["assistant", "Hello"]]}, EXCHANGE, set()),
    "OASST messages": (
        {"message_id": "a", "parent_id": None, "text": "Hi", "role": "prompter", "lang": "en"},
        [("text", "Hi")],
        {"message_id", "role", "lang"},
    ),
    "FineWeb": ({"text": "Hi", "id": "u", "dump": "CC", "score": 0.9}, [("text", "Hi")], {"dump", "score"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_formats(name: str) -> None:
    record, expected, unused = PUBLISHED[name]
    shaped = shape(record, MINE)
    assert [(turn.role, turn.content) for turn in shaped.document.turns] == expected
    assert set(shaped.unused) == unused


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"conversations": [SHAREGPT[0], {"from": "function_call", "value": "{}"}]}, "tool calls"),
        ({"conversations": [SHAREGPT[0], {"from": "observation", "value": "{}"}]}, "tool calls"),
        ({"messages": [OPENAI[0], {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]}, "tool calls"),
        ({"messages": [OPENAI[0], {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "tool calls"),
        ({"messages": [OPENAI[0], {"role": "assistant", "content": "", "function_call": {"name": "f"}}]}, "tool calls"),
        (said("tool", "42"), "tool calls"),
        (said("ipython", "42"), "tool calls"),
        (said("FUNCTION RESPONSE", "42"), "tool calls"),
        (said("user", [{"type": "tool_result", "content": "42"}]), "tool calls"),
        (said("bing", "Hi"), "unknown speaker"),
        ({"conversation": [["user", "Hi"], ["bing", "Hello"]]}, "unknown speaker"),
        (said("customer", "Hi"), "unknown speaker"),
        ({"messages": [{"role": None, "content": "Hi"}]}, "unknown speaker"),
        (said("user", [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "a"}]), "content is not text"),
        (said("user", [{"type": "input_audio", "input_audio": {}}]), "content is not text"),
        (said("user", [5]), "content is not text"),
        ({"question": "Hi", "answer": ["a", "b"]}, "content is not text"),
        ({"instruction": "Hi", "output": {"a": 1}}, "content is not text"),
        ({"instruction": "Hi", "input": {"a": 1}, "output": "a"}, "content is not text"),
        ({"question": "Hi", "answers": {"text": [], "answer_start": []}}, "empty turn"),
        ({"instruction": "Hi", "output": "<nooutput>"}, "empty turn"),
        ({"instruction": "Hi", "output": float("nan")}, "empty turn"),
        ({"mapping": {"a": {"message": None}}, "title": "t"}, "unknown columns"),
        ({"question_id": 81, "category": "writing", "turns": ["Compose.", "Rewrite."]}, "unknown columns"),
    ],
)  # fmt: skip
def test_what_is_left_out_has_a_reason(record: Any, reason: str) -> None:
    assert reason_of(record).partition(":")[0] == reason


@pytest.mark.parametrize(
    "content",
    [
        "Hi",
        [{"type": "text", "text": "Hi"}],
        [{"type": "input_text", "text": "Hi"}],
        [{"type": "output_text", "text": "Hi", "annotations": []}],
        [{"type": "text", "text": {"value": "Hi", "annotations": []}}],
        [{"type": "text", "text": "Hi", "image": None}, None, {"type": "text", "text": " "}],
        {"type": "text", "text": "Hi"},
        {"content_type": "text", "parts": ["Hi"]},
        [{"text": "Hi"}],
        ["Hi"],
    ],
)
def test_content_in_parts(content: Any) -> None:
    assert turns_of(said("user", content)) == EXCHANGE


def test_several_parts_are_lines() -> None:
    assert turns_of(said("user", ["a", {"type": "text", "text": "b"}]))[0] == ("Human", "a\nb")


@pytest.mark.parametrize(
    ("value", "text"), [(6, "6"), (2.5, "2.5"), (True, "true"), (-1, "-1"), (0, "0"), (False, "false")]
)
def test_a_number_is_taken_as_its_text(value: Any, text: str) -> None:
    for record in (
        {"instruction": "Hi", "output": value},
        {"messages": [OPENAI[0], {"role": "gpt", "content": value}]},
    ):
        shaped = shape(record, MINE)
        assert shaped.document.turns[1].content == text
        assert shaped.notes == ("number taken as its text",)


PLACEHOLDERS = [
    "<noinput>",
    "<no input>",
    "<No Input>",
    "No input",
    "<no_input>",
    "N/A",
    "n/a",
    "NA",
    "None",
    "none.",
    "nan",
]
PLACEHOLDERS += ["NaN", "null", "-", "--", "—", "(none)", "[N/A]", "Not applicable", " N/A "]  # fmt: skip


@pytest.mark.parametrize("column", ["input", "context"])
@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_a_placeholder_is_no_input(placeholder: str, column: str) -> None:
    shaped = shape({"instruction": "Hi", column: placeholder, "output": "Hello"}, MINE)
    assert [(turn.role, turn.content) for turn in shaped.document.turns] == EXCHANGE
    assert shaped.notes == (f"placeholder in {column} taken as empty",)
    assert turns_of({"system": placeholder, "prompt": "Hi", "completion": "Hello"}) == EXCHANGE


@pytest.mark.parametrize("text", ["[]", "()", "-1", "0", "x", "none of them", "Nana", "N/A or not", "[1, 2]"])
def test_what_is_only_like_a_placeholder_is_an_input(text: str) -> None:
    assert turns_of({"instruction": "Hi", "input": text, "output": "Hello"})[0] == ("Human", f"Hi\n\n{text}")


def test_a_placeholder_may_be_the_right_reply() -> None:
    shaped = shape({"instruction": "How many are left?", "output": "None"}, MINE)
    assert shaped.document.turns[1].content == "None"
    assert shaped.notes == ("placeholder as reply kept",)


@pytest.mark.parametrize(
    ("roles", "expected", "notes"),
    [
        ("ah a", "h a", {"leading Assistant turn dropped"}),
        ("sa ha", "s h a", {"leading Assistant turn dropped"}),
        ("ass ha", "ss h a", {"leading Assistant turn dropped"}),
        ("hh aa ha", "hh aa h a", {"neighbouring turns of one speaker joined"}),
        ("ha hh", "h a", {"trailing Human turn without a reply dropped"}),
        ("h s a", "hs a", {"later System turn counted as the Human's"}),
        ("ha s ha", "h a sh a", {"later System turn counted as the Human's"}),
        ("ha s a", "h a s a", {"later System turn counted as the Human's"}),
        ("ha s", "h a", {"later System turn counted as the Human's", "trailing Human turn without a reply dropped"}),
    ],
)
def test_turns_that_do_not_alternate(roles: str, expected: str, notes: set[str]) -> None:
    """Each turn says its number. `expected` has the letters of the turns that are joined, by turn."""
    names = {"s": "system", "h": "user", "a": "assistant"}
    numbered = list(enumerate(roles.replace(" ", "")))
    shaped = shape([{"role": names[letter], "content": f"{letter}{number}"} for number, letter in numbered], MINE)
    contents = [turn.content.split("\n\n") for turn in shaped.document.turns]
    assert ["".join(part[0] for part in parts) for parts in contents] == expected.split()
    spoken = [part for parts in contents for part in parts]
    assert spoken == sorted(spoken, key=lambda part: (not part.startswith("s") or spoken.index(part) > 0, part[1:]))
    assert notes <= set(shaped.notes)
    assert set(shaped.notes) - notes <= {"neighbouring turns of one speaker joined"}


def test_a_system_message_that_stands_in_a_column_too_is_taken_once() -> None:
    record = {"system": "Be kind.", "messages": [{"role": "system", "content": "Be kind."}, *OPENAI]}
    assert turns_of(record) == [SYSTEM, *EXCHANGE]
    record["system"] = "Be brief."
    assert turns_of(record) == [("System", "Be brief.\n\nBe kind."), *EXCHANGE]


@pytest.mark.parametrize("history", ["[]", [], None, "", "long ago", 5, [5]])
def test_a_history_that_is_none(history: Any) -> None:
    shaped = shape({"instruction": "Hi", "output": "Hello", "history": history}, MINE)
    assert [(turn.role, turn.content) for turn in shaped.document.turns] == EXCHANGE
    assert set(shaped.unused) == ({"history"} if history in ("long ago", 5, [5]) else set())


@pytest.mark.parametrize(
    "name", ["user", "USER:", "<|user|>", "### Human:", "[USER]", "human", "Instruction", "prompter"]
)
def test_names_of_speakers(name: str) -> None:
    assert turns_of({"messages": [{"role": name, "content": "Hi"}, {"role": "gpt", "content": "Hello"}]}) == EXCHANGE


@pytest.mark.parametrize(
    "names",
    [("1", "2"), ("A", "B"), ("Speaker 1", "Speaker 2"), ("speaker_a", "speaker_b"), (7, 9), ("720840be", "549cc1d1")],
)
def test_two_anonymous_speakers(names: tuple[Any, Any]) -> None:  # fmt: skip
    first, second = names
    shaped = shape({"messages": [{"speaker": first, "text": "Hi"}, {"speaker": second, "text": "Hello"}]}, MINE)
    assert [(turn.role, turn.content) for turn in shaped.document.turns] == EXCHANGE
    assert shaped.notes == ("two anonymous speakers taken as Human and Assistant",)


def test_a_message_of_a_tree_is_noted() -> None:
    assert shape(PUBLISHED["OASST messages"][0], MINE).notes == ("one message of a conversation tree read as a text",)


def test_the_recipe_names_speakers() -> None:
    source = FileSource(name="mine", path="x", speakers={"Customer": "human", "agent_1": "assistant", "user": "system"})
    record = {"dialogue": [{"speaker": "customer", "text": "Hi"}, {"speaker": "Agent 1", "text": "Hello"}]}
    assert turns_of(record, source) == EXCHANGE
    record["dialogue"].insert(0, {"speaker": "User", "text": "Be kind."})
    assert turns_of(record, source) == [SYSTEM, *EXCHANGE]


def test_columns_of_the_recipe_take_every_form_of_a_list_of_turns() -> None:
    source = FileSource(name="mine", path="x", columns=Columns(messages="log"))
    for log in (OPENAI, SHAREGPT, json.dumps(SHAREGPT), ["Hi", "Hello"], [["Hi", "Hello"]]):
        assert turns_of({"log": log, "messages": "no"}, source) == EXCHANGE
    strict = FileSource(name="mine", path="x", columns=Columns(messages="log", role="who", content="what"))
    assert reason_of({"log": OPENAI}, strict) == "malformed turn: turn 1 has no who and what"
    assert shape({"log": OPENAI, "weight": 0.5}, source).unused == {"weight": False}
    told = FileSource(name="mine", path="x", columns=Columns(messages="log", system="s"))
    assert turns_of({"log": OPENAI, "s": "Be kind."}, told) == [SYSTEM, *EXCHANGE]
    exchange = FileSource(name="mine", path="x", columns=Columns(human="q", assistant="a", system="s"))
    assert turns_of({"q": "Hi", "a": "Hello", "s": "N/A"}, exchange) == EXCHANGE
    assert reason_of({"q": "Hi", "a": None}, exchange) == "empty turn: Assistant, turn 2"


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20).map(lambda text: f"w {text} w")
OPENAI_KEYS = ("role", "content", "user", "assistant")
WRITERS: dict[str, Callable[[str, list[tuple[str, str]]], Any]] = {
    "openai": lambda system, pairs: {"messages": _list(system, pairs, *OPENAI_KEYS)},
    "sharegpt": lambda system, pairs: {"conversations": _list(system, pairs, "from", "value", "human", "gpt")},
    "line": lambda system, pairs: _list(system, pairs, *OPENAI_KEYS),
    "json": lambda system, pairs: {"messages": json.dumps(_list(system, pairs, *OPENAI_KEYS))},
    "python": lambda system, pairs: {"chat": repr(_list(system, pairs, *OPENAI_KEYS))},
    "parts": lambda system, pairs: {
        "messages": [
            {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
            for turn in _list(system, pairs, *OPENAI_KEYS)
        ]
    },
    "by key": lambda system, pairs: {
        "turns": {key: [turn[key] for turn in _list(system, pairs, *OPENAI_KEYS)] for key in ("role", "content")}
    },
    "alternating": lambda system, pairs: {"system": system, "conversation": [text for pair in pairs for text in pair]},
    "exchanges": lambda system, pairs: {
        "system_prompt": system,
        "conversation": [{"input": human, "output": assistant} for human, assistant in pairs],
    },
    "history": lambda system, pairs: {
        "system": system,
        "history": [list(pair) for pair in pairs[:-1]],
        "instruction": pairs[-1][0],
        "output": pairs[-1][1],
    },
    "chosen": lambda system, pairs: {"chosen": _list(system, pairs, *OPENAI_KEYS), "rejected": []},
}


def _list(
    system: str, pairs: list[tuple[str, str]], speaker: str, content: str, human: str, assistant: str
) -> list[dict[str, str]]:
    spoken = [turn for pair in pairs for turn in zip((human, assistant), pair, strict=True)]
    return [{speaker: who, content: what} for who, what in ([("system", system)] if system else []) + spoken]


@pytest.mark.parametrize("shape_name", WRITERS)
@given(system=st.one_of(st.just(""), WORDS), pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_a_conversation_comes_back_whole(shape_name: str, system: str, pairs: list[tuple[str, str]]) -> None:
    expected = [("System", system)] * bool(system)
    expected += [turn for pair in pairs for turn in zip(("Human", "Assistant"), pair, strict=True)]
    shaped = shape(WRITERS[shape_name](system, pairs), MINE)
    assert [(turn.role, turn.content) for turn in shaped.document.turns] == expected
    assert (shaped.notes, shaped.unused) == ((), {})


NAMES = [
    "text",
    "messages",
    "conversation",
    "turns",
    "chosen",
    "prompt",
    "response",
    "question",
    "answer",
    "instruction",
]
NAMES += ["input", "output", "context", "system", "history", "data", "id", "other", "answers", "completion"]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(0, 9), st.sampled_from(["N/A", "", "[1]", "{"]), st.just("word")
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "bing", "1", "2", None])
TURNS = st.fixed_dictionaries(
    {"role": ROLES, "content": LEAVES}, optional={"weight": st.integers(0, 1), "name": LEAVES}
)
VALUES = st.one_of(
    LEAVES,
    st.just("word"),
    st.lists(TURNS, max_size=4),
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
)


def _marked(value: Any, words: list[str]) -> Any:
    """The value with each "word" made distinct."""
    if value == "word":
        words.append(f"word{len(words)}.")
        return words[-1]
    if isinstance(value, dict):
        return {key: _marked(item, words) for key, item in value.items()}
    return [_marked(item, words) for item in value] if isinstance(value, list) else value


@given(st.one_of(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.lists(TURNS, max_size=5)))
def test_whatever_a_record_holds_is_in_the_document_or_counted(record: Any) -> None:
    words: list[str] = []
    marked = _marked(record, words)
    try:
        shaped = shape(marked, MINE)
    except BadRecord:
        return
    roles = [turn.role for turn in shaped.document.turns]
    spoken = roles[1:] if roles[0] == "System" else roles
    assert roles == ["text"] or (spoken and spoken == ["Human", "Assistant"] * (len(spoken) // 2))
    assert all(turn.content == turn.content.strip() != "" for turn in shaped.document.turns)
    if not any("dropped" in note or "first of several" in note for note in shaped.notes):
        named = " ".join(json.dumps(value) for name in shaped.unused for value in _held(marked, name))
        kept = shaped.document.content + json.dumps(shaped.document.metadata) + named
        assert [word for word in words if word not in kept] == []


def _held(record: Any, name: str) -> list[Any]:
    """What a record holds of a column (`name`) or of a key of its turns (`messages[].name`)."""
    column, _, key = name.partition("[].")
    value = record if column == "" else record.get(column)
    return [turn.get(key) for turn in value if isinstance(turn, dict)] if key else [value]


@pytest.mark.parametrize(
    ("case", "documents", "bad", "notes"),
    [
        ("10-line-is-a-list-of-turns/chats.jsonl", 40, {}, {}),
        ("11-tool-calls/tools.jsonl", 36, {"tool calls": 4}, {}),
        ("12-content-in-parts/parts.jsonl", 40, {}, {}),
        (
            "14-same-speaker-twice/twice.jsonl",
            80,
            {},
            {"leading Assistant turn dropped": 40, "neighbouring turns of one speaker joined": 40},
        ),
        ("15-other-speakers/bing.jsonl", 36, {"unknown speaker": 4}, {}),
        ("20-numbers-and-objects-as-answers/number.jsonl", 40, {}, {"number taken as its text": 20}),
        ("21-placeholder-inputs/noinput.json", 40, {}, {"placeholder in input taken as empty": 32}),
        ("33-leading-assistant-turn/sharegpt.jsonl", 200, {}, {"leading Assistant turn dropped": 67}),
        ("34-null-text/three-nulls.jsonl", 197, {"empty text": 3}, {}),
        ("37-openai-tools-and-parts/partsfew.jsonl", 200, {}, {}),
        ("37-openai-tools-and-parts/toolsfew.jsonl", 160, {"tool calls": 40}, {}),
    ],
)
def test_reported_files(tmp_path: Path, case: str, documents: int, bad: dict[str, int], notes: dict[str, int]) -> None:
    path = CASES / case
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    counts = collecting.collect(tmp_path, recipe_of(FileSource(name="mine", path=str(path))))["sources"]["mine"]
    assert (counts["documents"], counts["bad_reasons"], counts["notes"]) == (documents, bad, notes)
    assert not any("<noinput>" in document.content for document in collecting.documents(tmp_path))


class TestCounts:
    def collected(self, folder: Path, records: list[Any], **settings: Any) -> dict[str, Any]:
        source = FileSource(name="mine", path=jsonl(folder / "a.jsonl", records), **settings)
        counts: dict[str, Any] = collecting.collect(folder / "output", recipe_of(source))["sources"]["mine"]
        assert counts["records"] == counts["documents"] + counts["bad"] + counts["not_taken"]
        return counts

    def test_half_of_a_source_may_be_left_out_as_normal(self, tmp_path: Path) -> None:
        bad = [said("tool", "a"), said("bing", "a"), said("user", [{"type": "image"}]), {"text": None}]
        counts = self.collected(tmp_path, [{"messages": OPENAI}] * 4 + bad)
        assert counts["documents"] == 4
        reasons = ["content is not text", "empty text", "tool calls", "unknown speaker"]
        assert counts["bad_reasons"] == dict.fromkeys(reasons, 1)

    def test_where_nearly_all_speakers_are_unknown_the_remedy_is_named(self, tmp_path: Path) -> None:
        records = [{"messages": OPENAI}] + [said("customer", "a")] * 9
        with pytest.raises(
            ParakeetError, match=r"9 of 10 .*\(unknown speaker\).*speakers: \{NAME: assistant\}.*\n.*'customer'"
        ):
            self.collected(tmp_path, records)
        (tmp_path / "again").mkdir()
        assert self.collected(tmp_path / "again", records, speakers={"customer": "human"})["documents"] == 10

    def test_where_nearly_all_have_tool_calls_the_recipe_can_allow_it(self, tmp_path: Path) -> None:
        records = [{"messages": OPENAI}] + [said("tool", "a")] * 9
        with pytest.raises(
            ParakeetError, match=r"9 of 10 .*\(tool calls\).*at most 50%.*sources\[\]\.bad_records in the"
        ):
            self.collected(tmp_path, records)
        (tmp_path / "again").mkdir()
        assert self.collected(tmp_path / "again", records, bad_records="90%")["documents"] == 1

    @pytest.mark.parametrize(("allowed", "passes"), [("4%", False), ("5%", True), (0.05, True), (0, False)])
    def test_the_recipe_says_how_many_may_be_bad(self, tmp_path: Path, allowed: Any, passes: bool) -> None:
        records = [{"text": "a"}] * 95 + [{"text": "bad\0"}] * 5
        if passes:
            assert self.collected(tmp_path, records, bad_records=allowed)["bad"] == 5
            return
        with pytest.raises(ParakeetError, match=r"5 of 100 .* at most \d% may be bad \(sources\[\]\.bad_records\)"):
            self.collected(tmp_path, records, bad_records=allowed)

    def test_more_than_half_may_be_bad_if_the_recipe_says_so(self, tmp_path: Path) -> None:
        records = [{"text": "a"}, *[{"text": "bad\0"}] * 9, *[{"text": ""}] * 9] * 120
        assert self.collected(tmp_path, records, bad_records="95%")["documents"] == 120

    @pytest.mark.parametrize("share", ["101%", -0.1, "much", "nan", 2, "1/2"])
    def test_a_share_that_is_none_is_refused(self, share: Any) -> None:
        with pytest.raises(ValueError, match="bad_records"):
            FileSource(name="mine", path="x", bad_records=share)

    def test_unknown_columns_say_how_to_name_them(self, tmp_path: Path) -> None:
        with pytest.raises(ParakeetError, match=r"unknown columns.*columns: \{text: NAME\}.*\n.*unknown columns: body"):
            self.collected(tmp_path, [{"body": "a"}])

    def test_unused_columns_are_named_those_with_text_first(self, tmp_path: Path) -> None:
        records = [{"text": str(number), "score": 0.5, "weight": 1} for number in range(3)]
        records += [{"text": "b", "summary": "s", "score": 1}, {"text": "c", "summary": "", "language": None}]
        counts = self.collected(tmp_path, records)
        assert list(counts["unused_columns"].items()) == [("summary", 1), ("score", 4), ("weight", 3)]

    def test_the_terminal_says_once_what_was_changed_and_not_used(self, tmp_path: Path) -> None:
        records = [[{"role": "assistant", "content": "Hm."}, *OPENAI], {"messages": OPENAI, "note": "a", "weight": 1}]
        path = jsonl(tmp_path / "a.jsonl", [*records, said("tool", "b")])
        terminal = io.StringIO()
        (tmp_path / "output").mkdir()
        recipe = recipe_of(FileSource(name="mine", path=path))
        collect_documents(recipe, {}, tmp_path / "output", Progress(terminal))
        lines = [line for line in terminal.getvalue().splitlines() if line.startswith("mine: ")]
        assert lines == [
            "mine: 1 of 3 records left out (tool calls 1). The first:",
            "mine: leading Assistant turn dropped (1 of 2 documents)",
            "mine: columns that are not used: note (1), weight (1)",
        ]

    def test_names_of_unused_columns_are_bounded(self, tmp_path: Path) -> None:
        records = [{"text": "a", f"key {number}": "b", "x" * 500: 1} for number in range(200)]
        unused = self.collected(tmp_path, records)["unused_columns"]
        assert (len(unused), unused["x" * 60], unused["other columns"]) == (101, 200, 101)
        assert sum(unused.values()) == 400
