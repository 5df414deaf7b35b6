"""Events and the tree that they lead to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parakeet.chat.events import Conversation, Event, check_event, fold, settled
from parakeet.errors import ParakeetError

HOW = {"seed": 1, "tokens": 2, "finish_reason": "stop", "dropped": 0, "settings": {}}
TEXTS = st.text(max_size=3)


def written(kind: str, message: str, reply: str) -> Event:
    return {"event": kind, "reply": reply, **HOW} | ({} if kind == "continue" else {"message": message})


REPLIES = st.builds(written, st.sampled_from(["reply", "complete", "retry", "edit", "continue"]), TEXTS, TEXTS)
EVENTS = REPLIES | st.sampled_from([{"event": "undo"}, {"event": "clear"}, {"event": "model"}])
SWITCHES = st.integers(0, 8).map(lambda to: {"event": "switch", "to": to}) | st.just({"event": "switch", "to": None})


def linear(events: list[Event]) -> list[tuple[str, str, bool]] | None:
    """The rules of a conversation without branches: (message, reply, raw) of each exchange; None if they are broken."""
    found: list[tuple[str, str, bool]] = []
    for event in events:
        match event["event"]:
            case "clear":
                found = []
            case "reply" | "complete" as kind:
                found = [*found, (event["message"], event["reply"], kind == "complete")]
            case "model":
                pass
            case _ if not found:
                return None
            case "undo":
                found = found[:-1]
            case "continue":
                found = [*found[:-1], (found[-1][0], found[-1][1] + event["reply"], found[-1][2])]
            case _:
                found = [*found[:-1], (event["message"], event["reply"], found[-1][2])]
    return found


def path_of(conversation: Conversation) -> list[tuple[str, str, bool]]:
    return [(each.message, each.reply, each.raw) for each in conversation.exchanges]


@given(st.lists(EVENTS, max_size=20))
def test_without_a_switch_the_path_is_the_conversation_of_the_linear_rules(events: list[Event]) -> None:
    expected = linear(events)
    if expected is None:
        with pytest.raises(ParakeetError, match="changes an exchange, but there is none"):
            fold(events)
    else:
        assert path_of(fold(events)) == expected


@given(st.lists(EVENTS | SWITCHES, max_size=20))
def test_every_reply_stays_in_the_tree_and_can_be_gone_to(events: list[Event]) -> None:
    conversation, made = Conversation(), 0
    for event in events:
        try:
            conversation.apply(event)
        except ParakeetError:
            continue
        made += event["event"] in ("reply", "complete", "retry", "edit")
        assert [node.id for node in conversation.nodes] == list(range(made))
        assert conversation.at == (conversation.path[-1] if conversation.path else None)
        assert all(node.parent is None or node.parent < node.id for node in conversation.nodes)
    for node in conversation.nodes:
        conversation.apply({"event": "switch", "to": node.id})
        assert conversation.exchanges[-1] == node.exchange
        assert conversation.path[:-1] == conversation.path_to(node.parent)


def test_a_retry_an_edit_and_a_reply_after_an_earlier_exchange_are_branches() -> None:
    events = [
        written("reply", "one", "1"),
        written("reply", "two", "2"),
        written("retry", "two", "zwei"),
        written("edit", "three", "3"),
        {"event": "switch", "to": 0},
        written("reply", "four", "4"),
        {"event": "switch", "to": 1},
        written("continue", "", "!"),
        {"event": "switch", "to": None},
        written("reply", "five", "5"),
    ]
    conversation = fold(events)
    assert [node.parent for node in conversation.nodes] == [None, 0, 0, 0, 0, None]
    assert [node.exchange.reply for node in conversation.nodes] == ["1", "2!", "zwei", "3", "4", "5"]
    assert conversation.path == [5]
    assert [event["event"] for event in conversation.nodes[1].events] == ["reply", "continue"]


@pytest.mark.parametrize("kind", ["reply", "complete", "retry", "edit", "continue"])
def test_a_reply_that_was_cut_anywhere_is_what_was_shown_of_it(kind: str) -> None:
    final = written(kind, "question", "an answer") | {"tokens": 3, "begun": True}
    begun = {name: final[name] for name in ("seed", "dropped", "settings", "message") if name in final}
    pieces = [{"event": "shown", "text": text, "tokens": n} for n, text in enumerate(("an", " ans", "wer"), start=1)]
    events = [written("reply", "before", "yes"), {"event": "begun", "kind": kind, **begun}, *pieces, final]
    for event in events:
        check_event(event)
    assert list(settled(events)) == [events[0], final]
    before = fold(events[:1])
    for end in range(2, len(events)):
        cut = list(settled(events[:end]))
        shown = "".join(piece["text"] for piece in pieces[: end - 2])
        if not shown:
            assert cut == events[:1]
            continue
        assert (cut[1]["reply"], cut[1]["tokens"], cut[1]["finish_reason"]) == (shown, end - 2, "interrupted")
        check_event(cut[1])
        assert fold(cut).exchanges[-1].reply.endswith(shown)
        # Whoever goes on from there goes on after what was shown, with the same message and seed too.
        again = [*events[:end], {**final, "begun": False}]
        assert [event["reply"] for event in settled(again)] == ["yes", shown, "an answer"]
        assert (
            fold(settled([*events[:end], {"event": "undo"}])).exchanges == before.exchanges[: len(fold(cut).path) - 1]
        )


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"event": "switch"}, "needs a whole number from 0 as 'to'"),
        ({"event": "switch", "to": True}, "needs a whole number from 0 as 'to'"),
        ({"event": "switch", "to": -1}, "needs a whole number from 0 as 'to'"),
        ({"event": "begun", "kind": "undo", "message": "", **HOW}, "needs one of reply, complete, retry, edit, cont"),
        ({"event": "begun", "kind": "reply", **HOW}, "needs text as 'message'"),
        ({"event": "shown", "text": "x"}, "needs a whole number from 0 as 'tokens'"),
        ({"event": "branch"}, "'branch' is not an event"),
    ],
)
def test_an_event_that_is_not_whole_is_refused(event: dict[str, Any], message: str) -> None:
    with pytest.raises(ParakeetError, match=message):
        check_event(event)


def test_a_piece_of_nothing_and_a_way_to_nowhere_are_refused() -> None:
    with pytest.raises(ParakeetError, match="none has begun"):
        list(settled([{"event": "shown", "text": "x", "tokens": 1}]))
    with pytest.raises(ParakeetError, match="there is no exchange 1"):
        fold([written("reply", "a", "b"), {"event": "switch", "to": 1}])
