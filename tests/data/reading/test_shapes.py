from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.data.reading.records import BadRecord
from parakeet.data.reading.shapes import shape
from parakeet.recipe_sources import Columns, FileSource


def turns(value: Any, **columns: str) -> list[tuple[str, str]]:
    source = FileSource(name="mine", path="x", licence="MIT", columns=Columns(**columns) if columns else None)
    return [(turn.role, turn.content) for turn in shape(value, source).document.turns]


def reason(value: Any, **columns: str) -> str:
    with pytest.raises(BadRecord) as error:
        turns(value, **columns)
    return str(error.value)


def talk(*roles_and_contents: str) -> dict[str, Any]:
    pairs = zip(roles_and_contents[::2], roles_and_contents[1::2], strict=True)
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


MINE = FileSource(name="mine", path="x", licence="MIT")
IN_TURN = FileSource(name="mine", path="x", columns=Columns(alternating="data"))
EXCHANGE = [("Human", "Hi"), ("Assistant", "Hello")]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "Hello"}]},
        {"conversations": [{"from": "human", "value": "Hi", "weight": 0}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": [{"role": "user", "content": "Hi"}, {"role": "model", "content": "Hello"}]},
        {"instruction": "Hi", "output": "Hello"},
        {"instruction": "Hi", "input": "  ", "response": "Hello"},
        {"prompt": "Hi", "completion": "Hello", "text": "not this"},
        {"question": "Hi", "answer": "Hello"},
        {"messages": None, "question": "Hi", "answer": "Hello"},
    ],
)
def test_recognised_shapes(record: dict[str, Any]) -> None:
    assert turns(record) == EXCHANGE


@pytest.mark.parametrize("name", ["input", "context"])
def test_the_input_follows_the_instruction(name: str) -> None:
    record = {"instruction": "Add them.", name: "1, 2", "output": "3"}
    assert turns(record) == [("Human", "Add them.\n\n1, 2"), ("Assistant", "3")]


def test_the_first_known_shape_is_taken() -> None:
    record = {"text": "all", "prompt": "no", "completion": "no", **talk("user", "Hi", "bot", "Hello")}
    assert turns(record) == EXCHANGE


def test_gsm8k_marks_become_text() -> None:
    answer = "In April 48/2 = <<48/2=24>>24.\nBoth 48+24 = $<<48+24=72>>72.\n#### 1,072"
    expected = "In April 48/2 = 24.\nBoth 48+24 = $72.\nThe answer is 1,072."
    assert turns({"question": "How many?", "answer": answer})[1] == ("Assistant", expected)
    assert turns({"question": "How many?", "answer": "#### 72"})[1] == ("Assistant", "The answer is 72.")


def test_other_answers_stay_as_they_are() -> None:
    answer = "Use `cout << x << y; z >> 2`.\n#### Conclusion"
    assert turns({"question": "How?", "answer": answer})[1] == ("Assistant", answer)


def test_plain_text_is_one_turn() -> None:
    assert turns({"text": " a\r\nb \n"}) == turns(" a\r\nb \n") == [("text", "a\nb")]


def test_source_licence_and_small_metadata() -> None:
    record = {"text": "a", "id": 7, "topic": "birds", "source": "x" * 101, "held_out": True, "other": 1}
    document = shape(record, MINE).document
    assert (document.source, document.licence) == ("mine", "MIT")
    assert document.metadata == {"id": 7, "topic": "birds"}


class TestRoles:
    @pytest.mark.parametrize("human", ["user", "human", "Human", " USER ", "prompter"])
    @pytest.mark.parametrize("assistant", ["assistant", "gpt", "Bot", "model", "ChatGPT"])
    def test_names(self, human: str, assistant: str) -> None:
        assert turns(talk(human, "Hi", assistant, "Hello")) == EXCHANGE

    def test_leading_systems_are_merged_and_empty_ones_left_out(self) -> None:
        record = talk("system", "Be kind.", "system", "", "System", "Be brief.", "user", "Hi", "gpt", "Hello")
        assert turns(record) == [("System", "Be kind.\n\nBe brief."), *EXCHANGE]
        assert turns(talk("system", " ", "user", "Hi", "gpt", "Hello")) == EXCHANGE

    def test_a_long_conversation_stays_whole(self) -> None:
        record = talk(*["user", "Hi", "assistant", "Hello"] * 5)
        assert turns(record) == EXCHANGE * 5
        assert shape(record, MINE).notes == ()

    def test_a_trailing_human_is_dropped_with_a_note(self) -> None:
        shaped = shape(talk("user", "Hi", "assistant", "Hello", "user", ""), MINE)
        assert [turn.content for turn in shaped.document.turns] == ["Hi", "Hello"]
        assert shaped.notes == ("trailing Human turn without a reply dropped",)

    @given(st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=7))
    def test_what_comes_out_always_alternates(self, roles: list[str]) -> None:
        record = {"messages": [{"role": role, "content": f"{n}"} for n, role in enumerate(roles)]}
        try:
            found = [role for role, _ in turns(record)]
        except BadRecord:
            return
        spoken = found[1:] if found[0] == "System" else found
        assert spoken == ["Human", "Assistant"] * (len(spoken) // 2)
        assert spoken


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"foo": 1, "bar": 2}, "unknown columns: foo, bar"),
        ({}, "unknown columns: none"),
        ({"prompt": "a"}, "unknown columns: prompt"),
        ({"instruction": "a", "story": None}, "unknown columns: instruction, story"),
        ({"instruction": "a", "text": None}, "empty text"),
        ({"messages": None}, "empty conversation"),
        ({"question": "a", "answer": None}, "empty turn: Assistant, turn 2"),
        ({"messages": []}, "empty conversation"),
        ({"messages": "[]"}, "empty conversation"),
        ({"messages": "Hi"}, "not a list of turns: messages is of type str"),
        ({"messages": {"role": ["user"], "content": []}}, "not a list of turns: messages is of type dict"),
        ({"messages": '[{"role": "user", "content": "\\ud800"}]'}, "lone surrogate"),
        ({"messages": ["Hi"]}, "malformed turn: turn 1 has no role and content"),
        ({"messages": [{"role": "user"}]}, "malformed turn: turn 1"),
        ([1, 2], "malformed turn: turn 1 has no role and content"),
        (["Hi", "Hello"], "malformed turn: turn 1 has no role and content"),
        ([], "empty conversation"),
        (
            {"messages": [{"role": "user", "content": None}, {"role": "bot", "content": "a"}]},
            "empty turn: Human, turn 1",
        ),
        (talk("user", "a", "bing", "b"), "unknown speaker: 'bing' in turn 2"),
        (talk("narrator", "a", "hero", "b"), "unknown speaker: 'narrator' in turn 1"),
        (talk("7", "a", "8", "b", "9", "c"), "unknown speaker: '7' in turn 1"),
        (talk("bot", "a"), "no Human turn"),
        (talk("bot", "a", "user", "b"), "no reply"),
        ({"turns": ["Compose a post.", "Rewrite it."]}, "unknown columns: turns"),
        (talk("system", "a"), "no reply"),
        (talk("user", "a"), "no reply"),
        (talk("user", "a", "bot", " \n"), "empty turn: Assistant, turn 2"),
        ({"instruction": "", "output": "a"}, "empty turn: Human"),
        ({"question": "a", "answer": {"text": "b"}}, "content is not text: answer is of type dict"),
        ({"text": 3}, "content is not text: text is of type int"),
        ({"text": " \n "}, "empty text"),
        ({"text": "a\0b"}, "NUL character: text"),
        (talk("user", "a\0", "bot", "b"), "NUL character: turn 1"),
    ],
)
def test_bad_records_say_why(record: Any, expected: str) -> None:
    assert reason(record).startswith(expected)


class TestColumns:
    def test_text(self) -> None:
        assert turns({"body": "a", "text": "b"}, text="body") == [("text", "a")]

    def test_exchange_with_system(self) -> None:
        record = {"system_prompt": "Be kind.", "question": "Hi", "response": "Hello"}
        named = {"system": "system_prompt", "human": "question", "assistant": "response"}
        assert turns(record, **named) == [("System", "Be kind."), *EXCHANGE]
        assert turns({**record, "system_prompt": None}, **named) == EXCHANGE
        assert turns({"question": "Hi", "response": "Hello"}, **named) == EXCHANGE

    def test_turns_with_keys_of_their_own(self) -> None:
        record = {"chat": [{"who": "Human", "says": "Hi"}, {"who": "AI", "says": "Hello"}]}
        assert turns(record, messages="chat", role="who", content="says") == EXCHANGE

    def test_texts_in_turn(self) -> None:
        assert turns({"id": "0", "data": ["Hi", "Hello"] * 2}, alternating="data") == EXCHANGE * 2
        assert "dropped" in shape({"data": ["Hi", "Hello", "And?"]}, IN_TURN).notes[0]
        assert reason({"data": "Hi"}, alternating="data") == "not a list of turns: data is of type str"
        assert reason({"data": []}, alternating="data") == "empty conversation"
        assert reason({"data": ["Hi", None]}, alternating="data") == "empty turn: Assistant, turn 2"
        assert reason({"text": "a"}, alternating="data") == "missing column: data; there are text"

    def test_columns_say_what_a_record_holds_of_an_evaluation_set(self) -> None:
        chosen = FileSource(name="test", path="x", columns=Columns(human="q", assistant="a"))
        document = shape({"q": "Hi", "a": "Hello"}, chosen).document
        assert (document.source, document.licence, document.content) == ("test", "unknown", "Hi\nHello")

    def test_a_missing_column_is_named_and_nothing_else_is_taken(self) -> None:
        assert reason({"text": "a"}, text="body") == "missing column: body; there are text"
        assert reason({"q": "a", "text": "b"}, human="q", assistant="a").startswith("missing column: a; there are q")
