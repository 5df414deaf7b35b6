"""`parakeet bench export`: every format and dtype is measured or left out with a reason."""

from pathlib import Path

from parakeet.export.formats import FORMATS

from .tiny import run_benchmark, tiny_recipe


def test_every_format_is_measured_or_left_out(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    lines, result = run_benchmark(tmp_path, "torch", "parakeet.cli", "bench", "export", "--recipe", str(recipe))
    measured, left_out = result["exports"], result["left_out"]
    assert {*measured, *left_out} == {f"{name} {dtype}" for name, layout in FORMATS.items() for dtype in layout.dtypes}
    assert {case.partition(" ")[0] for case in measured} >= {"hf", "gguf"}
    assert "vocabulary rows" in left_out["original fp32"]  # it is the layout of one vocabulary
    for answer in measured.values():
        assert answer["written_bytes"] > 0
        assert answer["peak_bytes"] > 0
        assert answer["over"] == (answer["seconds"] > 20 or answer["peak_bytes"] > 1.2 * result["weights_bytes"])
    assert any(line.startswith("original fp32 is left out") for line in lines)
