import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from parakeet.benchmark_files import FILES, STANDARD_TASKS, TaskFile, benchmark_files, find_task_files, searched_sets
from parakeet.cli import main
from parakeet.data.cleaning.decontaminate import build_index
from parakeet.data.cleaning.stage import CleanDocumentsStage
from parakeet.errors import ParakeetError
from parakeet.evaluation.benchmarks.data import download_tasks, read_task, read_tasks
from parakeet.evaluation.stage import EvaluationStage
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.recipe_changes import changed
from parakeet.recipe_file import load_recipe

from .benchmark_records import RECORDS, rows_of, write_all, write_rows


@pytest.mark.parametrize(
    ("name", "task", "split"),
    [
        ("hellaswag.jsonl", "hellaswag", "validation"),
        ("hellaswag.jsonl.gz", "hellaswag", "validation"),
        ("HellaSwag-val.JSONL", "hellaswag", "validation"),
        ("lambada_openai.jsonl", "lambada_openai", "test"),
        ("lambada.jsonl", "lambada_openai", "test"),
        ("lambada_test.jsonl", "lambada_openai", "test"),
        ("arc_easy_test.jsonl.gz", "arc_easy", "test"),
        ("arc_easy_validation.jsonl.gz", "arc_easy", "validation"),
        ("ARC-Easy/test.jsonl", "arc_easy", "test"),
        ("ai2_arc/ARC-Easy/validation-00000-of-00001.jsonl", "arc_easy", "validation"),
        ("allenai/ai2_arc/ARC-Challenge/test.jsonl", "arc_challenge", "test"),
        ("winogrande_xl/validation.jsonl", "winogrande", "validation"),
        ("super_glue/boolq/validation.jsonl", "boolq", "validation"),
        ("super_glue.copa.dev.jsonl", "copa", "validation"),
        ("openbookqa/main/test.jsonl", "openbookqa", "test"),
        ("blimp.jsonl", "blimp", "all"),
        ("wikitext-2-raw-v1/test.jsonl", "wikitext", "test"),
    ],
)
def test_a_file_is_recognised_by_its_name(tmp_path: Path, name: str, task: str, split: str) -> None:
    write_rows(tmp_path / "unrelated.jsonl", [{}])
    path = write_rows(tmp_path / name, rows_of(task))
    assert find_task_files(tmp_path, [task]) == [TaskFile(task, split, path)]
    assert len(read_task(TaskFile(task, split, path), None).items) == 12


def test_the_split_of_published_scores_is_taken(tmp_path: Path) -> None:
    for name in ("arc_easy_test", "arc_easy_validation", "hellaswag_test", "hellaswag_validation", "piqa_test"):
        write_rows(tmp_path / f"{name}.jsonl", [{}])
    found = find_task_files(tmp_path, ["arc_easy", "hellaswag", "piqa"])
    assert [file.split for file in found] == ["test", "validation", "test"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no file for piqa. It has files of no task: they are named TASK.jsonl.gz. Add the missing files"),
        (["sciq.jsonl", "copa.jsonl"], "has no file for piqa. It has: sciq, copa."),
        (["piqa_train.jsonl"], "piqa_train.jsonl is the training split of piqa: a score needs its validation or test"),
        (["piqa.jsonl", "piqa.jsonl.gz"], "piqa.jsonl and piqa.jsonl.gz are both piqa, split validation. Keep one"),
        (["piqa.json", "piqa.csv", "piqa.parquet"], "has no file for piqa"),
    ],
)
def test_a_missing_or_doubtful_file_is_one_message(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write_rows(tmp_path / name, rows_of("piqa"))
    with pytest.raises(ParakeetError, match=re.escape(message)):
        find_task_files(tmp_path, ["piqa"])


def test_a_folder_that_is_none_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match=r"benchmark data, .*nowhere, does not exist"):
        find_task_files(tmp_path / "nowhere", ["piqa"])
    with pytest.raises(ParakeetError, match="is not a folder"):
        find_task_files(write_rows(tmp_path / "piqa.jsonl", []), ["piqa"])


def without(column: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: {key: value for key, value in row.items() if key != column}


def having(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row | values


LETTERS = {"text": ["a", "b"], "label": ["A", "A"]}

BAD: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    *((task, without(column), f"it has no column {column}") for task in RECORDS for column in RECORDS[task](0)
      if (task, column) not in {("boolq", "answer"), ("arc_challenge", "query")}),
    ("boolq", without("answer"), "it has no column label"),
    ("arc_challenge", without("query"), "it has no column question"),
    *((task, having(**{column: 5}), f"{column} is not text: 5") for task, column in [
        ("lambada_openai", "text"), ("piqa", "sol1"), ("sciq", "correct_answer"), ("winogrande", "sentence"),
        ("boolq", "passage"), ("copa", "premise"), ("blimp", "sentence_bad"), ("hellaswag", "ctx_a")]),
    *((task, having(**{column: " "}), f"{column} is empty") for task, column in [
        ("lambada_openai", "text"), ("piqa", "sol2"), ("sciq", "distractor1"), ("winogrande", "option1"),
        ("copa", "choice2"), ("blimp", "sentence_good"), ("arc_easy", "question"), ("wikitext", "page")]),
    ("piqa", having(label="left"), "label is 'left', not a whole number from 0 to 1"),
    ("piqa", having(label=True), "label is True, not a whole number"),
    ("piqa", having(label=0.0), "label is 0.0, not a whole number"),
    ("piqa", having(label=None), "label is None, not a whole number"),
    ("piqa", having(label=2), "label is 2, not from 0 to 1"),
    ("piqa", having(label=-1), "label is -1, not from 0 to 1, as in test splits without answers"),
    ("hellaswag", having(label=""), "label is '', not a whole number from 0 to 3"),
    ("hellaswag", having(label="4"), "label is 4, not from 0 to 3"),
    ("hellaswag", having(endings="one"), "endings is not a list of two or more answers: 'one'"),
    ("hellaswag", having(endings=["one"]), "endings is not a list of two or more answers"),
    ("hellaswag", having(endings=["one", ""]), "endings is empty"),
    ("winogrande", having(answer="3"), "answer is 3, not from 1 to 2"),
    ("winogrande", having(answer=""), "answer is '', not a whole number from 1 to 2"),
    ("winogrande", having(sentence="no gap"), "sentence has 0 gaps (_), not one"),
    ("winogrande", having(sentence="_ and _"), "sentence has 2 gaps (_), not one"),
    ("winogrande", having(sentence="it was the _"), "sentence has nothing after its gap"),
    ("boolq", having(answer="yes"), "answer is 'yes', not true or false"),
    ("copa", having(question="why"), "question is 'why', not cause or effect"),
    ("arc_easy", having(answerKey="E"), "answerKey is 'E', not one of A, B, C, D"),
    ("arc_easy", having(choices=["a", "b"]), "choices is not a mapping of text and label"),
    ("arc_easy", having(choices=LETTERS), "two of its choices have one label"),
    ("openbookqa", having(choices={"text": ["a", "b", "c"], "label": ["A", "B"]}), "choices has 3 texts and 2 labels"),
    ("arc_challenge", having(gold=3), "gold is 3, not from 0 to 2"),
    ("lambada_openai", having(text="word"), "text has no last word after a space"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "spoil", "message"), BAD)
def test_an_item_that_cannot_be_scored_is_named(
    tmp_path: Path, task: str, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rows = rows_of(task)
    rows[4] = spoil(rows[4])
    path = write_rows(tmp_path / f"{task}.jsonl", rows)
    with pytest.raises(ParakeetError) as caught:
        read_tasks(tmp_path, [task], None)
    assert str(caught.value).startswith(f"{path}, line 5: not an item of {task}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "piqa.jsonl holds no item of piqa: it is empty"),
        ("\n \n", "holds no item of piqa"),
        ("[1, 2]\n", "line 1: not a JSON object"),
        ('"text"\n', "line 1: not a JSON object"),
        ("not JSON\n", "piqa.jsonl, line "),
        ('{"goal": \n', "piqa.jsonl, line "),
    ],
)
def test_a_file_without_items_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "piqa.jsonl").write_text(text)
    with pytest.raises(ParakeetError, match=re.escape(message)):
        read_tasks(tmp_path, ["piqa"], None)


def test_a_truncated_file_is_one_message(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "piqa.jsonl.gz", rows_of("piqa", 500))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ParakeetError, match=r"piqa\.jsonl\.gz"):
        read_tasks(tmp_path, ["piqa"], None)


@pytest.mark.parametrize(
    "task", [task for task in RECORDS if task not in ("blimp", "sciq", "lambada_openai", "wikitext")]
)
def test_a_file_whose_right_answers_all_have_one_place_is_refused(tmp_path: Path, task: str) -> None:
    row = RECORDS[task](0)
    same = {key: row[key] for key in ("label", "answerKey", "answer", "gold") if key in row}
    rows = [row | same for row in rows_of(task)]
    write_rows(tmp_path / f"{task}.jsonl", rows)
    with pytest.raises(ParakeetError, match="the right answer of all its 12 items is number 1"):
        read_tasks(tmp_path, [task], None)


def test_copies_are_refused_unless_they_are_a_few_among_many(tmp_path: Path) -> None:
    rows = rows_of("piqa", 20)
    path = write_rows(tmp_path / "piqa.jsonl", [*rows, rows[3]])
    expected = (
        f"1 of its 21 items repeat others, and a score would count them twice: {path}, line 21 repeats {path}, line 4"
    )
    with pytest.raises(ParakeetError, match=re.escape(expected)):
        read_tasks(tmp_path, ["piqa"], None)
    write_rows(path, [*rows_of("piqa", 200), rows[3]])
    (found,) = read_tasks(tmp_path, ["piqa"], 50)
    assert (found.copies, found.available, len(found.items)) == (1, 201, 50)


def with_benchmarks(folder: Path, **values: Any) -> Recipe:
    recipe = load_recipe("demo")
    return changed(recipe, [f"evaluation.benchmarks={json.dumps({'data': str(folder), **values})}"])


def test_a_recipe_that_reports_benchmarks_drops_their_text(tmp_path: Path) -> None:
    recipe = with_benchmarks(write_all(tmp_path, 30))
    sets = searched_sets(recipe)
    assert [one.name for one in sets.sets] == [f"benchmark-{task}" for task in STANDARD_TASKS]
    index = build_index(sets, {}, Progress())
    for task, column in (("lambada_openai", "text"), ("winogrande", "sentence")):
        hits = index.find("They read: " + RECORDS[task](7)[column])
        assert hits is not None
        assert list(hits.sets) == [f"benchmark-{task}"]
    assert index.find("They read something that stands in no benchmark at all") is None
    short = searched_sets(with_benchmarks(tmp_path, tasks=["blimp"]))
    assert build_index(short, {}, Progress()).find("Birds sing seven songs a day") is None
    stage = CleanDocumentsStage()
    assert set(stage.files(recipe, tmp_path).values()) == {file.path for file in benchmark_files(recipe)}
    assert stage.settings(recipe) != stage.settings(load_recipe("demo"))


@pytest.mark.parametrize("key", ["sources", "decontamination.sets"])
def test_nothing_takes_the_name_of_a_benchmark_that_is_scored(tmp_path: Path, key: str) -> None:
    own = {"name": "benchmark-piqa", "kind": "files", "path": str(tmp_path / "mine.txt")}
    recipe = changed(load_recipe("demo"), [f"{key}={json.dumps([own])}"])  # it scores none
    for tasks in ("standard", ["sciq", "piqa"]):
        with pytest.raises(ParakeetError, match=r"benchmark-piqa is the evaluation set of evaluation\.benchmarks"):
            changed(recipe, [f"evaluation.benchmarks={json.dumps({'data': str(tmp_path), 'tasks': tasks})}"])
    write_all(tmp_path)
    changed(recipe, [f"evaluation.benchmarks={json.dumps({'data': str(tmp_path), 'tasks': ['sciq']})}"])


def test_where_the_data_is_changes_no_fingerprint_and_what_is_asked_does(tmp_path: Path) -> None:
    here, there = write_all(tmp_path / "here"), write_all(tmp_path / "there")
    for stage in (EvaluationStage(), CleanDocumentsStage()):
        settings = stage.settings(with_benchmarks(here))
        assert settings == stage.settings(with_benchmarks(there))
        assert settings != stage.settings(with_benchmarks(here, tasks=["piqa"]))
    stage = EvaluationStage()
    assert stage.settings(with_benchmarks(here)) != stage.settings(with_benchmarks(here, items=10))
    assert stage.files(with_benchmarks(here, tasks=["arc_easy"]), tmp_path) == {
        "benchmark/arc_easy/validation": here / "arc_easy.jsonl"
    }
    assert stage.files(load_recipe("demo"), tmp_path) == {}
    assert "trace_index" in stage.inputs(with_benchmarks(here))


def test_a_recipe_finds_its_data_beside_itself_and_names_unknown_tasks(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("extends: demo\nname: a\nevaluation: {benchmarks: {data: sets, tasks: [piqa]}}\n")
    benchmarks = load_recipe(str(file)).evaluation.benchmarks
    assert benchmarks is not None
    assert benchmarks.data == str(tmp_path / "sets")
    file.write_text("extends: demo\nname: a\nevaluation:\n  benchmarks:\n    data: sets\n    tasks: [piqa, pica]\n")
    with pytest.raises(ParakeetError, match=r"line 6: evaluation\.benchmarks\.tasks.*no task pica; the tasks"):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("copa", r"give a list of tasks, such as \[copa\], or standard; the tasks are"),
        ("all", "give a list of tasks or standard"),
        ("null", "give a list of tasks or standard"),
        ("3", "give a list of tasks or standard"),
        ("{copa: 1}", "give a list of tasks or standard"),
        ("[]", "no task is named"),
        ("[copa, 3]", "there is no task 3"),
        ("[copa, [piqa]]", "there is no task"),
        ("[copa, piqa, copa]", "copa is named twice"),
    ],
)
def test_tasks_of_a_recipe_that_are_no_list_of_tasks_are_one_message(tmp_path: Path, tasks: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"extends: demo\nname: a\nevaluation: {{benchmarks: {{data: sets, tasks: {tasks}}}}}\n")
    with pytest.raises(ParakeetError, match=message) as refused:
        load_recipe(str(file))
    assert str(refused.value).count("evaluation.benchmarks.tasks") == 1


@pytest.mark.parametrize("name", ["copa.jsonl", "copa.jsonl.gz"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ParakeetError, match=r"copa\.jsonl.* is no regular file"):
        read_tasks(tmp_path, ["copa"], None)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(ParakeetError, match="is no regular file"):
        read_tasks(tmp_path, ["copa"], None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "pica"], "There is no task pica. Did you mean piqa?"),
        (["--suite", ","], "--suite names no task"),
        (["--suite", "piqa", "--task-data", "nowhere"], "benchmark data, nowhere, does not exist"),
        (["--items", "0"], "0 is not in the range at least 1"),
        (["--json", "no/folder/scores.json"], "no/folder/scores.json: there is no folder"),
        (["--json", "."], "is a directory"),
        (["--json", "scores.json"], "scores.json already exists: choose another name"),
        (["--json", "link.json"], "link.json already exists: choose another name"),
        (["--suite", "piqa", "--task-data", "."], "has no file for piqa"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.json").write_text("of last week")
    (tmp_path / "link.json").symlink_to("nowhere")
    done = CliRunner().invoke(main, ["evaluate", *arguments], env={"PARAKEET_HOME": str(tmp_path)})
    assert (tmp_path / "scores.json").read_text() == "of last week"
    assert done.exit_code != 0
    assert message in done.output
    assert "Traceback" not in done.output


def test_without_a_folder_the_data_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """As upstream's files name it: the hub is not reached in a test."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path: str, name: str | None, split: str) -> Any:
        asked.append((path, name, split))
        rows = rows_of("copa" if name == "copa" else "blimp")
        return datasets.Dataset.from_list([{k: v for k, v in row.items() if k != "UID"} for row in rows])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: ["island", "npi"])
    copa, blimp = download_tasks(["copa", "blimp"], 6)
    assert [part for _, part, _ in asked] == ["copa", "island", "npi"]
    assert (copa.split, len(copa.items), copa.available) == ("validation", 6, 12)
    assert [item.part for item in blimp.items] == ["island"] * 3 + ["npi"] * 3
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(ParakeetError, match=r"copa could not be fetched .*\. Without a network, give a folder"):
        download_tasks(["copa"], None)


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from parakeet.evaluation.benchmarks import upstream

    monkeypatch.setattr(upstream, "find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["evaluate", "--suite", "piqa"], env={"PARAKEET_HOME": str(tmp_path)})
    assert "pip install 'parakeet-lm[eval]'" in done.output
    with pytest.raises(ParakeetError, match="pip install"):
        EvaluationStage().check_requirements(with_benchmarks(tmp_path))
    assert list(FILES)[: len(STANDARD_TASKS)] == list(STANDARD_TASKS)
