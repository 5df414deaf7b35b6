"""`--set`, `--held-out` and `--data`: what they make of a recipe, and what they refuse."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from parakeet.cli import main
from parakeet.cli.settings import chosen_recipe
from parakeet.errors import ParakeetError
from parakeet.recipe_changes import changed, setting_keys
from parakeet.recipe_file import load_recipe

DEMO = load_recipe("demo")
MIXED = load_recipe("parakeet-50gb")


def value_of(recipe: Any, key: str) -> Any:
    at = recipe.all_values()
    for part in key.split("."):
        at = at[int(part)] if part.isdecimal() else at[part]
    return at


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("training.tokens=1e6", 1_000_000),
        ("training.tokens=3_000_000", 3_000_000),
        ("training.learning_rate=1e-4", 1e-4),
        ("training.learning_rate=.5", 0.5),
        ("training.compile=true", True),
        ("training.optimizer=muon", "muon"),
        ("model.layers=6", 6),
        ("sources.0.weight=2", 2.0),
        ("sources.synthetic.weight=2", 2.0),
        ("clean.quality=null", None),
        ("clean.quality={min_words: 3}", 3),
        ("clean.quality.min_words=3", 3),
        ("clean.repetition.top_phrases.2=0.3", 0.3),
        ("clean.languages=[en, de]", ["en", "de"]),
        ("packing.then=[{sequence_length: 512, share: 0.1}]", 0.1),
        ("name=no", "no"),
        ("name=1e6", "1e6"),
        ("description=yes: it is", "yes: it is"),
        ("description=", ""),
        ("description=a=b", "a=b"),
        (" limit = 0.5 ", 0.5),
        ("deduplication.held_out_fraction=0", 0.0),
        ("generation.temperature=0", 0.0),
        ("tokenizer.kind=cl100k_base", "cl100k_base"),
        ("training.start=3", "3"),
        ("training.start=1e6", "1e6"),
        ("training.start=0123", "0123"),
        ("training.start=no", "no"),
        ("training.start=2026-11-28", "2026-11-28"),
        ("training.start='3'", "3"),
        ("training.start=null", None),
    ],
)
def test_a_value_is_yaml_of_the_keys_own_type(change: str, value: Any) -> None:
    places = {
        "sources.synthetic.weight": "sources.0.weight",
        "clean.quality": "clean.quality" if value is None else "clean.quality.min_words",
        "packing.then": "packing.then.0.share",
    }
    key = change.partition("=")[0].strip()
    found = value_of(changed(DEMO, [change]), places.get(key, key))
    assert (found, type(found)) == (value, type(value))


def test_a_map_of_the_users_own_keys_is_changed_key_by_key() -> None:
    source = changed(DEMO, ["sources=[{name: a, path: a.txt}]"])
    recipe = changed(source, ["sources.0.speakers.7=system", "sources.a.speakers.bing=assistant"])
    assert recipe.sources[0].speakers == {"7": "system", "bing": "assistant"}
    assert changed(source, ["sources.0.bad_records=5%"]).sources[0].bad_records == 0.05
    assert changed(DEMO, ["clean.repetition.top_phrases.4=0.5"]).clean.repetition.top_phrases == {
        2: 0.2,
        3: 0.18,
        4: 0.5,
    }
    for wrong in (
        "sources.0.speakers.bing=robot",
        "clean.repetition.top_phrases.x=0.5",
        "clean.repetition.top_phrases.2=9",
    ):
        with pytest.raises(ParakeetError, match=f"--set {wrong}"):
            changed(source, [wrong])


def test_changes_are_made_in_order_and_checked_together() -> None:
    recipe = changed(DEMO, ["model.width=96", "model.heads=3", "model.layers=2", "model.layers=3"])
    assert (recipe.model.width, recipe.model.heads, recipe.model.layers) == (96, 3, 3)
    assert changed(DEMO, ["training={tokens: 512, seed: 9}"]).training == DEMO.training.model_copy(
        update={"tokens": 512, "seed": 9}
    )


@pytest.mark.parametrize("name", ["demo", "parakeet-50gb", "parakeet-378m"])
def test_every_key_can_be_set_to_what_it_is(name: str) -> None:
    """So that --set changes no fingerprint by itself."""
    recipe = load_recipe(name)
    keys = [key.removesuffix("=") for key in setting_keys(recipe)]
    assert len(keys) > 80
    assert changed(recipe, [f"{key}={json.dumps(value_of(recipe, key))}" for key in keys
                            if key.rpartition(".")[2] not in ("name", "description")
                            and not isinstance(value_of(recipe, key), str)]) == recipe  # fmt: skip
    texts = {key: value_of(recipe, key) for key in keys if isinstance(value_of(recipe, key), str)}
    assert changed(recipe, [f"{key}={value}" for key, value in texts.items()]) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.token=5", "the recipe has no key training.token. Did you mean training.tokens?"),
        ("tokens=5", "Did you mean training.tokens?"),
        ("Training.Tokens=5", "Did you mean training.tokens?"),
        ("lr=3", "Keys there: name, description, sources,"),
        ("sources.0.wieght=3", "Did you mean sources.0.weight?"),
        ("clean.quality.words=3", "Did you mean clean.quality.min_words?"),
        ("training.optimizer=adam", "training.optimizer takes: adamw or adamw_8bit or muon. It means: AdamW"),
        ("training.tokens=abc", "training.tokens takes: integer, ≥ 1. It means: Tokens to train on"),
        ("training.tokens=1.5", "training.tokens takes: integer, ≥ 1"),
        ("training.tokens=1e-6", "training.tokens takes: integer, ≥ 1"),
        ("training.tokens=", "training.tokens takes: integer, ≥ 1"),
        ("training.tokens=[", "training.tokens takes: integer, ≥ 1"),
        ("training.compile=maybe", "training.compile takes: true or false"),
        ("limit=2", "limit takes: number, > 0.0, ≤ 1.0"),
        ("generation.temperature=nan", "takes: number, ≥ 0, ≤ 10"),
        ("name=my model", "letters, digits, dot, dash, underscore"),
        ("training.decay=cosine", "the decays are linear, sqrt."),
        ("model.width=250", "model: width 250 is not a multiple of heads 8."),
        ("packing.sequence_length=300", "training.batch_tokens 1024 is not a multiple of packing.sequence_length 300"),
        ("executor.kind=slurm", "kind slurm needs executor.slurm with a partition"),
        ("sources.3.weight=2", "sources has no entry '3'. Its entries: 0 (synthetic)."),
        ("sources.books.weight=2", "sources has no entry 'books'"),
        ("packing.then.0.share=2", "Its entries: none."),
        ("training.tokens.x=1", "training.tokens is a single value and has no keys"),
        ("training.tokens=yes", "training.tokens takes: integer, ≥ 1. It means: Tokens to train on"),
        ("training=5", "training is a section with keys of its own, training.tokens, "),
        ("decontamination=no", "decontamination is a section with keys of its own, decontamination."),
        ("tokenizer=bpe", "tokenizer is a section with keys of its own, tokenizer."),
        ("training={tokens: 5, seeds: 2}", "the recipe has no key training.seeds. Did you mean seed?"),
        ("model={width: 250}", "model: width 250 is not a multiple of heads 8."),
        ("sources=[]", "sources is a list of sections. Change a key of an entry: sources.0.KEY=VALUE"),
        ("sources.0=3", "sources.0 is a section with keys of its own, sources.0."),
        ("foo", "write KEY=VALUE, for example --set training.tokens=1e6"),
        ("=5", "write KEY=VALUE"),
        (".=5", "the recipe has no key"),
        ("training..tokens=5", "the recipe has no key training."),
    ],
)
def test_what_does_not_fit_is_answered_with_what_does(change: str, message: str) -> None:
    with pytest.raises(ParakeetError) as refusal:
        changed(DEMO, [change])
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("--set ")
    assert "\n" not in str(refusal.value)


@given(key=st.sampled_from(setting_keys(DEMO) + setting_keys(MIXED)) | st.text(max_size=20), value=st.text(max_size=20))
def test_any_text_is_taken_or_refused_in_words(key: str, value: str) -> None:
    for recipe in (DEMO, MIXED):
        with suppress(ParakeetError):
            changed(recipe, [key + value])


def test_a_path_is_relative_to_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = changed(DEMO, ["sources=[{name: a, path: a.txt}, {name: b, path: /b.txt}]"])
    assert [source.place(1.0) for source in recipe.sources] == [str(tmp_path / "a.txt"), "/b.txt"]
    recipe = changed(recipe, ["sources.b.path=b/*.txt", "sources.b.licence=MIT"])
    assert (recipe.sources[1].place(1.0), recipe.sources[1].licence) == (str(tmp_path / "b/*.txt"), "MIT")
    buckets = changed(DEMO, ["sources=[{name: a, kind: bucket, path: 's3://a/b'}]"])
    assert buckets.sources[0].place(1.0) == "bucket s3://a/b"


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["notes.txt"], "notes"),
        (["my notes.v2.jsonl.gz"], "my-notes"),
        (["letters/"], "letters"),
        (["letters/*.md"], "letters"),
        (["letters/**/*.md"], "letters"),
        (["notes.txt", "b.txt", "c.txt"], "notes-and-2-more"),
        (["x" * 80 + ".txt", "b.txt"], "x" * 53 + "-and-1-more"),
        (["日本語.txt"], "data"),
        (["."], "here"),
        (["[1].txt"], "1"),
    ],
)
def test_a_model_of_ones_own_text_is_called_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], name: str
) -> None:
    here = tmp_path / "here"
    (here / "letters").mkdir(parents=True)
    (here / "[1].txt").touch()
    monkeypatch.chdir(here)
    for shipped in ("demo", "parakeet-378m"):
        recipe = chosen_recipe(shipped, paths, [], None, None)
        assert recipe.name == name
        assert recipe.description.startswith(f"A model of the shape of {shipped}, trained on ")
        assert recipe.model == load_recipe("own-text" if shipped == "demo" else shipped).model


def test_a_name_that_somebody_chose_stays(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: demo\nname: own\n", encoding="utf-8")
    assert chosen_recipe(str(own), ["a.txt"], [], None, None).name == "own"
    assert chosen_recipe("demo", ["a.txt"], ["name=mine"], None, None).name == "mine"
    assert chosen_recipe("demo", [], [], None, None) == load_recipe("demo")
    # An unset variable of a script; the present folder would be read.
    with pytest.raises(ParakeetError, match="--data is empty"):
        chosen_recipe("demo", ["a.txt", ""], [], None, None)


def test_held_out_is_a_share_and_0_measures_nothing() -> None:
    recipe = chosen_recipe("demo", [], [], 0.05, None)
    assert (recipe.deduplication.held_out_fraction, recipe.shards.min_held_out_bytes) == (0.05, 1000)
    recipe = chosen_recipe("demo", [], [], 0.0, None)
    assert (recipe.deduplication.held_out_fraction, recipe.shards.min_held_out_bytes) == (0.0, 0)
    for share, words in (("60%", "'60%' is not a share from 0 to 50%"), ("nan", "is not a share"), ("-1", "from 0")):
        result = CliRunner().invoke(main, ["plan", "--held-out", share])
        assert result.exit_code in (1, 2)
        assert words in result.output
    assert CliRunner().invoke(main, ["plan", "--held-out", "0"]).exit_code == 0


def test_a_headline_counts_in_the_right_number_and_says_if_nothing_was_measured() -> None:
    from parakeet.stages import STAGES

    headline = {stage.name: stage.headline for stage in STAGES}
    assert headline["evaluation"]({"bits_per_byte": {}}) == "nothing measured, for lack of held-out text"
    assert headline["documents"]({"documents": 1, "sources": {"a": {}}}) == "1 document of a"
    assert headline["documents"]({"documents": 2, "sources": {"a": {}}}) == "2 documents of a"
    assert headline["data_card"]({"sources": 1, "tokens": 5}) == "1 source, 5 tokens"
