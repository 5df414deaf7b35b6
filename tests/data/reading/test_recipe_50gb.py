"""The recipes over real sets: each set's mapping on rows of the set's own shape, with invented words."""

import json
from pathlib import Path
from typing import Any

import pytest

from parakeet.data.reading.readers import read_records
from parakeet.data.reading.records import BadRecord
from parakeet.data.reading.shapes import shape
from parakeet.data.reading.sources import file_kind, source_files
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe
from parakeet.recipe_sources import HubSource, RecordSource

REAL_TEXT = Path(__file__).parents[3] / "docs/recipes/real-text.yaml"


def talk(*roles_and_contents: str, role: str = "from", content: str = "value", **more: Any) -> list[dict[str, Any]]:
    pairs = zip(roles_and_contents[::2], roles_and_contents[1::2], strict=True)
    return [{role: who, content: what, **more} for who, what in pairs]


ROWS: dict[str, dict[str, Any]] = {
    "cosmopedia-v2": {
        "prompt": "Write a textbook section on magnets.",
        "text": " Magnets attract iron. ",
        "token_length": 5,
        "audience": "college_students",
        "format": "textbook_academic_tone",
        "seed_data": "fineweb",
    },
    "ultrachat": {"id": "0", "data": ["What is rain?", "Water that falls.", "And snow?", "Frozen water."]},
    "openhermes-2.5": {
        "custom_instruction": None,
        "topic": None,
        "model_name": None,
        "source": "airoboros2.2",
        "skip_prompt_formatting": False,
        "category": "orca",
        "conversations": talk("system", "Be brief.", "human", "What is rain?", "gpt", "Water that falls.", weight=None),
        "views": None,
        "language": None,
        "id": None,
        "title": None,
        "idx": None,
        "hash": None,
        "avatarUrl": None,
        "system_prompt": None,
    },
    "slimorca": {
        "conversations": [
            {"from": "system", "value": "You are an AI assistant.", "weight": 0},
            {"from": "human", "value": "What is rain?", "weight": 0},
            {"from": "gpt", "value": "Water that falls.", "weight": 1},
        ]
    },
    "smoltalk": {
        "messages": talk("user", "What is rain?", "assistant", "Water that falls.", role="role", content="content"),
        "source": "smol-magpie-ultra",
    },
    "wizardlm-evol-v2": {"idx": "Hn1sl9Q", "conversations": talk("human", "What is rain?", "gpt", "Water that falls.")},
    "tiny-textbooks": {
        "source": "refinedweb",
        "s": "x",
        "len": 11,
        "idx": 3,
        "text": "A page of the web.",
        "textbook": "Lesson: Rain",
    },
    "metamath-qa": {
        "type": "MATH_AnsAug",
        "query": "What is 2 + 2?",
        "original_question": "What is 2 + 2?",
        "response": "It is 4.\nThe answer is: 4",
    },
    "orca-math": {"question": "What is 2 + 2?", "answer": "It is 4."},
    "gsm8k": {"question": "What is 2 + 2?", "answer": "It is 2+2 = <<2+2=4>>4.\n#### 4"},
    "dolly-15k": {
        "instruction": "When did it rain?",
        "context": "It rained on Monday.",
        "response": "On Monday.",
        "category": "closed_qa",
    },
}
EXPECTED = {
    "cosmopedia-v2": [("Human", "Write a textbook section on magnets."), ("Assistant", "Magnets attract iron.")],
    "ultrachat": [
        ("Human", "What is rain?"),
        ("Assistant", "Water that falls."),
        ("Human", "And snow?"),
        ("Assistant", "Frozen water."),
    ],
    "openhermes-2.5": [("System", "Be brief."), ("Human", "What is rain?"), ("Assistant", "Water that falls.")],
    "slimorca": [
        ("System", "You are an AI assistant."),
        ("Human", "What is rain?"),
        ("Assistant", "Water that falls."),
    ],
    "smoltalk": [("Human", "What is rain?"), ("Assistant", "Water that falls.")],
    "wizardlm-evol-v2": [("Human", "What is rain?"), ("Assistant", "Water that falls.")],
    "tiny-textbooks": [("text", "Lesson: Rain")],
    "metamath-qa": [("Human", "What is 2 + 2?"), ("Assistant", "It is 4.\nThe answer is: 4")],
    "orca-math": [("Human", "What is 2 + 2?"), ("Assistant", "It is 4.")],
    "gsm8k": [("Human", "What is 2 + 2?"), ("Assistant", "It is 2+2 = 4.\nThe answer is 4.")],
    "dolly-15k": [("Human", "When did it rain?\n\nIt rained on Monday."), ("Assistant", "On Monday.")],
}


@pytest.fixture(scope="module")
def large() -> Recipe:
    return load_recipe("parakeet-50gb")


def source_named(recipe: Recipe, name: str) -> RecordSource:
    source = next(source for source in recipe.sources if source.name == name)
    assert isinstance(source, RecordSource)
    return source


def test_every_set_has_a_row_here_and_all_that_the_plan_shows(large: Recipe) -> None:
    remote = [source for source in large.sources if isinstance(source, RecordSource)]
    assert {source.name for source in remote} == {*ROWS, "tinystories-v2"}
    assert all(source.licence and source.weight and source.forecast.content_bytes for source in remote)
    assert 45e9 < sum(source.forecast.content_bytes for source in remote) < 55e9
    hub = [source for source in remote if isinstance(source, HubSource)]
    assert all(source.revision == "main" or len(source.revision) == 40 for source in hub)
    assert all(file_kind(glob) for source in hub for glob in source.files)


def test_people_come_before_gpt_4_before_gpt_3_5_where_sets_overlap(large: Recipe) -> None:
    priority = {source.name: source.priority for source in large.sources}
    assert priority["dolly-15k"] == priority["gsm8k"] > priority["slimorca"] > priority["openhermes-2.5"]
    assert priority["openhermes-2.5"] > priority["smoltalk"] > priority["ultrachat"] == priority["metamath-qa"]
    assert priority["ultrachat"] > priority["cosmopedia-v2"]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_sets_own_shape_is_mapped(large: Recipe, name: str, tmp_path: Path) -> None:
    source = source_named(large, name)
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[name]) + "\n", encoding="utf-8")
    (record,) = read_records(tmp_path / "rows.jsonl")
    assert record.value is not None
    shaped = shape(record.value, source)
    assert [(turn.role, turn.content) for turn in shaped.document.turns] == EXPECTED[name]
    assert shaped.document.licence == source.licence
    assert shaped.notes == ()


def test_stories_are_parted_by_their_separator(large: Recipe, tmp_path: Path) -> None:
    source = source_named(large, "tinystories-v2")
    text = "\nA fox ran.\n\nIt was fun.\n<|endoftext|>\n\n\nA cat sat.\n<|endoftext|>\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = list(read_records(tmp_path / "a.txt", source.separator))
    assert [record.value for record in found] == ["A fox ran.\n\nIt was fun.", "A cat sat."]
    assert [shape(record.value or "", source).document.is_plain for record in found] == [True, True]


def test_the_example_over_real_text_loads() -> None:
    recipe = load_recipe(str(REAL_TEXT))
    assert [chosen.name for chosen in recipe.decontamination.sets] == ["gsm8k-test"]
    assert all(source.licence != "unknown" and source.weight for source in recipe.sources)


@pytest.mark.parametrize("name", [source.name for source in load_recipe(str(REAL_TEXT)).sources])
def test_each_corpus_of_the_example_is_mapped_as_it_says(name: str) -> None:
    source: Any = source_named(load_recipe(str(REAL_TEXT)), name)
    if not Path(source.path).is_file():
        pytest.skip(f"{source.path} is not there")
    (path,) = source_files(source)
    bad = 0
    for number, record in enumerate(read_records(path, source.separator), start=1):
        try:
            assert record.value is not None, number
            assert shape(record.value, source).document.turns
        except BadRecord:
            bad += 1
    assert bad <= 0.01 * number
