"""What is shown of an artefact: in units, small, once, and for each recipe apart."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_defs.metadata import in_units, metadata_of
from parakeet.recipe_file import load_recipe
from parakeet.stage import FigureTable, Markdown, Picture
from parakeet.stages import use_recipe
from pipelines.definitions import make_definitions

DATA = ("documents", "clean_documents", "deduplicated_documents", "tokenizer", "token_shards", "packing_plan",
        "trace_index", "data_card")  # fmt: skip


def picture(path: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), dpi=100)
    for line in range(4):
        axes.plot(range(200), [value * (line + 1) ** 0.5 % 17 for value in range(200)], label=f"line {line}")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
    return path


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("loss", 0.0891234, ("loss", 0.08912)),
        ("loss", 1234567.8, ("loss", 1234568)),
        ("share", 1 / 3, ("share", 0.3333)),
        ("tokens_per_second", 5096.26, ("tokens_per_second", 5096)),
        ("tokens", 687446, ("tokens", 687446)),
        ("peak_memory_bytes", 1048481792, ("peak_memory_mib", 999.9)),
        ("size_bytes", 7441, ("size_mib", 0.007096)),
        ("bytes_per_token", 3.23617, ("bytes_per_token", 3.236)),
        ("bits_per_byte", 0.01914830511033112, ("bits_per_byte", 0.01915)),
        ("nothing", 0, ("nothing", 0)),
        ("nothing", 0.0, ("nothing", 0.0)),
        ("loss", float("inf"), ("loss", float("inf"))),
        ("debt", -12345.678, ("debt", -12346)),
    ],
)
def test_numbers_are_rounded_and_in_units(name: str, value: float, shown: tuple[str, float]) -> None:
    assert in_units(name, value) == shown


def test_a_number_is_plotted_for_each_recipe_apart_and_order_is_kept() -> None:
    figures = {"loss": 1.5, "device": "cpu", "row_count": 7, "whole": True, "steps": 3, "path": Path("/x")}
    shown = metadata_of(figures, "demo")
    assert list(shown) == ["loss (demo)", "device", "dagster/row_count", "whole", "steps (demo)", "path"]
    other = metadata_of(figures, "mine")
    numbers = {name for name, value in {**shown, **other}.items() if type(value) in (int, float)}
    assert {"loss (demo)", "loss (mine)"} <= numbers
    assert not {"loss", "steps"} & numbers


def test_a_picture_is_small_and_only_where_the_artefact_was_made(tmp_path: Path) -> None:
    path = picture(tmp_path / "loss_curve.png")
    long, short = Markdown("word " * 2000), Markdown("Learned.")
    figures = {"curve": Picture(path), "card": long, "verdict": short, "table": FigureTable(("a",), [(1,)])}
    shown = metadata_of(figures, "demo")
    assert list(shown) == ["curve", "card", "verdict", "table"]
    assert shown["curve"].value.startswith("![loss curve](data:image/png;base64,")
    assert len(shown["curve"].value) < 0.6 * path.stat().st_size
    assert list(metadata_of(figures, "demo", made=False)) == ["verdict", "table"]


def test_an_up_to_date_find_says_so_and_takes_a_fraction_of_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    (tmp_path / "notes").mkdir()
    for note in range(20):
        lines = [f"Note {note}.{line}: {line * note + 3} cats sat on {line * line + note} mats." for line in range(12)]
        (tmp_path / "notes" / f"{note}.txt").write_text("\n".join(lines), encoding="utf-8")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "extends: own-text\nname: mine\nclean: {repetition: null}\nsources: [{name: notes, path: notes}]\n"
        "tokenizer: {kind: words, vocabulary: 320}\nevaluation: {chat_prompts: false}\n"
        "deduplication: {held_out_fraction: 0.3}\npacking: {sequence_length: 64}\nmodel: {context: 64}\n"
    )
    mine = load_recipe(str(recipe))
    use_recipe(tmp_path / "home", mine)
    job = make_definitions(mine).resolve_job_def("prepare_data")

    def run(instance: dg.DagsterInstance) -> tuple[dict[str, dict[str, Any]], int]:
        result = job.execute_in_process(instance=instance)
        assert result.success
        tags = instance.get_run_by_id(result.run_id).tags  # type: ignore[union-attr]
        assert tags["parakeet/recipe"] == "mine"
        assert len(tags["parakeet/recipe_fingerprint"]) == 16
        assert len(tags.get("parakeet/commit", "0" * 12)) == 12
        shown = {name: result.asset_materializations_for_node(name)[0] for name in DATA}
        for materialization in shown.values():
            assert (materialization.tags or {})["parakeet/recipe"] == "mine"
            assert len((materialization.tags or {})["parakeet/fingerprint"]) == 16
        size = sum(len(entry.to_json()) for entry in instance.all_logs(result.run_id))
        return {name: {**event.metadata} for name, event in shown.items()}, size

    with dg.DagsterInstance.ephemeral() as instance:
        made, first_size = run(instance)
        found, second_size = run(instance)
    for name in DATA:
        assert made[name]["made"].value is True
        assert found[name]["made"].value is False
        assert found[name]["made_at"] == made[name]["made_at"]
        numbers = {label for label in made[name] if label.endswith("(mine)")}
        assert {label: found[name][label] for label in numbers} == {label: made[name][label] for label in numbers}
    assert "repeats_plot" in made["trace_index"]
    assert "repeats_plot" not in found["trace_index"]
    assert "card" not in found["data_card"]
    assert "parakeet pages" in found["data_card"]["page"].value
    # 13 assets of the demo took 1.0 MB with their pictures.
    assert second_size < min(100_000, first_size - 10_000), (first_size, second_size)
