"""`parakeet report`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from parakeet.artifact import sha256_of
from parakeet.cli import main
from parakeet.release.verify import write_sums


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home" / "releases" / "0123-0"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "vocabulary.tiktoken"):
        (folder / name).write_bytes(b"weights")
    (folder / "generation_config.json").write_text('{"name": "small"}', encoding="utf-8")
    (folder / "report.html").write_text("<!DOCTYPE html>", encoding="utf-8")
    manifest = {"schema": 1, "made": "2026-01-02", "counts": {"name": "small", "parameters": 3}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder.parent / "latest").symlink_to("0123-0")
    write_sums(folder)
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path / "home"))
    return folder


def test_the_page_of_a_release_is_printed(release: Path) -> None:
    for arguments in ([], ["small"], [str(release)]):
        found = CliRunner().invoke(main, ["report", *arguments])
        assert (found.exit_code, found.stdout) == (0, f"{release / 'report.html'}\n")


@pytest.mark.parametrize(("browser", "status"), [("/bin/true", 0), ("/nonexistent", 1)])
def test_it_is_opened_if_there_is_a_browser(
    release: Path, monkeypatch: pytest.MonkeyPatch, browser: str, status: int
) -> None:
    import webbrowser

    monkeypatch.setattr(webbrowser, "_tryorder", None)
    monkeypatch.setattr(webbrowser, "_browsers", {})
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setenv("PATH", "")
    found = CliRunner().invoke(main, ["report", "--open"])
    assert (found.exit_code, found.stdout) == (status, f"{release / 'report.html'}\n")
    assert ("No browser could be opened" in found.stderr) == bool(status)


@pytest.mark.parametrize(
    ("lineage", "message"),
    [
        ('{"stages": {}}', "Run the same build again with: --force release"),
        ('{"imported_from": {}}', "was imported"),
        ("{", "Run the same build again with: --force release"),
    ],
)
def test_a_release_without_a_report_says_what_to_run(release: Path, lineage: str, message: str) -> None:
    (release / "report.html").unlink()
    (release / "training_manifest.json").write_text(lineage, encoding="utf-8")
    write_sums(release)
    found = CliRunner().invoke(main, ["report", "--open"])
    assert found.exit_code == 1
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_changed_report_and_what_is_no_release_are_refused(release: Path, tmp_path: Path) -> None:
    (release / "report.html").write_text("<script>", encoding="utf-8")
    assert "it was changed after the release was made" in CliRunner().invoke(main, ["report"]).stderr
    (release / "report.html").unlink()
    assert "is missing" in CliRunner().invoke(main, ["report"]).stderr
    assert "is not a release" in CliRunner().invoke(main, ["report", str(tmp_path)]).stderr
    (release.parent / "latest").unlink()
    assert "There is no released model" in CliRunner().invoke(main, ["report"]).stderr


def report_in(root: Path, number: int, checkpoint: str, made: str) -> Path:
    """An artefact of the stage `report`."""
    folder = root / "report" / f"{number:016x}-0"
    folder.mkdir(parents=True)
    page = folder / "report.html"
    page.write_text(f"<!DOCTYPE html>{number}", encoding="utf-8")
    status = page.stat()
    entry = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(page)}
    inputs = {"checkpoint": {"content": checkpoint}}
    manifest = {
        "schema": 1,
        "stage": "report",
        "content": "c",
        "made": made,
        "seconds": 1.0,
        "files": {page.name: entry},
        "inputs": inputs,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return page


def test_a_release_without_a_report_has_that_of_its_checkpoint(release: Path) -> None:
    """After an update the build makes the stage `report`, and the old release stays as it is."""
    root = release.parent.parent
    (release / "report.html").unlink()
    (release / "training_manifest.json").write_text('{"stages": {"checkpoint": {"content": "ab"}}}', encoding="utf-8")
    write_sums(release)
    report_in(root, 3, "other", "2026-01-03")
    assert "--force release" in CliRunner().invoke(main, ["report"]).stderr
    newer, older = report_in(root, 1, "ab", "2026-01-02"), report_in(root, 2, "ab", "2026-01-01")
    (root / "report" / f"{4:016x}-0").mkdir()
    (root / "report" / f"{4:016x}-0" / "manifest.json").write_text('{"schema": 1, "inputs": []}', encoding="utf-8")
    found = CliRunner().invoke(main, ["report", "small"])
    assert (found.exit_code, found.stdout) == (0, f"{newer}\n")
    newer.write_text("<script>", encoding="utf-8")
    assert "it was changed after it was made" in CliRunner().invoke(main, ["report"]).stderr
    newer.with_name("manifest.json").write_text("{", encoding="utf-8")
    assert CliRunner().invoke(main, ["report"]).stdout == f"{older}\n"
