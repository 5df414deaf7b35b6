"""Two releases on the same text: which of them may replace the other."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.conversation import Turn
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.data.tokens.vocabulary import make_tokenizer
from parakeet.errors import ParakeetError
from parakeet.gates.stage import ComparisonStage, judgement_of
from parakeet.model.transformer import Parakeet
from parakeet.progress import Progress
from parakeet.recipe import Gates, Recipe
from parakeet.release.history import decisions
from parakeet.release.pointers import incumbent
from parakeet.release.promotion import promote, promote_by_hand, rollback
from parakeet.release.verify import write_sums
from parakeet.template import read_document, render_document
from parakeet.tokenizer import Tokenizer

from ..conftest import Prepared
from .conftest import Models, Releases, evaluation, failed, gates_of, trained, windows_of

NO_WORSE = "no_worse_than_before"


def nudged(model: Parakeet) -> Parakeet:
    """Other weights of the same quality: a release of the same weights is the same decision."""
    copied = Parakeet(model.config)
    copied.load_state_dict({name: weight * (1 + 1e-5) for name, weight in model.state_dict().items()})
    return copied


def with_gates(recipe: Recipe, **bounds: Any) -> Recipe:
    return recipe.model_copy(update={"gates": Gates(**bounds)})


def test_a_good_first_release_is_promoted_and_one_of_a_few_steps_is_not(releases: Releases, models: Models) -> None:
    few = releases.release("few", models.few_steps, evaluation(bits_per_byte=2.9))
    refused = releases.comparison(few)
    assert failed(refused) == ["beats_the_yardsticks"]
    with pytest.raises(ParakeetError, match=r"It needs 2\.900 bits per byte, xz -9 3\.000, and the bound is 2\.700"):
        promote(releases.root, few, judgement_of(refused))
    assert incumbent(releases.root, "tiny") is None

    good = releases.promoted("good", models.good)
    assert incumbent(releases.root, "tiny") == good.path
    assert decisions(releases.root)[0][-1].figures == {"bits_per_byte": 1.0}


def test_shuffled_words_and_few_steps_do_not_replace_a_good_release(releases: Releases, models: Models) -> None:
    good = releases.promoted("good", models.good)
    for name in ("poisoned", "few_steps"):
        worse = releases.release(name, getattr(models, name))
        compared = releases.comparison(worse)
        assert failed(compared) == [NO_WORSE]
        gate = gates_of(compared)[NO_WORSE]
        assert gate["reason"].startswith("On 31 held-out documents (")
        assert gate["reason"].endswith("That is worse beyond its noise.")
        assert gate["found"] > gate["bound"] > 0
        assert incumbent(releases.root, "tiny") == good.path
    refused = [decision for decision in decisions(releases.root)[0] if decision.action == "refused"]
    assert [decision.previous for decision in refused] == [good.path.name] * 2
    # Found again, the same refusal is not recorded twice.
    releases.comparison(worse)
    assert len([one for one in decisions(releases.root)[0] if one.action == "refused"]) == 2


def test_another_seed_and_a_better_model_replace_it(releases: Releases, models: Models) -> None:
    few = releases.promoted("few", models.few_steps)
    better = releases.release("good", models.good)
    compared = releases.comparison(better)
    assert failed(compared) == []
    assert gates_of(compared)[NO_WORSE]["reason"].endswith(", better.")
    assert compared.counts["incumbent"] == few.path.name
    promote(releases.root, better, judgement_of(compared))

    again = releases.release("again", nudged(models.good))
    compared = releases.comparison(again)
    assert compared.counts["incumbent"] == better.path.name
    assert abs(compared.counts["figures"]["difference"]) < 1e-3
    assert failed(compared) == []


def test_own_text_that_became_far_harder_is_a_warning(releases: Releases, models: Models) -> None:
    few = releases.promoted("few", models.few_steps, measured=evaluation(bits_per_byte=1.338))
    better = releases.release("good", models.good, evaluation(bits_per_byte=1.916))
    compared = releases.comparison(better)
    assert failed(compared) == []
    warning = (
        f"Since {few.path.name}, the bits per byte on each release's own held-out text rose by more than a third: "
    )
    decision = promote(releases.root, better, judgement_of(compared)).decision
    assert decision.figures["warning"].startswith(warning)
    assert ComparisonStage().figures(compared)["warning"] == decision.figures["warning"]


def test_a_later_build_finds_the_same_comparison(releases: Releases, models: Models) -> None:
    releases.promoted("few", models.few_steps)
    good = releases.promoted("good", models.good)
    compared = releases.comparison(good)
    assert compared.counts["incumbent"] is not None
    assert [path.name for path in sorted((releases.root / "comparison").glob("*-*"))].count(compared.path.name) == 1
    assert len(list((releases.root / "comparison").glob("*-*"))) == 2
    rollback(releases.root, "tiny", "tried")
    assert releases.comparison(good).path == compared.path


def test_other_bounds_judge_again(releases: Releases, models: Models) -> None:
    releases.promoted("good", models.good)
    worse = releases.release("poisoned", models.poisoned)
    assert failed(releases.comparison(worse)) == [NO_WORSE]
    lenient = releases.comparison(worse, with_gates(releases.recipe, worse_by=9.0, uncertainty=9.0))
    assert failed(lenient) == []
    none = releases.comparison(worse, releases.recipe.model_copy(update={"gates": None}))
    assert failed(none) == []
    assert judgement_of(none).figures["gates"] == "The recipe's `gates` is null, so nothing was judged."
    assert {gate["reason"] for gate in none.counts["gates"]} == {"The recipe's `gates` is null, so nothing was judged."}


def test_a_release_that_was_promoted_by_hand_stops_no_build(releases: Releases, models: Models) -> None:
    releases.promoted("good", models.good)
    worse = releases.release("poisoned", models.poisoned)
    compared = releases.comparison(worse)
    check = next(check for check in ComparisonStage().checks() if check.name == NO_WORSE)
    assert not check.run(compared, {}, releases.recipe).passed
    promote_by_hand(releases.root, worse, "I want it")
    verdict = check.run(releases.comparison(worse), {}, releases.recipe)
    assert verdict.passed
    assert "promoted all the same" in (verdict.description or "")
    assert "I want it" in (verdict.description or "")


def test_a_release_from_before_there_were_gates_passes(releases: Releases, models: Models) -> None:
    old = releases.release("old", models.few_steps, evaluation(bits_per_byte=9.0))
    (releases.root / "releases" / "latest").symlink_to(old.path.name)
    compared = releases.comparison(old)
    assert (failed(compared), compared.counts["incumbent"]) == ([], None)
    promote(releases.root, old, judgement_of(compared))
    assert releases.comparison(old).path == compared.path
    assert failed(releases.comparison(releases.release("new", models.good))) == []


def test_too_few_documents_decide_nothing(releases: Releases, models: Models) -> None:
    releases.promoted("few", models.few_steps)
    better = releases.release("good", models.good)
    compared = releases.comparison(better, with_gates(releases.recipe, documents=40))
    assert failed(compared) == [NO_WORSE]
    assert "40 are needed. Add text, or hold out more of it (--held-out)." in gates_of(compared)[NO_WORSE]["reason"]


def shards_of(prepared: Prepared, folder: Path, **settings: Any) -> tuple[Path, Path]:
    """Token shards of the same documents under other settings, and their tokenizer."""
    values = prepared.recipe.model_dump()
    for key, value in settings.items():
        section, name = key.split("__")
        values[section][name] = value
    recipe = Recipe.model_validate(values)
    inputs = {"deduplicated_documents": prepared.documents, "tokenizer": folder / "tokenizer"}
    for name in ("tokenizer", "token_shards"):
        (folder / name).mkdir(parents=True)
    make_tokenizer(recipe, inputs, folder / "tokenizer", Progress())
    make_token_shards(recipe, inputs, folder / "token_shards", Progress())
    return folder / "tokenizer", folder / "token_shards"


def test_each_release_is_scored_with_its_own_tokenizer(releases: Releases, models: Models, tmp_path: Path) -> None:
    folder, shards = shards_of(releases.prepared, tmp_path, tokenizer__kind="words")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.sha256 != releases.prepared.tokenizer.sha256
    model = trained(releases.recipe, tokenizer, windows_of(tokenizer), 120)
    good = releases.promoted("good", models.good)
    other = releases.release("other", model, shards=releases.shards(shards, "other"), tokenizer=folder)
    found = releases.comparison(other).counts["figures"]
    assert found["held_out_from"] == good.path.name
    # The same bytes as with the incumbent's own tokenizer, and about the same bits.
    same = releases.comparison(releases.release("same", models.other_seed)).counts["figures"]
    assert found["bytes"] == same["bytes"]
    assert found["incumbent_bits_per_byte"] == same["incumbent_bits_per_byte"]
    assert abs(found["difference"]) < 0.2 * found["incumbent_bits_per_byte"]


def test_only_what_both_learnt_is_compared(releases: Releases, models: Models, tmp_path: Path) -> None:
    """With `loss_on: assistant` on one side, what people type is not."""
    _, shards = shards_of(releases.prepared, tmp_path, shards__loss_on="assistant")
    replies = releases.shards(shards, "replies")
    releases.promoted("good", models.good)
    one = releases.comparison(releases.release("one", models.other_seed, shards=replies, loss_on="assistant"))
    whole = releases.comparison(releases.release("whole", models.other_seed))
    figures, all_of_it = one.counts["figures"], whole.counts["figures"]
    assert figures["bytes"] < all_of_it["bytes"]
    assert figures["documents"] == all_of_it["documents"]


def only(prepared: Prepared, folder: Path, train: bool) -> Path:
    """Shards whose training and held-out documents are one and the same, or have changed places."""
    folder.mkdir()
    for path in prepared.shards.glob("*.arrow"):
        split, rest = path.name.split("-", 1)
        other = {"train": "held_out", "held_out": "train"}[split]
        shutil.copyfile(path, folder / f"{other if train else split}-{rest}")
    return folder


def test_text_that_the_new_release_was_trained_on_is_left_out(
    releases: Releases, models: Models, tmp_path: Path
) -> None:
    good = releases.promoted("good", models.good)
    swapped = releases.shards(only(releases.prepared, tmp_path / "swapped", train=True), "swapped")
    cheat = releases.release("cheat", models.other_seed, shards=swapped)
    compared = releases.comparison(cheat)
    gate = gates_of(compared)[NO_WORSE]
    assert not gate["passed"]
    assert gate["reason"].startswith(f"There is no document that neither this release nor {good.path.name} was trained")
    assert "20 are needed" in gate["reason"]


def test_the_new_release_s_text_stands_in_for_shards_that_are_gone(
    releases: Releases, models: Models, tmp_path: Path
) -> None:
    good = releases.promoted("good", models.good)
    gone = releases.made["token_shards"].path
    _, shards = shards_of(releases.prepared, tmp_path, shards__loss_on="assistant")
    replies = releases.shards(shards, "replies")
    worse = releases.release("poisoned", models.poisoned, shards=replies, loss_on="assistant")
    shutil.rmtree(gone)
    figures = releases.comparison(worse).counts["figures"]
    assert (figures["held_out_from"], figures["documents"]) == (worse.path.name, 31)
    assert incumbent(releases.root, "tiny") == good.path


def written(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    write_sums(path.parent)


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("model.safetensors", lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "model.safetensors has sha"),
        ("evaluation.json", lambda path: path.unlink(), "evaluation.json is missing"),
        ("SHA256SUMS", lambda path: path.unlink(), "has no SHA256SUMS"),
        # Whole by its hash, but of another shape than any evaluation.
        *[
            ("evaluation.json", partial(written, text=text), "evaluation.json cannot be read")
            for text in ("[]", "{}", '{"bits_per_byte": {}, "exact_match": {"sums": {}}}')
        ],
    ],
)
def test_a_promoted_release_that_was_edited_is_not_compared_with(
    releases: Releases, models: Models, file: str, edit: Any, said: str
) -> None:
    good = releases.promoted("good", models.good)
    edit(good.path / file)
    compared = releases.comparison(releases.release("new", models.other_seed))
    gate = gates_of(compared)[NO_WORSE]
    assert not gate["passed"]
    assert said in gate["reason"]
    assert "parakeet release promote" in gate["reason"]


def test_weights_that_are_not_finite_fail(releases: Releases, models: Models) -> None:
    releases.promoted("good", models.good)
    model = trained(releases.recipe, releases.prepared.tokenizer, torch.zeros(1, 65, dtype=torch.int64), 0)
    with torch.no_grad():
        model.embedding.weight[3, 3] = np.nan
    compared = releases.comparison(releases.release("broken", model))
    assert failed(compared) == ["weights_are_finite", NO_WORSE]
    json.dumps(compared.counts, allow_nan=False)


def unmeasured() -> dict[str, Any]:
    return evaluation() | {"bits_per_byte": {"talk": None}}


def test_without_held_out_text_a_release_replaces_only_one_that_had_none_either(
    releases: Releases, models: Models, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in releases.prepared.shards.glob("train-*.arrow"):
        shutil.copyfile(path, empty / path.name)
        shutil.copyfile(path, empty / path.name.replace("train", "held_out"))
    shards = releases.shards(empty, "empty")
    first = releases.release("first", models.few_steps, unmeasured(), shards=shards)
    compared = releases.comparison(first)
    assert failed(compared) == []
    assert "No text is held out" in gates_of(compared)["beats_the_yardsticks"]["reason"]
    promote(releases.root, first, judgement_of(compared))
    second = releases.release("second", models.good, unmeasured(), shards=shards)
    assert failed(releases.comparison(second)) == []

    measured = releases.release("measured", models.other_seed)
    promote_by_hand(releases.root, measured, "for the test")
    third = releases.release("third", models.poisoned, unmeasured(), shards=shards)
    assert failed(releases.comparison(third)) == [NO_WORSE]


def test_a_share_that_falls_refuses_a_release(releases: Releases, models: Models) -> None:
    releases.promoted("good", models.good, measured=evaluation(exact=80))
    slightly = releases.release("slightly", nudged(models.good), evaluation(exact=74))
    assert failed(releases.comparison(slightly)) == []
    clearly = releases.release("clearly", nudged(models.good), evaluation(exact=40))
    compared = releases.comparison(clearly)
    assert failed(compared) == ["no_figure_fell"]
    assert "sums fell from 80.0% to 40.0% (of 100 questions)" in gates_of(compared)["no_figure_fell"]["reason"]
    assert failed(releases.comparison(clearly, with_gates(releases.recipe, figures=False))) == []
    # Another version of the metric asks something else.
    other = releases.release("other", nudged(models.good), evaluation(exact=40), metrics={"exact_match": 2})
    assert failed(releases.comparison(other)) == []


def test_the_picture_and_the_figures_are_shown(releases: Releases, models: Models) -> None:
    releases.promoted("good", models.good)
    compared = releases.comparison(releases.release("worse", models.poisoned))
    shown = ComparisonStage().figures(compared)
    assert shown["differences"].path.read_bytes().startswith(b"\x89PNG")
    assert list(shown)[:3] == ["bits_per_byte", "incumbent_bits_per_byte", "difference"]
    verdict = next(check for check in ComparisonStage().checks() if check.name == NO_WORSE).run(
        compared, {}, releases.recipe
    )
    assert set(verdict.figures or {}) == {"found", "bound"}
    assert not list(compared.path.glob("work*"))


CONTENT = st.text(st.characters(codec="utf-8"), max_size=40).map(str.strip)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["System", "Human", "Assistant"]), CONTENT), min_size=1, max_size=5))
def test_turns_are_read_back_from_ids(spoken: list[tuple[str, str]]) -> None:
    turns = [Turn(role, content) for role, content in spoken]
    ids, _ = render_document(TOKENIZER, turns)
    assert read_document(TOKENIZER, ids.tolist()) == turns


@settings(max_examples=40)
@given(CONTENT)
def test_a_plain_text_is_read_back_from_ids(text: str) -> None:
    ids, _ = render_document(TOKENIZER, [Turn("text", text)])
    assert read_document(TOKENIZER, ids.tolist()) == [Turn("text", text)]


def _byte_tokenizer() -> Tokenizer:
    from parakeet.tokenizer import count_words

    return count_words(["a few words"], 320)


TOKENIZER = _byte_tokenizer()
