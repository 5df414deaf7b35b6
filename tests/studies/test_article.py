"""The article and the pages of studies: written from records alone, the same figures on both, and what is missing."""

import html
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from parakeet.cli.study_report import report
from parakeet.errors import ParakeetError
from parakeet.recipe_file import load_recipe
from parakeet.studies.article import article_pages
from parakeet.studies.records import note_study, record_file
from parakeet.studies.results import gather_results, results_in
from parakeet.studies.state import note_failure
from parakeet.studies.study import Study, parse_study_file

ARTICLE = Path(__file__).parents[2] / "docs" / "article"
HOSTILE = "Is a <script>alert(1)</script> [wide](javascript:x) model better?"
CHART = re.compile(r'<svg class="chart .*?</svg>', re.DOTALL)
PICTURES = {"pipe.png", "pipe-dark.png", "width-1.png", "width-1-dark.png"}
STUDY = """
title: "{title}"
question: Two widths of model read the same text.
measures: [bits_per_byte]
axes:
  width:
    narrow: {{model.width: 32, model.heads: 1}}
    wide: {{model.width: 64, model.heads: 2}}
arms:
  read_once: {{axes: [width]}}
scales:
  smoke: {{seeds: [1]}}
  cpu: {{}}
"""


def begin(root: Path, name: str = "width", scale: str = "cpu", title: str = HOSTILE) -> Study:
    """A study as `parakeet study run` leaves it before its first run has finished."""
    file = parse_study_file(STUDY.format(title=title), Path(f"{name}.yaml"))
    study = Study(name, file, scale, load_recipe("study"))
    note_study(root, study)
    return study


def finish(root: Path, study: Study, number: int, bits: float) -> None:
    """A record of the run with this number."""
    run = study.runs()[number]
    training = {
        "parameters": 57_568 * run.recipe.model.width // 32,
        "tokens": 262_056,
        "seconds": 12.5,
        "device": "cpu",
        "text_tokens": 8_439_059,
        "run": "0" * 16,
        "final_loss": 4.25,
    }
    values = {
        "study": study.name,
        "scale": study.scale_name,
        "name": run.name,
        "key": study.key(run),
        "arm": run.arm,
        "points": dict(run.points),
        "seed": run.seed,
        "checkpoint": "ab" * 32,
        "training": training,
        "measured": {
            "bits_per_byte": {"books": {"n_bytes": 200_000, "model": bits, "unigram": 3.159137, "xz": 2.760502}}
        },
    }
    file = record_file(root, study, run)
    file.write_text(json.dumps(values), encoding="utf-8")


def finish_all(root: Path, study: Study, best: float = 2.271) -> None:
    for number, run in enumerate(study.runs()):
        finish(root, study, number, best + 0.001 * run.seed + (0.125 if run.points["width"] == "narrow" else 0))


def invoke(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(report, arguments, env={"PARAKEET_HOME": str(home)})


def words(page: str) -> str:
    """The text of an HTML page without its charts."""
    text = re.sub(r"<style>.*?</style>", "", CHART.sub("", page), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", " ", text))


def figures_in(text: str) -> set[str]:
    """Every number with a point, a comma or a percent sign."""
    return set(re.findall(r"\d[\d,]*\.\d+%?|\d[\d,]*%|\d{1,3}(?:,\d{3})+", text))


def about(picture: bytes) -> tuple[str, str]:
    """What a PNG says of itself, and which matplotlib drew it."""
    text = Image.open(io.BytesIO(picture)).text  # type: ignore[attr-defined]
    return text["Description"], text["Software"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An article on one study of a user's own, with all its runs."""
    root = tmp_path_factory.mktemp("article")
    finish_all(root / "home", begin(root / "home"))
    found = invoke(root / "home", "--all", "--output", str(root / "page"))
    assert found.exit_code == 0, found.output
    return root / "page"


def test_the_article_is_written_again_from_the_records_beside_it(written: Path, tmp_path: Path) -> None:
    """Pictures that an earlier article had are removed, other files are not."""
    again = tmp_path / "again"
    again.mkdir()
    for name in ("width-7-dark.png", "mine.png"):
        (again / name).write_bytes(b"")
    found = invoke(tmp_path, "--all", "--records", str(written / "records"), "--output", str(again))
    assert found.exit_code == 0, found.output
    before, now = ({path.relative_to(at): path.read_bytes() for path in at.rglob("*.*")} for at in (written, again))
    assert now == before | {Path("mine.png"): b""}
    assert {path.name for path in before if path.suffix == ".png"} == PICTURES


def test_another_record_gives_another_text(written: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    text = (written / "records" / "width.json").read_text(encoding="utf-8")
    (records / "width.json").write_text(text.replace('"model":2.272', '"model":1.25'), encoding="utf-8")
    pages = article_pages(results_in(records))
    for page, name in ((words(pages.html), "index.html"), (pages.markdown, "README.md")):
        before = (written / name).read_text(encoding="utf-8")
        assert "2.273 (2.271 to 2.275)" in before
        assert "2.273 (2.271 to 2.275)" not in page


def test_both_pages_have_the_same_figures_and_load_nothing(written: Path) -> None:
    page = (written / "index.html").read_text(encoding="utf-8")
    markdown = (written / "README.md").read_text(encoding="utf-8")
    assert figures_in(words(page)) == figures_in(markdown) >= {"2.398", "2.273", "57,568"}
    assert "<script" not in page
    assert not re.search(r"(?<!\\)<script", markdown)
    links = re.findall(r'(?:href|src|srcset)="([^"]*)"', page + markdown) + re.findall(
        r"(?<!\\)\]\(([^)]*)\)", markdown
    )
    inside = [link for link in links if not link.startswith(("#", "../"))]
    assert all((written / link).is_file() for link in inside)
    assert not [link for link in links if "//" in link]
    assert page.count('<svg class="chart') == 2 * markdown.count("<picture>") == 4


def test_studies_that_were_not_run_are_not_answered(written: Path) -> None:
    markdown = (written / "README.md").read_text(encoding="utf-8")
    assert markdown.count("**Not answered: no run of this study has finished.**") == 4
    assert "parakeet study run saturation --scale cpu" in markdown


def test_a_study_says_its_answer_what_is_missing_and_where_its_page_is(tmp_path: Path) -> None:
    study = begin(tmp_path)
    finish_all(tmp_path, study)
    by_name = {run.name: run for run in study.runs()}
    failed, missing = by_name["read_once.wide.s2"], by_name["read_once.narrow.s3"]
    for run in (failed, missing):
        record_file(tmp_path, study, run).unlink()
    note_failure(tmp_path, study, failed, "The disk is full.")
    found = invoke(tmp_path, "width")
    page = tmp_path / "studies" / "width" / "cpu" / "report.html"
    assert found.exit_code == 0, found.output
    assert "wide needs the fewest bits per byte, 2.273, and narrow the most, 2.397." in found.output
    assert "2 of 6 runs are missing: read_once.narrow.s3." in found.output
    assert "read_once.wide.s2 failed: The disk is full." in found.output
    assert "An interval needs 3 seeds, and no setting has one" in found.output
    assert found.output.rstrip().endswith(str(page))
    assert missing.name in words(page.read_text(encoding="utf-8"))


def test_one_seed_has_no_interval_and_the_report_says_so(tmp_path: Path) -> None:
    study = begin(tmp_path, scale="smoke")
    finish_all(tmp_path, study)
    found = invoke(tmp_path, "width", "--output", str(tmp_path / "page"))
    assert "An interval needs 3 seeds, and no setting has one" in found.output
    assert (tmp_path / "page" / "report.md").is_file()


def test_the_largest_scale_with_records_is_reported(tmp_path: Path) -> None:
    begin(tmp_path)
    small = begin(tmp_path, scale="smoke")
    finish(tmp_path, small, 0, 2.5)
    assert gather_results(tmp_path, "width").scale == "smoke"
    finish(tmp_path, begin(tmp_path), 0, 2.5)
    assert gather_results(tmp_path, "width").scale == "cpu"
    assert gather_results(tmp_path, "width", "smoke").scale == "smoke"


def test_a_run_of_other_settings_is_missing(tmp_path: Path) -> None:
    study = begin(tmp_path)
    finish_all(tmp_path, study)
    file = record_file(tmp_path, study, study.runs()[0])
    file.write_text(file.read_text(encoding="utf-8").replace(study.key(study.runs()[0]), "0" * 16), encoding="utf-8")
    results = gather_results(tmp_path, "width")
    assert [name for name, _ in results.missing] == [study.runs()[0].name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["size"], "parakeet study run size --scale cpu"),
        (["size", "--scale", "smoke"], "parakeet study run size --scale smoke"),
        (["sise"], "did you mean size?"),
        (["--all"], "Begin with: parakeet study run size --scale cpu"),
        ([], "Give the studies to report on, or --all."),
        (["size", "--all"], "Give the studies to report on, or --all."),
        (["size", "--records", "."], "--records needs --output"),
        (["--all", "--records", ".", "--output", "."], "no file NAME.json"),
        (["size", "--records", ".", "--output", "."], "no records of a study 'size'"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = invoke(tmp_path / "home", *arguments)
    assert found.exit_code != 0
    said = str(found.exception) if isinstance(found.exception, ParakeetError) else found.output
    assert message in said
    assert not list(tmp_path.rglob("*"))


def test_a_damaged_file_of_records_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"study": "a", "scale": "cpu", "file": {}}'):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        with pytest.raises(ParakeetError, match=r"a\.json has no records of a study"):
            results_in(tmp_path)


def test_the_article_of_the_documentation_is_that_of_its_records() -> None:
    results = results_in(ARTICLE / "records")
    pages = article_pages(results)
    there = (ARTICLE / "index.html").read_text(encoding="utf-8")
    assert pages.markdown == (ARTICLE / "README.md").read_text(encoding="utf-8")
    assert CHART.sub("", pages.html) == CHART.sub("", there)
    assert {path.name for path in ARTICLE.glob("*.png")} == set(pages.pictures)
    drawn = {name: about(picture) for name, picture in pages.pictures.items()}
    kept = {name: about((ARTICLE / name).read_bytes()) for name in pages.pictures}
    assert {name: text for name, (text, _) in drawn.items()} == {name: text for name, (text, _) in kept.items()}
    if drawn == kept:  # by the same matplotlib: another one may place other ticks
        letters = re.compile(r"<text[^>]*>([^<]*)")
        assert [letters.findall(chart) for chart in CHART.findall(pages.html)] == [
            letters.findall(chart) for chart in CHART.findall(there)
        ]
