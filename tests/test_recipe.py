import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.recipe import Recipe
from parakeet.recipe_file import load_recipe, shipped_recipes
from parakeet.recipe_sources import Section


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_load_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    again = load_recipe(write(tmp_path / "copy.yaml", recipe.to_yaml()))
    assert again == recipe


def test_every_field_says_what_it_does() -> None:
    def undescribed(section: type[Section]) -> list[str]:
        return [name for name, field in section.model_fields.items() if not field.description and name not in ("role",)]

    sections = [*Section.__subclasses__(), Recipe]
    assert {section.__name__: undescribed(section) for section in sections if undescribed(section)} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "extends: demo\ntraining:\n  learning_rat: 1\n",
            "line 3: unknown key training.learning_rat: did you mean learning_rate?",
        ),
        ("extends: demo\nmodle: {}\n", "line 2: unknown key modle: did you mean model?"),
        ("extends: demo\nmodel: {layers: 0}\n", "model.layers"),
        ("extends: demo\nmodel: {heads: 3}\n", "not a multiple of heads"),
        ("extends: demo\ntraining: {learning_rate: .nan}\n", "training.learning_rate"),
        ("extends: demo\ntraining: {batch_tokens: 1000}\n", "not a multiple of packing.sequence_length"),
        ("extends: demo\npacking: {sequence_length: 2048}\n", "beyond model.context"),
        (
            "extends: demo\ntraining: {micro_batch_tokens: 100}\n",
            "training.micro_batch_tokens 100 is not a multiple of packing.sequence_length 256",
        ),
        (
            "extends: demo\npacking: {sequence_length: 128, then: [{sequence_length: 256, share: 0.1}]}\n"
            "training: {micro_batch_tokens: 128}\n",
            "training.micro_batch_tokens 128 is not a multiple of packing.then[0].sequence_length 256",
        ),
        (
            "extends: demo\ntraining: {micro_batch_tokens: 2048}\n",
            "training.micro_batch_tokens 2048 is beyond training.batch_tokens 1024",
        ),
        ("extends: demo\ntraining: {decay: cosine}\n", "training.decay: the decays are linear, sqrt (given: 'cosine')"),
        ("extends: demo\ntraining: {attention: flex, device: cpu}\n", "attention flex needs a CUDA device"),
        ("extends: demo\nname: a\nname: b\n", "line 3: name is set twice"),
        ("extends: demo\nsources: []\n", "sources"),
        ("extends: demo\nsources: [{name: a, path: x}, {name: a, path: y}]\n", "two sources are called a"),
        ("extends: demo\nsources: [{name: a, path: x, licens: MIT}]\n", "did you mean licence?"),
        (
            "extends: demo\nclean:\n  repetition:\n    top_phrases:\n      2: 0.1\n      3: 7\n",
            "line 6: clean.repetition.top_phrases.3: Input should be less than or equal to 1 (given: 7)",
        ),
        (
            "extends: demo\nclean: {repetition: {duplicate_phrases: {0: 0.5}}}\n",
            "clean.repetition.duplicate_phrases.0 (the key): Input should be greater than or equal to 1",
        ),
        ("extends: nowhere\n", "no recipe 'nowhere'"),
        ("extends: demo\nsources: 5\n", "sources"),
        ("- a list\n", "this file is not"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: " + "[" * 3000 + "]" * 3000 + "\n", "nested too deeply"),
        ("a: [unclosed\n", "cannot be read as a recipe"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", text)
    with pytest.raises(ParakeetError) as caught:
        load_recipe(path)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "clean: {languages: [en, no]}",
            "clean.languages.1: Input should be a valid string. no without quotes is false",
        ),
        ("clean: {languages: no}", 'write "no" if you mean the text'),
        ("name: on", 'on without quotes is true in YAML: write "on"'),
        ("name: 1.10", '1.10 without quotes is a number in YAML: write "1.10"'),
        ("name: 2024-01-01", "2024-01-01 without quotes is a date in YAML"),
        ("name: ~", "~ without quotes is null in YAML"),
        ("name:", "An empty value without quotes is null in YAML"),
        ("name: 12:30", 'line 2: YAML reads 12:30 as 750. Write 750 if you mean the number, or "12:30" in quotes'),
        ("executor: {kind: slurm, slurm: {partition: a, time: 24:00:00}}", "YAML reads 24:00:00 as 86400"),
        ("training: {tokens: 1:30}", "YAML reads 1:30 as 90"),
        ("training: {tokens: 0100}", "YAML reads 0100 as 64"),
        ("training: {learning_rate: 1:30.5}", "YAML reads 1:30.5 as 90.5"),
        ("training: {tokens: 3,000,000}", "the comma before 000 ends the number. Write 3000, 3_000 or 3e3"),
        ("training: {tokens: yes}", "training.tokens: Input should be a number (given: True)"),
        ("training: {learning_rate: off}", "Input should be a number (given: False)"),
        ("training: {tokens: 3M}", "(given: '3M'). Write a number like 3000000, 3_000_000, 3e6"),
        (
            "training: {tokens: 3e-6}",
            "training.tokens: Input should be a valid integer, got a number with a fractional part",
        ),
        ("training: {tokens: 1e99}", "Input should be less than 9,223,372,036,854,775,808"),
        ("training: {seed: 99999999999999999999}", "Input should be less than 9,223,372,036,854,775,808"),
        ("training: {tokens: 1e999999999}", "unable to parse string as an integer"),
        ("training: {tokens: " + "9" * 5000 + "}", "4300 digits"),
        ("no: 1", 'line 2: the key no is false in YAML. Write "no" in quotes.'),
        ("clean: {2024-01-01: 1}", "the key 2024-01-01 is a date in YAML"),
        (
            "description: a: b",
            "line 2, column 15: mapping values are not allowed here. Text with a sign that YAML uses",
        ),
        ("description: @home", "needs quotes"),
        ("description: !bang x", "needs quotes"),
        ("sources: [{name: a, path: *.jsonl}]", "needs quotes"),
        ("sources: [{name: a, path: [x].jsonl}]", "needs quotes"),
        ("training:\n\ttokens: 5", "Indent with spaces, not with tabs."),
        ("---\na: 1", "expected a single document in the stream"),
        ("a: &a {b: *a}", "an alias (*name) contains itself"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12)),
            "1,000,000",
        ),
        ("a: \x00", "unacceptable character"),
    ],
)
def test_what_yaml_reads_otherwise_is_said_with_the_remedy(text: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", f"extends: demo\n{text}\n")
    with pytest.raises(ParakeetError) as caught:
        load_recipe(path)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("3e6", 3_000_000),
        ("3E+6", 3_000_000),
        ("3.2768e4", 32_768),
        ("'3e6'", 3_000_000),
        ("3_0e5", 3_000_000),
        ("3_000_000", 3_000_000),
        ("3000000.0", 3_000_000),
        ("+3000", 3_000),
        ("0x100", 256),
        (".3e7", 3_000_000),
        ("300e+4", 3_000_000),
        ("3200e-1", 320),
    ],
)
def test_whole_numbers_in_all_their_forms(written: str, tokens: int, tmp_path: Path) -> None:
    """As in JSON, where 3e6 is a number too."""
    path = write(tmp_path / "mine.yaml", f"extends: demo\nname: '3e6'\ntraining: {{tokens: {written}}}\n")
    recipe = load_recipe(path)
    assert recipe.training.tokens == tokens
    assert recipe.name == "3e6", "where text is expected it stays text"
    as_json = write(tmp_path / "mine.json", '{"extends": "demo", "training": {"tokens": 3e3, "learning_rate": 1e-3}}')
    assert load_recipe(as_json).training.tokens == 3000


@given(st.text(st.sampled_from("0123456789.:eE_+-~noyesfalNF"), min_size=1, max_size=6))
def test_a_name_without_quotes_is_read_as_written_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text(f"extends: demo\nname: {name}\n", encoding="utf-8")
    message, read = "", None
    try:
        read = load_recipe(str(path)).name
    except ParakeetError as error:
        message = str(error)
    assert read == name or str(path) in message


def test_a_fault_of_an_extended_recipe_names_its_file_and_line(tmp_path: Path) -> None:
    parent = write(tmp_path / "parent.yaml", "extends: demo\nclean:\n  languages:\n    - no\n")
    child = write(tmp_path / "child.yaml", "extends: parent.yaml\nname: child\n")
    with pytest.raises(ParakeetError, match=rf"^{parent}, line 4: clean\.languages\.0: .* write \"no\""):
        load_recipe(child)


@pytest.mark.parametrize(
    "name", ["a b", "[x]*?", "{a}!%41#", "'q\"", "Наука😀", "new\nline", " tr ", "no", "a::b", "$HOME"]
)
def test_recipes_and_what_they_extend_in_files_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write(tmp_path / name / f"{name}.yaml", "extends: demo\nname: parent\nsources: [{name: a, path: text}]\n")
    extends = json.dumps({"extends": f"{name}.yaml", "name": "child"})
    recipe = load_recipe(write(tmp_path / name / "child.json", extends))
    assert recipe.name == "child"
    assert Path(recipe.sources[0].path) == tmp_path / name / "text"  # type: ignore[union-attr]
    # What `parakeet use` writes.
    assert load_recipe(write(tmp_path / "copy.yaml", recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("kind: download, files: [{url: 'https://me:word@x/a.txt'}]", "url holds a user name or password"),
        ("kind: download, files: [{url: 'https://word@x/a.txt'}]", "put them into ~/.netrc"),
        ("kind: download, files: [{url: 'https://me:word@[x/a.txt'}]", "url holds a user name or password"),
        ("kind: bucket, path: 's3://a/b', endpoint: 'http://me:word@x'", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_addresses_with_passwords_are_refused_and_not_shown(source: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", f"extends: demo\nsources: [{{name: a, {source}}}]\n")
    with pytest.raises(ParakeetError) as caught:
        load_recipe(path)
    assert expected in str(caught.value)
    assert "me:word" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_binary_recipe_and_missing_recipe(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParakeetError, match="not a text file"):
        load_recipe(str(tmp_path / "binary.yaml"))
    with pytest.raises(ParakeetError, match="did you mean demo"):
        load_recipe("demmo")


def test_extends_merges_sections_and_resolves_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    base = tmp_path / "base.yaml"
    write(base, "extends: demo\nname: base\nsources: [{name: a, path: text}]\ntraining: {tokens: 2048}\n")
    mine = load_recipe(write(tmp_path / "mine.yaml", "extends: base.yaml\nname: mine\ntraining: {warmup_steps: 7}\n"))
    demo = load_recipe("demo")
    assert mine.training.tokens == 2048
    assert mine.training.warmup_steps == 7
    assert mine.training.learning_rate == demo.training.learning_rate
    assert Path(mine.sources[0].path) == tmp_path / "text"  # type: ignore[union-attr]


def test_a_recipe_cannot_extend_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "loop.yaml", "extends: loop.yaml\n")
    with pytest.raises(ParakeetError, match="extends itself"):
        load_recipe(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
)
def test_no_yaml_at_all_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text(yaml.safe_dump({"extends": "demo", "training": value}), encoding="utf-8")
    message = None
    try:
        load_recipe(str(path))
    except ParakeetError as error:
        message = str(error)
    assert message is None or str(path) in message


def test_a_recipe_with_evaluation_sets_survives_a_round_trip(tmp_path: Path) -> None:
    """Written out it has all settings of a set, also those that may not be given."""
    hub = "{kind: hub, name: far, dataset: a/b, files: [a.jsonl]}"
    sets = f"decontamination: {{sets: [{{name: tested, path: tested.jsonl}}, {hub}]}}\n"
    recipe = load_recipe(write(tmp_path / "recipe.yaml", f"extends: demo\n{sets}"))
    assert load_recipe(write(tmp_path / "copy.yaml", recipe.to_yaml())) == recipe


def test_extends_merges_every_level_and_replaces_lists(tmp_path: Path) -> None:
    write(
        tmp_path / "parent.yaml",
        "extends: demo\nname: parent\nclean:\n  languages: [en, de]\n  quality: {min_words: 5, max_words: 70}\n"
        "  repetition: {top_phrases: {2: 0.5}}\n",
    )
    child = "extends: parent.yaml\nname: child\nclean:\n  languages: [fr]\n  quality: {min_words: 7}\n"
    recipe = load_recipe(write(tmp_path / "child.yaml", child + "  repetition: {top_phrases: {3: 0.4}}\n"))
    assert recipe.clean.quality is not None
    assert (recipe.clean.quality.min_words, recipe.clean.quality.max_words) == (7, 70)
    assert recipe.clean.languages == ["fr"]
    assert recipe.clean.repetition is not None
    assert recipe.clean.repetition.top_phrases == {3: 0.4}, "a map with keys of one's own is replaced, as a list is"
    without = load_recipe(write(tmp_path / "without.yaml", "extends: parent.yaml\nclean: {quality: null}\n"))
    assert without.clean.quality is None


OLD_NAMES = (
    "extends: demo\n"
    "packing: {row_tokens: 128, then: [{row_tokens: 256, share: 0.1}]}\n"
    "training: {recompute: mlp, micro_batch_tokens: 256}\n"
)


def test_an_old_key_is_read_and_its_new_name_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.yaml"
    recipe = load_recipe(write(path, OLD_NAMES))
    assert recipe.packing.lengths == [128, 256]
    assert recipe.training.activation_checkpointing == "mlp"
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{path}: packing.row_tokens is now called sequence_length. The old name is read for one version.",
        f"{path}: packing.then.row_tokens is now called sequence_length. The old name is read for one version.",
        f"{path}: training.recompute is now called activation_checkpointing. The old name is read for one version.",
    ]


def test_an_old_key_beside_its_new_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    text = "extends: demo\ntraining: {recompute: mlp, activation_checkpointing: none}\n"
    with pytest.raises(ParakeetError, match=r"training\.recompute is the old name .* Keep activation_checkpointing\."):
        load_recipe(write(path, text))
