"""What the file of a study means, and what is said of a wrong one."""

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from parakeet.errors import ParakeetError
from parakeet.recipe_file import load_recipe
from parakeet.studies.study import Study, StudyFile, make_study, shipped_studies
from tests.studies.small import SMALL, write_study

RECIPE = load_recipe("study")


@pytest.mark.parametrize("name", shipped_studies())
def test_every_scale_of_a_shipped_study_fits_its_recipes(name: str) -> None:
    for scale in ("smoke", "cpu", "night", "gpu"):
        study = make_study(name, scale)
        runs = study.runs()
        assert {run.arm for run in runs} == set(study.arms)
        assert len({run.name for run in runs}) == len(runs)
        assert all(not run.is_forecast for run in runs[: len(runs) // 2])


def test_runs_are_the_grids_of_the_arms_once_a_seed(tmp_path: Path) -> None:
    names = [run.name for run in make_study(write_study(tmp_path), "cpu").runs()]
    assert names == [
        "widths.narrow.s1", "widths.narrow.s2", "widths.wide.s1", "widths.wide.s2", "decays.none.s7",
        "decays.strong.s7",
    ]  # fmt: skip


def test_a_scale_keeps_arms_and_may_have_its_own(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert [run.name for run in make_study(path, "smoke").runs()] == ["widths.narrow.s1", "widths.wide.s1"]
    tokens = {run.name: run.recipe.training.tokens for run in make_study(path, "gpu").runs()}
    assert tokens["widths.wide.s2"] == 1_048_576
    assert tokens["decays.none.s7"] == 65_536


@pytest.mark.parametrize(("times", "limit"), [("2", 0.1), ("50", 1.0)])
def test_an_arm_may_take_more_of_the_text_but_not_more_than_all(tmp_path: Path, times: str, limit: float) -> None:
    path = write_study(tmp_path, ("widths: {axes: [width]}", f"widths: {{axes: [width], more_text: {times}}}"))
    found = {run.arm: run.recipe.limit for run in make_study(path, "cpu").runs()}
    assert found == {"widths": pytest.approx(limit), "decays": pytest.approx(RECIPE.limit)}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[bits_per_byte]", "[bits_per_bite]", 4, "there is no measure 'bits_per_bite': did you mean bits_per_byte?"),
        ("axes: [decay]", "axes: [decai]", 16, "there is no axis 'decai': did you mean decay?"),
        ("arms: [widths]", "arms: [widhts]", 18, "there is no arm 'widhts': did you mean widths?"),
        ("  cpu: {minutes: 1}", "  kpu: {minutes: 1}", 19, "there is no scale 'kpu': did you mean gpu?"),
        ("cpu: {minutes: 1}", "cpu: {points: {width: [huge]}}", 19, "there is no point of axis width 'huge'"),
        ("cpu: {minutes: 1}", "cpu: {points: {height: [a]}}", 19, "there is no axis 'height'; known: width, decay"),
        ("cpu: {minutes: 1}", "cpu: {points: {width: []}}", 19, "no point of axis width is left"),
        ("cpu: {minutes: 1}", "cpu: {seeds: []}", 19, "scales.cpu.seeds: List should have at least 1 item"),
        ("cpu: {minutes: 1}", "cpu: {seeds: [one]}", 19, "scales.cpu.seeds.0: Input should be a valid integer"),
        ("cpu: {minutes: 1}", "cpu: {minute: 1}", 19, "unknown key scales.cpu.minute: did you mean minutes?"),
        ("cpu: {minutes: 1}", "cpu: {minutes: soon}", 19, "scales.cpu.minutes: Input should be a valid number"),
        ("recipe: study", "stages: [release]", 3, "there is no stage to ask for 'release'; known: memorisation"),
        ("title: Does", "titel: Does", 1, "unknown key titel: did you mean title?"),
        ("seeds: [1, 2]", "forecast: {width: [broad]}", 6, "there is no point of axis width 'broad'; known: narrow"),
        ("seeds: [1, 2]", "seeds: []", 6, "seeds: List should have at least 1 item"),
        ("seeds: [1, 2]", "title: again", 6, "title is set twice"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_file_and_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    path = write_study(tmp_path, (old, new))
    with pytest.raises(ParakeetError) as error:
        make_study(path, "cpu")
    assert f"{path}, line {line}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["- a list\n- of two\n", "just words\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParakeetError, match=r"list\.yaml: a study is a YAML mapping"):
        make_study(str(path), "cpu")


def test_an_axis_without_points_is_refused(tmp_path: Path) -> None:
    axis = SMALL[SMALL.index("  decay:") : SMALL.index("arms:")]
    path = write_study(tmp_path, (axis, "  decay: {}\n"))
    with pytest.raises(ParakeetError, match=r"line 11: axes\.decay: Dictionary should have at least 1 item"):
        make_study(path, "cpu")


def test_a_scale_or_a_study_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParakeetError, match=r"Study widths has no scale 'night'\. It has: smoke, cpu, gpu"):
        make_study(write_study(tmp_path), "night")
    with pytest.raises(ParakeetError, match="There is no study 'saturashun': did you mean saturation"):
        make_study("saturashun", "cpu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model.width: 64", "model.widht: 64", "run widths.wide.s1: model.widht: .* Did you mean model.width?"),
        ("model.width: 64", "model.width: wide", "run widths.wide.s1: model.width=wide: model.width takes: int"),
        ("model.heads: 2", "model.heads: 3", "run widths.wide.s1: .*width 64 is not a multiple of heads 3"),
        ("settings: {", "settings: {training: 5, ", "run widths.narrow.s1: training=5: training is a section"),
        ("narrow:", f"{'narrow' * 9}:", "at most 64 letters"),
        ("recipe: study", "recipe: studdy", "There is no recipe 'studdy': did you mean study?"),
    ],
)  # fmt: skip
def test_a_setting_that_no_recipe_takes_names_the_run_and_the_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ParakeetError, match=message):
        make_study(write_study(tmp_path, (old, new)), "cpu").runs()


def test_a_recipe_beside_the_study_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.yaml").write_text("extends: study\nlimit: 0.5\n", encoding="utf-8")
    path = write_study(
        tmp_path, ("recipe: study", "recipe: own.yaml"), ("axes: [decay],", "axes: [decay], recipe: own.yaml,")
    )
    monkeypatch.chdir("/")
    assert {run.recipe.limit for run in make_study(path, "cpu").runs()} == {0.5}


def test_a_file_named_as_a_shipped_study_is_refused(tmp_path: Path) -> None:
    path = Path(write_study(tmp_path)).rename(tmp_path / "size.yaml")
    with pytest.raises(ParakeetError, match=r"size.yaml: a study named size comes with Parakeet, .* another name"):
        make_study(str(path), "cpu")
    assert make_study(str(shipped_studies()["size"]), "cpu").name == "size"


def test_text_and_dates_are_settings_as_they_are_typed(tmp_path: Path) -> None:
    settings = "settings: {training.device: cpu, sources.0.revision: 2024-01-31, training.tokens: 65_536}"
    path = write_study(tmp_path, ("settings: {training.tokens: 65_536}", settings))
    recipe = make_study(path, "cpu").runs()[0].recipe
    assert (recipe.training.device, recipe.sources[0].revision) == ("cpu", "2024-01-31")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new"), [("wide:", "Narrow:"), ("wide:", '"na/rrow":'), ("seeds: [1, 2]", "seeds: [1, 1]")]
)
def test_two_runs_of_one_name_are_refused(tmp_path: Path, old: str, new: str) -> None:
    changes = [(f"    {old}" if old == "wide:" else old, f"    {new}" if old == "wide:" else new)]
    if "/" in new:
        changes.append(("narrow:", '"na:rrow":'))
    with pytest.raises(ParakeetError, match=r"Study widths: two runs are called widths.(N|n)a-?rrow.s1: widths / "):
        make_study(write_study(tmp_path, *changes), "cpu").runs()


LABELS = st.sampled_from(["narrow", "wide"])


@settings(max_examples=15, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=3, unique=True),
    points=st.lists(LABELS, min_size=1, max_size=2, unique=True),
    order=st.randoms(use_true_random=False),
)
def test_names_are_distinct_and_keys_do_not_depend_on_the_order_of_the_file(
    seeds: list[int], points: list[str], order: random.Random
) -> None:
    values = yaml.safe_load(SMALL)
    values["scales"]["cpu"] |= {"seeds": seeds, "points": {"width": points}}

    def keys(of: object) -> dict[str, str]:
        study = Study("widths", StudyFile.model_validate(of), "cpu", RECIPE)
        runs = study.runs()
        assert len(runs) == len(seeds) * (len(points) + 2)
        return {run.name: study.key(run) for run in runs}

    def shuffled(value: object) -> object:
        if not isinstance(value, dict):
            return value
        items = [(key, shuffled(inner)) for key, inner in value.items()]
        order.shuffle(items)
        return dict(items)

    assert keys(shuffled(values)) == keys(values)
    assert len(set(keys(values))) == len(seeds) * (len(points) + 2)
