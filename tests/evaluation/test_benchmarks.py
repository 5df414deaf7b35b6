import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from parakeet.benchmark_files import FILES, TaskFile
from parakeet.data.tokens.shards import TokenShards
from parakeet.errors import ParakeetError
from parakeet.evaluation.benchmarks.adapter import Adapter, AnswerScore, Request
from parakeet.evaluation.benchmarks.contamination import overlaps
from parakeet.evaluation.benchmarks.data import read_task, read_tasks
from parakeet.evaluation.benchmarks.harness import score_tasks
from parakeet.evaluation.benchmarks.metric import StandardBenchmarks, notes
from parakeet.evaluation.benchmarks.scorer import TOKENS_PER_PASS, ModelScorer
from parakeet.evaluation.benchmarks.tasks import TASKS, BenchmarkItem
from parakeet.formatting import render_table
from parakeet.intervals import FEWEST_TEXTS
from parakeet.model.config import ModelConfig
from parakeet.model.loss import token_scores
from parakeet.model.transformer import Parakeet
from parakeet.pages import Table
from parakeet.progress import Progress
from parakeet.recipe_changes import changed
from parakeet.trace.build import build_index
from parakeet.trace.index import TraceIndex

from ..conftest import Prepared
from .benchmark_records import SHARED, ByteModel, rows_of, write_all, write_rows
from .conftest import subject_of

NEEDS_DATA = pytest.mark.skipif(
    not (SHARED / "evaluation").is_dir(), reason="the real benchmarks are not here: ../shared/data/evaluation"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def index(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> TraceIndex:
    """Of the documents that `prepared` trains on."""
    folder = tmp_path_factory.mktemp("index")
    shards = TokenShards(prepared.shards, "train", prepared.tokenizer)
    build_index(shards, prepared.tokenizer.sha256, "0" * 64, folder, Progress())
    return TraceIndex.open(folder)


def scores_of(model: Any, folder: Path, *tasks: str, items: int | None = None) -> dict[str, dict[str, Any]]:
    return score_tasks(model, read_tasks(folder, tasks, items), Progress())


def tiny_model(prepared: Prepared, context: int = 64) -> Parakeet:
    config = ModelConfig(layers=3, heads=2, width=16, context=context, vocabulary_rows=prepared.tokenizer.rows)
    model = Parakeet(config)
    model.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.embedding.weight.mul_(30.0)
    return model.eval()


def request(kind: str, *arguments: Any, item: int = 0) -> Instance:
    return Instance(kind, {}, arguments, 0, metadata=("trial", item, 1))


def test_a_uniform_byte_model_has_exactly_eight_bits_per_byte(folder: Path) -> None:
    """Also of texts beyond the context, which are scored in windows."""
    for context in (2048, 7):
        found = scores_of(ByteModel.uniform(context), folder, *TASKS)
        assert found["wikitext"]["lm_eval"]["bits_per_byte"] == 8.0
        assert found["wikitext"]["lm_eval"]["byte_perplexity"] == pytest.approx(256)
        assert {task: figures["bits_per_byte"]["value"] for task, figures in found.items()} == dict.fromkeys(TASKS, 8.0)


@NEEDS_DATA
def test_a_unigram_byte_model_gets_the_recorded_accuracies() -> None:
    """As measured with upstream's own files (notes/evaluation-and-chat.md)."""
    from parakeet.data.reading.readers import read_records

    book = next(read_records(SHARED / "corpora" / "books.jsonl.gz")).value
    assert isinstance(book, dict)
    model = ByteModel.unigram(book["text"].encode())
    real = SHARED / "evaluation"
    found = scores_of(model, real, "piqa", "sciq", "winogrande")
    easy = read_task(TaskFile("arc_easy", "validation", real / "arc_easy_validation.jsonl.gz"), None)
    found |= score_tasks(model, [easy], Progress())
    found["lambada_openai"] = scores_of(model, real, "lambada_openai", items=200)["lambada_openai"]
    names = ("acc", "acc_norm")
    rounded = {task: tuple(round(f["lm_eval"][n], 4) for n in names if n in f["lm_eval"]) for task, f in found.items()}
    assert rounded == {
        "piqa": (0.5256, 0.4875),
        "sciq": (0.192, 0.263),
        "winogrande": (0.4957,),
        "arc_easy": (0.2684, 0.2404),
        "lambada_openai": (0.0,),
    }
    # Its answers are the same words for both options of WinoGrande: all of them are ties, and wrong.
    assert found["winogrande"]["ties"] == 1267
    assert found["winogrande"]["accuracy"]["share"] == 0.0
    for figures in found.values():
        if figures["ties"] == 0:
            assert figures["accuracy"]["share"] == figures["lm_eval"]["acc"]


@NEEDS_DATA
def test_paradigms_of_blimp_are_reported_apart(tmp_path: Path) -> None:
    from parakeet.data.reading.readers import read_records

    wanted = {"anaphor_gender_agreement": 0.330, "regular_plural_subject_verb_agreement_1": 0.624}
    rows = [record.value for record in read_records(SHARED / "evaluation" / "blimp.jsonl.gz")]
    some = [row for row in rows if isinstance(row, dict) and row["UID"] in wanted]
    write_rows(tmp_path / "blimp.jsonl", some)
    book = next(read_records(SHARED / "corpora" / "books.jsonl.gz")).value
    assert isinstance(book, dict)
    found = scores_of(ByteModel.unigram(book["text"].encode()), tmp_path, "blimp")["blimp"]
    assert {name: round(share["share"], 3) for name, share in found["parts"].items()} == wanted
    assert found["lm_eval"]["acc"] == pytest.approx(sum(wanted.values()) / 2)
    assert found["n"] == 2000


class Broken(ByteModel):
    """Gives every answer a score of its own making."""

    def __init__(self, score: Callable[[Request], float], greedy: bool = True) -> None:
        super().__init__([0.0] * 256)
        self.value, self.greedy = score, greedy

    def score(self, requests: Sequence[Request], advance: Callable[[int], None]) -> list[AnswerScore]:
        return [AnswerScore(self.value(request), self.greedy) for request in requests]


@pytest.mark.parametrize("value", [0.0, -3.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("task", [name for name in TASKS if name != "wikitext"])
def test_a_constant_or_broken_model_is_refused_in_every_task(folder: Path, task: str, value: float) -> None:
    with pytest.raises(ParakeetError, match=task):
        scores_of(Broken(lambda request: value), folder, task)


def test_a_single_score_that_is_not_finite_is_named(folder: Path) -> None:
    once = iter([-1.0, -2.0, math.nan])
    with pytest.raises(ParakeetError, match=r"Task piqa, item 1: the model's score is nan.*Use an earlier checkpoint"):
        scores_of(Broken(lambda request: next(once, -1.0)), folder, "piqa")
    with pytest.raises(ParakeetError, match="Task wikitext, item 0"):
        scores_of(Broken(lambda request: math.nan), folder, "wikitext")


def test_ties_count_as_wrong(folder: Path) -> None:
    """Where lm-evaluation-harness takes the first answer: all of BLiMP would be right."""
    found = scores_of(Broken(lambda request: -float(sum(request.given))), folder, "piqa", "boolq")
    assert found["piqa"]["ties"] == 12
    assert found["piqa"]["accuracy"]["share"] == 0.0
    assert found["piqa"]["lm_eval"]["acc"] == 0.5
    even = Broken(lambda request: -1.0 - request.scored[-2] % 2)
    tied = scores_of(even, folder, "blimp")["blimp"]
    assert (tied["ties"], tied["accuracy"]["share"], tied["lm_eval"]["acc"]) == (12, 0.0, 1.0)
    assert "blimp: 12 of 12 items are ties and count as wrong" in " ".join(
        notes({"tasks": {"blimp": tied}, "no_index": ""})
    )


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_answers_that_share_a_question_get_the_scores_of_each_one_alone(
    prepared: Prepared, data: st.DataObject
) -> None:
    scorer = ModelScorer(tiny_model(prepared), prepared.tokenizer)
    ids = st.integers(0, 255)
    questions = data.draw(st.lists(st.lists(ids, min_size=0, max_size=30).map(tuple), min_size=1, max_size=6))
    answers = st.lists(ids, min_size=1, max_size=20).map(tuple)
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(questions), answers), min_size=1, max_size=20))
    requests = [Request((scorer.start, *question), answer) for question, answer in drawn]
    counted: list[int] = []
    scores = scorer.score(requests, counted.append)
    assert sum(counted) == len(requests)
    for asked, found in zip(requests, scores, strict=True):
        expected, greedy = alone(scorer.model, asked)
        assert found.log_probability == pytest.approx(expected, rel=1e-5, abs=1e-4)
        assert found.greedy == greedy


def test_many_answers_to_one_question_are_scored_in_passes(prepared: Prepared) -> None:
    """All sentences of BLiMP answer an empty question: 134,000 answers, which no pass can hold."""
    scorer = ModelScorer(tiny_model(prepared), prepared.tokenizer)
    questions = [(scorer.start,), (scorer.start, *range(40))]
    answers = [(number % 256, number // 256, *range(number % 9)) for number in range(1000)]
    requests = [Request(question, answer) for question in questions for answer in answers]
    passes: list[tuple[int, int]] = []  # answers of each, and tokens so far
    scores = scorer.score(requests, lambda answers: passes.append((answers, scorer.tokens)))
    assert sum(answers for answers, _ in passes) == len(requests)
    assert max(np.diff([tokens for _, tokens in passes], prepend=0)) <= TOKENS_PER_PASS
    for number in range(0, len(requests), 97):
        expected, greedy = alone(scorer.model, requests[number])
        assert scores[number].log_probability == pytest.approx(expected, rel=1e-5, abs=1e-4)
        assert scores[number].greedy == greedy


@torch.no_grad()
def alone(model: Parakeet, asked: Request) -> tuple[float, bool]:
    """Without any batching, with the reference attention, over the whole vocabulary."""
    ids = torch.tensor([[*asked.given, *asked.scored[:-1]]])
    logits = model.logits(model(ids, torch.zeros_like(ids)))[0, len(asked.given) - 1 :]
    targets = torch.tensor(asked.scored)
    chosen = logits.log_softmax(-1).gather(1, targets[:, None])
    return float(chosen.double().sum()), bool((logits.argmax(-1) == targets).all())


class Plain(ModelScorer):
    """The same model, each request by itself."""

    def score(self, requests: Sequence[Request], advance: Callable[[int], None]) -> list[AnswerScore]:
        return [AnswerScore(*alone(self.model, asked)) for asked in requests]


def test_our_scores_are_those_of_a_plain_implementation_in_every_task(prepared: Prepared, folder: Path) -> None:
    model = tiny_model(prepared)
    ours = scores_of(ModelScorer(model, prepared.tokenizer), folder, *TASKS)
    plain = scores_of(Plain(model, prepared.tokenizer), folder, *TASKS)
    for task in TASKS:
        assert ours[task]["accuracy"] == plain[task]["accuracy"]
        assert ours[task]["bits_per_byte"]["value"] == pytest.approx(plain[task]["bits_per_byte"]["value"], rel=1e-5)
        if ours[task]["ties"] == 0:
            assert ours[task]["accuracy"]["share"] == pytest.approx(ours[task]["lm_eval"]["acc"], abs=0)
        if ours[task]["ties"] == 0 and ours[task]["normalised"]:
            assert ours[task]["normalised"]["share"] == pytest.approx(ours[task]["lm_eval"]["acc_norm"], abs=0)


def test_a_long_question_keeps_its_end_and_no_token_of_an_answer_is_lost() -> None:
    model = ByteModel.uniform(context=8)
    adapter = Adapter(model, Progress())
    asked = [("question: ", "yes"), ("ab", "c" * 20), ("", "word"), ("a  ", " b"), ("x", "y")]
    found = adapter.loglikelihood([request("loglikelihood", *pair, item=n) for n, pair in enumerate(asked)])
    n_bytes = [4, 20, 4, 4, 1]  # spaces at the end of a question are scored with the answer
    assert [round(-nats / math.log(256)) for nats, _ in found] == n_bytes
    assert not any(greedy for _, greedy in found)
    assert max(len(given) + len(scored) - 1 for given, scored in model.asked) == 8
    assert bytes(model.asked[0].given).endswith(b"tion:")
    assert adapter.truncated == {("trial", 0), ("trial", 1)}


@pytest.mark.parametrize("context", ["", "question"])
def test_an_empty_answer_is_refused(context: str) -> None:
    with pytest.raises(ParakeetError, match="Task trial, item 0: an answer is empty"):
        Adapter(ByteModel.uniform(), Progress()).loglikelihood([request("loglikelihood", context, "")])


def test_replies_stop_where_the_task_says(prepared: Prepared) -> None:
    adapter = Adapter(ByteModel.uniform(context=100), Progress())
    asked = {"until": ["b"], "max_gen_toks": 5}
    assert adapter.generate_until([request("generate_until", "abcdefgh", asked)]) == ["hgfed"]
    assert adapter.generate_until([request("generate_until", "abcd", asked)]) == ["dc"]
    own = Adapter(ModelScorer(tiny_model(prepared), prepared.tokenizer), Progress())
    replies = [own.generate_until([request("generate_until", "What is " * 30, {"max_gen_toks": 9})]) for _ in range(2)]
    assert replies[0] == replies[1]


def test_the_figures_are_json_and_the_table_has_a_row_for_each_task(folder: Path) -> None:
    found = scores_of(ByteModel.uniform(), folder, *TASKS)
    figures = {"items": None, "tasks": json.loads(json.dumps(found, allow_nan=False)), "no_index": "there is none"}
    metric = StandardBenchmarks()
    table, *said = metric.render(figures)
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == list(TASKS)
    text = render_table(table.columns, table.rows, table.right_columns)
    assert "lambada_openai  test           12      0.0%" in text
    assert said[-1] == "Items were not looked up in the training text: there is none."
    from parakeet.pages.charts import PRINTED

    assert metric.plot(figures, PRINTED).axes


def test_a_few_items_have_no_interval_of_bits_per_byte(folder: Path) -> None:
    for items in (1, 4, 5):
        found = scores_of(ByteModel.unigram(b"parakeet"), folder, "piqa", "wikitext", items=items)
        for figures in found.values():
            bits = figures["bits_per_byte"]
            assert (bits["n"], bits["interval"] is None) == (items, items < FEWEST_TEXTS)
        text = str(StandardBenchmarks().render({"items": items, "tasks": found, "no_index": "there is none"}))
        assert "None" not in text.replace("total=None", "")


def test_the_metric_scores_what_the_recipe_asks_for(prepared: Prepared, folder: Path, index: TraceIndex) -> None:
    asked = ["evaluation.benchmarks.tasks=[piqa, blimp]", "evaluation.benchmarks.items=5"]
    recipe = changed(prepared.recipe, [f"evaluation.benchmarks.data={folder}", *asked])
    metric = StandardBenchmarks()
    assert metric.wanted(recipe)
    assert not metric.wanted(prepared.recipe)
    subject = subject_of(prepared, tiny_model(prepared), recipe=recipe)
    assert metric.measure(subject)["no_index"] == "the recipe has no trace index (evaluation.trace_index)"
    figures = metric.measure(replace(subject, trace_index=index))
    assert figures["lm_eval"] == version("lm_eval")
    assert {task: found["n"] for task, found in figures["tasks"].items()} == {"piqa": 5, "blimp": 5}
    assert figures["tasks"]["piqa"]["contamination"]["found"]["share"] == 0.0
    assert figures["tasks"]["piqa"]["contamination"]["clean"] == figures["tasks"]["piqa"]["accuracy"]
    assert figures["no_index"] is None
    (table,) = [part for part in metric.render(figures) if isinstance(part, Table)]
    assert table.columns[-2:] == ["in training text", "without those"]


def test_items_are_spread_over_the_file_and_the_paradigms(folder: Path) -> None:
    chosen = read_tasks(folder, ["blimp", "piqa"], 6)
    assert [item.part for item in chosen[0].items] == ["paradigm_0"] * 2 + ["paradigm_1"] * 2 + ["paradigm_2"] * 2
    assert [item.question for item in chosen[1].items] == [f"Clean cage {n}" for n in (1, 3, 5, 7, 9, 11)]
    assert read_tasks(folder, ["piqa"], 100)[0].items == read_tasks(folder, ["piqa"], None)[0].items


def test_items_in_the_training_text_are_found_in_both_spellings(prepared: Prepared, index: TraceIndex) -> None:
    """`prepared` has the plain text "Line 1 and 0 of a longer text. Line 1 and 1 of a longer text. …"."""
    copied = " ".join(f"Line 1 and {line} of a longer text." for line in range(7, 12))
    question, answer = copied[:90], copied[90:]
    items = [
        BenchmarkItem({}, question.strip(), answer.strip()),
        BenchmarkItem({}, copied[:60], "and something quite different follows here, which nobody ever wrote in a text"),
        BenchmarkItem({}, "Why do birds sing in the garden of my neighbour", "because they are glad"),
        BenchmarkItem({}, "", "x"),
    ]
    assert [overlap.contaminated for overlap in overlaps(index, prepared.tokenizer, items)] == [
        True,
        True,
        False,
        False,
    ]
    assert overlaps(index, prepared.tokenizer, []) == []


@pytest.mark.parametrize(
    ("question", "answer", "stands"),
    [
        ("Line 1", "and 7", True),
        ("Line 1 and 7", "of a longer text.", True),
        ("and 7 of", "a longer", True),
        ("a longer", "text?!", True),  # to its last word
        ("", "longer", True),
        ("Line 1", "and seven", False),
        ("longer", "line", False),
        ("", "…", False),
    ],
)
def test_a_short_item_that_stands_whole_in_the_training_text_is_found(
    prepared: Prepared, index: TraceIndex, question: str, answer: str, stands: bool
) -> None:
    (found,) = overlaps(index, prepared.tokenizer, [BenchmarkItem({}, question, answer)])
    assert found.longest < 13
    assert found.contaminated == stands


def test_a_token_that_is_as_likely_as_another_is_not_the_likeliest() -> None:
    """Here all are: a model of zeros would answer every LAMBADA question with id 0."""
    losses, likeliest = token_scores(torch.ones(3, 4), torch.zeros(7, 4), torch.tensor([0, 3, 6]))
    assert losses.tolist() == pytest.approx([math.log(7)] * 3)
    assert not likeliest.any()
    _, likeliest = token_scores(
        torch.ones(2, 4), torch.eye(7)[:, :4] * torch.tensor([1, 2, 3, 4]), torch.tensor([3, 2])
    )
    assert likeliest.tolist() == [True, False]


def test_every_task_has_a_file_rule_and_an_upstream_definition() -> None:
    from parakeet.evaluation.benchmarks.upstream import upstream_config

    assert list(FILES) == list(TASKS)
    for task in TASKS:
        assert upstream_config(task)["output_type"]
    assert rows_of("piqa")
